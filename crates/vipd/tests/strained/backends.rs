//! Backends in a process of their own: their descriptors are not those of the clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Tells this program, run again, to be the backends.
const ROLE: &str = "VIPD_TEST_BACKENDS";

/// A process that serves at some addresses until this is dropped, or this process ends.
pub(crate) struct Backends {
    child: Child,
    _until: ChildStdin,
    /// What else it says, the harness has to be able to.
    _said: BufReader<ChildStdout>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Backends {
    /// Starts so many.
    pub(crate) fn start(count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["backends::serve_until_the_input_ends", "--exact", "--nocapture"])
            .env(ROLE, count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let until = child.stdin.take().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let told = said.by_ref().lines().map_while(Result::ok).filter_map(|line| {
            let (_, address) = line.split_once("listens at ")?;
            Some(address.parse().unwrap())
        });
        let addresses: Vec<SocketAddr> = told.take(count).collect();
        assert_eq!(addresses.len(), count, "the backends did not start");
        Self { child, _until: until, _said: said, addresses }
    }

    /// As a load balancer's list.
    pub(crate) fn listed(&self) -> String {
        let one = |address: &SocketAddr| format!("{{address: {}, port: {}}}", address.ip(), address.port());
        self.addresses.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test but in the process that is told to be the backends.
#[tokio::test]
async fn serve_until_the_input_ends() {
    let Ok(count) = std::env::var(ROLE) else { return };
    lift_the_limit();
    for _ in 0..count.parse().unwrap() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // One line at a time, whatever the harness says beside it.
        writeln!(std::io::stdout(), "\nlistens at {}", listener.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    }
    let end = || std::io::stdin().lines().for_each(drop);
    tokio::task::spawn_blocking(end).await.unwrap();
}

/// Repeats what it hears; to one who begins with `>` it says as much as is taken.
async fn serve(mut stream: TcpStream) {
    static FLOOD: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let mut said = [0; 256];
    while let Ok(length @ 1..) = stream.read(&mut said).await {
        if said[0] == b'>' {
            while stream.write_all(&FLOOD).await.is_ok() {
                // Others are served by the same thread.
                tokio::task::yield_now().await;
            }
        }
        if stream.write_all(&said[..length]).await.is_err() {
            return;
        }
    }
}

/// Lets this process open what it may, and tells how much that is.
pub(crate) fn lift_the_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}
