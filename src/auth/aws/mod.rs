//! Amazon ECR: from whatever identity a worker has to the password of a registry.
//!
//! An identity is found (`chain`), roles are assumed with it (`sts`), and ECR gives a password for
//! what is left (`GetAuthorizationToken`). Each step names itself and the identity when it fails.

mod call;
mod chain;
mod keys;
mod metadata;
mod profile;
mod region;
mod sts;
mod xml;

use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use serde::Deserialize;

use super::file;
use crate::context::Env;
use crate::error::{Doing, Error, Result};
use crate::http::{Client, Scheme, Url};
use crate::oci::json;
use crate::oci::reference::Repository;
use crate::request::EcrLogin;
use crate::secret::Secret;
use crate::workers::lock;

use call::{Call, Proof, Refused, Service};
use keys::Keys;
use region::{Endpoints, Region};
use sts::Role;

/// Bytes of a CA bundle; the largest one in use has 250 KiB.
const BUNDLE_LIMIT: u64 = 4 << 20;

/// A password is renewed this long before its end: an upload may take a while to begin.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The certificates that AWS's tools are told to trust, as PEM.
pub(super) fn ca_bundle(env: &Env) -> Result<Option<String>> {
    let Some(path) = env.get("AWS_CA_BUNDLE") else {
        return Ok(None);
    };
    file::read(path, BUNDLE_LIMIT)
        .doing(|| "the environment's `AWS_CA_BUNDLE`")
        .map(Some)
}

/// The login to ECR of one region, which can be done again.
pub(crate) struct Ecr {
    login: EcrLogin,
    region: Region,
    roles: Vec<Role>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    password: Option<Password>,
    /// A new password turned out to be the one that was refused: there is none better.
    is_final: bool,
}

/// What ECR gave.
#[derive(Clone)]
struct Password {
    username: String,
    password: Secret,
    /// In time of the run's clock; `None` where its end is not known or lies in the past.
    renew_at: Option<Duration>,
}

/// What every step needs.
struct Aws<'a> {
    client: &'a Client<'a>,
    region: &'a Region,
    endpoints: Endpoints,
}

impl Aws<'_> {
    fn env(&self) -> &Env {
        self.client.context().env
    }

    fn debug<D: Display>(&self, line: impl FnOnce() -> D) {
        let report = self.client.context().report;
        report.debug(|| format!("AWS: {}", line()));
    }
}

impl Refused {
    /// The error with what may help; `advice` is the step's own.
    fn of(self, keys: &Keys, advice: Option<String>) -> Error {
        let error = match advice {
            Some(advice) => self.error.advise(advice),
            None => self.error,
        };
        match self.code.as_str() {
            "ExpiredToken" | "ExpiredTokenException" => {
                error.advise(format!("the session of {} is over; renew it", keys.whose))
            }
            "InvalidClientTokenId" | "UnrecognizedClientException" => {
                error.advise(match keys.token {
                    Some(_) => "check the key id, the session token, and that both belong together",
                    None => {
                        "check the key id; a temporary key (ASIA…) needs its session token as well"
                    }
                })
            }
            "SignatureDoesNotMatch" | "InvalidSignatureException" => {
                error.advise("check the secret access key")
            }
            "RegionDisabledException" => {
                error.advise("switch STS on for this region in the account's settings")
            }
            _ => error,
        }
    }
}

impl Ecr {
    /// Logs in, and says at which registry.
    ///
    /// # Errors
    /// Fields that contradict each other, no identity, or one that may not.
    pub(super) fn log_in(
        client: &Client<'_>,
        login: &EcrLogin,
        repository: &Repository,
    ) -> Result<(Repository, Ecr)> {
        let region = Region::parse(&login.region)?;
        check_account(login)?;
        let roles = roles(login)?;
        let written = Written::of(repository, login, &region)?;
        let ecr = Ecr {
            login: login.clone(),
            region,
            roles,
            current: Mutex::default(),
        };
        let (password, endpoint, whose) = ecr.fetch(client)?;
        let host = match (written.host, &login.account_id) {
            (Some(host), _) => host,
            (None, Some(account)) => ecr.region.registry(account),
            (None, None) => endpoint?,
        };
        lock(&ecr.current).password = Some(password);
        let report = client.context().report;
        report.info(format!("Amazon ECR: logged in to {host} with {whose}"));
        let repository = Repository::parse(&format!("{host}/{}", written.name))
            .doing(|| "`source.repository`")?;
        Ok((repository, ecr))
    }

    /// User and password; other ones than `refused`, where ECR has any.
    pub(super) fn password(
        &self,
        client: &Client<'_>,
        is_refused: impl Fn(&str, &Secret) -> bool,
    ) -> Result<(String, Secret)> {
        // Held while a password is fetched, so that workers that need one wait for it.
        let mut current = lock(&self.current);
        let now = client.context().clock.elapsed();
        if let Some(Password {
            username,
            password,
            renew_at,
        }) = &current.password
        {
            let ends = renew_at.is_some_and(|at| now >= at);
            let refused = is_refused(username, password);
            if !ends && (!refused || current.is_final) {
                return Ok((username.clone(), password.clone()));
            }
        }
        let (new, _, whose) = self.fetch(client)?;
        let report = client.context().report;
        report.info(format!("Amazon ECR: renewed the login with {whose}"));
        current.is_final = is_refused(&new.username, &new.password);
        let pair = (new.username.clone(), new.password.clone());
        current.password = Some(new);
        Ok(pair)
    }

