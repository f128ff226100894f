//! A forward proxy that leads every name to one fixture: tunnels (`CONNECT`) and plain requests.
//!
//! The program never proxies loopback, so tests give the registry an invented name
//! (`Setup::name`), which nothing but this proxy resolves.

use super::Registry;
use super::registry::reset;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Bytes of a request's head.
const HEAD_LIMIT: usize = 64 << 10;

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    target: SocketAddr,
    /// The value of `Proxy-Authorization` that opens it.
    key: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    sockets: Vec<TcpStream>,
    stopping: bool,
}

impl Proxy {
    /// Open to all.
    pub fn start(target: &Registry) -> Proxy {
        Proxy::launch(target, None)
    }

    /// Wants Basic credentials; others get 407.
    pub fn with_credentials(target: &Registry, user: &str, password: &str) -> Proxy {
        let key = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Proxy::launch(target, Some(format!("Basic {key}")))
    }

    fn launch(target: &Registry, key: Option<String>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let target = target.address();
        let state = Mutex::default();
        let shared = Arc::new(Shared {
            address,
            target,
            key,
            state,
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener))
        };
        Proxy {
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `http://127.0.0.1:PORT`, for `https_proxy` and its like.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// What it was asked: `CONNECT registry.test:443 200`, `GET http://registry.test/v2/ 200`.
    pub fn lines(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().lines.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.stopping = true;
        for socket in &state.sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        let _ = TcpStream::connect(self.shared.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        let mut threads = Vec::new();
        for client in listener.incoming().flatten() {
            if !self.keep(&client) {
                break;
            }
            let shared = Arc::clone(self);
            threads.push(thread::spawn(move || {
                let _ = shared.serve(client);
            }));
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Remembers a socket for the end; false when that has come.
    fn keep(&self, socket: &TcpStream) -> bool {
        let mut state = self.state.lock().unwrap();
        state.sockets.extend(socket.try_clone());
        !state.stopping
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let (head, rest) = read_head(&mut client)?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else {
            return refuse(&mut client, "400 Bad Request");
        };
        let headers: Vec<&str> = lines.collect();
        let key = headers.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("proxy-authorization")
                .then(|| value.trim().to_owned())
        });
        let refused = self.key.is_some() && key != self.key;
        let plain = target.strip_prefix("http://");
        let status = match (refused, method == "CONNECT" || plain.is_some()) {
            (true, _) => "407",
            (false, true) => "200",
            (false, false) => "400",
        };
        self.state
            .lock()
            .unwrap()
            .lines
            .push(format!("{method} {target} {status}"));
        if status == "407" {
            let challenge =
                "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"";
            return refuse(&mut client, challenge);
        }
        if status == "400" {
            return refuse(&mut client, "400 Bad Request");
        }
        let mut server = TcpStream::connect(self.target)?;
        if !self.keep(&server) {
            return Ok(());
        }
        match plain {
            None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
            Some(target) => {
                let path = target.find('/').map_or("/", |at| &target[at..]);
                let mut head = format!("{method} {path} {version}\r\nConnection: close\r\n");
                for line in headers {
                    let name = line.split(':').next().unwrap_or_default().to_lowercase();
                    if !name.starts_with("proxy-") && name != "connection" {
                        head += &format!("{line}\r\n");
                    }
                }
                server.write_all(format!("{head}\r\n").as_bytes())?;
            }
        }
        server.write_all(&rest)?;
        tunnel(client, server)
    }
}

/// Head without its empty line, and what came after it.
fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            bytes.truncate(at);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let count = client.read(&mut buffer)?;
        if count == 0 || bytes.len() > HEAD_LIMIT {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

fn refuse(client: &mut TcpStream, status: &str) -> io::Result<()> {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.write_all(answer.as_bytes())
}

/// Copies both ways until both sides have ended; a broken side breaks the other.
fn tunnel(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (from_client, to_client) = (client.try_clone()?, client);
    let (from_server, to_server) = (server.try_clone()?, server);
    let up = thread::spawn(move || copy(from_client, to_server));
    copy(from_server, to_client);
    let _ = up.join();
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    match io::copy(&mut from, &mut to) {
        Ok(_) => drop(to.shutdown(Shutdown::Write)),
        Err(_) => {
            reset(&to);
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}
