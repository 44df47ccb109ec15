//! What elects by a Kubernetes Lease: vipd, kube-vip, and the client-go participant of the tests. All three take part in one
//! election if they run side by side.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::{Site, vipd};
use crate::network::{
    BACKEND_PORT, INTERFACE, NODES, PREFIX, PREFIX6, VIP, VIP6, node_address, virtual_addresses,
};
use crate::process::Launch;

/// The namespace of the Lease.
pub const LEASE_NAMESPACE: &str = "kube-system";
/// The name that kube-vip gave it.
pub const LEASE_NAME: &str = "plndr-cp-lock";

/// What lies between the end of a lease and the first answer from its next owner at most: kube-vip's announcement every three
/// seconds, or the apiserver's health check.
const LAG: Duration = Duration::from_secs(5);

/// How fast the election runs: lease duration, renew deadline and retry period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// 15, 10 and 2 s: what kube-vip and every kubeadm component runs with.
    Fifteen,
    /// 5, 3 and 1 s: what most manifests of kube-vip have.
    Five,
    /// 2, 1.5 and 0.5 s: as fast as whole seconds in a Lease allow with a margin.
    Two,
}

/// Whether vipd balances, on its own port, or leaves connections to the owner's apiserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Balancer {
    /// The address alone; the owner's apiserver is watched.
    Off,
    /// All apiservers behind the address.
    On,
    /// The same, but its backends are the control-plane nodes that the API tells.
    Discovered,
}

impl Pace {
    /// How long others wait from the last change.
    pub fn lease_duration(self) -> Duration {
        match self {
            Self::Fifteen => Duration::from_secs(15),
            Self::Five => Duration::from_secs(5),
            Self::Two => Duration::from_secs(2),
        }
    }

    /// How long a holder leads without a renewal.
    pub fn renew_deadline(self) -> Duration {
        match self {
            Self::Fifteen => Duration::from_secs(10),
            Self::Five => Duration::from_secs(3),
            Self::Two => Duration::from_millis(1500),
        }
    }

    /// The time between two renewals.
    pub fn retry_period(self) -> Duration {
        match self {
            Self::Fifteen => Duration::from_secs(2),
            Self::Five => Duration::from_secs(1),
            Self::Two => Duration::from_millis(500),
        }
    }

    /// The longest from a holder's end to the next owner's first answer: the lease runs out, a follower looks (client-go waits
    /// up to 2.2 retry periods between two looks), and announces itself.
    pub fn takeover(self) -> Duration {
        self.lease_duration() + self.retry_period() * 11 / 5 + LAG
    }
}

/// Writes a node's file, and says how to start vipd with it.
pub(super) fn prepare_vipd(pace: Pace, balancer: Balancer, site: Site<'_>) -> Result<Launch> {
    // What an earlier system remembered of the control plane would be a head start.
    fs::remove_file(site.folder.join(MEMORY)).or_else(absent)?;
    vipd::launch(&vipd_config(pace, balancer, site), site)
}

const MEMORY: &str = "control-plane.json";

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A node's config.yaml. The kubeconfig leads to the virtual IP, as kubeadm's does; vipd takes the credentials alone from it.
fn vipd_config(pace: Pace, balancer: Balancer, site: Site<'_>) -> String {
    let others = (0..NODES.len()).filter(|other| *other != site.node);
    let servers: Vec<String> =
        others.map(|other| format!("\"{}:{BACKEND_PORT}\"", node_address(other))).collect();
    let seconds = |duration: Duration| format!("{}ms", duration.as_millis());
    let mut text = format!(
        "node: {node}\nvips: [{VIP}/{PREFIX}, \"{VIP6}/{PREFIX6}\"]\ninterface: {INTERFACE}\nelection: kubernetes\n\
         kubernetes:\n  kubeconfig: {kubeconfig}\n  lease: {LEASE_NAMESPACE}/{LEASE_NAME}\n  \
         leaseDuration: {lease}\n  renewDeadline: {renew}\n  retryPeriod: {retry}\n  \
         server: \"127.0.0.1:{BACKEND_PORT}\"\n  servers: [{servers}]\n  memory: {memory}\n",
        node = NODES[site.node],
        kubeconfig = site.pki.kubeconfig().display(),
        lease = seconds(pace.lease_duration()),
        renew = seconds(pace.renew_deadline()),
        retry = seconds(pace.retry_period()),
        servers = servers.join(", "),
        memory = site.folder.join(MEMORY).display(),
    );
    text += &match balancer {
        Balancer::Off => format!("healthCheck: {{address: 127.0.0.1, port: {BACKEND_PORT}}}\n"),
        Balancer::On => vipd::balancer(),
        Balancer::Discovered => vipd::discovering_balancer() + "metrics: \":2112\"\n",
    };
    text
}

