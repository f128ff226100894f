//! Scripted faults: which requests they meet, and what they do to the answer.

use super::{Head, Request, Shared};
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the fixture sends back, before faults of delivery.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer without body; add to it with the methods of [`Answer`].
pub fn answer(status: u16) -> Answer {
    Answer {
        status,
        ..Answer::default()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// Adds a header; the same name may come several times.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets a header, in the place of all of that name.
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Answer {
        self = self.without(name);
        self.with(name, value)
    }

    pub fn without(mut self, name: &str) -> Answer {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = body.into();
        self
    }

    pub fn json(self, body: &Value) -> Answer {
        self.set("Content-Type", "application/json")
            .body(body.to_string())
    }

    /// The error envelope of the distribution specification.
    pub fn error(self, code: &str, message: &str) -> Answer {
        let detail = Value::Null;
        self.json(&json!({"errors": [{"code": code, "message": message, "detail": detail}]}))
    }

    /// `Retry-After`: seconds or an HTTP date.
    pub fn retry_after(self, value: impl ToString) -> Answer {
        self.set("Retry-After", value.to_string())
    }
}

/// See [`Fault::edit`].
pub type EditFn = Box<dyn Fn(&Request, Answer) -> Answer + Send + Sync>;

/// What happens to a request that a rule meets. Offsets and counts are bytes of the body.
pub enum Fault {
    /// This answer, after the body of the request was read; the registry does nothing.
    Answer(Answer),
    /// This answer before any of the request's body is read; then the connection closes.
    AnswerEarly(Answer),
    /// The registry does what was asked, and answers this.
    DoneBut(Answer),
    /// Whatever the function makes of the regular answer.
    Edit(EditFn),
    /// TCP reset, no answer, nothing done.
    Reset,
    /// The registry does what was asked, then resets the connection: the answer is lost.
    DoneThenReset,
    /// TCP reset when so much of the answer's body was received by the client.
    ResetAfter(u64),
    /// TCP reset when so much of the request's body was read; nothing done.
    ResetInRequest(u64),
    /// Closes without an answer; nothing done.
    Close,
    /// Closes in the middle of the answer's body, whose framing promised all of it.
    CloseAfter(u64),
    /// Never answers; the connection stays open until the test ends or calls `release`.
    Stall,
    /// Sends so much of the body and no more.
    StallAfter(u64),
    /// Reads so much of the request's body and no more.
    StallInRequest(u64),
    /// Waits at a gate before the request is dealt with.
    Hold(Gate),
    /// Sends the body in pieces of so many bytes with a pause after each.
    Slowly(usize, Duration),
    /// One byte of the body differs.
    FlipByte(u64),
    /// Every byte of the body differs; same length.
    WrongBytes,
    /// So many bytes more, with the right Content-Length for it.
    Longer(u64),
    /// So many bytes fewer, with the right Content-Length for it.
    Shorter(u64),
    /// Another body, same headers (Content-Length as of this body).
    Body(Vec<u8>),
    /// Content-Length says this whatever the body is.
    SayLength(u64),
    Without(&'static str),
    Header(&'static str, String),
    Chunked,
    /// No framing: the end of the connection is the end of the body.
    CloseDelimited,
    /// Redirect to this place.
    Redirect(u16, String),
    /// Redirect to this prefix followed by the last segment of the path.
    RedirectBelow(u16, String),
    /// A 200 with everything, whatever `Range` asks.
    IgnoreRange,
    /// A 206 for the range `first..=last`, whatever `Range` asks.
    OtherRange(u64, u64),
    /// 416, with the `Content-Range` that belongs to it.
    RangeRefused,
    /// The answer carries `Connection: close`, and the connection closes.
    LastOfConnection,
    /// The connection closes after the answer without saying so.
    SilentClose,
    /// 401 with the challenge, as for a token that has expired; the token sent is worthless from now on.
    Expired,
    /// Bytes that are not HTTP, then the connection closes.
    Garbage(Vec<u8>),
}

impl Fault {
    /// See [`Fault::Edit`].
    pub fn edit(edit: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Fault {
        Fault::Edit(Box::new(edit))
    }

    /// 429 with `Retry-After` and the envelope that registries send with it.
    pub fn too_many(retry_after: impl ToString) -> Fault {
        Fault::Answer(
            answer(429)
                .retry_after(retry_after)
                .error("TOOMANYREQUESTS", "too many requests"),
        )
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(retry_after: impl ToString) -> Fault {
        Fault::Answer(
            answer(503)
                .retry_after(retry_after)
                .error("UNAVAILABLE", "come back later"),
        )
    }

    /// A status with an error envelope.
    pub fn error(status: u16, code: &str, message: &str) -> Fault {
        Fault::Answer(answer(status).error(code, message))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    Reset,
    Close,
    Stall,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Framing {
    #[default]
    Length,
    Chunked,
    Close,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    pub framing: Framing,
    pub length: Option<u64>,
    pub cut: Option<(u64, Cut)>,
    pub pace: Option<(usize, Duration)>,
    /// Close afterwards: `true` says so in a header.
    pub close: Option<bool>,
}

/// Changes an answer and its delivery; faults of earlier phases are not this function's.
pub fn shape(fault: &Fault, request: &Request, mut answer: Answer, way: &mut Delivery) -> Answer {
    match fault {
        Fault::DoneBut(other) => return other.clone(),
        Fault::Edit(edit) => return edit(request, answer),
        Fault::ResetAfter(at) => way.cut = Some((*at, Cut::Reset)),
        Fault::CloseAfter(at) => way.cut = Some((*at, Cut::Close)),
        Fault::StallAfter(at) => way.cut = Some((*at, Cut::Stall)),
        Fault::Slowly(piece, pause) => way.pace = Some((*piece, *pause)),
        Fault::FlipByte(at) => {
            let length = answer.body.len();
            let byte = answer.body.get_mut(*at as usize);
            *byte.unwrap_or_else(|| panic!("flip byte {at} of a body of {length}")) ^= 1;
        }
        Fault::WrongBytes => answer.body.iter_mut().for_each(|byte| *byte ^= 0x55),
        Fault::Longer(more) => answer.body.resize(answer.body.len() + *more as usize, 0),
        Fault::Shorter(fewer) => {
            let length = answer.body.len().saturating_sub(*fewer as usize);
            answer.body.truncate(length);
        }
        Fault::Body(body) => answer.body.clone_from(body),
        Fault::SayLength(length) => way.length = Some(*length),
        Fault::Without(name) if name.eq_ignore_ascii_case("content-length") => {
            way.framing = Framing::Close;
        }
        Fault::Without(name) => return answer.without(name),
        Fault::Header(name, value) => return answer.set(name, value),
        Fault::Chunked => way.framing = Framing::Chunked,
        Fault::CloseDelimited => way.framing = Framing::Close,
        Fault::LastOfConnection => way.close = Some(true),
        Fault::SilentClose => way.close = Some(false),
        _ => {}
    }
    answer
}

/// Changes what the registry believes it was asked.
pub fn reread(fault: &Fault, head: &mut Head) {
    match fault {
        Fault::IgnoreRange => head
            .headers
            .retain(|(n, _)| !n.eq_ignore_ascii_case("range")),
        Fault::OtherRange(first, last) => {
            for (name, value) in &mut head.headers {
                if name.eq_ignore_ascii_case("range") {
                    *value = format!("bytes={first}-{last}");
                }
            }
        }
        _ => {}
    }
}

/// A place where requests wait until the test, or enough of them, open it.
///
/// Waiting is bounded: after 30 seconds the gate opens and the registry reports an offence.
#[derive(Clone)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

struct GateState {
    waiting: usize,
    opens_at: usize,
    open: bool,
}

/// A program under test that is right never lets a gate wait so long.
const GATE_LIMIT: Duration = Duration::from_secs(30);

impl Gate {
    /// Stays shut until [`Gate::open`].
    pub fn new() -> Gate {
        Gate::meeting(usize::MAX)
    }

    /// Opens when so many requests wait at it: the proof that they are made at the same time.
    pub fn meeting(requests: usize) -> Gate {
        let state = GateState {
            waiting: 0,
            opens_at: requests,
            open: false,
        };
        Gate(Arc::new((Mutex::new(state), Condvar::new())))
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Waits until so many requests have come to the gate.
    pub fn wait_for(&self, requests: usize) {
        let state = self.0.0.lock().unwrap();
        let enough = |state: &mut GateState| state.waiting < requests;
        let (state, _) = self
            .0
            .1
            .wait_timeout_while(state, GATE_LIMIT, enough)
            .unwrap();
        let came = state.waiting;
        drop(state);
        assert!(
            came >= requests,
            "{came} of {requests} requests came to the gate in 30 s"
        );
    }

    /// False when the limit passed.
    pub(super) fn pass(&self, stopping: &dyn Fn() -> bool) -> bool {
        let mut state = self.0.0.lock().unwrap();
        state.waiting += 1;
        if state.waiting >= state.opens_at {
            state.open = true;
        }
        self.0.1.notify_all();
        let tick = Duration::from_millis(50);
        for _ in 0..GATE_LIMIT.as_millis() / tick.as_millis() {
            if state.open || stopping() {
                return true;
            }
            state = self.0.1.wait_timeout(state, tick).unwrap().0;
        }
        state.open
    }
}

/// One line of the script.
pub struct Rule {
    pub method: String,
    pub pattern: String,
    headers: Vec<(String, String)>,
    /// 1-based; `None`: as soon as it is offered a request.
    first: Option<usize>,
    times: usize,
    seen: usize,
    pub used: usize,
    pub optional: bool,
    pub faults: Vec<Arc<Fault>>,
}

impl Rule {
    fn matches(&self, head: &Head) -> bool {
        let method = self.method == "*" || self.method == head.method;
        let place = if self.pattern.contains('?') {
            &head.target
        } else {
            &head.path
        };
        let headers = self.headers.iter().all(|(name, pattern)| {
            head.header(name)
                .is_some_and(|value| wildcard(pattern, value))
        });
        method && headers && wildcard(&self.pattern, place)
    }

    fn active(&self) -> bool {
        self.used < self.times && self.first.is_none_or(|first| self.seen >= first)
    }

    /// Whether the test scripted something that did not happen.
    pub fn left_over(&self) -> Option<String> {
        let missing = match self.times {
            usize::MAX => self.used == 0,
            times => self.used < times,
        };
        (missing && !self.optional && !self.faults.is_empty()).then(|| {
            let times = if self.times == usize::MAX {
                1
            } else {
                self.times
            };
            format!(
                "{} {} happened {} of {times} times",
                self.method, self.pattern, self.used
            )
        })
    }
}

/// The faults for this request: those of the first rule that is due.
pub fn choose(rules: &mut [Rule], head: &Head) -> Vec<Arc<Fault>> {
    let mut chosen: Option<Vec<Arc<Fault>>> = None;
    for rule in rules {
        if !rule.matches(head) {
            continue;
        }
        rule.seen += 1;
        if chosen.is_none() && rule.active() {
            rule.used += 1;
            chosen = Some(rule.faults.clone());
        }
    }
    chosen.unwrap_or_default()
}

/// `*` stands for any text, also none.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.is_char_boundary(at) && wildcard(rest, &text[at..]))
        }),
    }
}

/// Says when a fault happens; [`Scripted::then`] says what. Made by `Registry::on`.
///
/// Without more words a rule acts once, on the first matching request that no earlier rule takes.
#[must_use = "a rule without `then` does nothing"]
pub struct Scripted<'a> {
    shared: &'a Shared,
    rule: Rule,
}

impl<'a> Scripted<'a> {
    pub(super) fn new(shared: &'a Shared, method: &str, pattern: &str) -> Scripted<'a> {
        let rule = Rule {
            method: method.to_owned(),
            pattern: pattern.to_owned(),
            headers: Vec::new(),
            first: None,
            times: 1,
            seen: 0,
            used: 0,
            optional: false,
            faults: Vec::new(),
        };
        Scripted { shared, rule }
    }

    /// From the `n`th (1 is the first) matching request on; those that other rules take count too.
    pub fn nth(self, n: usize) -> Self {
        self.edit(|rule| rule.first = Some(n))
    }

    pub fn times(self, n: usize) -> Self {
        self.edit(|rule| rule.times = n)
    }

    pub fn always(self) -> Self {
        self.edit(|rule| rule.times = usize::MAX)
    }

    /// It is no mistake of the test when this never happens.
    pub fn optional(self) -> Self {
        self.edit(|rule| rule.optional = true)
    }

    /// Only requests with this header; `*` in the value stands for any text.
    pub fn with_header(self, name: &str, value: &str) -> Self {
        self.edit(|rule| rule.headers.push((name.to_owned(), value.to_owned())))
    }

    fn edit(mut self, change: impl FnOnce(&mut Rule)) -> Self {
        change(&mut self.rule);
        self
    }

    /// Puts the rule into force.
    pub fn then(self, fault: Fault) -> Installed<'a> {
        let mut rule = self.rule;
        rule.faults.push(Arc::new(fault));
        let mut script = self.shared.script.lock().unwrap();
        script.push(rule);
        Installed {
            shared: self.shared,
            index: script.len() - 1,
        }
    }
}

/// A rule in force.
pub struct Installed<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Installed<'_> {
    /// One more fault for the same answer.
    pub fn and(self, fault: Fault) -> Self {
        self.shared.script.lock().unwrap()[self.index]
            .faults
            .push(Arc::new(fault));
        self
    }

    /// How often it has acted.
    pub fn used(&self) -> usize {
        self.shared.script.lock().unwrap()[self.index].used
    }
}
