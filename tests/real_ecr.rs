//! Amazon ECR against moto, which recomputes every signature and checks every policy, and a real
//! registry with TLS under ECR's name. `scripts/test` installs moto below `target/tools`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod clouds;
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use clouds::{Seen, reply};
use common::{
    Authority, DockerRegistry, Output, Program, RealSetup, Server, image, layer, merge, normalise,
};
use serde_json::{Value, json};

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// What moto gives as a password of the account.
const PASSWORD: &str = "123456789012-auth-token";

const ROLE_A: &str = "arn:aws:iam::123456789012:role/role-a";
const ROLE_B: &str = "arn:aws:iam::123456789012:role/role-b";

/// moto with two users and two roles: `ci` may assume roles and log in; `nobody` may nothing;
/// `role-a` may assume roles; `role-b` may log in as well.
struct Moto {
    server: Server,
    ci: Keys,
    nobody: Keys,
}

struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

/// `moto_server` of the PATH, or where `scripts/test` puts it.
fn moto_server() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/moto/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([own.clone()]);
    let mut found = places.map(|place| place.join("moto_server"));
    found.find(|path| path.is_file()).unwrap_or_else(|| {
        let venv = own.with_file_name("");
        let venv = venv.display();
        panic!(
            "this test needs moto: python3 -m venv {venv} && {venv}/bin/pip install 'moto[server]'"
        )
    })
}

