//! A segment for the tests: a switch and stations, each in a network namespace of its own that ends with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lb::{Backend, Balancer, Check, CheckKind, Config, Frontend, Health, Limits, Listen, Policy, Timeouts};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::sync::watch;

/// Far beyond what anything here takes: the machines that run this are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The port that clients connect to, and that every host's own server has.
pub(crate) const PORT: u16 = 6443;

/// The virtual addresses.
pub(crate) const VIPS: [&str; 2] = ["10.0.0.9", "fd00::9"];

/// A network namespace that lives as long as this.
#[derive(Clone)]
pub(crate) struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let thread = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes, and no memory is shared through it.
            #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for flags that aren't used here")]
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may unshare");
            File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
        });
        Self { file: Arc::new(thread.join().expect("the thread doesn't panic")) }
    }

    /// Runs this on a thread of its own inside the namespace; what it starts there stays there.
    pub(crate) fn enter<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(
                    self.file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("root may enter a namespace");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program with these words and this input; returns what it prints, or what it complains.
    pub(crate) fn command(&self, program: &str, words: &str, input: &str) -> Result<String, String> {
        self.enter(|| {
            let child = Command::new(program)
                .args(words.split(' '))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
        })
    }

    pub(crate) fn ip(&self, words: &str) -> String {
        self.command("ip", words, "").unwrap_or_else(|error| panic!("ip {words}: {error}"))
    }

    pub(crate) fn nft(&self, words: &str, input: &str) -> String {
        self.command("nft", words, input).unwrap_or_else(|error| panic!("nft {words}: {error}"))
    }

    /// Everything that nf_tables has here.
    pub(crate) fn ruleset(&self) -> String {
        self.nft("list ruleset", "")
    }

    /// Connects to one of its addresses, or to another's.
    pub(crate) fn connect(&self, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let to = to.into();
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    /// Connects from one of its addresses.
    pub(crate) fn connect_from(&self, from: IpAddr, to: SocketAddr) -> TcpStream {
        self.enter(|| {
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
    }

    /// Lets it pass on what comes for others.
    pub(crate) fn pass_packets_on(&self) {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            self.enter(|| std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap());
        }
    }

    /// The hosts that are connected to its server.
    pub(crate) fn clients(&self) -> BTreeSet<IpAddr> {
        let table = self.command("ss", &format!("-tnH state established sport = :{PORT}"), "").unwrap();
        let peer = |line: &str| line.split_whitespace().nth(3)?.parse::<SocketAddr>().ok();
        table.lines().filter_map(peer).map(|peer| peer.ip().to_canonical()).collect()
    }

    /// Who answers there.
    #[track_caller]
    pub(crate) fn ask(&self, to: SocketAddr) -> char {
        let mut stream = self.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        name(&mut stream)
    }

    /// By which `ip` knows it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// The name that a server says first.
pub(crate) fn name(stream: &mut TcpStream) -> char {
    let mut name = [0; 1];
    stream.read_exact(&mut name).unwrap();
    char::from(name[0])
}

/// Sends a word and waits for it to come back.
pub(crate) fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"word")?;
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"word");
    Ok(())
}

/// Stations on a bridge. Their interface is `eth0`, with the addresses 10.0.0.n/24 and fd00::n/64, n from 1.
pub(crate) struct Segment {
    _switch: Namespace,
    pub(crate) stations: Vec<Namespace>,
}

impl Segment {
    /// Builds it; `None`, said aloud, without the rights to.
    pub(crate) fn new(stations: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let switch = Namespace::new();
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set br0 up");
        let stations: Vec<_> = (0..stations).map(|_| Namespace::new()).collect();
        for (n, station) in (1..).zip(&stations) {
            switch.ip(&format!("link add p{n} type veth peer name eth0 netns {}", station.path()));
            switch.ip(&format!("link set p{n} master br0 up"));
            station.ip("link set lo up");
            station.ip("link set eth0 up");
            // The carrier comes at once, the bridge hears of it up to a second later and drops frames until then.
            let carrier = || station.ip("-o link show dev eth0").contains("LOWER_UP");
            let forwards = || switch.ip(&format!("-d -o link show dev p{n}")).contains("state forwarding");
            eventually("the port forwards", || carrier() && forwards());
            station.ip(&format!("address add 10.0.0.{n}/24 dev eth0"));
            // Ready at once: duplicate address detection isn't tested here.
            station.ip(&format!("address add fd00::{n}/64 dev eth0 nodad"));
        }
        Some(Self { _switch: switch, stations })
    }

