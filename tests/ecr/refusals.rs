//! What AWS refuses, line by line, and what is waited for.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::aws::{Aws, ROLE, SECRET, aws, is_ecr, open};
use crate::clouds::reply;
use serde_json::json;

#[test]
fn refusals_name_the_step_the_identity_the_code_and_what_to_try() {
    let key = "the access key of `source.aws_access_key_id` (…MPLE)";
    let ecr = format!("ask ECR in eu-west-1 for a login with {key}");
    let role = format!("assume the role {ROLE} with {key}");
    type Case<'a> = (&'a str, u16, &'a str, &'a str, &'a str);
    let cases: [Case<'_>; 9] = [
        (
            "ecr",
            400,
            r#"{"__type":"AccessDeniedException","Message":"User x is not authorized"}"#,
            "AccessDeniedException: User x is not authorized",
            "allow this identity `ecr:GetAuthorizationToken`",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"com.amazonaws#ExpiredTokenException","message":"The token is expired"}"#,
            "ExpiredTokenException: The token is expired",
            "the session of IDENTITY is over; renew it",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"UnrecognizedClientException","message":"The token is invalid."}"#,
            "UnrecognizedClientException: The token is invalid.",
            "check the key id; a temporary key (ASIA…) needs its session token as well",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"InvalidSignatureException","message":"It differs.\n\nThe Canonical String for this request should have been 'x-amz-security-token:SECRETS"}"#,
            "InvalidSignatureException: It differs.",
            "check the secret access key",
        ),
        ("ecr", 403, "<html>go away</html>", "", ""),
        (
            "ecr",
            418,
            r#"{"__type":"Odd","message":"your secret is wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}"#,
            "Odd: your secret is …",
            "",
        ),
        (
            "sts",
            403,
            "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: arn:x is not authorized \
             to perform: sts:AssumeRole</Message></Error></ErrorResponse>",
            "AccessDenied: User: arn:x is not authorized to perform: sts:AssumeRole",
            "the role's trust policy must name this identity, and the identity must be allowed \
             `sts:AssumeRole` on the role",
        ),
        (
            "sts",
            403,
            "<E><Code>RegionDisabledException</Code><Message>not active</Message></E>",
            "RegionDisabledException: not active",
            "switch STS on for this region in the account's settings",
        ),
        (
            "sts",
            403,
            "<E><Code>InvalidClientTokenId</Code><Message>unknown</Message></E>",
            "InvalidClientTokenId: unknown",
            "check the key id; a temporary key (ASIA…) needs its session token as well",
        ),
    ];
    for (service, status, body, said, advice) in cases {
        let fails_at_sts = service == "sts";
        let body = body.to_owned();
        let aws = aws(move |seen| match is_ecr(seen) == fails_at_sts {
            true => open(seen),
            false => reply(status, body.as_str()),
        });
        let fields = match fails_at_sts {
            true => json!({"aws_role_arn": ROLE}),
            false => json!({}),
        };
        let reason = match status {
            400 => "400 Bad Request",
            418 => "418 I'm a teapot",
            _ => "403 Forbidden",
        };
        let step = if fails_at_sts { &role } else { &ecr };
        let mut expect = format!(
            "check: log in to Amazon ECR: {step}: POST {}/: {reason}",
            aws.services.url()
        );
        if !said.is_empty() {
            expect += &format!(": {said}");
        }
        if !advice.is_empty() {
            expect += &format!("; {}", advice.replace("IDENTITY", key));
        }
        let output = aws.keyed(fields).run();
        output.fails_with(&expect);
        output.keeps_secret([SECRET, "SECRETS"]);
        assert_eq!(aws.services.lines().len(), 1, "{said} is not tried again");
    }
}

#[test]
fn throttling_is_waited_for_whatever_its_status() {
    let answers = Mutex::new(vec![
        (503, "<E><Code>ServiceUnavailable</Code></E>"),
        (500, ""),
        (400, r#"{"__type":"RequestTimeout"}"#),
        (
            400,
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
        ),
        (429, ""),
    ]);
    let aws = aws(move |seen| match answers.lock().unwrap().pop() {
        Some((status, body)) => reply(status, body),
        None => open(seen),
    });
    aws.keyed(json!({})).run().succeeds_with(aws.version());
    assert_eq!(aws.services.lines().len(), 6);

    let throttled = aws_throttled();
    let output = throttled.keyed(json!({})).run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    assert!(
        last.contains(": 400 Bad Request: ThrottlingException: Rate exceeded (")
            && last.ends_with(" tries without progress)"),
        "{last}"
    );
}

fn aws_throttled() -> Aws {
    aws(|_| {
        reply(
            400,
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
        )
    })
}

#[test]
fn a_clock_that_is_wrong_is_said_to_be() {
    let date =
        |seconds: u64| httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds));
    for (code, ago, why) in [
        (
            "SignatureDoesNotMatch",
            3630,
            " (this worker's clock is 60 minutes ahead of AWS's, which takes 5); set this worker's clock",
        ),
        ("RequestTimeTooSkewed", 0, "; set this worker's clock"),
        ("SignatureDoesNotMatch", 0, "; check the secret access key"),
    ] {
        let aws = aws(move |_| {
            reply(
                403,
                format!("<E><Code>{code}</Code><Message>no</Message></E>"),
            )
            .with("Date", date(ago))
        });
        aws.keyed(json!({})).run().fails_with(&format!(
            "check: log in to Amazon ECR: ask ECR in eu-west-1 for a login with the access key of \
             `source.aws_access_key_id` (…MPLE): POST {}/: 403 Forbidden: {code}: no{why}",
            aws.services.url()
        ));
    }
}