    /// A new password, the host that it is for, and whose identity it stands for.
    fn fetch(&self, client: &Client<'_>) -> Result<(Password, Result<String>, String)> {
        let aws = Aws {
            client,
            region: &self.region,
            endpoints: Endpoints::new(client.context().env, &self.region)?,
        };
        let keys = self.identity(&aws).doing(|| "log in to Amazon ECR")?;
        let (password, host) = authorization_token(&aws, &keys)
            .doing(|| {
                format!(
                    "ask ECR in {} for a login with {}",
                    self.region.name(),
                    keys.whose
                )
            })
            .doing(|| "log in to Amazon ECR")?;
        Ok((password, host, keys.whose))
    }

    fn identity(&self, aws: &Aws<'_>) -> Result<Keys> {
        let mut keys = chain::find(aws, &self.login)?;
        aws.debug(|| format!("found {}", keys.whose));
        for role in &self.roles {
            let mut next = sts::assume(aws, &keys, role)?;
            next.whose = format!("{} (through {})", next.whose, keys.whose);
            keys = next;
        }
        Ok(keys)
    }
}

fn check_account(login: &EcrLogin) -> Result<()> {
    match &login.account_id {
        Some(id) if id.len() != 12 || !id.bytes().all(|b| b.is_ascii_digit()) => {
            Err(Error::config(format!(
                "`source.aws_account_id` is `{id}`; an account has 12 digits"
            )))
        }
        _ => Ok(()),
    }
}

fn roles(login: &EcrLogin) -> Result<Vec<Role>> {
    let arns = login.role_arns.iter().enumerate();
    let one = |(at, arn): (usize, &String)| {
        let place = match login.role_arns.len() {
            1 => "the role in `source`".to_owned(),
            _ => format!("`source.aws_role_arns[{at}]`"),
        };
        Role::parse(arn, &place)
    };
    arns.map(one).collect()
}

/// The repository as it was written: a bare name, or with its registry before it.
struct Written {
    host: Option<String>,
    name: String,
}

impl Written {
    fn of(repository: &Repository, login: &EcrLogin, region: &Region) -> Result<Self> {
        // A port is no part of a name: the host is a test server's.
        if repository.host().contains(':') {
            return Ok(Written {
                host: Some(repository.host().to_owned()),
                name: repository.name().to_owned(),
            });
        }
        let Some(theirs) = region::region_of_registry(repository.host()) else {
            // Names in ECR may have dots: what looks like a host is a part of the name.
            return Ok(Written {
                host: None,
                name: repository.written().to_owned(),
            });
        };
        if theirs != region.name() {
            return Err(Error::config(format!(
                "`source.repository` is in `{theirs}`, and `source.aws_region` is `{}`",
                region.name()
            )));
        }
        let account = repository.host().split('.').next().unwrap_or_default();
        if let Some(id) = login.account_id.as_deref().filter(|id| *id != account) {
            return Err(Error::config(format!(
                "`source.repository` is in account `{account}`, and `source.aws_account_id` is `{id}`"
            )));
        }
        Ok(Written {
            host: Some(repository.host().to_owned()),
            name: repository.name().to_owned(),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    authorization_data: Vec<AuthorizationData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizationData {
    authorization_token: String,
    /// Seconds since 1970, as JSON of AWS writes times.
    #[serde(default)]
    expires_at: Option<serde_json::Value>,
    #[serde(default)]
    proxy_endpoint: String,
}

fn authorization_token(aws: &Aws<'_>, keys: &Keys) -> Result<(Password, Result<String>)> {
    aws.debug(|| format!("GetAuthorizationToken with {}", keys.whose));
    let call = Call {
        service: Service::Ecr,
        content_type: "application/x-amz-json-1.1",
        target: Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"),
        body: "{}".to_owned(),
        proof: Proof::Signature(keys),
    };
    let asked = aws.client.context().clock.elapsed();
    let answer = call.send(aws).map_err(|refused| {
        let advice = match refused.code.as_str() {
            "AccessDenied" | "AccessDeniedException" => {
                Some("allow this identity `ecr:GetAuthorizationToken`".to_owned())
            }
            _ => None,
        };
        refused.of(keys, advice)
    })?;
    let unreadable = |why: &str| Error::registry(format!("ECR answers {why}"));
    let answer: Answer =
        json::object(&answer).map_err(|_| unreadable("with something else than a login"))?;
    let data = answer
        .authorization_data
        .into_iter()
        .next()
        .ok_or_else(|| unreadable("without a login in it"))?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(data.authorization_token.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = decoded
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
        .ok_or_else(|| unreadable("with a login that is no user and password"))?;
    // Test servers give none, and bare hosts.
    let endpoint = match data.proxy_endpoint.contains("://") {
        true => Url::parse(&data.proxy_endpoint),
        false => Url::at(Scheme::Https, &data.proxy_endpoint, "/"),
    };
    let host = endpoint
        .map(|url| url.authority())
        .map_err(|_| unreadable("with a registry that is no host"));
    let password = Password {
        username: username.to_owned(),
        password: Secret::new(password),
        renew_at: life(aws, data.expires_at.as_ref()).map(|life| asked + life),
    };
    Ok((password, host))
}

/// How long a password is good, less the margin. `None` where the server does not say, or says a
/// time that has passed (test servers do).
fn life(aws: &Aws<'_>, expires_at: Option<&serde_json::Value>) -> Option<Duration> {
    let text = expires_at?.to_string();
    let seconds = text.trim_matches('"').parse::<f64>().ok()?;
    let ends = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
    let life = ends.duration_since(aws.client.context().clock.now()).ok()?;
    Some(life - MARGIN.min(life / 2))
}
