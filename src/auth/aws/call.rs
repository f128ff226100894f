//! One call of an AWS service: signed, sent, tried again where that may help, and what AWS says
//! when it refuses.

use std::time::{Duration, SystemTime};

use super::Aws;
use super::keys::{self, Keys};
use super::xml;
use crate::error::{Again, Error, Kind, Result};
use crate::http::{Payload, Request, Response, Url, problem_saying};
use crate::retry::Patience;
use crate::secret::Secret;

/// An answer of STS or ECR has a few KiB.
const ANSWER_LIMIT: u64 = 1 << 20;

/// An error answer is read this far.
const ERROR_LIMIT: u64 = 64 << 10;

/// AWS takes requests whose date is this far from its own clock.
const SKEW_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Codes that mean "too fast", whatever the status (aws-sdk: standard retry mode).
const THROTTLING: [&str; 14] = [
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
];

/// Codes of faults that pass, whatever the status.
const PASSING: [&str; 8] = [
    "IDPCommunicationError",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerException",
    "ServiceUnavailable",
];

/// Codes that mean that this identity may not, or is none.
const DENYING: [&str; 13] = [
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IDPRejectedClaim",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSignatureException",
    "OptInRequired",
    "RegionDisabledException",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Service {
    Ecr,
    Sts,
}

/// One call.
pub(super) struct Call<'c> {
    pub(super) service: Service,
    pub(super) content_type: &'static str,
    /// The operation, for services that take it as a header.
    pub(super) target: Option<&'static str>,
    pub(super) body: String,
    pub(super) proof: Proof<'c>,
}

/// What shows who asks.
pub(super) enum Proof<'c> {
    Signature(&'c Keys),
    /// A token in the body.
    Token(&'c Secret),
}

/// A refusal, with AWS's own code for it.
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) error: Error,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused {
            code: String::new(),
            error,
        }
    }
}

impl Call<'_> {
    /// The body of a successful answer.
    pub(super) fn send(&self, aws: &Aws<'_>) -> std::result::Result<Vec<u8>, Refused> {
        let mut code = String::new();
        let outcome = super::super::patiently(aws.client, Patience::SERVICE, || {
            code.clear();
            self.send_once(aws, &mut code)
        });
        outcome.map_err(|error| Refused { code, error })
    }

    fn send_once(&self, aws: &Aws<'_>, code: &mut String) -> Result<Vec<u8>> {
        let now = aws.client.context().clock.now();
        let (service, url) = match self.service {
            Service::Ecr => ("ecr", &aws.endpoints.ecr),
            Service::Sts => ("sts", &aws.endpoints.sts),
        };
        let mut headers = vec![("content-type", self.content_type.to_owned())];
        headers.extend(
            self.target
                .map(|target| ("x-amz-target", target.to_owned())),
        );
        let body = self.body.as_bytes();
        let mut request = Request::new("POST", url).payload(Payload::Bytes(body));
        request = match self.proof {
            Proof::Signature(keys) => keys.secrets().fold(request, Request::holding),
            Proof::Token(token) => request.holding(token),
        };
        if let Proof::Signature(keys) = self.proof {
            let scope = keys::Scope {
                region: aws.region.name(),
                service,
                time: now,
            };
            for (name, value) in keys::signed("POST", url, &headers, body, keys, &scope)? {
                request = match name {
                    "authorization" => request.authorization(Some(&value)),
                    _ => request.header(name, value.expose()),
                };
            }
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = aws.client.send(request)?;
        if response.is_success() {
            return response.bytes(ANSWER_LIMIT);
        }
        Err(self.refusal(aws, url, response, now, code))
    }

    fn refusal(
        &self,
        aws: &Aws<'_>,
        url: &Url,
        response: Response,
        now: SystemTime,
        code: &mut String,
    ) -> Error {
        let skew = skew(&response, now);
        let clock = aws.client.context().clock;
        let error = problem_saying("POST", url, response, clock, |response| {
            let said = Said::read(response);
            *code = said.code.clone();
            said.shown()
        });
        let code = code.as_str();
        let kind = match DENYING.contains(&code) {
            true => Kind::Denied,
            false => error.kind(),
        };
        let again = match error.can_try_again() {
            Again::Never if THROTTLING.contains(&code) => Again::Limited { after: None },
            Again::Never if PASSING.contains(&code) => Again::Later { after: None },
            again => again,
        };
        let error = error.of_kind(kind).again(again);
        let about_time = match code {
            "RequestTimeTooSkewed" => true,
            "SignatureDoesNotMatch" | "InvalidSignatureException" | "RequestExpired" => {
                skew.is_some()
            }
            _ => false,
        };
        match (about_time, skew) {
            (true, Some(skew)) => error.noting(skew).advise("set this worker's clock"),
            (true, None) => error.advise("set this worker's clock"),
            (false, _) => error,
        }
    }
}

