//! Starting a vipd and its backends, and asking it by HTTP.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A vipd that ends with the test.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) log: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    /// Starts one, and waits until it balances and answers on its sockets.
    pub(crate) fn start(name: &str, config: &str) -> Self {
        let mut daemon = Self::launch(name, config, &[]);
        // From a thread of the balancer, perhaps before the sockets are there.
        daemon.read_until("backend health changed");
        daemon.answers();
        daemon
    }

    /// Waits until it tells its status; it takes commands by then, too.
    pub(crate) fn answers(&self) {
        let began = tokio::time::Instant::now();
        while !self.status(&[]).status.success() {
            assert!(began.elapsed() < PATIENCE, "no answer on the status socket");
        }
    }

    /// Starts one, and waits until it serves metrics and health.
    pub(crate) fn serving(name: &str, config: &str, arguments: &[&str]) -> Self {
        let mut daemon = Self::launch(name, config, arguments);
        daemon.read_until("serves metrics and health");
        daemon
    }

    /// Starts one with more arguments.
    pub(crate) fn launch(name: &str, config: &str, arguments: &[&str]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_vipd")), name, config, arguments)
    }

    /// Starts one without any capability, also where the test has all of them.
    pub(crate) fn powerless(name: &str, config: &str) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::launch(name, config, &[]);
        }
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
        command.arg(env!("CARGO_BIN_EXE_vipd"));
        Self::run(command, name, config, &[])
    }

    /// Starts one by a command that ends in the path of the binary.
    pub(crate) fn run(mut command: Command, name: &str, config: &str, arguments: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("config.yaml"), folder.join("vipd.sock"));
        fs::write(&file, config).unwrap();
        let mut child = command
            .args(["start", "-c"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, socket, log }
    }

    /// Reads the log up to a line with these words.
    pub(crate) fn read_until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended without `{words}`: {seen}");
            seen.push_str(&line);
            if line.contains(words) {
                return seen;
            }
        }
    }

    pub(crate) fn status(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vipd"))
            .args(["status", "--socket"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Asks it to stop, and gives its exit status and the rest of its log.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        self.terminate();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

/// A network namespace for each vipd that has an address: nothing of it reaches this machine.
pub(crate) struct Enclosed;

impl Enclosed {
    /// Says aloud why there is none.
    pub(crate) fn new(what: &str) -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self);
        }
        #[expect(clippy::print_stderr, reason = "a skip is said aloud")]
        {
            eprintln!("SKIPPED: {what} needs root, for a network namespace");
        }
        None
    }

    /// Starts a vipd in a namespace of its own, whose one interface is the loopback. The capabilities, with their signs, are
    /// taken from it: `-net_admin`.
    pub(crate) fn launch(&self, name: &str, config: &str, without: Option<&str>) -> Daemon {
        self.launch_by(&[], name, config, without)
    }

    /// The same, by a command that runs its arguments.
    pub(crate) fn launch_by(
        &self,
        prefix: &[&str],
        name: &str,
        config: &str,
        without: Option<&str>,
    ) -> Daemon {
        let mut command = Command::new("unshare");
        command.arg("--net").args(prefix);
        if let Some(without) = without {
            command.args(["setpriv", "--bounding-set", without, "--inh-caps", without]);
        }
        command.arg(env!("CARGO_BIN_EXE_vipd"));
        Daemon::run(command, name, config, &[])
    }
}

/// A network namespace that lives as long as this.
pub(crate) struct Place {
    keeper: Child,
}

impl Place {
    pub(crate) fn new() -> Self {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // What it says, it says inside.
        keeper.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self { keeper }
    }

    /// One with an interface `eth0` that has a carrier and the address 10.0.0.1/24.
    pub(crate) fn with_network() -> Self {
        let place = Self::new();
        for words in [
            "link set lo up",
            "link add eth0 type veth peer name eth1",
            "link set eth1 up",
            "link set eth0 up",
            "address add 10.0.0.1/24 dev eth0",
        ] {
            place.ip(words);
        }
        place
    }

    pub(crate) fn pid(&self) -> String {
        self.keeper.id().to_string()
    }

    pub(crate) fn ip(&self, words: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid(), "ip"]).args(words.split(' '));
        assert!(command.status().unwrap().success(), "ip {words}");
    }

    /// Runs this on a thread of its own inside.
    pub(crate) fn enter<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> R {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                inside()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn launch(&self, name: &str, config: &str) -> Daemon {
        self.launch_by(&[], name, config)
    }

    /// The same by a command that runs its arguments.
    pub(crate) fn launch_by(&self, prefix: &[&str], name: &str, config: &str) -> Daemon {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid()]).args(prefix).arg(env!("CARGO_BIN_EXE_vipd"));
        Daemon::run(command, name, config, &[])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend that greets and closes, and its address.
pub(crate) fn backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    format!("{{address: {}, port: {}}}", address.ip(), address.port())
}

/// A port that is free now, and none that the kernel gives to connections meanwhile: there are many.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Each process begins elsewhere.
        let place = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + place % COUNT).unwrap();
        if TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn balancer(port: u16) -> String {
    format!(
        "loadBalancers:\n- name: api\n  port: {port}\n  check: {{type: none}}\n  backends: [{}]\n\
         - name: checked\n  port: {}\n  check: {{type: tcp}}\n  backends: [{}]\n",
        backend(),
        free_port(),
        backend()
    )
}

/// What an HTTP server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) code: u16,
    /// The status line and the header, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks a server on this machine one thing.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_lowercase(), body: body.to_owned() }
}
