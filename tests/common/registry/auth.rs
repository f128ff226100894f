//! Who may do what at the fixture: Basic, and Bearer with the token endpoint.

use super::fault::{Answer, answer};
use super::wire::{Head, Offences, parse_query};
use super::{Offence, Request, Shared};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// How a registry wants to know its clients.
#[derive(Clone, Default)]
pub enum Auth {
    #[default]
    None,
    /// Users and passwords.
    Basic(BTreeMap<String, String>),
    Bearer(Tokens),
}

/// The users, rules and issued tokens of a token server. Clones share them, so that one fixture
/// can issue what another accepts.
#[derive(Clone)]
pub struct Tokens(Arc<Mutex<State>>);

struct State {
    users: BTreeMap<String, String>,
    refresh: BTreeMap<String, String>,
    anonymous_pull: bool,
    /// What a user may do beyond pull, `repository:action`; empty: everything.
    denied: BTreeSet<String>,
    expires_in: Option<u64>,
    uses: usize,
    get_status: Option<u16>,
    post_status: Option<u16>,
    field: &'static str,
    service: String,
    issued: BTreeMap<String, Token>,
}

struct Token {
    /// `repository` and `action`.
    grants: BTreeSet<(String, String)>,
    uses: usize,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens::new()
    }
}

impl Tokens {
    /// No users; anonymous pull; tokens that say `expires_in: 300` and never wear out.
    pub fn new() -> Tokens {
        Tokens(Arc::new(Mutex::new(State {
            users: BTreeMap::new(),
            refresh: BTreeMap::new(),
            anonymous_pull: true,
            denied: BTreeSet::new(),
            expires_in: Some(300),
            uses: usize::MAX,
            get_status: None,
            post_status: None,
            field: "token",
            service: "fixture".to_owned(),
            issued: BTreeMap::new(),
        })))
    }

    fn edit(self, change: impl FnOnce(&mut State)) -> Tokens {
        change(&mut self.0.lock().unwrap());
        self
    }

    pub fn user(self, name: &str, password: &str) -> Tokens {
        self.edit(|s| drop(s.users.insert(name.to_owned(), password.to_owned())))
    }

    /// A refresh token that stands for a user.
    pub fn refresh_token(self, token: &str, user: &str) -> Tokens {
        self.edit(|s| drop(s.refresh.insert(token.to_owned(), user.to_owned())))
    }

    pub fn anonymous_pull(self, allowed: bool) -> Tokens {
        self.edit(|s| s.anonymous_pull = allowed)
    }

    /// Nobody gets this action on this repository, although a token is issued.
    pub fn deny(self, repository: &str, action: &str) -> Tokens {
        self.edit(|s| {
            s.denied.insert(format!("{repository}:{action}"));
        })
    }

    /// The `expires_in` field, in seconds; `None` leaves it out (60 is meant then).
    pub fn expires_in(self, seconds: Option<u64>) -> Tokens {
        self.edit(|s| s.expires_in = seconds)
    }

    /// Each token is good for so many requests, then it has expired.
    pub fn uses(self, requests: usize) -> Tokens {
        self.edit(|s| s.uses = requests)
    }

    /// GET at the token endpoint answers this (404 and 405 send clients to POST).
    pub fn get_answers(self, status: u16) -> Tokens {
        self.edit(|s| s.get_status = Some(status))
    }

    /// POST at the token endpoint answers this.
    pub fn post_answers(self, status: u16) -> Tokens {
        self.edit(|s| s.post_status = Some(status))
    }

    /// The member that GET puts the token in: `token` or `access_token`.
    pub fn field(self, name: &'static str) -> Tokens {
        self.edit(|s| s.field = name)
    }

    /// The name in the challenge's `service`; another in a token request is an offence.
    pub fn service(self, name: &str) -> Tokens {
        self.edit(|s| name.clone_into(&mut s.service))
    }

    /// All tokens issued so far have expired.
    pub fn expire_all(&self) {
        self.0
            .lock()
            .unwrap()
            .issued
            .values_mut()
            .for_each(|token| token.uses = 0);
    }

    pub fn issued(&self) -> usize {
        self.0.lock().unwrap().issued.len()
    }

    /// A token that is good for these scopes, without asking the endpoint.
    pub fn issue(&self, scopes: &[&str]) -> String {
        let mut state = self.0.lock().unwrap();
        let grants = scopes
            .iter()
            .filter_map(|s| parse_scope(s))
            .flatten()
            .collect();
        state.issue(grants)
    }

    fn expire(&self, token: &str) {
        if let Some(token) = self.0.lock().unwrap().issued.get_mut(token) {
            token.uses = 0;
        }
    }
}

impl State {
    fn issue(&mut self, grants: BTreeSet<(String, String)>) -> String {
        let token = format!("token-{}", self.issued.len() + 1);
        self.issued.insert(
            token.clone(),
            Token {
                grants,
                uses: self.uses,
            },
        );
        token
    }

