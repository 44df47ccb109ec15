//! Backends that are processes, and can be killed as such: this program, run again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use lb::Backend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Identity, backend};

/// Tells this program, run again, where and by which name to serve.
const ROLE: &str = "LB_TEST_BACKEND";

/// An answer, but for the name of who gives it.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";

/// How long an answer is.
pub(crate) const ANSWER_LENGTH: usize = ANSWER.len() + 1;

/// An HTTPS server in a process of its own.
pub(crate) struct Process {
    child: Child,
    pub(crate) name: char,
    address: SocketAddr,
    _until: ChildStdin,
    /// What else it says, the harness has to be able to.
    _said: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one, and waits until it listens.
    pub(crate) fn start(name: char, address: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::serve_until_the_input_ends", "--exact", "--nocapture"])
            .env(ROLE, format!("{name} {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let until = child.stdin.take().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let listens = said.by_ref().lines().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("listens at ")?;
            address.parse().ok()
        });
        let address = listens.expect("the backend starts");
        Self { child, name, address, _until: until, _said: said }
    }

    pub(crate) fn backend(&self) -> Backend {
        backend(&self.name.to_string(), self.address)
    }

    /// Orders its end, by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits until it has ended, and starts another in its place.
    pub(crate) fn replace(&mut self) {
        self.child.wait().unwrap();
        *self = Self::start(self.name, self.address);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test but in the process that is told to be a backend.
#[tokio::test]
async fn serve_until_the_input_ends() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (name, address) = role.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let identity = Identity::new(address.ip());
    let listener = TcpListener::bind(address).await.unwrap();
    // One line at a time, whatever the harness says beside it.
    writeln!(std::io::stdout(), "\nlistens at {}", listener.local_addr().unwrap()).unwrap();
    let answer: Arc<[u8]> = format!("{ANSWER}{name}").into_bytes().into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, identity.clone(), Arc::clone(&answer)));
        }
    });
    let end = || std::io::stdin().lines().for_each(drop);
    tokio::task::spawn_blocking(end).await.unwrap();
}

async fn serve(stream: TcpStream, identity: Identity, answer: Arc<[u8]>) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut stream) = identity.accept(stream).await else { return };
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
