//! The status socket: a Unix socket that writes a snapshot and closes.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tracing::debug;

use super::{Reporter, Snapshot};
use crate::web::health::SILENCE_MAX;

/// How long a reader may take. Readers are served one after another, so this also bounds how long one can block others.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// How long an answer is awaited: the main loop gives it, and is not alive if it is silent for longer.
pub(crate) const READ_MAX: Duration = SILENCE_MAX;

/// Root and vipd's own group may connect.
const MODE: u32 = 0o660;

/// Askers that wait for their turn: probes of a kubelet and a few people.
const BACKLOG: i32 = 128;

/// The largest snapshot that is read, in bytes: hundreds of backends fit.
const SNAPSHOT_MAX: u64 = 1 << 20;

/// Opens the socket. A socket that nobody listens on any more is replaced; one in use is not.
///
/// # Errors
/// The folder can't be made, or another vipd answers on the socket.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another vipd answers on it: stop that one, or choose another `socket`",
        ));
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Who may ask: root and vipd's own group. The socket's own mode, less what the process masks, is what the file begins with;
    // so nobody else can connect in between.
    fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Answers until aborted, which may happen at any await: a reader then sees the connection end.
pub(crate) async fn serve(listener: UnixListener, reporter: Reporter) {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: the next connection will tell.
                debug!(%error, "failed to accept a status connection");
                tokio::time::sleep(WRITE_MAX).await;
                continue;
            }
        };
        let answer = match serde_json::to_vec(&reporter.snapshot()) {
            Ok(answer) => answer,
            Err(error) => {
                debug!(%error, "failed to print the status");
                continue;
            }
        };
        let write = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await
        };
        match tokio::time::timeout(WRITE_MAX, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a status reader went away"),
            Err(_) => debug!("a status reader was too slow"),
        }
    }
}

/// Asks the vipd behind a socket.
///
/// # Errors
/// Nobody answers, or what answers is not a vipd of this version.
pub(crate) fn ask(path: &Path) -> anyhow::Result<Snapshot> {
    let read = || -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        connect(path)?.take(SNAPSHOT_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = read().map_err(|error| unanswered(error, path, READ_MAX))?;
    parsed(&answer).with_context(|| format!("{} did not answer as a vipd does", path.display()))
}

/// Reads what a vipd tells of itself and of others. Some of it is these others' own words, and goes to a terminal: characters that would
/// do something there become question marks.
pub(super) fn parsed(answer: &[u8]) -> serde_json::Result<Snapshot> {
    let mut told = serde_json::from_slice(answer)?;
    make_printable(&mut told);
    serde_json::from_value(told)
}

fn make_printable(told: &mut Value) {
    let printable = |text: &str| text.replace(char::is_control, "?");
    match told {
        Value::String(text) => *text = printable(text),
        Value::Array(items) => items.iter_mut().for_each(make_printable),
        Value::Object(fields) => {
            let named = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                make_printable(&mut value);
                (printable(&name), value)
            });
            *fields = named.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Why nobody answered on a socket within this time, and the way out.
pub(crate) fn unanswered(error: io::Error, path: &Path, patience: Duration) -> anyhow::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        let seconds = patience.as_secs();
        return anyhow!(
            "the vipd behind {} has not answered for {seconds} s: it is stopped, or stuck",
            path.display()
        );
    }
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind());
    let hint = if nobody {
        "no vipd runs here, or its configuration names another `socket` (use --socket)"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "only root and vipd's own group may ask"
    } else {
        "is it the socket of a vipd?"
    };
    anyhow::Error::new(error).context(format!("failed to ask {}: {hint}", path.display()))
}

/// Connects without waiting: while a vipd is stopped, those who ask fill the socket's queue, and who comes then would wait
/// for ever. [`io::ErrorKind::WouldBlock`] is the answer of both a full queue and a silent vipd.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(READ_MAX))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_says_of_itself_moves_nothing_on_the_screen() {
        let sample = include_str!("sample.json");
        // A title for the window, and a name that begins another line.
        let hostile = sample.replace("\"standby\"", "\"\\u001b]0;all is well\\u0007\"");
        let hostile =
            hostile.replacen("\"node\": \"b\"", "\"node\": \"b\\nleader     this node\\u009b2J\"", 1);
        assert_ne!(hostile, sample);
        let shown = crate::status::show::text(&parsed(hostile.as_bytes()).unwrap());
        assert!(shown.contains("?]0;all is well?"), "{shown}");
        assert!(shown.starts_with("node       b?leader     this node?2J, "), "{shown}");
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}
