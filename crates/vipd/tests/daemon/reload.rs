//! SIGHUP: backends change under the eyes of connections; what else has changed is named, and what is wrong changes nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::rig::{Daemon, PATIENCE, free_port};

/// A backend that says its name to each client, and then repeats a byte that it hears.
fn named(name: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                stream.write_all(&[name]).unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}

/// Connects, and hears who it is.
fn connect(port: u16) -> (TcpStream, u8) {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = hear(&mut client);
    (client, name)
}

fn hear(client: &mut TcpStream) -> u8 {
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    byte[0]
}

fn config(port: u16, backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}loadBalancers:\n- name: api\n  port: {port}\n  check: {{type: none}}\n  backends: [{{address: {}, port: {}}}]\n",
        backend.ip(),
        backend.port()
    )
}

fn hang_up(daemon: &Daemon) {
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

#[test]
fn backends_change_at_sighup_without_a_lost_connection_and_a_wrong_file_changes_nothing() {
    let (port, a, b) = (free_port(), named(b'a'), named(b'b'));
    let mut daemon = Daemon::launch("reload", &config(port, a, ""), &[]);
    daemon.answers();
    let file = daemon.socket.with_file_name("config.yaml");
    let (mut old, name) = connect(port);
    assert_eq!(name, b'a');

    fs::write(&file, config(port, b, &format!("metrics: 127.0.0.1:{}\n", free_port()))).unwrap();
    hang_up(&daemon);

    let told = daemon.read_until("take effect when vipd is started again");
    assert!(told.contains("backends are as the file says") && told.contains("changed=\"metrics\""), "{told}");
    let (_new, name) = connect(port);
    assert_eq!(name, b'b');
    old.write_all(b"x").unwrap();
    assert_eq!(hear(&mut old), b'x', "the connection to the backend that left goes on");

    fs::write(&file, config(port, a, "vipp: 10.0.0.1\n")).unwrap();
    hang_up(&daemon);

    let told = daemon.read_until("nothing has changed");
    assert!(told.contains("vipp"), "{told}");
    assert_eq!(connect(port).1, b'b');

    fs::write(&file, config(port, a, "")).unwrap();
    hang_up(&daemon);

    daemon.read_until("backends are as the file says");
    assert_eq!(connect(port).1, b'a');
    drop(old);
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}
