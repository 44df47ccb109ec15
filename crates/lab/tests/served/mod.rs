//! Nodes that serve what they know over HTTP.

use anyhow::Result;
use lab::lab::Lab;
use lab::network::{NODES, node_address};
use lab::process::Launch;
use lab::system::Programs;

/// Where every node serves.
pub(crate) const PORT: u16 = 2112;

/// The file that the tests of the configuration load, as each node has it, with metrics.
const FILE: &str = include_str!("../../../vipd/tests/config/valid/kube-vip-0.1.yaml");

/// Starts vipd on a node.
pub(crate) fn start(lab: &mut Lab, place: usize) -> Result<()> {
    let name = |place: usize| format!("id: {}\n  address: {}\n", NODES[place], node_address(place));
    // The first node and this one change places; only the first starts as leader.
    let mut file =
        FILE.replacen(&name(0), "@", 1).replacen(&name(place), &name(0), 1).replacen('@', &name(place), 1);
    if place == 0 {
        file = FILE.to_owned();
    } else {
        file = file.replace("startAsLeader: true", "startAsLeader: false");
    }
    file += &format!("metrics: ':{PORT}'\n");
    let config = lab.nodes[place].folder().join("metrics.yaml");
    std::fs::write(&config, file)?;
    let socket = lab.nodes[place].vipd_socket();
    let mut launch = Launch::new("vipd", &Programs::default().vipd()?, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    lab.nodes[place].run(launch)
}
