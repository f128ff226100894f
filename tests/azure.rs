//! Azure Container Registry with the identity of a machine: metadata services and the exchange of
//! tokens are scripted, and every field of every request is compared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod clouds;
mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clouds::{Reply, Seen, Server, reply};
use common::{Authority, Fault, Program, Registry, Tokens, answer, image, layer, merge};
use serde_json::{Value, json};

const HOST: &str = "myregistry.azurecr.io";
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const IDENTITY_TOKEN: &str = "entra-token-0123456789";

/// A registry of Azure behind a proxy that also answers for the metadata service.
struct Azure {
    registry: Registry,
    proxy: Server,
    ca: String,
    digest: String,
}

/// What is special about one.
struct Setup {
    host: &'static str,
    tenant: Option<&'static str>,
    /// What `/oauth2/exchange` gives, in order.
    refresh_tokens: Vec<String>,
    tokens: Tokens,
}

fn setup() -> Setup {
    Setup {
        host: HOST,
        tenant: Some("11111111-2222-3333-4444-555555555555"),
        refresh_tokens: vec!["refresh-1".to_owned()],
        tokens: Tokens::new()
            .anonymous_pull(false)
            .refresh_token("refresh-1", "machine"),
    }
}

impl Setup {
    fn start(self, metadata: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Azure {
        let authority = Authority::new("azure CA");
        let host = self.host;
        let realm = match self.tenant {
            Some(tenant) => format!("https://{host}/token?tenant={tenant}"),
            None => format!("https://{host}/token"),
        };
        let registry = Registry::setup()
            .bearer(&self.tokens.service(host))
            .realm(realm)
            .name(host)
            .relative_locations()
            .tls(authority.identity(&[host]).server())
            .start();
        for token in &self.refresh_tokens {
            let body = json!({"refresh_token": token});
            registry
                .on("POST", "/oauth2/exchange")
                .optional()
                .then(Fault::Answer(answer(200).json(&body)));
        }
        let digest = registry.put_image("team/app", "1", &small());
        let proxy = Server::with_tunnels(&[(&format!("{host}:443"), registry.address())], metadata);
        Azure {
            registry,
            proxy,
            ca: authority.pem(),
            digest,
        }
    }
}

impl Azure {
    fn program(&self, make: impl Fn(Value) -> Program, fields: Value) -> Program {
        let source = json!({
            "repository": format!("{HOST}/team/app"),
            "tag": "1",
            "azure_acr": true,
            "ca_certs": [self.ca],
        });
        self.proxy
            .program(make, merge(source, fields))
            .against(&self.registry)
            .showing(&format!(" through the proxy {}", self.proxy.url()), "")
    }

    fn check(&self, fields: Value) -> Program {
        self.program(Program::check, fields)
    }

    /// The one version that there is.
    fn version(&self) -> Value {
        json!([{"tag": "1", "digest": self.digest}])
    }

    /// The bodies of all exchanges.
    fn exchanges(&self) -> Vec<String> {
        let requests = self.registry.requests();
        let exchanges = requests
            .iter()
            .filter(|r| r.head.path == "/oauth2/exchange");
        exchanges
            .map(|r| String::from_utf8(r.body.clone()).unwrap())
            .collect()
    }

    /// The requests to the metadata service: all of the proxy but tunnels.
    fn asked(&self) -> Vec<Seen> {
        let mut seen = self.proxy.seen();
        seen.retain(|seen| seen.method != "CONNECT");
        seen
    }
}

fn small() -> common::Image {
    image([layer().file("a", "b")]).oci()
}

/// What the metadata service of a virtual machine answers.
fn identity() -> String {
    json!({
        "access_token": IDENTITY_TOKEN,
        "client_id": "x",
        "expires_in": "86399",
        "expires_on": "1506484173",
        "not_before": "1506397773",
        "resource": "https://management.azure.com",
        "token_type": "Bearer",
    })
    .to_string()
}

fn vm(seen: &Seen) -> Reply {
    match seen.header("metadata") == Some("true") && seen.method == "GET" {
        true => reply(200, identity()),
        false => reply(
            400,
            r#"{"error":"invalid_request","error_description":"no header"}"#,
        ),
    }
}

fn exchange(tenant: &str) -> String {
    format!("grant_type=access_token&service={HOST}&tenant={tenant}&access_token={IDENTITY_TOKEN}")
}

#[test]
fn the_machines_own_identity_logs_in_by_metadata_exchange_and_token() {
    let azure = setup().start(vm);
    let output = azure.check(json!({"debug": true})).run();
    output.succeeds_with(azure.version());
    output.keeps_secret([IDENTITY_TOKEN, "refresh-1", "token-1"]);
    let asked = azure.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].line(),
        format!(
            "GET {METADATA}?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com"
        )
    );
    assert_eq!(
        azure.exchanges(),
        [exchange("11111111-2222-3333-4444-555555555555")]
    );
    let requests = azure.registry.requests();
    let exchange = requests
        .iter()
        .find(|r| r.head.path == "/oauth2/exchange")
        .unwrap();
    assert_eq!(
        exchange.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(exchange.header("authorization"), None);
    let token = requests.iter().find(|r| r.head.path == "/token").unwrap();
    assert_eq!(token.head.method, "POST");
    let form = clouds::decoded(&String::from_utf8_lossy(&token.body));
    assert_eq!(
        form,
        format!(
            "grant_type=refresh_token&refresh_token=refresh-1&client_id=registry-image\
             &service={HOST}&scope=repository:team/app:pull"
        )
    );
    assert!(
        output.messages().contains(
            "\nAzure Container Registry: logged in to myregistry.azurecr.io with this machine's own identity\n"
        ),
        "{}",
        output.messages()
    );
}

