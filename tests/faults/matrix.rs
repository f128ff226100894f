//! Faults × places: every fault that passes, at every place where it can happen.

use crate::common::{Fault, Image, Program, Registry, Tokens, answer};
use crate::help::{app, assert_arrived, check, count, get, put, short, told};
use serde_json::json;
use std::sync::Mutex;
use std::thread;

/// Where a fault happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Tags,
    Manifest,
    Config,
    Layer,
    Token,
    BlobHead,
    UploadStart,
    UploadBytes,
    Commit,
    ManifestPut,
}

const PLACES: [Place; 10] = [
    Place::Tags,
    Place::Manifest,
    Place::Config,
    Place::Layer,
    Place::Token,
    Place::BlobHead,
    Place::UploadStart,
    Place::UploadBytes,
    Place::Commit,
    Place::ManifestPut,
];

impl Place {
    fn method(self) -> &'static str {
        match self {
            Place::BlobHead => "HEAD",
            Place::UploadStart => "POST",
            Place::UploadBytes => "PATCH",
            Place::Commit | Place::ManifestPut => "PUT",
            _ => "GET",
        }
    }

    /// Path, with a `*` where a session's name stands.
    fn path(self, image: &Image) -> String {
        let config = &image.config.as_ref().unwrap().digest;
        match self {
            Place::Tags => "/v2/t/a/tags/list".to_owned(),
            Place::Manifest => format!("/v2/t/a/manifests/{}", image.digest),
            Place::Config => format!("/v2/t/a/blobs/{config}"),
            Place::Layer | Place::BlobHead => format!("/v2/t/a/blobs/{}", image.layers[0].digest),
            Place::Token => "/token".to_owned(),
            Place::UploadStart => "/v2/t/a/blobs/uploads/".to_owned(),
            Place::UploadBytes | Place::Commit => "/v2/t/a/blobs/uploads/upload-*".to_owned(),
            Place::ManifestPut => format!("/v2/t/a/manifests/{}", image.digest),
        }
    }

    /// Requests to this place without a fault. One worker sends the config and then the layer.
    fn usually(self) -> usize {
        match self {
            Place::UploadStart | Place::UploadBytes | Place::Commit => 2,
            _ => 1,
        }
    }

    fn program(self, registry: &Registry, image: &Image) -> Program {
        let program = match self {
            Place::Tags => check(registry, json!({"tag_regex": "."})),
            Place::Manifest | Place::Config | Place::Layer | Place::Token => {
                get(registry, image, json!({}))
            }
            _ => put(registry, image, json!({})),
        };
        program.env("REGISTRY_IMAGE_WORKERS", "1")
    }

    /// What the program says in any case.
    fn says(self) -> Vec<String> {
        match self.is_in_a_put() {
            true => vec!["pushed 1".to_owned()],
            false => Vec::new(),
        }
    }

    /// What stands before the error in the line about a wait.
    fn prefix(self) -> &'static str {
        match self {
            Place::Token => "log in at REGISTRY: ",
            _ => "",
        }
    }

    fn registry(self, image: &Image) -> Registry {
        let registry = match self {
            Place::Token => Registry::setup().bearer(&Tokens::new()).start(),
            _ => Registry::start(),
        };
        if !self.is_in_a_put() {
            registry.put_image("t/a", "1", image);
        }
        registry
    }

    fn is_in_a_put(self) -> bool {
        !matches!(
            self,
            Place::Tags | Place::Manifest | Place::Config | Place::Layer | Place::Token
        )
    }

    /// Whether the answer has a body that can be cut off.
    fn has_body(self) -> bool {
        self.method() == "GET"
    }

    /// Whether an answer that is lost leaves something done that need not be done again.
    fn is_done_once(self) -> bool {
        self == Place::Commit
    }
}

/// A fault that passes, and how it is told.
struct Passing {
    name: &'static str,
    fault: fn() -> Fault,
    /// The cause in the line; nothing where it depends on the place.
    cause: &'static str,
}