/// How far this machine's clock is from the server's, where that is too far.
fn skew(response: &Response, now: SystemTime) -> Option<String> {
    let theirs = httpdate::parse_http_date(response.header("date")?).ok()?;
    let (apart, which) = match now.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let minutes = apart.as_secs() / 60;
    (apart > SKEW_LIMIT)
        .then(|| format!("this worker's clock is {minutes} minutes {which} AWS's, which takes 5"))
}

/// What an error answer says.
#[derive(Default)]
struct Said {
    code: String,
    message: String,
}

impl Said {
    /// XML of STS, JSON of ECR, or either where a load balancer or a test server answers.
    fn read(response: Response) -> Self {
        let named = response
            .header("x-amzn-errortype")
            .map(|name| bare(name).to_owned());
        let Ok(body) = response.bytes_up_to(ERROR_LIMIT) else {
            return Said::default();
        };
        let mut said = Said::parse(&body);
        if let (true, Some(code)) = (said.code.is_empty(), named) {
            said.code = code;
        }
        said
    }

    fn parse(body: &[u8]) -> Self {
        if let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(body) {
            let find = |names: [&str; 3]| {
                let found = names.iter().find_map(|name| map.get(*name)?.as_str());
                found.unwrap_or_default().to_owned()
            };
            return Said {
                code: bare(&find(["__type", "code", "Code"])).to_owned(),
                message: find(["message", "Message", "errorMessage"]),
            };
        }
        let document = String::from_utf8_lossy(body);
        Said {
            code: xml::text(&document, "Code").unwrap_or_default(),
            message: xml::text(&document, "Message").unwrap_or_default(),
        }
    }

    fn shown(&self) -> String {
        // Behind the first line of SignatureDoesNotMatch stands the request, session token and all.
        let message = self.message.lines().next().unwrap_or_default().trim();
        match (self.code.is_empty(), message.is_empty()) {
            (true, _) => message.to_owned(),
            (false, true) => self.code.clone(),
            (false, false) => format!("{}: {message}", self.code),
        }
    }
}

/// `com.amazonaws.ecr#Code:http://…` without its dress.
fn bare(name: &str) -> &str {
    let name = name.split(':').next().unwrap_or_default();
    name.rsplit('#').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_in_json_and_xml() {
        for (body, shown) in [
            (
                r#"{"__type":"com.amazonaws.ecr#AccessDeniedException","message":"User x may not"}"#,
                "AccessDeniedException: User x may not",
            ),
            (
                r#"{"__type":"ThrottlingException","Message":"Rate"}"#,
                "ThrottlingException: Rate",
            ),
            (r#"{"code":"X","message":null}"#, "X"),
            (
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>\
                 Sender</Type><Code>ExpiredToken</Code><Message>The token is old</Message>",
                "ExpiredToken: The token is old",
            ),
            (
                "<E><Code>SignatureDoesNotMatch</Code><Message>It does not match.\n\nThe canonical \
                 string: x-amz-security-token:SECRET</Message></E>",
                "SignatureDoesNotMatch: It does not match.",
            ),
            ("", ""),
            ("<html><body>502</body></html>", ""),
            ("[1]", ""),
        ] {
            assert_eq!(Said::parse(body.as_bytes()).shown(), shown);
        }
        assert_eq!(
            bare("AccessDeniedException:http://internal.amazon.com/x/"),
            "AccessDeniedException"
        );
    }
}