#[test]
fn an_image_goes_out_and_in_again() {
    let azure = Setup {
        // One for each run.
        refresh_tokens: vec!["refresh-1".to_owned(), "refresh-1".to_owned()],
        ..setup()
    }
    .start(vm);
    let put = azure
        .program(
            |mut request| {
                request["params"] = json!({"image": "image.tar"});
                Program::put(request)
            },
            json!({"tag": "2"}),
        )
        .source_file("image.tar", small().docker_save(&["x:1"]))
        .run();
    let version = put.succeeds()["version"].clone();
    assert_eq!(version["tag"], "2");
    let get = azure
        .program(
            |mut request| {
                request["version"] = version.clone();
                Program::get(request)
            },
            json!({"tag": "2"}),
        )
        .run();
    get.succeeds();
    assert_eq!(get.file("repository"), format!("{HOST}/team/app"));
    assert_eq!(get.file("rootfs/a"), "b");
}

#[test]
fn a_user_assigned_identity_a_cloud_and_a_tenant_are_what_the_source_says() {
    let azure = Setup {
        tenant: None,
        ..setup()
    }
    .start(vm);
    azure
        .check(json!({
            "azure_client_id": "cccccccc-1",
            "azure_environment": "AzureGovernment",
            "azure_tenant_id": "contoso.example",
        }))
        .run()
        .succeeds_with(azure.version());
    assert_eq!(
        azure.asked()[0].line(),
        format!(
            "GET {METADATA}?api-version=2018-02-01\
             &resource=https%3A%2F%2Fmanagement.usgovcloudapi.net&client_id=cccccccc-1"
        )
    );
    assert_eq!(azure.exchanges(), [exchange("contoso.example")]);
}

#[test]
fn without_any_tenant_the_identitys_own_is_meant() {
    let azure = Setup {
        tenant: None,
        ..setup()
    }
    .start(vm);
    azure.check(json!({})).run().succeeds_with(azure.version());
    assert_eq!(azure.exchanges(), [exchange("common")]);
}

#[test]
fn the_hosts_suffix_names_the_cloud() {
    for (host, resource) in [
        ("myregistry.azurecr.us", "usgovcloudapi.net"),
        ("myregistry.azurecr.cn", "chinacloudapi.cn"),
    ] {
        let azure = Setup { host, ..setup() }.start(vm);
        azure
            .check(json!({"repository": format!("{host}/team/app")}))
            .run()
            .succeeds_with(azure.version());
        assert_eq!(
            azure.asked()[0].line(),
            format!(
                "GET {METADATA}?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.{resource}"
            )
        );
    }
}

#[test]
fn an_app_service_has_an_endpoint_of_its_own() {
    let azure = setup().start(vm);
    let service = Server::start(|seen| match seen.header("x-identity-header") {
        Some("identity-secret") if seen.header("metadata").is_none() => reply(200, identity()),
        _ => reply(401, "{}"),
    });
    let output = azure
        .check(json!({"azure_client_id": "cccccccc-1", "debug": true}))
        .env("IDENTITY_ENDPOINT", format!("{}/msi/token", service.url()))
        .env("IDENTITY_HEADER", "identity-secret")
        .run();
    output.succeeds_with(azure.version());
    output.keeps_secret(["identity-secret", IDENTITY_TOKEN]);
    assert_eq!(
        service.lines(),
        [
            "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fmanagement.azure.com\
             &client_id=cccccccc-1"
        ]
    );
    assert!(
        azure.asked().is_empty(),
        "the machine's service is not asked"
    );
    for (set, missing) in [
        ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"),
        ("IDENTITY_HEADER", "IDENTITY_ENDPOINT"),
    ] {
        let output = azure
            .check(json!({}))
            .env(set, "http://127.0.0.1:1/x")
            .run();
        output.fails_with(&format!(
            "check: {HOST}/team/app: look up 1: HEAD https://{HOST}/v2/team/app/manifests/1: log in to {HOST} with this \
             machine's own identity: the environment's `{set}` is set, but `{missing}` is missing"
        ));
    }
}

