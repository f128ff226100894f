//! The threads of the fixture registry: one accepts, one serves each connection.

use super::api;
use super::fault::{self, Answer, Delivery, Fault};
use super::log::{Offence, Request};
use super::shared::Shared;
use super::wire::{BodyRead, Connection, Head, Next, Offences, Stream};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for (number, socket) in (1..).zip(listener.incoming()) {
        if shared.stopping() {
            break;
        }
        let Ok(socket) = socket else { continue };
        let _ = socket.set_nodelay(true);
        let Ok(handle) = socket.try_clone() else {
            continue;
        };
        shared.state().sockets.insert(number, handle);
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || connection(&shared, number, socket)));
    }
    shared.stop_sockets();
    for thread in threads {
        if thread.join().is_err() {
            shared.trouble("a thread of the fixture panicked; its message is above".to_owned());
        }
    }
}

fn connection(shared: &Shared, number: u64, socket: TcpStream) {
    let Ok(peer) = socket.peer_addr() else {
        return shared.forget_socket(number);
    };
    let mut connection = match open(shared, socket) {
        Ok(Some(connection)) => connection,
        Ok(None) => return shared.forget_socket(number),
        Err(error) => {
            shared.state().tls_failures.push(error.to_string());
            return shared.forget_socket(number);
        }
    };
    let (next, releases) = loop {
        match serve(shared, &mut connection, number, peer) {
            (Next::Request, _) => {}
            end => break end,
        }
    };
    if next == Next::Stall {
        shared.stall(releases);
    }
    if next == Next::Reset {
        connection.wait_until_received();
    }
    shared.forget_socket(number);
    match next {
        Next::Reset => connection.reset(),
        _ => connection.close(),
    }
}

/// Looks at the first byte: a client may speak TLS to a plain registry, and the other way round.
fn open(shared: &Shared, socket: TcpStream) -> io::Result<Option<Connection>> {
    let mut first = [0];
    // A connection that closes or breaks before its first byte is no TLS failure.
    let Ok(1) = socket.peek(&mut first) else {
        return Ok(None);
    };
    let speaks_tls = first == [0x16];
    match &shared.setup.tls {
        None if speaks_tls => {
            shared.state().tls_hellos += 1;
            let mut connection = Connection::new(Stream::Plain(socket));
            // As servers written in Go answer.
            connection.write_raw(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  Connection: close\r\n\r\n400 Bad Request",
            )?;
            connection.close();
            Ok(None)
        }
        None => Ok(Some(Connection::new(Stream::Plain(socket)))),
        Some(_) if !speaks_tls => {
            shared.state().plain_requests += 1;
            let mut connection = Connection::new(Stream::Plain(socket));
            connection.write_raw(
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            )?;
            connection.close();
            Ok(None)
        }
        Some(config) => {
            let server = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
            let mut tls = rustls::StreamOwned::new(server, socket);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock)?;
            }
            Ok(Some(Connection::new(Stream::Tls(Box::new(tls)))))
        }
    }
}

/// One request of a connection; gives also how many releases there were when it came.
fn serve(
    shared: &Shared,
    connection: &mut Connection,
    number: u64,
    peer: SocketAddr,
) -> (Next, usize) {
    let mut offences = Offences::new();
    let head = match connection.read_head(&mut offences) {
        Ok(Some(head)) => head,
        Ok(None) => return (Next::Close, 0),
        Err(error) => {
            if is_request_error(&error) {
                shared.accuse(None, vec![(Offence::BrokenRequest, error.to_string())]);
            }
            return (Next::Close, 0);
        }
    };
    check_host(shared, &head, &mut offences);
    let request = Request {
        head,
        body: Vec::new(),
        connection: number,
        peer,
        at: Instant::now(),
        outcome: "…".to_owned(),
    };
    let (index, releases) = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        state.under_way += 1;
        state.most_at_once = state.most_at_once.max(state.under_way);
        (state.forgotten + state.requests.len() - 1, state.releases)
    };
    shared.changed.notify_all();
    let faults = fault::choose(&mut shared.script.lock().unwrap(), &request.head);
    let mut exchange = Exchange {
        shared,
        index,
        request,
        offences,
        faults,
    };
    let next = exchange.run(connection);
    let Exchange {
        request, offences, ..
    } = exchange;
    shared.accuse(Some(&request.head), offences);
    (next, releases)
}