    fn grant(&mut self, scopes: &[String], user: Option<&str>, offences: &mut Offences) -> String {
        let mut grants = BTreeSet::new();
        for scope in scopes {
            let Some(wanted) = parse_scope(scope) else {
                offences.push((Offence::TokenRequest, format!("scope `{scope}`")));
                continue;
            };
            for (name, action) in wanted {
                let anonymous = user.is_none() && !(self.anonymous_pull && action == "pull");
                if !anonymous && !self.denied.contains(&format!("{name}:{action}")) {
                    grants.insert((name, action));
                }
            }
        }
        self.issue(grants)
    }
}

/// `repository:NAME:ACTION[,ACTION]`, where a name may hold a port's colon.
fn parse_scope(scope: &str) -> Option<Vec<(String, String)>> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let fine = kind == "repository" && !name.is_empty() && !actions.is_empty();
    let actions: Vec<&str> = actions.split(',').collect();
    let known = actions
        .iter()
        .all(|a| ["pull", "push", "delete", "*"].contains(a));
    let pair = |action: &&str| (name.to_owned(), (*action).to_owned());
    (fine && known).then(|| actions.iter().map(pair).collect())
}

/// The token endpoint, `GET` and `POST`.
pub fn token(tokens: &Tokens, request: &Request, offences: &mut Offences) -> Answer {
    let mut state = tokens.0.lock().unwrap();
    let refused = || answer(401).error("UNAUTHORIZED", "authentication required");
    match request.head.method.as_str() {
        "GET" => {
            if let Some(status) = state.get_status {
                return answer(status).error("UNSUPPORTED", "no tokens here");
            }
            let user = match basic(&request.head) {
                Credentials::None => None,
                Credentials::User(user, password) if state.users.get(&user) == Some(&password) => {
                    Some(user)
                }
                Credentials::User(..) => return refused(),
                Credentials::Other(text) => {
                    offences.push((Offence::TokenRequest, format!("Authorization `{text}`")));
                    return refused();
                }
            };
            check_service(&state, request.head.query("service"), offences);
            let scopes = scopes(&request.head.query);
            let token = state.grant(&scopes, user.as_deref(), offences);
            let mut body = json!({ state.field: token });
            if let Some(seconds) = state.expires_in {
                body["expires_in"] = json!(seconds);
            }
            if request.head.query("offline_token") == Some("true") && user.is_some() {
                body["refresh_token"] = json!("refresh-offline");
            }
            answer(200).json(&body)
        }
        "POST" => {
            if let Some(status) = state.post_status {
                return answer(status).error("UNSUPPORTED", "no tokens here");
            }
            let kind = request.head.header("content-type").unwrap_or_default();
            if kind != "application/x-www-form-urlencoded" {
                offences.push((Offence::TokenRequest, format!("Content-Type `{kind}`")));
            }
            let form = parse_query(&String::from_utf8_lossy(&request.body));
            let field = |name: &str| {
                form.iter()
                    .find(|(n, _)| n == name)
                    .map_or("", |(_, value)| value.as_str())
            };
            check_service(&state, Some(field("service")), offences);
            if field("client_id").is_empty() {
                offences.push((Offence::TokenRequest, "no client_id".to_owned()));
            }
            let user = match field("grant_type") {
                "password" => {
                    let user = field("username").to_owned();
                    let right = state
                        .users
                        .get(&user)
                        .is_some_and(|p| p == field("password"));
                    right.then_some(user)
                }
                "refresh_token" => state.refresh.get(field("refresh_token")).cloned(),
                other => {
                    offences.push((Offence::TokenRequest, format!("grant_type `{other}`")));
                    None
                }
            };
            let Some(user) = user else { return refused() };
            let token = state.grant(&scopes(&form), Some(&user), offences);
            let mut body = json!({"access_token": token, "scope": scopes(&form).join(" ")});
            if let Some(seconds) = state.expires_in {
                body["expires_in"] = json!(seconds);
            }
            answer(200).json(&body)
        }
        method => {
            offences.push((Offence::TokenRequest, format!("method {method}")));
            answer(405)
        }
    }
}

/// Several `scope` parameters, or several scopes in one with spaces between.
fn scopes(parameters: &[(String, String)]) -> Vec<String> {
    let values = parameters.iter().filter(|(name, _)| name == "scope");
    values
        .flat_map(|(_, value)| value.split(' ').map(str::to_owned))
        .collect()
}

fn check_service(state: &State, service: Option<&str>, offences: &mut Offences) {
    if service != Some(&state.service) {
        let text = format!(
            "service {service:?}, the challenge said `{}`",
            state.service
        );
        offences.push((Offence::TokenRequest, text));
    }
}

enum Credentials {
    None,
    User(String, String),
    Other(String),
}

fn basic(head: &Head) -> Credentials {
    let Some(value) = head.header("authorization") else {
        return Credentials::None;
    };
    let decoded = value
        .strip_prefix("Basic ")
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Credentials::User(user.to_owned(), password.to_owned()),
        None => Credentials::Other(value.to_owned()),
    }
}

