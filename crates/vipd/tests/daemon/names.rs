//! Backends by name: a vipd whose only name server is one of the test's, with the machine's own resolver between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::rig::{Daemon, Enclosed, PATIENCE, Place};
use crate::traffic::{Traffic, connect, hear, named_at};

/// Where the load balancer listens, and its backends.
const PORT: u16 = 8443;
const BACKENDS: u16 = 6443;

/// What a name server knows of a name; of one that it has never heard of, that there is none.
enum Known {
    Addresses(Vec<Ipv4Addr>),
    /// It doesn't answer.
    Silent,
}

type Zone = Arc<Mutex<BTreeMap<String, Known>>>;

/// Answers questions for A records (RFC 1035 §4.1); of any other type there are none.
fn answer(question: &[u8], zone: &BTreeMap<String, Known>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while let length @ 1.. = usize::from(question[at]) {
        labels.push(String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let (code, found) = match zone.get(&labels.join(".")) {
        Some(Known::Silent) => return None,
        Some(Known::Addresses(found)) if kind == A => (0, found.as_slice()),
        Some(Known::Addresses(_)) => (0, &[][..]),
        // NXDOMAIN
        None => (3, &[][..]),
    };
    let mut answer = question[..2].to_vec();
    // An answer, with recursion; one question.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(&question[HEADER..at + 5]);
    for ip in found {
        // The name is that of the question; class IN, no time to live, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(ip.octets());
    }
    Some(answer)
}

/// A network of its own, with a name server.
struct Site {
    place: Place,
    zone: Zone,
}

impl Site {
    fn new() -> Self {
        let place = Place::new();
        place.ip("link set lo up");
        let zone = Zone::default();
        let known = Arc::clone(&zone);
        place.enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
            // Ends with the process, as the namespace does.
            thread::spawn(move || {
                let mut question = [0; 512];
                while let Ok((length, asker)) = socket.recv_from(&mut question) {
                    if let Some(answer) = answer(&question[..length], &known.lock().unwrap()) {
                        socket.send_to(&answer, asker).unwrap();
                    }
                }
            });
        });
        Self { place, zone }
    }

    fn set(&self, name: &str, known: Known) {
        self.zone.lock().unwrap().insert(name.to_owned(), known);
    }

    /// A vipd that knows no other name server, and no name by itself.
    fn launch(&self, name: &str, config: &str) -> Daemon {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let (resolver, hosts) = (folder.join("resolv.conf"), folder.join("hosts"));
        fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        fs::write(&hosts, "").unwrap();
        let script =
            "mount --bind \"$0\" /etc/resolv.conf && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let (resolver, hosts) = (resolver.to_str().unwrap(), hosts.to_str().unwrap());
        self.place.launch_by(&["unshare", "--mount", "sh", "-c", script, resolver, hosts], name, config)
    }

    fn ask(&self) -> (TcpStream, u8) {
        self.place.enter(|| connect(PORT))
    }

    /// Waits until new connections come to that one alone.
    fn until_led_to(&self, name: u8) {
        let began = Instant::now();
        while (0..10).any(|_| self.ask().1 != name) {
            assert!(began.elapsed() < PATIENCE, "they don't");
            thread::park_timeout(Duration::from_millis(50));
        }
    }
}

fn config(host: &str) -> String {
    format!(
        "loadBalancers:\n- name: api\n  port: {PORT}\n  check: {{type: none}}\n  policy: roundRobin\n  slowStart: none\n  backends: [{{address: {host}, port: {BACKENDS}}}]\n"
    )
}

#[test]
fn backends_follow_their_names_and_a_name_server_that_is_gone_takes_none_away() {
    let Some(_) = Enclosed::new("a name server") else { return };
    let site = Site::new();
    let [a, b] = [(b'a', 2), (b'b', 3)].map(|(name, last)| {
        let ip = Ipv4Addr::new(127, 0, 0, last);
        site.place.enter(|| named_at(name, SocketAddr::new(ip.into(), BACKENDS)));
        ip
    });
    let mut daemon = site.launch("names", &config("API.test"));

    // Not known yet, which is no reason not to start.
    let told = daemon.read_until("does not resolve: asking again until it does");
    assert!(told.contains("name=\"api.test\""), "{told}");
    daemon.answers();
    let refused = site
        .place
        .enter(|| TcpStream::connect(("127.0.0.1", PORT)).and_then(|mut stream| stream.read(&mut [0])));
    assert!(refused.as_ref().map_or(true, |length| *length == 0), "{refused:?}");
    site.set("api.test", Known::Addresses(vec![a]));
    daemon.read_until("the name of a backend resolves");
    site.until_led_to(b'a');
    let traffic = site.place.enter(|| Traffic::to(PORT));
    let (mut old, _) = site.ask();

    // It moves.
    site.set("api.test", Known::Addresses(vec![b]));
    site.until_led_to(b'b');
    traffic.goes_on();
    old.write_all(b"x").unwrap();
    assert_eq!(hear(&mut old), b'x', "a connection to an address that has gone goes on");

    // Nobody answers; then there is no such name.
    site.set("api.test", Known::Silent);
    let told = daemon.read_until("does not resolve any more: its addresses stay");
    assert!(told.contains("127.0.0.3"), "{told}");
    site.zone.lock().unwrap().clear();
    traffic.goes_on();
    site.until_led_to(b'b');

    // Both, in whatever order.
    site.set("api.test", Known::Addresses(vec![b, a]));
    daemon.read_until("the name of a backend resolves");
    let began = Instant::now();
    while site.ask().1 != b'a' {
        assert!(began.elapsed() < PATIENCE, "one of the two gets nothing");
    }
    let shown = String::from_utf8(daemon.status(&[]).stdout).unwrap();
    assert!(
        shown.contains("127.0.0.2:6443 (api.test)") && shown.contains("127.0.0.3:6443 (api.test)"),
        "{shown}"
    );

    // Another name in the file: its addresses are there when that is in force.
    site.set("other.test", Known::Addresses(vec![a]));
    fs::write(daemon.socket.with_file_name("config.yaml"), config("other.test")).unwrap();
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    daemon.read_until("the configuration is in force");
    assert_eq!(site.ask().1, b'a');
    traffic.goes_on();
    traffic.end();

    // Whoever waits for a name server doesn't keep vipd from ending.
    site.set("other.test", Known::Silent);
    let began = Instant::now();
    drop(old);
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
}