#[test]
fn a_service_that_is_starting_is_asked_again() {
    let answers = Mutex::new(vec![429, 503, 500, 410, 404]);
    let azure = setup().start(move |seen| match answers.lock().unwrap().pop() {
        Some(status) => reply(status, r#"{"error":"x","error_description":"not yet"}"#),
        None => vm(seen),
    });
    let output = azure.check(json!({})).run();
    output.succeeds_with(azure.version());
    assert_eq!(azure.asked().len(), 6);
    let first = format!("GET {METADATA}: 404 Not Found: x: not yet; trying again in");
    let messages = output.messages();
    assert!(messages.starts_with(&first), "{messages}");
}

#[test]
fn an_identity_that_is_none_is_an_error_at_once() {
    let azure = setup().start(|_| {
        reply(
            400,
            r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
        )
    });
    let step = format!(
        "check: {HOST}/team/app: look up 1: HEAD https://{HOST}/v2/team/app/manifests/1: log in to {HOST} with"
    );
    azure
        .check(json!({"azure_client_id": "cccccccc-1"}))
        .run()
        .fails_with(&format!(
            "{step} the identity `cccccccc-1`: get a token for it: GET {METADATA}: 400 Bad \
             Request: invalid_request: Identity not found; check that `source.azure_client_id` is \
             an identity of this machine"
        ));
    assert_eq!(azure.asked().len(), 1);
    azure.check(json!({})).run().fails_with(&format!(
        "{step} this machine's own identity: get a token for it: GET {METADATA}: 400 Bad Request: \
         invalid_request: Identity not found; give this machine an identity, or name one of \
         several in `source.azure_client_id`"
    ));
}

#[test]
fn a_metadata_service_that_does_not_answer_is_given_up_in_seconds() {
    let azure = setup().start(|_| Reply::Silence);
    let started = Instant::now();
    azure.check(json!({})).run().fails_with(&format!(
        "check: {HOST}/team/app: look up 1: HEAD https://{HOST}/v2/team/app/manifests/1: log in to {HOST} with this machine's \
         own identity: get a token for it: GET {METADATA}: no answer within 5 s (tried once); \
         managed identities work on machines in Azure, where 169.254.169.254 can be reached, \
         without a proxy"
    ));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_proxy_that_cannot_reach_the_metadata_service_is_named_in_a_minute() {
    let azure = setup().start(|_| reply(504, ""));
    let output = azure.check(json!({})).run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    assert!(
        last.contains(&format!("GET {METADATA}: 504 Gateway Timeout ("))
            && last.ends_with(" tries without progress); add `169.254.169.254` to `no_proxy`"),
        "{last}"
    );
}

#[test]
fn an_identity_without_a_right_on_the_registry_is_told_so() {
    let azure = Setup {
        refresh_tokens: Vec::new(),
        ..setup()
    }
    .start(vm);
    azure
        .registry
        .on("POST", "/oauth2/exchange")
        .then(Fault::error(
            401,
            "UNAUTHORIZED",
            &format!("no such principal for {IDENTITY_TOKEN}"),
        ));
    let output = azure.check(json!({})).run();
    output.fails_with(&format!(
        "check: {HOST}/team/app: look up 1: HEAD https://{HOST}/v2/team/app/manifests/1: log in to {HOST} with this machine's \
         own identity: exchange the token: POST https://{HOST}/oauth2/exchange: 401 Unauthorized: \
         UNAUTHORIZED: no such principal for …; give the identity the role `AcrPull` or `AcrPush` \
         on the registry, and check that its tenant is `11111111-2222-3333-4444-555555555555`"
    ));
}

#[test]
fn an_answer_without_a_token_is_no_login() {
    for (body, why) in [
        ("{}", "without a token in it"),
        (
            r#"{"access_token":"a b"}"#,
            "with a token that cannot be sent",
        ),
        ("[]", "with something else than a token"),
        ("<html>", "with something else than a token"),
    ] {
        let azure = setup().start(move |_| reply(200, body));
        azure.check(json!({})).run().fails_with(&format!(
            "check: {HOST}/team/app: look up 1: HEAD https://{HOST}/v2/team/app/manifests/1: log in to {HOST} with this \
             machine's own identity: get a token for it: {METADATA} answers {why}"
        ));
    }
}

/// A refresh token as ACR makes them: a JWT with its end in it.
fn refresh_token(name: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = now.as_secs() as i64 + seconds;
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.sig",
        part(json!({"alg": "RS256"})),
        part(json!({"jti": name, "exp": exp}))
    )
}

#[test]
fn a_long_push_renews_the_token_and_the_refresh_token_that_has_ended() {
    // The second refresh token is the one that the token server takes from some time on.
    let (first, second) = (refresh_token("1", 10_800), refresh_token("2", 10_800));
    let tokens = Tokens::new()
        .anonymous_pull(false)
        .uses(4)
        .refresh_token(&first, "machine")
        .refresh_token(&second, "machine");
    let azure = Setup {
        refresh_tokens: vec![first.clone(), second.clone()],
        tokens: tokens.clone(),
        ..setup()
    }
    .start(vm);
    azure
        .registry
        .on("POST", "/token")
        .nth(3)
        .then(Fault::error(401, "UNAUTHORIZED", "authentication required"));
    let layers = (0..4).map(|n| layer().file(format!("file-{n}"), "x"));
    let output = azure
        .program(
            |mut request| {
                request["params"] = json!({"image": "image.tar"});
                Program::put(request)
            },
            json!({"tag": "2"}),
        )
        .source_file("image.tar", image(layers).oci().docker_save(&["x:1"]))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.succeeds();
    output.keeps_secret([first.as_str(), second.as_str(), IDENTITY_TOKEN]);
    assert_eq!(azure.exchanges().len(), 2);
    assert_eq!(azure.asked().len(), 2);
    assert!(output.messages().contains("renewed the login"));
}

#[test]
fn a_refresh_token_near_its_end_or_beyond_it_is_renewed_before_it_is_used_again() {
    for seconds in [1, 0, -3600] {
        a_refresh_token_that_ends_in(seconds);
    }
}

fn a_refresh_token_that_ends_in(seconds: i64) {
    let (first, second) = (refresh_token("1", seconds), refresh_token("2", 10_800));
    let tokens = Tokens::new()
        .anonymous_pull(false)
        .expires_in(Some(1))
        .refresh_token(&first, "machine")
        .refresh_token(&second, "machine");
    let azure = Setup {
        refresh_tokens: vec![first.clone(), second.clone()],
        tokens,
        ..setup()
    }
    .start(vm);
    // Waiting for this makes the clock of the run pass the end of the first refresh token.
    azure
        .registry
        .on("HEAD", "/v2/team/app/manifests/1")
        .nth(2)
        .then(Fault::too_many(2));
    azure.check(json!({})).run().succeeds_with(azure.version());
    let requests = azure.registry.requests();
    let sent = |token: &str| {
        let with = requests.iter().filter(|r| {
            r.head.path == "/token" && String::from_utf8_lossy(&r.body).contains(token)
        });
        with.count()
    };
    assert_eq!((sent(&first), sent(&second)), (1, 1));
    assert_eq!(azure.exchanges().len(), 2);
}

#[test]
fn a_redirect_of_the_exchange_to_another_server_is_not_followed() {
    let azure = Setup {
        refresh_tokens: Vec::new(),
        ..setup()
    }
    .start(vm);
    azure
        .registry
        .on("POST", "/oauth2/exchange")
        .then(Fault::Redirect(
            307,
            "https://evil.example/oauth2/exchange".to_owned(),
        ));
    let output = azure.check(json!({})).run();
    output.fails();
    assert!(
        output.messages().contains(
            "https://myregistry.azurecr.io/oauth2/exchange redirects to https://evil.example/oauth2/exchange, another server"
        ),
        "{}",
        output.messages()
    );
    assert!(
        !azure
            .proxy
            .lines()
            .contains(&"CONNECT evil.example:443".to_owned())
    );
}

#[test]
fn a_repository_without_a_registry_is_refused() {
    Program::check(json!({"source": {"repository": "team/app", "tag": "1", "azure_acr": true}}))
        .run()
        .fails_with(
            "check: `source.azure_acr` is set, and `source.repository` is `team/app`, which names \
             no registry; write it as `NAME.azurecr.io/REPOSITORY`",
        );
}