    /// Puts the virtual addresses on a station alone; the others look for it anew.
    pub(crate) fn move_to(&self, owner: usize) {
        for (n, station) in self.stations.iter().enumerate() {
            for vip in VIPS {
                // It may not have been there.
                let _ = station.command("ip", &format!("address del {vip}/{} dev eth0", prefix(vip)), "");
            }
            if n == owner {
                station.ip(&format!("address add {}/32 dev eth0", VIPS[0]));
                // As vipd has it: nothing of the host's own leaves with it.
                station.ip(&format!("address add {}/128 dev eth0 nodad preferred_lft 0", VIPS[1]));
                // The kernel makes the route of an IPv6 address a moment after the address.
                let is_local = || station.ip(&format!("-6 route get {}", VIPS[1])).starts_with("local");
                eventually("the address is this host's", is_local);
            }
        }
        for station in &self.stations {
            station.ip("neigh flush all");
        }
    }
}

fn prefix(vip: &str) -> u8 {
    if vip.contains(':') { 128 } else { 32 }
}

/// A host's own server: on the port of every address, it says its name and then repeats what it hears.
pub(crate) fn serve(station: &Namespace, name: char) {
    let listener = station.enter(|| TcpListener::bind(("::", PORT)).unwrap());
    // Ends with the process, as the namespace does.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut read = stream.try_clone()?;
                stream.write_all(&[u8::try_from(name).unwrap_or(b'?')])?;
                io::copy(&mut read, &mut stream)
            });
        }
    });
}

/// A server like that one, which ends as a kube-apiserver does when the result is called: its port is closed, and so are connections on
/// which nothing was said, such as a check's; others go on.
pub(crate) fn serve_until_told(station: &Namespace, name: char) -> impl FnOnce() + use<> {
    let listener = station.enter(|| TcpListener::bind(("::", PORT)).unwrap());
    let closer = listener.try_clone().unwrap();
    let unused = Arc::new(Mutex::new(BTreeMap::new()));
    let kept = Arc::clone(&unused);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap();
            kept.lock().unwrap().insert(peer, stream.try_clone().unwrap());
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                stream.write_all(&[u8::try_from(name).unwrap_or(b'?')])?;
                let mut word = [0; 64];
                loop {
                    let length = stream.read(&mut word)?;
                    kept.lock().unwrap().remove(&peer);
                    if length == 0 {
                        return io::Result::Ok(());
                    }
                    stream.write_all(&word[..length])?;
                }
            });
        }
    });
    move || {
        rustix::net::shutdown(&closer, rustix::net::Shutdown::Both).unwrap();
        for stream in unused.lock().unwrap().values() {
            let _ = stream.shutdown(std::net::Shutdown::Both); // gone already, if its peer has ended it
        }
    }
}

/// A frontend at the port of the virtual addresses, over these stations' servers.
pub(crate) fn frontend(backends: &[u8]) -> Frontend {
    let backends = backends.iter().map(|n| {
        let address = SocketAddr::from(([10, 0, 0, *n], PORT));
        Backend { name: address.to_string(), address, cordoned: false }
    });
    let vips = VIPS.map(|vip| vip.parse::<IpAddr>().unwrap()).to_vec();
    Frontend {
        name: "api".into(),
        listen: Listen::Redirected { ips: vips.clone(), port: PORT, own: 16443 },
        backends: backends.collect(),
        policy: Policy::RoundRobin,
        slow_start: None,
        check: Check { kind: CheckKind::Tcp, ..Check::default() },
        timeouts: Timeouts::default(),
        limits: Limits { max_connections: 1000, per_source: None },
        virtual_ips: vips,
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    }
}

/// A balancer that runs on a station, and the sender of which addresses are there.
pub(crate) struct Node {
    pub(crate) balancer: Balancer,
    pub(crate) held: watch::Sender<BTreeSet<IpAddr>>,
}

impl Node {
    pub(crate) fn start(station: &Namespace, frontend: Frontend) -> Self {
        Self::try_start(station, frontend).unwrap()
    }

    pub(crate) fn try_start(station: &Namespace, frontend: Frontend) -> Result<Self, lb::Error> {
        let held = watch::Sender::new(frontend.virtual_ips.iter().copied().collect());
        let config = Config { frontends: vec![frontend], workers: 2 };
        let balancer = station.enter(|| Balancer::start(config, held.subscribe()))?;
        Ok(Self { balancer, held })
    }

    /// How many backends its checks have found ready.
    pub(crate) fn healthy(&self) -> usize {
        let status = self.balancer.status();
        status.frontends[0].backends.iter().filter(|backend| backend.health == Health::Ready).count()
    }

    /// Connections that came to this balancer.
    pub(crate) fn accepted(&self) -> u64 {
        self.balancer.status().frontends[0].accepted
    }
}

/// The virtual addresses with the port that clients connect to.
pub(crate) fn virtual_port() -> [SocketAddr; 2] {
    VIPS.map(|vip| SocketAddr::new(vip.parse().unwrap(), PORT))
}

/// Waits until it is so; fails the test if it takes far too long.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