/// Says how to start kube-vip: with the environment that its own manifest gives it, and the way to its node's apiserver.
pub(super) fn prepare_kube_vip(pace: Pace, site: Site<'_>) -> Result<Launch> {
    let mut launch = Launch::new("kube-vip", &site.programs.kube_vip()?, ["manager"]);
    let seconds = |duration: Duration| duration.as_secs().to_string();
    launch.env = [
        ("vip_arp", "true".to_owned()),
        ("port", BACKEND_PORT.to_string()),
        ("vip_nodename", NODES[site.node].to_owned()),
        ("vip_interface", INTERFACE.to_owned()),
        ("vip_subnet", PREFIX.to_string()),
        ("dns_mode", "first".to_owned()),
        ("cp_enable", "true".to_owned()),
        ("cp_namespace", LEASE_NAMESPACE.to_owned()),
        ("vip_leaderelection", "true".to_owned()),
        ("vip_leasename", LEASE_NAME.to_owned()),
        ("vip_leaseduration", seconds(pace.lease_duration())),
        ("vip_renewdeadline", seconds(pace.renew_deadline())),
        ("vip_retryperiod", seconds(pace.retry_period())),
        ("address", VIP.to_string()),
        ("prometheus_server", ":2112".to_owned()),
        ("k8s_config_file", site.pki.kubeconfig().display().to_string()),
        // What its host alias does on a node of kubeadm's: the node's own apiserver, never the virtual IP.
        ("kubernetes_addr", format!("https://127.0.0.1:{BACKEND_PORT}")),
    ]
    .into();
    Ok(launch)
}

/// Says how to start the participant; its journal goes on over restarts.
pub(super) fn prepare_participant(pace: Pace, site: Site<'_>) -> Result<Launch> {
    let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
    let prefixes = [PREFIX, PREFIX6];
    let addresses: Vec<String> = virtual_addresses()
        .into_iter()
        .zip(prefixes)
        .map(|(address, prefix)| format!("{address}/{prefix}"))
        .collect();
    let flags = [
        format!("--kubeconfig={}", site.pki.kubeconfig().display()),
        format!("--server=https://127.0.0.1:{BACKEND_PORT}"),
        format!("--identity={}", NODES[site.node]),
        format!("--lease={LEASE_NAMESPACE}/{LEASE_NAME}"),
        format!("--lease-duration={}", milliseconds(pace.lease_duration())),
        format!("--renew-deadline={}", milliseconds(pace.renew_deadline())),
        format!("--retry-period={}", milliseconds(pace.retry_period())),
        format!("--interface={INTERFACE}"),
        format!("--addresses={}", addresses.join(",")),
        format!("--journal={}", site.folder.join("participant.jsonl").display()),
    ];
    Ok(Launch::new("participant", &site.programs.participant()?, flags))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pki::Pki;
    use crate::system::Programs;

    #[test]
    fn vipds_file_names_its_own_apiserver_first_and_the_others_after_it() {
        let programs = Programs::default();
        let pki = Pki::open(Path::new("/pki"));
        let site = Site { node: 1, folder: Path::new("/n"), programs: &programs, pki: &pki };
        let text = vipd_config(Pace::Two, Balancer::Off, site);
        assert!(text.starts_with("node: master-2\nvips: [10.0.0.162/24, \"fd00::162/64\"]\n"), "{text}");
        for line in [
            "  kubeconfig: /pki/admin.conf",
            "  lease: kube-system/plndr-cp-lock",
            "  leaseDuration: 2000ms",
            "  renewDeadline: 1500ms",
            "  server: \"127.0.0.1:6443\"",
            "  servers: [\"10.0.0.163:6443\", \"10.0.0.165:6443\"]",
            "healthCheck: {address: 127.0.0.1, port: 6443}",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}:\n{text}");
        }
        assert!(!text.contains("loadBalancers"), "{text}");
        assert!(vipd_config(Pace::Two, Balancer::On, site).contains("  port: 8443\n"));
    }

    #[test]
    fn each_pace_has_room_between_deadline_and_lease() {
        for pace in [Pace::Fifteen, Pace::Five, Pace::Two] {
            assert!(pace.renew_deadline() < pace.lease_duration());
            assert!(pace.retry_period() * 6 / 5 < pace.renew_deadline());
        }
    }
}