impl Moto {
    fn start() -> Moto {
        let program = moto_server();
        let server = Server::start(program.to_str().unwrap(), |_, port| {
            let port = port.to_string();
            ["-H", "127.0.0.1", "-p", &port].map(str::to_owned).to_vec()
        });
        let trust = allow(json!({"Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}));
        let assume = ["sts:AssumeRole", "sts:GetCallerIdentity"];
        let log_in = [
            "sts:AssumeRole",
            "sts:GetCallerIdentity",
            "ecr:GetAuthorizationToken",
        ];
        let moto = |service: &str, form: &[(&str, &str)]| call(&server.host(), service, form);
        for (role, actions) in [("role-a", &assume[..]), ("role-b", &log_in[..])] {
            let policy = allow(json!({"Action": actions, "Resource": "*"}));
            moto(
                "iam",
                &[
                    ("Action", "CreateRole"),
                    ("RoleName", role),
                    ("AssumeRolePolicyDocument", &trust),
                ],
            );
            moto(
                "iam",
                &[
                    ("Action", "PutRolePolicy"),
                    ("RoleName", role),
                    ("PolicyName", "p"),
                    ("PolicyDocument", &policy),
                ],
            );
        }
        let user = |name: &str| {
            moto("iam", &[("Action", "CreateUser"), ("UserName", name)]);
            keys(&moto(
                "iam",
                &[("Action", "CreateAccessKey"), ("UserName", name)],
            ))
        };
        let (ci, nobody) = (user("ci"), user("nobody"));
        let policy = allow(json!({"Action": log_in, "Resource": "*"}));
        moto(
            "iam",
            &[
                ("Action", "PutUserPolicy"),
                ("UserName", "ci"),
                ("PolicyName", "p"),
                ("PolicyDocument", &policy),
            ],
        );
        Moto { server, ci, nobody }
    }

    /// From now on every signature and policy is checked, or none.
    fn check_everything(&self, on: bool) {
        check_everything(&self.server.host(), on);
    }

    /// The keys of a session in a role; while nothing is checked.
    fn session(&self, role: &str) -> Keys {
        let form = [
            ("Action", "AssumeRole"),
            ("RoleArn", role),
            ("RoleSessionName", "given"),
        ];
        keys(&call(&self.server.host(), "sts", &form))
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.host())
    }
}

fn check_everything(host: &str, on: bool) {
    // moto takes a number here: so many requests go unchecked.
    let after = if on { "0" } else { "inf" };
    post(
        host,
        "/moto-api/reset-auth",
        "Content-Type: text/plain\r\n",
        after,
    );
}

fn allow(mut statement: Value) -> String {
    statement["Effect"] = json!("Allow");
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

/// A call that moto does not check, and its answer.
fn call(host: &str, service: &str, form: &[(&str, &str)]) -> String {
    let encode =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let version = match service {
        "iam" => "2010-05-08",
        _ => "2011-06-15",
    };
    let mut body = format!("Version={version}");
    for (name, value) in form {
        body += &format!("&{name}={}", encode(value));
    }
    let headers = format!(
        "Content-Type: application/x-www-form-urlencoded\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIAROOT/20260101/eu-west-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=x\r\n"
    );
    post(host, "/", &headers, &body)
}

fn post(host: &str, path: &str, headers: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(host).unwrap();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    answer
}

fn keys(answer: &str) -> Keys {
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        Some(text.to_owned())
    };
    Keys {
        id: element("AccessKeyId").unwrap(),
        secret: element("SecretAccessKey").unwrap(),
        token: element("SessionToken"),
    }
}

/// A real registry under ECR's name, behind a proxy that leads there.
struct Ecr {
    registry: DockerRegistry,
    proxy: clouds::Server,
    ca: String,
}

impl Ecr {
    fn start() -> Ecr {
        let authority = Authority::new("ECR CA");
        let identity = authority.identity(&[HOST]);
        let registry = DockerRegistry::with(&RealSetup {
            tls: Some(&identity),
            basic: Some(("AWS", PASSWORD)),
            // Locations of uploads are made of it.
            more: "",
            ..RealSetup::default()
        });
        let tunnels = [(format!("{HOST}:443"), registry.address())];
        let tunnels = tunnels
            .each_ref()
            .map(|(name, address)| (name.as_str(), *address));
        Ecr {
            proxy: clouds::Server::with_tunnels(&tunnels, |_| reply(502, "")),
            ca: authority.pem(),
            registry,
        }
    }

    fn program(&self, moto: &str, make: impl Fn(Value) -> Program, fields: Value) -> Program {
        let source = json!({
            "repository": "team/app",
            "tag": "1",
            "aws_region": "eu-west-1",
            "ca_certs": [self.ca],
        });
        self.proxy
            .program(make, merge(source, fields))
            .env("AWS_ENDPOINT_URL", moto)
            .env("AWS_EC2_METADATA_DISABLED", "true")
    }
}

fn of(keys: &Keys) -> Value {
    json!({
        "aws_access_key_id": keys.id,
        "aws_secret_access_key": keys.secret,
        "aws_session_token": keys.token,
    })
}

/// The last four characters, as the log shows a key.
fn end(keys: &Keys) -> &str {
    &keys.id[keys.id.len() - 4..]
}

fn logged_in(output: &Output) -> String {
    let messages = normalise(&output.stderr);
    let start = format!("Amazon ECR: logged in to {HOST} with ");
    let line = messages.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("nobody logged in: {messages}"))
        .to_owned()
}

#[test]
fn an_image_goes_out_and_in_with_a_chain_of_roles() {
    let moto = Moto::start();
    moto.check_everything(true);
    let ecr = Ecr::start();
    let login = merge(
        of(&moto.ci),
        json!({"aws_role_arns": [ROLE_A, ROLE_B], "debug": true}),
    );
    let layers = [layer().file("a", "b"), layer().file("c", "d")];
    let put = ecr
        .program(
            &moto.url(),
            |mut request| {
                request["params"] = json!({"image": "image.tar"});
                Program::put(request)
            },
            login.clone(),
        )
        .source_file("image.tar", image(layers).docker().docker_save(&["x:1"]))
        .run();
    let answer = put.succeeds();
    assert_eq!(
        answer["metadata"][0],
        json!({"name": "repository", "value": format!("{HOST}/team/app")})
    );
    put.keeps_secret([&moto.ci.secret, PASSWORD]);
    assert_eq!(
        logged_in(&put),
        format!(
            "the role {ROLE_B} (through the role {ROLE_A} (through the access key of \
             `source.aws_access_key_id` (…{})))",
            end(&moto.ci)
        )
    );
    let check = ecr
        .program(&moto.url(), Program::check, login.clone())
        .run();
    check.succeeds_with(json!([answer["version"]]));
    let get = ecr
        .program(
            &moto.url(),
            |mut request| {
                request["version"] = answer["version"].clone();
                Program::get(request)
            },
            merge(login, json!({"repository": format!("{HOST}/team/app")})),
        )
        .run();
    get.succeeds();
    assert_eq!(get.file("repository"), format!("{HOST}/team/app"));
    assert_eq!(get.file("rootfs/a") + &get.file("rootfs/c"), "bd");
    assert!(ecr.registry.log().contains("auth.user.name=AWS"));
}

#[test]
fn signatures_session_tokens_and_policies_decide() {
    let moto = Moto::start();
    let session = moto.session(ROLE_B);
    moto.check_everything(true);
    let ecr = Ecr::start();
    let check = |fields: Value| ecr.program(&moto.url(), Program::check, fields);
    let key = |keys: &Keys| {
        format!(
            "the access key of `source.aws_access_key_id` (…{})",
            end(keys)
        )
    };
    // The repository is not there: an empty answer is that of somebody who is let in.
    let missing = json!([]);

    check(of(&moto.ci)).run().succeeds_with(missing.clone());
    check(of(&session)).run().succeeds_with(missing.clone());
    check(merge(of(&moto.ci), json!({"aws_role_arn": ROLE_B})))
        .run()
        .succeeds_with(missing.clone());
    check(json!({}))
        .env("AWS_ACCESS_KEY_ID", &session.id)
        .env("AWS_SECRET_ACCESS_KEY", &session.secret)
        .env("AWS_SESSION_TOKEN", session.token.as_ref().unwrap())
        .run()
        .succeeds_with(missing.clone());
    let program = check(json!({})).env("AWS_PROFILE", "b");
    let config = program.beside("config");
    std::fs::write(
        &config,
        format!(
            "[profile ci]\naws_access_key_id = {}\naws_secret_access_key = {}\n\
             [profile b]\nrole_arn = {ROLE_B}\nsource_profile = ci\n",
            moto.ci.id, moto.ci.secret
        ),
    )
    .unwrap();
    let output = program.env("AWS_CONFIG_FILE", config).run();
    output.succeeds_with(missing.clone());
    assert_eq!(logged_in(&output), format!("the role {ROLE_B}"));

    let ask = |whose: &str| {
        format!(
            "check: log in to Amazon ECR: ask ECR in eu-west-1 for a login with {whose}: POST {}/: \
             403 Forbidden: ",
            moto.url()
        )
    };
    let wrong_secret = Keys {
        id: moto.ci.id.clone(),
        secret: format!("wrong{}", &moto.ci.secret[5..]),
        token: None,
    };
    let fails = |fields: Value, start: &str, advice: &str| {
        let output = check(fields).run();
        output.fails();
        output.keeps_secret([&moto.ci.secret, &session.secret]);
        let messages = output.messages();
        let last = messages.lines().last().unwrap();
        assert!(
            last.starts_with(start) && last.ends_with(&format!("; {advice}")),
            "{last}\nis not\n{start}…; {advice}"
        );
    };
    fails(
        of(&wrong_secret),
        &format!("{}SignatureDoesNotMatch: ", ask(&key(&wrong_secret))),
        "check the secret access key",
    );
    let unknown =
        json!({"aws_access_key_id": "AKIAUNKNOWN000000000", "aws_secret_access_key": "x"});
    let whose = "the access key of `source.aws_access_key_id` (…0000)";
    fails(
        unknown,
        &format!("{}InvalidClientTokenId: ", ask(whose)),
        "check the key id; a temporary key (ASIA…) needs its session token as well",
    );
    fails(
        merge(of(&session), json!({"aws_session_token": "another"})),
        &format!("{}InvalidClientTokenId: ", ask(&key(&session))),
        "check the key id, the session token, and that both belong together",
    );
    fails(
        of(&moto.nobody),
        &format!(
            "{}AccessDenied: User: arn:aws:iam::123456789012:user/nobody is not authorized to \
             perform: ecr:GetAuthorizationToken",
            ask(&key(&moto.nobody))
        ),
        "allow this identity `ecr:GetAuthorizationToken`",
    );
    fails(
        merge(of(&moto.ci), json!({"aws_role_arn": ROLE_A})),
        &format!(
            "{}AccessDenied: User: arn:aws:sts::123456789012:assumed-role/role-a/registry-image \
             is not authorized to perform: ecr:GetAuthorizationToken",
            ask(&format!("the role {ROLE_A} (through {})", key(&moto.ci)))
        ),
        "allow this identity `ecr:GetAuthorizationToken`",
    );
    fails(
        merge(of(&moto.nobody), json!({"aws_role_arn": ROLE_B})),
        &format!(
            "check: log in to Amazon ECR: assume the role {ROLE_B} with {}: POST {}/: 403 \
             Forbidden: AccessDenied: User: arn:aws:iam::123456789012:user/nobody is not \
             authorized to perform: sts:AssumeRole",
            key(&moto.nobody),
            moto.url()
        ),
        "the role's trust policy must name this identity, and the identity must be allowed \
         `sts:AssumeRole` on the role",
    );
}

#[test]
fn a_web_identity_needs_no_keys_and_what_it_gets_is_signed_with() {
    let moto = Moto::start();
    let host = moto.server.host();
    moto.check_everything(true);
    // moto cannot check a request without a signature: this one call goes by unchecked.
    let sts = clouds::Server::start(move |seen: &Seen| {
        assert_eq!(seen.field("Action").unwrap(), "AssumeRoleWithWebIdentity");
        assert_eq!(seen.header("authorization"), None);
        let names = ["Action", "RoleArn", "RoleSessionName", "WebIdentityToken"];
        let form = names.map(|name| (name, seen.field(name).unwrap()));
        let form: Vec<(&str, &str)> = form.iter().map(|(n, v)| (*n, v.as_str())).collect();
        check_everything(&host, false);
        let answer = call(&host, "sts", &form);
        check_everything(&host, true);
        reply(200, answer.split_once("\r\n\r\n").unwrap().1)
    });
    let ecr = Ecr::start();
    let program = ecr.program(&moto.url(), Program::check, json!({"debug": true}));
    let token = program.beside("token");
    std::fs::write(&token, "header.claims.signature\n").unwrap();
    let output = program
        .env("AWS_ENDPOINT_URL_STS", sts.url())
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
        .env("AWS_ROLE_ARN", ROLE_B)
        .env("AWS_ROLE_SESSION_NAME", "pod")
        .run();
    output.succeeds_with(json!([]));
    output.keeps_secret(["header.claims.signature", PASSWORD]);
    assert_eq!(logged_in(&output), format!("the role {ROLE_B}"));
    let seen = &sts.seen()[0];
    assert_eq!(
        seen.field("WebIdentityToken").unwrap(),
        "header.claims.signature"
    );
    assert_eq!(seen.field("RoleSessionName").unwrap(), "pod");
}
