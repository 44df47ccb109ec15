//! The access log: a line for each connection, by which an operator finds out who ended it, and why.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::rig::{Daemon, PATIENCE, backend, free_port};

/// A backend that takes connections and says nothing.
fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}

fn connect(port: u16) -> (TcpStream, SocketAddr) {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let own = client.local_addr().unwrap();
    (client, own)
}

/// The line that ends so.
fn line(daemon: &mut Daemon, end: &str) -> String {
    let seen = daemon.read_until(&format!("end=\"{end}\""));
    seen.lines().last().unwrap().to_owned()
}

#[test]
fn a_connection_is_a_line_that_tells_who_went_where_and_why_it_ended() {
    let [greeting, mute, nobody, quiet] = [(); 4].map(|()| free_port());
    let (silent, closed) = (silent(), free_port());
    let frontend = |name: &str, port: u16, more: &str, backends: &str| {
        format!("- {{name: {name}, port: {port}, check: {{type: none}}, {more}backends: [{backends}]}}\n")
    };
    let silent_backend = format!("{{address: 127.0.0.1, port: {}, name: silent}}", silent.port());
    let config = format!(
        "loadBalancers:\n{}{}{}{}",
        frontend("greeting", greeting, "accessLog: true, ", &backend()),
        frontend("mute", mute, "accessLog: true, ", &silent_backend),
        frontend("nobody", nobody, "accessLog: true, ", &format!("{{address: 127.0.0.1, port: {closed}}}")),
        frontend("quiet", quiet, "", &backend()),
    );
    let mut daemon = Daemon::launch("access-log", &config, &[]);
    daemon.answers();

    // One without an access log comes first: whatever is told of it would be read below.
    let (mut client, untold) = connect(quiet);
    assert_eq!(client.read_to_string(&mut String::new()).unwrap(), 5);
    drop(client);
    let (mut client, own) = connect(greeting);
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    drop(client);
    let seen = daemon.read_until("end=\"finished\"");
    let finished = seen.lines().last().unwrap();
    for part in [
        "INFO access: connection",
        "frontend=\"greeting\"",
        &format!("client={own} backend=\"127.0.0.1:"),
        "connect_us=",
        "to_backend=0 to_client=5",
    ] {
        assert!(finished.contains(part), "{part} is not in {finished}");
    }
    assert!(!seen.contains(&untold.to_string()), "{seen}");

    let (client, own) = connect(mute);
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let reset = line(&mut daemon, "client");
    assert!(reset.contains("frontend=\"mute\"") && reset.contains(&own.to_string()), "{reset}");

    let (mut client, own) = connect(nobody);
    assert!(client.read(&mut [0]).is_err());
    let refused = line(&mut daemon, "no-backend");
    assert!(refused.contains(&own.to_string()) && !refused.contains("backend=\""), "{refused}");
}

#[test]
fn a_connection_that_the_end_of_vipd_cuts_is_told_too() {
    let (port, silent) = (free_port(), silent());
    let config = format!(
        "drainTimeout: 100ms\nloadBalancers:\n- {{name: mute, port: {port}, accessLog: true, check: {{type: none}}, \
         backends: [{{address: 127.0.0.1, port: {}}}]}}\n",
        silent.port()
    );
    let daemon = Daemon::launch("access-log-end", &config, &[]);
    daemon.answers();
    let (_client, own) = connect(port);

    let (exit, log) = daemon.stop();

    assert!(exit.success(), "{log}");
    let told = log.lines().find(|line| line.contains("access: connection")).unwrap();
    assert!(told.contains("end=\"stopped\"") && told.contains(&format!("client={own}")), "{told}");
}

#[test]
fn a_connection_that_has_lasted_for_long_enough_is_told_as_such() {
    let port = free_port();
    let config = format!(
        "loadBalancers:\n- {{name: short, port: {port}, accessLog: true, maxConnectionAge: 1s, check: {{type: none}}, \
         backends: [{{address: 127.0.0.1, port: {}}}]}}\n",
        silent().port()
    );
    let mut daemon = Daemon::launch("access-log-age", &config, &[]);
    daemon.answers();
    let (mut client, own) = connect(port);

    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed in good order");

    let told = line(&mut daemon, "max-age");
    assert!(told.contains("frontend=\"short\"") && told.contains(&own.to_string()), "{told}");
}
