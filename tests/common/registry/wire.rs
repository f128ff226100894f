//! HTTP/1.1 as a strict server reads and writes it: one connection, one message at a time.
//!
//! Reports what is wrong with a request as [`Offence`]s; knows nothing of registries.

use super::Offence;
use super::fault::{Answer, Cut, Delivery, Framing};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Bytes of request line and headers; more is an offence (servers commonly allow 8 to 64 KiB).
const HEAD_LIMIT: usize = 64 << 10;

/// A plain or TLS connection, from the server's side.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// Request line and headers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub method: String,
    pub target: String,
    /// Percent-decoded.
    pub path: String,
    /// Percent-decoded names and values, in order.
    pub query: Vec<(String, String)>,
    /// As sent, in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

pub type Offences = Vec<(Offence, String)>;

/// How far the body of a request has been read.
pub enum BodyRead {
    Whole(Vec<u8>),
    /// The asked number of bytes came, and more would.
    Part(Vec<u8>),
}

pub struct Connection {
    stream: Stream,
    pending: Vec<u8>,
}

impl Connection {
    pub fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            pending: Vec::new(),
        }
    }

    /// The head of the next request; `None` when the client closed between requests.
    pub fn read_head(&mut self, offences: &mut Offences) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|w| w == b"\r\n\r\n")
                && at <= HEAD_LIMIT
            {
                break at;
            }
            if self.pending.len() > HEAD_LIMIT {
                return Err(io::Error::other("request head is longer than 64 KiB"));
            }
            if self.fill()? == 0 {
                return match self.pending.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::other("connection ends inside a request head")),
                };
            }
        };
        let head: Vec<u8> = self.pending.drain(..end + 4).collect();
        Ok(Some(parse_head(&head[..end], offences)))
    }

    /// The body that the head announces, or its first `at_most` bytes.
    pub fn read_body(
        &mut self,
        head: &Head,
        at_most: Option<u64>,
        offences: &mut Offences,
    ) -> io::Result<BodyRead> {
        let coding = head.header("transfer-encoding");
        let length = head.header("content-length");
        if coding.is_none() && length.is_none() {
            if matches!(head.method.as_str(), "POST" | "PUT" | "PATCH") {
                offences.push((
                    Offence::NoBodyLength,
                    "neither Content-Length nor Transfer-Encoding".to_owned(),
                ));
            }
            return Ok(BodyRead::Whole(Vec::new()));
        }
        if coding.is_some() && length.is_some() {
            offences.push((
                Offence::BadHeader,
                "both Content-Length and Transfer-Encoding".to_owned(),
            ));
        }
        if head
            .header("expect")
            .is_some_and(|e| e.eq_ignore_ascii_case("100-continue"))
        {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let at_most = at_most.unwrap_or(u64::MAX);
        match coding {
            Some(coding) => {
                if !coding.eq_ignore_ascii_case("chunked") {
                    offences.push((Offence::BadHeader, format!("Transfer-Encoding `{coding}`")));
                }
                self.read_chunked(at_most)
            }
            None => {
                let length: u64 = length
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| io::Error::other("Content-Length is no number"))?;
                let body = self.take(length.min(at_most))?;
                Ok(if at_most < length {
                    BodyRead::Part(body)
                } else {
                    BodyRead::Whole(body)
                })
            }
        }
    }

    fn read_chunked(&mut self, at_most: u64) -> io::Result<BodyRead> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_hexdigit());
            let size = u64::from_str_radix(size, 16).ok().filter(|_| digits);
            let size = size.ok_or_else(|| io::Error::other(format!("chunk size `{line}`")))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(BodyRead::Whole(body));
            }
            let room = at_most - body.len() as u64;
            if size > room {
                body.extend(self.take(room)?);
                return Ok(BodyRead::Part(body));
            }
            body.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(io::Error::other("chunk is longer than its size says"));
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.pending.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.pending.len() > HEAD_LIMIT || self.fill()? == 0 {
                return Err(io::Error::other("connection ends inside a chunked body"));
            }
        }
    }

    fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        while (self.pending.len() as u64) < length {
            if self.fill()? == 0 {
                let had = self.pending.len();
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("body ends after {had} of {length} bytes"),
                ));
            }
        }
        Ok(self.pending.drain(..length as usize).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Writes an answer as its delivery says. `wait` pauses, and is false when the server stops.
    /// Gives back whether the connection can carry another request.
    pub fn write(
        &mut self,
        method: &str,
        answer: &Answer,
        delivery: &Delivery,
        wait: &dyn Fn(Duration) -> bool,
    ) -> io::Result<Next> {
        let bodiless = method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304);
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut framing = delivery.framing;
        let declared = delivery.length.unwrap_or(answer.body.len() as u64);
        if answer.header("content-length").is_none() && !matches!(answer.status, 100..=199 | 204) {
            match framing {
                Framing::Length => head += &format!("Content-Length: {declared}\r\n"),
                Framing::Chunked if method != "HEAD" => head += "Transfer-Encoding: chunked\r\n",
                Framing::Chunked | Framing::Close => {}
            }
        } else if framing == Framing::Chunked {
            framing = Framing::Length;
        }
        let ends = framing == Framing::Close || delivery.close == Some(true);
        if ends {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        self.stream.write_all(head.as_bytes())?;

        let mut body = answer.body.as_slice();
        if bodiless {
            body = &[];
        }
        if let Some((at, _)) = delivery.cut {
            body = &body[..(at as usize).min(body.len())];
        }
        let (piece, pause) = delivery.pace.unwrap_or((usize::MAX, Duration::ZERO));
        let piece = piece.min(256 << 10);
        for piece in body.chunks(piece.max(1)) {
            if framing == Framing::Chunked {
                self.stream
                    .write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            }
            self.stream.write_all(piece)?;
            if framing == Framing::Chunked {
                self.stream.write_all(b"\r\n")?;
            }
            self.stream.flush()?;
            if !pause.is_zero() && !wait(pause) {
                return Ok(Next::Close);
            }
        }
        self.stream.flush()?;
        if let Some((_, cut)) = delivery.cut {
            return Ok(match cut {
                Cut::Reset => Next::Reset,
                Cut::Close => Next::Close,
                Cut::Stall => Next::Stall,
            });
        }
        if framing == Framing::Chunked && !bodiless {
            self.stream.write_all(b"0\r\n\r\n")?;
            self.stream.flush()?;
        }
        let short = !bodiless && declared != answer.body.len() as u64;
        Ok(if ends || short || delivery.close.is_some() {
            Next::Close
        } else {
            Next::Request
        })
    }

    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Ends the connection as TCP and TLS mean it to be ended.
    pub fn close(mut self) {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        let _ = self.stream.socket().shutdown(Shutdown::Write);
        // Unread input would turn the close into a reset, and the client might lose the answer.
        let _ = self
            .stream
            .socket()
            .set_read_timeout(Some(Duration::from_millis(200)));
        let mut rest = [0; 4096];
        while matches!(self.stream.socket().read(&mut rest), Ok(count) if count > 0) {}
    }

    /// Waits until the client's kernel has all that was sent: a reset discards what is on its way,
    /// and `reset after N bytes` must mean N bytes.
    pub fn wait_until_received(&self) {
        let (Ok(here), Ok(there)) = (
            self.stream.socket().local_addr(),
            self.stream.socket().peer_addr(),
        ) else {
            return;
        };
        let key = format!(" {} {} ", proc_address(here), proc_address(there));
        // A client that has stopped reading gets its reset all the same.
        let limit = Instant::now() + Duration::from_secs(5);
        while Instant::now() < limit {
            let table = fs::read_to_string("/proc/net/tcp").unwrap();
            let line = table
                .lines()
                .find_map(|line| line.split_once(&key).map(|(_, rest)| rest));
            let queues = line.and_then(|rest| rest.split(' ').nth(1));
            if queues.is_none_or(|queues| queues.starts_with("00000000:")) {
                return;
            }
            thread::sleep(Duration::from_micros(200)); // no system call of ours waits for it
        }
    }

    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        reset(self.stream.socket());
    }
}

