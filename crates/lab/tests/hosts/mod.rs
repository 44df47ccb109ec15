//! Nodes set up by the file of kube-vip 0.1, each as an operator would write it for that host.

use anyhow::Result;
use lab::lab::Lab;
use lab::network::NODES;
use lab::process::Launch;
use lab::system::Programs;

/// The file of the first host. The tests of the configuration load the same one.
const FILE: &str = include_str!("../../../vipd/tests/config/valid/kube-vip-0.1.yaml");

/// The file of a host: the peers in another order, and the flag on the first alone.
pub(crate) fn file(place: usize) -> String {
    let local = format!("id: {}\n  address: 10.0.0.{}\n", NODES[0], 163);
    let own = format!("id: {}\n  address: 10.0.0.{}\n", NODES[place], 163 + place);
    let swapped = FILE.replacen(&local, "@", 1).replacen(&own, &local, 1).replacen('@', &own, 1);
    if place == 0 { FILE.to_owned() } else { swapped.replace("startAsLeader: true", "startAsLeader: false") }
}

/// Starts vipd on a host by this file.
pub(crate) fn start_with(lab: &mut Lab, place: usize, file: &str) -> Result<()> {
    let config = lab.nodes[place].folder().join("kube-vip.yaml");
    std::fs::write(&config, file)?;
    let socket = lab.nodes[place].vipd_socket();
    let mut launch = Launch::new("vipd", &Programs::default().vipd()?, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    lab.nodes[place].run(launch)
}