/// Errors that the wire made itself say that the client broke the rules; those of the system
/// (resets, shutdowns) only that it went away.
fn is_request_error(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
}

fn check_host(shared: &Shared, head: &Head, offences: &mut Offences) {
    if head.method.is_empty() {
        return;
    }
    let port = shared.address.port();
    let right = [shared.address.to_string(), format!("localhost:{port}")];
    let host = head.header("host").unwrap_or_default();
    if !right
        .iter()
        .chain(&shared.setup.names)
        .any(|name| name == host)
    {
        offences.push((Offence::WrongHost, format!("Host `{host}`")));
    }
}

struct Exchange<'a> {
    shared: &'a Shared,
    /// Counted from the first request of the registry.
    index: usize,
    request: Request,
    offences: Offences,
    faults: Vec<Arc<Fault>>,
}

impl Exchange<'_> {
    fn run(&mut self, connection: &mut Connection) -> Next {
        if self.request.head.method.is_empty() {
            return self.send(connection, fault::answer(400), Delivery::default());
        }
        let head = &self.request.head;
        let length = head.header("content-length");
        let length: Option<u64> = length.and_then(|text| text.parse().ok());
        let largest = self.shared.setup.largest_body;
        if self.shared.setup.wants_lengths && head.header("transfer-encoding").is_some() {
            return self.refuse(connection, 411);
        }
        if largest.is_some_and(|largest| length.is_some_and(|length| length > largest)) {
            return self.refuse(connection, 413);
        }
        let mut read_at_most = None;
        for fault in &self.faults.clone() {
            match &**fault {
                Fault::Hold(gate) if !gate.pass(&|| self.shared.stopping()) => {
                    let line = self.request.head.target.clone();
                    self.shared
                        .trouble(format!("a gate stayed shut for 30 s: {line}"));
                }
                Fault::AnswerEarly(answer) => {
                    let way = Delivery {
                        close: Some(true),
                        ..Delivery::default()
                    };
                    return self.send(connection, answer.clone(), way);
                }
                Fault::ResetInRequest(at) => read_at_most = Some((*at, Next::Reset, "reset")),
                Fault::StallInRequest(at) => read_at_most = Some((*at, Next::Stall, "stall")),
                _ => {}
            }
        }
        let limit = read_at_most.map(|(at, ..)| at).or(largest);
        let body = match connection.read_body(&self.request.head, limit, &mut self.offences) {
            Ok(BodyRead::Whole(body)) => body,
            Ok(BodyRead::Part(body)) => {
                if read_at_most.is_none() {
                    return self.refuse(connection, 413);
                }
                let (_, next, outcome) = read_at_most.unwrap_or((0, Next::Close, "close"));
                self.finish(outcome.to_owned(), body);
                return next;
            }
            Err(error) => {
                let offence = match error.kind() {
                    io::ErrorKind::UnexpectedEof => Some(Offence::CutBody),
                    _ => is_request_error(&error).then_some(Offence::BrokenRequest),
                };
                self.offences
                    .extend(offence.map(|offence| (offence, error.to_string())));
                self.finish("broken".to_owned(), Vec::new());
                return Next::Close;
            }
        };
        if let Some((at, ..)) = read_at_most {
            let line = format!("{} {}", self.request.head.method, self.request.head.target);
            let had = body.len();
            self.shared
                .trouble(format!("{line}: the body ended at {had}, before byte {at}"));
        }
        self.set_body(body);
        self.respond(connection)
    }

    /// Answers as a proxy that does not read on, and closes.
    fn refuse(&mut self, connection: &mut Connection, status: u16) -> Next {
        let way = Delivery {
            close: Some(true),
            ..Delivery::default()
        };
        let answer = fault::answer(status)
            .with("Content-Type", "text/html")
            .body("<html><center>nginx</center></html>");
        self.send(connection, answer, way)
    }

    fn respond(&mut self, connection: &mut Connection) -> Next {
        let faults = self.faults.clone();
        for fault in &faults {
            match &**fault {
                Fault::Reset => return self.end("reset", Next::Reset),
                Fault::Close => return self.end("close", Next::Close),
                Fault::Stall => return self.end("stall", Next::Stall),
                Fault::Garbage(bytes) => {
                    self.set_outcome("garbage".to_owned());
                    let _ = connection.write_raw(bytes);
                    return Next::Close;
                }
                _ => {}
            }
        }
        let scripted = faults.iter().find_map(|fault| match &**fault {
            Fault::Answer(answer) => Some(answer.clone()),
            Fault::Redirect(status, to) => Some(fault::answer(*status).with("Location", to)),
            Fault::RedirectBelow(status, prefix) => {
                let last = self
                    .request
                    .head
                    .path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                Some(fault::answer(*status).with("Location", format!("{prefix}{last}")))
            }
            _ => None,
        });
        let mut request = self.request.clone();
        let mut answer = match scripted {
            Some(answer) => answer,
            None => {
                let refused = faults.iter().any(|f| matches!(&**f, Fault::RangeRefused));
                let expired = faults.iter().any(|f| matches!(&**f, Fault::Expired));
                for fault in &faults {
                    fault::reread(fault, &mut request.head);
                }
                if refused {
                    request
                        .head
                        .headers
                        .retain(|(n, _)| !n.eq_ignore_ascii_case("range"));
                }
                let answer = api::respond(self.shared, &request, expired, &mut self.offences);
                if refused {
                    api::range_refused(answer.body.len() as u64)
                } else {
                    answer
                }
            }
        };
        if faults
            .iter()
            .any(|fault| matches!(&**fault, Fault::DoneThenReset))
        {
            return self.end("reset", Next::Reset);
        }
        let mut way = Delivery::default();
        for fault in &faults {
            answer = fault::shape(fault, &request, answer, &mut way);
        }
        self.send(connection, answer, way)
    }

    fn send(&mut self, connection: &mut Connection, answer: Answer, mut way: Delivery) -> Next {
        let wants_close = |value: &str| value.eq_ignore_ascii_case("close");
        if self
            .request
            .head
            .header("connection")
            .is_some_and(wants_close)
        {
            way.close.get_or_insert(true);
        }
        if answer.status == 401 && answer.header("www-authenticate").is_some() {
            self.shared.note_challenge();
        }
        let mut outcome = answer.status.to_string();
        if let Some((at, cut)) = way.cut {
            let length = answer.body.len() as u64;
            if at > length {
                let target = &self.request.head.target;
                self.shared
                    .trouble(format!("{target}: cut at {at} of a body of {length}"));
            }
            outcome += &format!(" {}@{at}", format!("{cut:?}").to_lowercase());
        }
        // Before the client can see the answer, so that a test that saw it finds it in the log.
        self.set_outcome(outcome);
        let offences = std::mem::take(&mut self.offences);
        self.shared.accuse(Some(&self.request.head), offences);
        let wait = |time: Duration| self.shared.pause(time);
        connection
            .write(&self.request.head.method, &answer, &way, &wait)
            .unwrap_or(Next::Close)
    }

    fn end(&mut self, outcome: &str, next: Next) -> Next {
        self.set_outcome(outcome.to_owned());
        next
    }

    fn finish(&mut self, outcome: String, body: Vec<u8>) {
        self.set_body(body);
        self.set_outcome(outcome);
    }

    fn set_body(&mut self, body: Vec<u8>) {
        self.request.body = body;
        self.log();
    }

    fn set_outcome(&mut self, outcome: String) {
        self.request.outcome = outcome;
        self.shared.state().under_way -= 1;
        self.log();
    }

    /// `forget_requests` may have taken the entry away.
    fn log(&self) {
        let mut state = self.shared.state();
        let entry = self.index.checked_sub(state.forgotten);
        if let Some(entry) = entry.and_then(|at| state.requests.get_mut(at)) {
            entry.clone_from(&self.request);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}