/// An IPv4 address as `/proc/net/tcp` has it: the address in the machine's byte order.
fn proc_address(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        return String::new();
    };
    let number = u32::from_ne_bytes(address.ip().octets());
    format!("{number:08X}:{:04X}", address.port())
}

/// The next close of this socket sends a TCP reset.
pub fn reset(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    Request,
    Close,
    Reset,
    Stall,
}

fn parse_head(head: &[u8], offences: &mut Offences) -> Head {
    let Ok(text) = std::str::from_utf8(head) else {
        offences.push((Offence::BadHeader, "bytes that are not UTF-8".to_owned()));
        return Head::default();
    };
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let mut parsed = Head::default();
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        [method, target, "HTTP/1.1"]
            if !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()) =>
        {
            parsed.method = (*method).to_owned();
            parsed.target = (*target).to_owned();
        }
        _ => {
            offences.push((Offence::BadRequestLine, format!("request line `{line}`")));
            return parsed;
        }
    }
    let (path, query) = parsed
        .target
        .split_once('?')
        .unwrap_or((&parsed.target, ""));
    if !path.starts_with('/')
        || !parsed
            .target
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'#')
    {
        let text = format!("request target `{}`", parsed.target);
        offences.push((Offence::BadRequestLine, text));
        parsed.method.clear();
        return parsed;
    }
    parsed.path = percent_decode(path);
    parsed.query = parse_query(query);
    for line in lines {
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && name.bytes().all(is_token) => {
                let value = value.trim_matches([' ', '\t']);
                if value.bytes().any(|b| b < b' ' || b == 0x7f) {
                    offences.push((
                        Offence::BadHeader,
                        format!("header `{}`", line.escape_debug()),
                    ));
                }
                parsed.headers.push((name.to_owned(), value.to_owned()));
            }
            _ => offences.push((
                Offence::BadHeader,
                format!("header `{}`", line.escape_debug()),
            )),
        }
    }
    for single in [
        "host",
        "content-length",
        "transfer-encoding",
        "authorization",
        "content-type",
    ] {
        let count = parsed
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(single))
            .count();
        if count > 1 {
            offences.push((Offence::BadHeader, format!("{count} headers `{single}`")));
        }
    }
    parsed
}

/// `a=1&b=2`, percent-decoded; `+` is a space, as in forms.
pub fn parse_query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| percent_decode(&text.replace('+', " "));
            (plain(name), plain(value))
        })
        .collect()
}

pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
