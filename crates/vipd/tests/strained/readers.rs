//! Clients that never read what they asked for.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::backends::Backends;
use crate::bystanders::Bystanders;
use crate::rig::{Daemon, free_port};
use crate::{echoes, metric};

/// Clients that ask and don't read.
const CLIENTS: usize = 100;

/// What they may cost: what may wait before little more is read for each, and for each that little, and the rest of a connection twice
/// over. A whole buffer for each would be 26 MB.
const MOST: f64 = (8 * 1024 * 1024 + CLIENTS * (16 * 1024 + 20 * 1024)) as f64;

/// Requests of each kind that others make meanwhile.
const MEANWHILE: usize = 100;

/// A client for whom the kernel keeps little, so that it is the balancer that has to.
fn narrow(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

#[tokio::test]
async fn clients_that_never_read_take_little_memory_and_hold_up_nobody() {
    let (backends, port, metrics) = (Backends::start(3), free_port(), free_port());
    let config = format!(
        "metrics: \":{metrics}\"\nworkers: 1\nloadBalancers:\n- name: api\n  port: {port}\n  check: {{type: tcp}}\n  backends: [{}]\n",
        backends.listed()
    );
    let daemon = Daemon::serving("readers", &config, &[]);
    daemon.answers();
    let mut others = Bystanders::start(&echoes(port));
    others.go_on(MEANWHILE).await;
    let memory = || metric(metrics, "process_resident_memory_bytes");
    let before = memory();

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = narrow(port);
        client.write_all(b">").unwrap();
        clients.push(client);
        // One after the other: not to make others wait for all the bytes that the kernel takes.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Beside what the others say, and hear again.
    let carried = || {
        let labels = |address, to| format!(r#"{{frontend="api",backend="{address}",direction="{to}"}}"#);
        let bytes =
            |address, to| metric(metrics, &format!("vipd_backend_bytes_total{}", labels(address, to)));
        let sum = |to| backends.addresses.iter().map(|address| bytes(address, to)).sum::<f64>();
        sum("to_client") - sum("to_backend")
    };
    // Until nothing is taken any more: two looks, far apart, that agree but for an echo under way.
    let mut seen = 0.0;
    while carried() - seen > 16.0 * 1024.0 {
        seen = carried();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    others.go_on(MEANWHILE).await;

    let taken = memory() - before;
    let of = format!("{CLIENTS} clients that never read what they are sent, {:.1} MB of memory", taken / 1e6);
    others.stop(&of).await.was_nothing();
    assert!(taken < MOST, "{taken} bytes");
    drop(clients);
}
