//! Which process has a port? By the lists in /proc: sockets with their numbers, and who has a socket open.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Names that are told at most, where a port has several.
const TOLD_MAX: usize = 3;

/// What is sent to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// The processes that have the port in this network namespace, for a sentence; `None` if there is none to be seen from here, as in a
/// container with a process namespace of its own.
pub(super) fn of(transport: Transport, address: SocketAddr) -> Option<String> {
    let sockets = sockets(transport, address.port());
    if sockets.is_empty() {
        return None;
    }
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if has_one(&process.path(), &sockets) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.push(format!("{} (process {pid})", name.trim_end()));
        }
        if holders.len() == TOLD_MAX {
            break;
        }
    }
    (!holders.is_empty()).then(|| holders.join(", "))
}

/// Whether a process has one of these sockets open.
fn has_one(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target)))
}

/// The sockets that are bound to the port, as `/proc/PID/fd` names them.
fn sockets(transport: Transport, port: u16) -> Vec<String> {
    // A listener, or a UDP socket without a peer: proc(5), and the kernel's numbers of TCP states.
    let (files, state) = match transport {
        Transport::Tcp => (["tcp", "tcp6"], "0A"),
        Transport::Udp => (["udp", "udp6"], "07"),
    };
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| socket(line, port, state)));
    }
    found
}

/// The socket of a line, if it has this port and is in this state.
fn socket(line: &str, port: u16, state: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (_, own_port) = fields.nth(1)?.rsplit_once(':')?;
    let found = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let matches = u16::from_str_radix(own_port, 16) == Ok(port) && found == state && inode != "0";
    matches.then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_for_its_port_and_state() {
        let line = "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0";
        assert_eq!(socket(line, 6443, "0A").as_deref(), Some("socket:[31337]"));
        assert_eq!(socket(line, 6444, "0A"), None);
        assert_eq!(socket(line, 6443, "01"), None);
        assert_eq!(socket("", 6443, "0A"), None);
        assert_eq!(socket("sl local_address", 6443, "0A"), None);
    }

    #[test]
    fn this_process_has_the_port_that_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = of(Transport::Tcp, listener.local_addr().unwrap()).unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = of(Transport::Udp, socket.local_addr().unwrap()).unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
    }
}
