//! A TCP relay that cuts connections: bytes of answers are counted, and a plan says where each
//! connection or answer ends with a reset.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where the relay cuts.
pub enum Plan {
    /// Connection by connection: after so many bytes of answers; later ones are left alone.
    Connections(Vec<u64>),
    /// One answer in so many, at a random byte.
    OneAnswerIn(u64),
}

pub struct Relay {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    target: SocketAddr,
    plan: Plan,
    random: Mutex<u64>,
    connections: AtomicU64,
    cuts: AtomicU64,
    /// Bytes that the server sent, also those that nobody got.
    from_server: AtomicU64,
    stopping: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub fn start(target: SocketAddr, plan: Plan, seed: u64) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            target,
            plan,
            random: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            connections: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            from_server: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            sockets: Mutex::default(),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Relay {
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    pub fn bytes_from_server(&self) -> u64 {
        self.shared.from_server.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for socket in self.shared.sockets.lock().unwrap().iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.shared.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for client in listener.incoming().flatten() {
        if shared.stopping.load(Ordering::Relaxed) {
            break;
        }
        let Ok(server) = TcpStream::connect(shared.target) else {
            continue;
        };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let mut sockets = shared.sockets.lock().unwrap();
        sockets.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        drop(sockets);
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || {
            serve(&shared, number, client, server)
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn serve(shared: &Shared, number: u64, client: TcpStream, server: TcpStream) {
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    if down(shared, number, &client, server.try_clone().unwrap()) {
        shared.cuts.fetch_add(1, Ordering::Relaxed);
        for socket in [&client, &server] {
            rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
        }
        // The handles that `Relay::drop` uses would keep the sockets open.
        shared.sockets.lock().unwrap().retain(|socket| {
            socket.peer_addr().ok() != client.peer_addr().ok()
                && socket.local_addr().ok() != server.local_addr().ok()
        });
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Read);
    } else {
        let _ = client.shutdown(Shutdown::Write);
    }
    drop(client);
    drop(server);
    let _ = up.join();
}

/// Copies answers; true when the connection is to be reset.
fn down(shared: &Shared, number: u64, mut client: &TcpStream, mut server: TcpStream) -> bool {
    let mut left = match &shared.plan {
        Plan::Connections(cuts) => usize::try_from(number)
            .ok()
            .and_then(|n| cuts.get(n).copied()),
        Plan::OneAnswerIn(_) => None,
    };
    let mut buffer = [0; 16 << 10];
    loop {
        let n = match server.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(n) => n,
        };
        shared.from_server.fetch_add(n as u64, Ordering::Relaxed);
        let bytes = &buffer[..n];
        if let (Plan::OneAnswerIn(one_in), true) = (&shared.plan, bytes.starts_with(b"HTTP/1."))
            && shared.random(*one_in) == 0
        {
            left = Some(shared.random(answer_length(bytes)));
        }
        let send = left.map_or(n, |left| n.min(usize::try_from(left).unwrap()));
        if client.write_all(&bytes[..send]).is_err() {
            return false;
        }
        if let Some(left) = &mut left {
            *left -= send as u64;
            if *left == 0 {
                return true;
            }
        }
    }
}

/// Head and body of the answer that begins here.
fn answer_length(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let body = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().parse::<u64>();
        name.eq_ignore_ascii_case("content-length")
            .then_some(value.ok())?
    });
    head.len() as u64 + 4 + body.unwrap_or(0)
}

impl Shared {
    /// A number below `bound` (xorshift).
    fn random(&self, bound: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) % bound.max(1)
    }
}
