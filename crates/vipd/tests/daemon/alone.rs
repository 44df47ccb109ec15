//! A vipd that only balances, as on a node that is no control plane: on addresses of its own choice, and with what it remembers.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::rig::{Daemon, free_port};
use crate::traffic::{connect, named};

#[test]
fn it_listens_where_it_is_told_and_nowhere_else() {
    let port = free_port();
    let backend = named(b'a');
    let config = |bind: &str| {
        format!(
            "loadBalancers:\n- {{name: api, port: {port}, bind: [{bind}], check: {{type: none}}, backends: [{{address: {}, port: {}}}]}}\n",
            backend.ip(),
            backend.port()
        )
    };
    let mut daemon = Daemon::launch("alone-bind", &config("127.0.0.1, \"::1\""), &[]);
    daemon.answers();

    assert_eq!(connect(port).1, b'a');
    let listens = |ip: &str| TcpStream::connect((ip, port)).is_ok();
    assert!(listens("::1") && !listens("127.0.0.2"));

    fs::write(daemon.socket.with_file_name("config.yaml"), config("127.0.0.2, 127.0.0.1")).unwrap();
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    daemon.read_until("the configuration is in force");
    assert!(listens("127.0.0.2") && listens("127.0.0.1"));
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

/// RKE's nginx-proxy: what `vipd convert` makes of its file runs in its place.
#[test]
fn what_an_nginx_proxy_did_is_done_with_the_converted_file() {
    let (port, backends) = (free_port(), [named(b'a'), named(b'b')]);
    let [first, second] = backends.map(|backend| format!("server {backend};"));
    let nginx = format!(
        "events {{ worker_connections 1024; }}\nstream {{\n  upstream kube_apiserver {{ {first} {second} }}\n  \
         server {{ listen 127.0.0.1:{port}; proxy_pass kube_apiserver; proxy_timeout 30; }}\n}}\n"
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone-nginx.conf");
    fs::write(&file, nginx).unwrap();
    let converted = Command::new(env!("CARGO_BIN_EXE_vipd")).arg("convert").arg(&file).output().unwrap();
    let report = String::from_utf8_lossy(&converted.stderr);
    assert!(converted.status.success(), "{report}");

    let daemon = Daemon::launch("alone-nginx", std::str::from_utf8(&converted.stdout).unwrap(), &[]);
    daemon.answers();
    let name = connect(port).1;
    assert!(b"ab".contains(&name), "{name}");
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

#[test]
fn without_an_api_it_balances_over_the_apiservers_that_it_remembers() {
    let port = free_port();
    let (remembered, listed) = (named(b'r'), named(b'l'));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone-memory");
    fs::create_dir_all(&folder).unwrap();
    let memory = folder.join("apiservers.json");
    let config = format!(
        "kubernetes: {{kubeconfig: {}, memory: {}}}\nloadBalancers:\n\
         - {{name: api, port: {port}, bind: [127.0.0.1], discover: true, check: {{type: none}}, backends: [{{address: {}, port: {}}}]}}\n",
        folder.join("none.conf").display(),
        memory.display(),
        listed.ip(),
        listed.port()
    );
    fs::write(&memory, format!("{{\"apiservers\": [\"{remembered}\"]}}")).unwrap();

    let mut daemon = Daemon::launch("alone-memory", &config, &[]);
    let told = daemon.read_until("doesn't tell where the apiservers are; what was known stays");
    assert!(told.contains("no credentials for the Kubernetes API"), "{told}");
    daemon.answers();
    assert_eq!(connect(port).1, b'r');
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");

    // What can't be read is told, and those of the file are left.
    fs::write(&memory, "{\"apiservers\": 3}").unwrap();
    let mut daemon = Daemon::launch("alone-memory", &config, &[]);
    daemon.read_until("failed to read the remembered apiservers");
    daemon.answers();
    assert_eq!(connect(port).1, b'l');
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}