/// Whether a request may do these actions (`repository`, `action`); else the answer it gets.
pub fn authorise(
    shared: &Shared,
    head: &Head,
    needs: &[(&str, &str)],
    expired: bool,
    offences: &mut Offences,
) -> Result<(), Answer> {
    let sent = head.header("authorization");
    if sent.is_some() && !shared.challenged() {
        let text = "Authorization before any challenge".to_owned();
        offences.push((Offence::UnaskedAuthorization, text));
    }
    let right = match &shared.setup.auth {
        Auth::None if expired => false,
        Auth::None => return Ok(()),
        Auth::Basic(users) => match basic(head) {
            Credentials::User(user, password) => users.get(&user) == Some(&password),
            Credentials::None => false,
            Credentials::Other(text) => {
                let text = format!("Authorization `{text}` to a registry that asks for Basic");
                offences.push((Offence::ForeignAuthorization, text));
                false
            }
        },
        Auth::Bearer(tokens) => {
            let token = sent.and_then(|value| value.strip_prefix("Bearer "));
            if sent.is_some() && token.is_none() {
                let text = "Authorization other than Bearer to a registry that asks for Bearer";
                offences.push((Offence::ForeignAuthorization, text.to_owned()));
            }
            match token {
                Some(token) if expired => {
                    tokens.expire(token);
                    false
                }
                Some(token) => match use_token(tokens, token, needs, offences) {
                    Use::Fine => true,
                    Use::Worthless => false,
                    Use::Insufficient => return Err(insufficient(shared, needs)),
                },
                None => false,
            }
        }
    };
    match right && !expired {
        true => Ok(()),
        false => Err(challenge(shared, needs, None)),
    }
}

enum Use {
    Fine,
    Worthless,
    Insufficient,
}

fn use_token(tokens: &Tokens, token: &str, needs: &[(&str, &str)], offences: &mut Offences) -> Use {
    let mut state = tokens.0.lock().unwrap();
    let Some(token) = state.issued.get_mut(token) else {
        let text = format!("token `{token}` was never issued");
        offences.push((Offence::ForeignAuthorization, text));
        return Use::Worthless;
    };
    if token.uses == 0 {
        return Use::Worthless;
    }
    token.uses -= 1;
    let has = |(name, action): &(&str, &str)| {
        let grant = |action: &str| {
            token
                .grants
                .contains(&((*name).to_owned(), action.to_owned()))
        };
        grant(action) || grant("*")
    };
    if needs.iter().all(has) {
        Use::Fine
    } else {
        Use::Insufficient
    }
}

/// Whether the token of this request reaches a second repository, as a mount needs.
pub fn can_pull(shared: &Shared, head: &Head, repository: &str) -> bool {
    let Auth::Bearer(tokens) = &shared.setup.auth else {
        return true;
    };
    let token = head
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    let state = tokens.0.lock().unwrap();
    token
        .and_then(|token| state.issued.get(token))
        .is_some_and(|token| {
            token
                .grants
                .contains(&(repository.to_owned(), "pull".to_owned()))
        })
}

fn insufficient(shared: &Shared, needs: &[(&str, &str)]) -> Answer {
    match shared.setup.insufficient_is_403 {
        true => answer(403).error("DENIED", "requested access to the resource is denied"),
        false => challenge(shared, needs, Some("insufficient_scope")),
    }
}

/// 401, with the challenges of the setup.
fn challenge(shared: &Shared, needs: &[(&str, &str)], error: Option<&str>) -> Answer {
    shared.note_challenge();
    let mut names: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, action) in needs {
        match names.iter_mut().find(|(n, _)| n == name) {
            Some((_, actions)) => actions.push(action),
            None => names.push((name, vec![action])),
        }
    }
    let scopes: Vec<String> = names
        .iter()
        .map(|(name, actions)| format!("repository:{name}:{}", actions.join(",")))
        .collect();
    let scope = scopes.join(" ");
    let (mut templates, service) = match &shared.setup.auth {
        Auth::Bearer(tokens) => {
            let mut template = r#"Bearer realm="{realm}",service="{service}""#.to_owned();
            if !scope.is_empty() {
                template += r#",scope="{scope}""#;
            }
            if let Some(error) = error {
                template += &format!(r#",error="{error}""#);
            }
            (vec![template], tokens.0.lock().unwrap().service.clone())
        }
        Auth::Basic(_) | Auth::None => (vec![r#"Basic realm="fixture""#.to_owned()], String::new()),
    };
    if !shared.setup.challenges.is_empty() {
        templates.clone_from(&shared.setup.challenges);
    }
    let realm = shared
        .setup
        .realm
        .clone()
        .unwrap_or_else(|| shared.url("/token"));
    let mut refused = answer(401).error("UNAUTHORIZED", "authentication required");
    for template in templates {
        let value = template
            .replace("{realm}", &realm)
            .replace("{service}", &service)
            .replace("{scope}", &scope);
        refused = refused.with("WWW-Authenticate", value);
    }
    refused
}
