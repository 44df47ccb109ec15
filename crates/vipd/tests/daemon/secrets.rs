//! What a running vipd knows of the secrets that it has read: nothing that it tells, and nothing that could be read out
//! of its memory.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use super::rig::Daemon;

/// The most that is read of a mapping at once.
const PIECE: usize = 1 << 20;

/// A secret that is nowhere but in its file: it is new in each run, and this test has it in pieces alone.
fn secret() -> [String; 4] {
    std::array::from_fn(|_| format!("{:016x}", fastrand::u64(..)))
}

/// How often these words, one after the other, are in a process's memory, and in which mappings.
fn found(pid: u32, words: &[String; 2]) -> Vec<String> {
    let [first, rest @ ..] = words.each_ref().map(String::as_bytes);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut places = Vec::new();
    for line in maps.lines() {
        let (range, rights) = line.split_once(' ').unwrap();
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut at = from;
        let mut piece = vec![0; PIECE];
        while at < to {
            let length = PIECE.min(usize::try_from(to - at).unwrap());
            // A part that is not there, as a guard of a stack, has no secret either.
            if memory.read_exact_at(&mut piece[..length], at).is_ok() {
                let heads =
                    piece[..length].windows(first.len()).enumerate().filter(|(_, window)| *window == first);
                for (place, _) in heads {
                    let mut after = place + first.len();
                    let whole = rest.iter().all(|word| {
                        let is_next = piece[..length].get(after..after + word.len()) == Some(*word);
                        after += word.len();
                        is_next
                    });
                    if whole {
                        places.push(line.to_owned());
                    }
                }
            }
            at += length as u64;
        }
    }
    places
}

#[test]
fn the_keys_of_peers_are_neither_told_nor_in_the_memory_of_a_running_vipd() {
    let key = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secret.key");
    let words = secret();
    fs::write(&key, words.concat() + "\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = format!(
        "localPeer: {{id: c, address: 127.0.0.1, port: {port}, witness: true}}\n\
         remotePeers: [{{id: a, address: 127.0.0.2, port: {port}}}, {{id: b, address: 127.0.0.3, port: {port}}}]\n\
         vip: 10.9.9.9\ninterface: missing0\npeerKeys: [{{id: 1, file: {}}}]\n",
        key.display()
    );
    let mut daemon = Daemon::launch("secrets", &file, &[]);
    let log = daemon.read_until("vipd is confined");
    for text in [
        log,
        String::from_utf8_lossy(&daemon.status(&[]).stdout).into_owned(),
        String::from_utf8_lossy(&daemon.status(&["--json"]).stdout).into_owned(),
        fs::read_to_string(format!("/proc/{}/cmdline", daemon.child.id())).unwrap(),
    ] {
        assert!(!words.iter().any(|word| text.contains(word)), "{text}");
    }

    if let Err(error) = File::open(format!("/proc/{}/mem", daemon.child.id())) {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        return skip("vipd's memory is for root alone");
    }
    // Its end is looked for: an allocator writes over the beginning of what it takes back.
    let [_, _, end @ ..] = &words;
    let places = found(daemon.child.id(), end);

    // What is looked for is found where it is: the daemon knows its file's name by its configuration.
    let name = ["secret", ".key"].map(str::to_owned);
    assert!(!found(daemon.child.id(), &name).is_empty(), "its memory can't be read");
    assert!(places.is_empty(), "the key is in {places:#?}");
}

fn skip(why: &str) {
    #[expect(clippy::print_stderr, reason = "a skip is said aloud")]
    {
        eprintln!("SKIPPED: {why}");
    }
}
