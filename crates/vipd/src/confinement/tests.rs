//! What a confined process can't do any more, tried by one: this program once more, as a child.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, dumpable_behavior};

use super::Confinement;

/// The child finds here the folder that it may write in; and whether it is to be confined.
const FOLDER: &str = "VIPD_TEST_CONFINED_FOLDER";
const CONFINED: &str = "VIPD_TEST_CONFINED";

/// Each attempt, and how it ended: as one line.
fn attempts(folder: &Path) -> Vec<(&'static str, String)> {
    fn told<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
        outcome.map_or_else(|error| error.to_string(), |_| "done".to_owned())
    }
    let beside = folder.with_file_name("beside");
    let vsock =
        rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let connect =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| TcpStream::connect(listener.local_addr()?));
    vec![
        ("write in its folder", told(fs::write(folder.join("file"), "x"))),
        ("replace a file there", told(fs::rename(folder.join("file"), folder.join("other")))),
        ("write beside it", told(fs::write(&beside, "x"))),
        ("read beside it", told(fs::read_dir(folder.parent().unwrap()))),
        ("run a program", told(Command::new("/bin/true").status())),
        (
            "begin a thread",
            told(std::thread::Builder::new().spawn(|| {}).map(|thread| thread.join().is_ok())),
        ),
        ("connect", told(connect)),
        ("make a file of memory", told(rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC))),
        (
            "open a socket of virtual machines",
            told(vsock.map_err(|error| match error {
                // Where the kernel has none.
                Errno::AFNOSUPPORT => "done".to_owned(),
                other => other.to_string(),
            })),
        ),
        ("dump core", format!("{:?}", dumpable_behavior().unwrap_or(DumpableBehavior::NotDumpable))),
    ]
}

#[test]
fn a_child_of_the_tests_below() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    if std::env::var_os(CONFINED).is_some() {
        crate::logging::begin("info", crate::cli::LogFormat::Text).unwrap();
        Confinement::begin().complete(&[folder.to_owned()], false);
        crate::logging::finish();
    }
    for (what, outcome) in attempts(folder) {
        println!("ATTEMPT {what}: {outcome}");
    }
}

fn child(confined: bool) -> Vec<String> {
    let place = std::env::temp_dir().join(format!("vipd-confined-{}-{confined}", std::process::id()));
    let folder = place.join("folder");
    fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "confinement::tests::a_child_of_the_tests_below", "--nocapture"])
        .env(FOLDER, &folder);
    if confined {
        command.env(CONFINED, "1");
    }
    let output = command.output().unwrap();
    fs::remove_dir_all(&place).unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    if confined {
        assert!(text.contains("vipd is confined") && !text.contains("less confined"), "{text}");
    }
    text.lines().filter_map(|line| line.split_once("ATTEMPT ")).map(|(_, line)| line.to_owned()).collect()
}

#[test]
fn files_programs_and_calls_are_out_of_reach_of_a_confined_process_and_its_work_is_not() {
    let denied = "Permission denied (os error 13)";
    let no_call = "Operation not permitted (os error 1)";
    assert_eq!(
        child(true),
        [
            "write in its folder: done".to_owned(),
            "replace a file there: done".to_owned(),
            format!("write beside it: {denied}"),
            "read beside it: done".to_owned(),
            format!("run a program: {denied}"),
            "begin a thread: done".to_owned(),
            "connect: done".to_owned(),
            format!("make a file of memory: {no_call}"),
            format!("open a socket of virtual machines: {no_call}"),
            "dump core: NotDumpable".to_owned(),
        ]
    );
}

/// Else the test above would say nothing.
#[test]
fn all_of_it_is_within_reach_of_another_process() {
    let reached = child(false);
    assert_eq!(reached.len(), 10, "{reached:?}");
    let (core, rest) = reached.split_last().unwrap();
    assert_eq!(core, "dump core: Dumpable");
    assert!(rest.iter().all(|line| line.ends_with(": done")), "{reached:?}");
}