/// Faults before the answer's body.
const PASSING: [Passing; 17] = [
    Passing {
        name: "reset",
        fault: || Fault::Reset,
        cause: "connection reset by peer",
    },
    Passing {
        name: "close",
        fault: || Fault::Close,
        cause: "the connection was closed too early",
    },
    Passing {
        name: "stall",
        fault: || Fault::Stall,
        cause: "not a byte for 60 s",
    },
    Passing {
        name: "408",
        fault: || Fault::Answer(answer(408)),
        cause: "408 Request Timeout",
    },
    Passing {
        name: "425",
        fault: || Fault::Answer(answer(425)),
        cause: "425 Too Early",
    },
    Passing {
        name: "429 with seconds",
        fault: || Fault::too_many(7),
        cause: "429 Too Many Requests: TOOMANYREQUESTS: too many requests",
    },
    Passing {
        name: "429 with a date",
        fault: || {
            Fault::Answer(
                answer(429)
                    .with("Date", "Wed, 21 Oct 2026 07:28:00 GMT")
                    .retry_after("Wed, 21 Oct 2026 07:28:30 GMT")
                    .with("ratelimit-limit", "100;w=21600")
                    .with("ratelimit-remaining", "0;w=21600"),
            )
        },
        cause: "429 Too Many Requests (ratelimit-limit: 100;w=21600, \
                ratelimit-remaining: 0;w=21600)",
    },
    Passing {
        name: "499",
        fault: || Fault::Answer(answer(499)),
        cause: "status 499",
    },
    Passing {
        name: "500",
        fault: || Fault::error(500, "UNKNOWN", "unknown error"),
        cause: "500 Internal Server Error: UNKNOWN: unknown error",
    },
    Passing {
        name: "502",
        fault: || {
            let page = answer(502).with("Content-Type", "text/html");
            Fault::Answer(page.body("<html><h1>Bad Gateway</h1></html>"))
        },
        cause: "502 Bad Gateway: an HTML page instead of an answer",
    },
    Passing {
        name: "503",
        fault: || Fault::unavailable(3),
        cause: "503 Service Unavailable: UNAVAILABLE: come back later",
    },
    Passing {
        name: "504",
        fault: || Fault::Answer(answer(504).body("upstream timed out\n")),
        cause: "504 Gateway Timeout: upstream timed out",
    },
    Passing {
        name: "520",
        fault: || Fault::Answer(answer(520)),
        cause: "status 520",
    },
    Passing {
        name: "524",
        fault: || Fault::Answer(answer(524)),
        cause: "status 524",
    },
    Passing {
        name: "529",
        fault: || Fault::Answer(answer(529)),
        cause: "status 529",
    },
    Passing {
        name: "answer without an end",
        fault: || Fault::Garbage(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        cause: "the connection was closed too early",
    },
    Passing {
        name: "reset after the deed",
        fault: || Fault::DoneThenReset,
        cause: "connection reset by peer",
    },
];

/// Faults in the middle of the answer's body.
const IN_BODY: [Passing; 3] = [
    Passing {
        name: "reset in the body",
        fault: || Fault::ResetAfter(1),
        cause: "connection reset by peer",
    },
    Passing {
        name: "close in the body",
        fault: || Fault::CloseAfter(1),
        cause: "the connection was closed too early",
    },
    Passing {
        name: "stall in the body",
        fault: || Fault::StallAfter(1),
        cause: "not a byte for 60 s",
    },
];

#[test]
fn a_fault_that_passes_costs_one_more_request_and_one_line_wherever_it_happens() {
    let mut rows = Vec::new();
    for place in PLACES {
        rows.extend(PASSING.iter().map(|passing| (place, passing, false)));
        if place.has_body() {
            rows.extend(IN_BODY.iter().map(|passing| (place, passing, true)));
        }
    }
    assert_eq!(rows.len(), 10 * 17 + 5 * 3);
    let image = app();
    // A row of a stall waits for a second, so several rows run side by side.
    let rows = Mutex::new(rows);
    let next = || rows.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((place, passing, in_body)) = next() {
                    row(place, passing, &image, in_body);
                }
            });
        }
    });
}

fn row(place: Place, passing: &Passing, image: &Image, in_body: bool) {
    let label = format!("{} at {place:?}", passing.name);
    let registry = place.registry(image);
    let (method, path) = (place.method(), place.path(image));
    registry.on(method, &path).then((passing.fault)());
    let clock = match passing.name.starts_with("stall") {
        true => "60",
        false => "1",
    };
    let program = place.program(&registry, image);
    let output = program.env("REGISTRY_IMAGE_TEST_CLOCK", clock).run();
    if place.is_in_a_put() {
        output.succeeds();
        let pushed = registry.manifest("t/a", "1").map(|found| found.bytes);
        assert_eq!(pushed.as_ref(), Some(&image.manifest), "{label}");
    } else if place == Place::Tags {
        output.succeeds();
    } else {
        assert_arrived(&output, image);
    }
    let quiet = place.is_done_once() && passing.name == "reset after the deed";
    let expected = match (quiet, in_body) {
        (true, _) => place.usually(),
        _ => place.usually() + 1,
    };
    assert_eq!(
        count(&registry, method, &path),
        expected,
        "{label}: {:#?}",
        registry.lines()
    );
    let lines = told(&output);
    if quiet {
        assert_eq!(lines, place.says(), "{label}");
        return;
    }
    let cause = match method {
        "HEAD" => without_body(passing.cause),
        _ => passing.cause,
    };
    let path = path.replace("upload-*", "SESSION");
    let line = match (place, in_body) {
        // The body of a blob is not the request's but the reader's.
        (Place::Layer | Place::Config, true) => {
            let blob = match place {
                Place::Layer => &image.layers[0],
                _ => image.config.as_ref().unwrap(),
            };
            format!(
                "read {} at byte 1 of {}: {cause}; trying again in T",
                short(&blob.digest),
                blob.bytes.len(),
            )
        }
        _ => format!(
            "{}{method} http://REGISTRY{path}: {cause}; trying again in T",
            place.prefix()
        ),
    };
    let expected: Vec<String> = [line].into_iter().chain(place.says()).collect();
    assert_eq!(lines, expected, "{label}");
}

/// The cause as a HEAD can know it: without the error's text.
fn without_body(cause: &'static str) -> &'static str {
    match cause.find(": ") {
        Some(at) if !cause[..at].contains('(') => &cause[..at],
        _ => cause,
    }
}
