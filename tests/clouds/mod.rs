//! A scripted HTTP/1.1 server that is also a proxy: it stands for metadata services at their fixed
//! addresses, and leads names of registries to fixtures on loopback.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary compiles this module and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::common::Program;

/// A request as it came: the target of a proxied one is a whole URL.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// `METHOD TARGET`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The value of a form's field, percent-decoded.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut fields = self.body.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = fields.find(|(known, _)| *known == name)?;
        Some(decoded(value))
    }
}

/// Undoes percent-encoding.
pub fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap()
}

/// What is answered.
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Nothing, while the connection stays open.
    Silence,
    /// The head and a part of the body, and no more.
    Unfinished,
}

pub fn reply(status: u16, body: impl Into<String>) -> Reply {
    Reply::Answer {
        status,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: body.into(),
    }
}

impl Reply {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        if let Reply::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

type Script = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct Shared {
    script: Script,
    /// `HOST:PORT` of a CONNECT, and where it leads.
    tunnels: Vec<(String, SocketAddr)>,
    seen: Mutex<Vec<Seen>>,
}

/// Runs until the test's process ends.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Server {
    pub fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::with_tunnels(&[], script)
    }

    pub fn with_tunnels(
        tunnels: &[(&str, SocketAddr)],
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            tunnels: tunnels
                .iter()
                .map(|(name, address)| ((*name).to_owned(), *address))
                .collect(),
            seen: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    // A client may leave at any time.
                    let _ = serve(&shared, socket);
                });
            }
        });
        Server { shared, address }
    }

    /// A program that reaches the cloud through this.
    pub fn program(&self, make: impl Fn(Value) -> Program, source: Value) -> Program {
        make(json!({"source": source}))
            .env("http_proxy", self.url())
            .env("https_proxy", self.url())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// `METHOD TARGET` of all requests.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

fn serve(shared: &Shared, mut socket: TcpStream) -> io::Result<()> {
    let mut pending = Vec::new();
    while let Some(seen) = read(&mut socket, &mut pending)? {
        shared.seen.lock().unwrap().push(seen.clone());
        if seen.method == "CONNECT" {
            return tunnel(shared, socket, &seen.target);
        }
        match (shared.script)(&seen) {
            stalled @ (Reply::Silence | Reply::Unfinished) => {
                if matches!(stalled, Reply::Unfinished) {
                    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")?;
                }
                let mut rest = [0; 1024];
                while socket.read(&mut rest)? > 0 {}
                return Ok(());
            }
            Reply::Answer {
                status,
                headers,
                body,
            } => {
                let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
                socket.write_all(head.as_bytes())?;
            }
        }
    }
    Ok(())
}

fn read(socket: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    let mut more = [0; 4096];
    let end = loop {
        if let Some(at) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        match socket.read(&mut more)? {
            0 => return Ok(None),
            n => pending.extend_from_slice(&more[..n]),
        }
    };
    let head = String::from_utf8(pending.drain(..end + 4).collect()).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut seen = Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: String::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |n| n.parse().unwrap());
    while pending.len() < length {
        match socket.read(&mut more)? {
            0 => return Ok(None),
            n => pending.extend_from_slice(&more[..n]),
        }
    }
    seen.body = String::from_utf8(pending.drain(..length).collect()).unwrap();
    Ok(Some(seen))
}

fn tunnel(shared: &Shared, mut client: TcpStream, target: &str) -> io::Result<()> {
    let Some((_, address)) = shared.tunnels.iter().find(|(name, _)| name == target) else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    };
    let server = TcpStream::connect(address)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let mut to_server = server;
    let _ = io::copy(&mut client, &mut to_server);
    let _ = to_server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}
