//! The systems under test and the files that set them up: a module for each family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::network::{BACKEND_PORT, FRONTEND, VIP};
use crate::pki::Pki;
use crate::process::Launch;

mod keepalived;
mod lease;
mod vipd;

pub use keepalived::Variant;
pub use lease::{Balancer, LEASE_NAME, LEASE_NAMESPACE, Pace};
pub use vipd::{Arbiter, Timing, vipd_socket};

/// What keeps the virtual IP alive on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// vipd among static peers, with one of its timing profiles.
    Vipd(Timing),
    /// The same, `relaxed`, and the balancer moves connections to apiservers that have come back.
    VipdRebalance,
    /// vipd among static peers, its balancer at the port that every apiserver has.
    VipdSamePort(Timing),
    /// The same with the kernel's path, at vipd's usual timing.
    VipdKernel,
    /// vipd among static peers, without a balancer: clients are with the owner's own apiserver.
    VipdAddress(Timing),
    /// vipd among two nodes, and what decides between them; VIP only.
    VipdPair(Arbiter),
    /// vipd with an election by Kubernetes Lease.
    VipdLease(Pace, Balancer),
    /// kube-vip's control-plane mode, as its manifest sets it up.
    KubeVip(Pace),
    /// The participant of `tests/kube`: client-go's own election, and the address.
    ClientGo(Pace),
    /// keepalived and haproxy.
    Keepalived(Variant),
}

/// The processes that hold the virtual IP, by their names in the lab. One of them runs on a node at a time.
pub const OWNERS: [&str; 4] = ["vipd", "kube-vip", "participant", "keepalived"];

/// One node that a system is set up on.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Its place in [`NODES`](crate::network::NODES).
    pub node: usize,
    /// Its folder.
    pub folder: &'a Path,
    /// Where the programs are.
    pub programs: &'a Programs,
    /// The certificates.
    pub pki: &'a Pki,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Vipd(Timing::Default),
        Self::Vipd(Timing::Fast),
        Self::Vipd(Timing::Relaxed),
        Self::VipdRebalance,
        Self::VipdSamePort(Timing::Default),
        Self::VipdKernel,
        Self::VipdSamePort(Timing::Fast),
        Self::VipdSamePort(Timing::Relaxed),
        Self::VipdAddress(Timing::Default),
        Self::VipdAddress(Timing::Fast),
        Self::VipdAddress(Timing::Relaxed),
        Self::VipdPair(Arbiter::TieBreak),
        Self::VipdPair(Arbiter::Witness),
        Self::VipdLease(Pace::Fifteen, Balancer::Off),
        Self::VipdLease(Pace::Five, Balancer::Off),
        Self::VipdLease(Pace::Two, Balancer::Off),
        Self::VipdLease(Pace::Fifteen, Balancer::On),
        Self::VipdLease(Pace::Five, Balancer::On),
        Self::VipdLease(Pace::Two, Balancer::On),
        Self::VipdLease(Pace::Two, Balancer::Discovered),
        Self::KubeVip(Pace::Fifteen),
        Self::KubeVip(Pace::Five),
        Self::ClientGo(Pace::Fifteen),
        Self::ClientGo(Pace::Five),
        Self::ClientGo(Pace::Two),
        Self::Keepalived(Variant::AsDocumented),
        Self::Keepalived(Variant::Tuned),
        Self::Keepalived(Variant::Minimum),
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vipd(Timing::Default) => "vipd",
            Self::Vipd(Timing::Fast) => "vipd-fast",
            Self::Vipd(Timing::Relaxed) => "vipd-relaxed",
            Self::VipdRebalance => "vipd-relaxed-rebalance",
            Self::VipdSamePort(Timing::Default) => "vipd-same-port",
            Self::VipdSamePort(Timing::Fast) => "vipd-same-port-fast",
            Self::VipdSamePort(Timing::Relaxed) => "vipd-same-port-relaxed",
            Self::VipdKernel => "vipd-kernel",
            Self::VipdAddress(Timing::Default) => "vipd-address",
            Self::VipdAddress(Timing::Fast) => "vipd-address-fast",
            Self::VipdAddress(Timing::Relaxed) => "vipd-address-relaxed",
            Self::VipdPair(Arbiter::TieBreak) => "vipd-two-tie-break",
            Self::VipdPair(Arbiter::Witness) => "vipd-two-witness",
            Self::VipdLease(Pace::Fifteen, Balancer::Off) => "vipd-lease-15",
            Self::VipdLease(Pace::Five, Balancer::Off) => "vipd-lease-5",
            Self::VipdLease(Pace::Two, Balancer::Off) => "vipd-lease-2",
            Self::VipdLease(Pace::Fifteen, Balancer::On) => "vipd-lease-15-balancer",
            Self::VipdLease(Pace::Five, Balancer::On) => "vipd-lease-5-balancer",
            Self::VipdLease(Pace::Two, Balancer::On) => "vipd-lease-2-balancer",
            Self::VipdLease(Pace::Fifteen, Balancer::Discovered) => "vipd-lease-15-discover",
            Self::VipdLease(Pace::Five, Balancer::Discovered) => "vipd-lease-5-discover",
            Self::VipdLease(Pace::Two, Balancer::Discovered) => "vipd-lease-2-discover",
            Self::KubeVip(Pace::Fifteen) => "kube-vip-15",
            Self::KubeVip(Pace::Five) => "kube-vip-5",
            Self::KubeVip(Pace::Two) => "kube-vip-2",
            Self::ClientGo(Pace::Fifteen) => "client-go-15",
            Self::ClientGo(Pace::Five) => "client-go-5",
            Self::ClientGo(Pace::Two) => "client-go-2",
            Self::Keepalived(Variant::AsDocumented) => "keepalived",
            Self::Keepalived(Variant::Tuned) => "keepalived-tuned",
            Self::Keepalived(Variant::Minimum) => "keepalived-minimum",
        }
    }

    /// Where its clients connect: at the balancer's port, or at that of the apiservers, where the balancer has it on the
    /// virtual IP or there is no balancer.
    pub fn frontend(self) -> SocketAddr {
        match self {
            Self::Vipd(_)
            | Self::VipdRebalance
            | Self::VipdLease(_, Balancer::On | Balancer::Discovered)
            | Self::Keepalived(_) => FRONTEND,
            Self::VipdSamePort(_)
            | Self::VipdKernel
            | Self::VipdAddress(_)
            | Self::VipdPair(_)
            | Self::VipdLease(_, Balancer::Off)
            | Self::KubeVip(_)
            | Self::ClientGo(_) => SocketAddr::new(IpAddr::V4(VIP), BACKEND_PORT),
        }
    }

    /// The timing of its Lease, if it elects by one and so needs real control planes.
    pub fn lease(self) -> Option<Pace> {
        match self {
            Self::VipdLease(pace, _) | Self::KubeVip(pace) | Self::ClientGo(pace) => Some(pace),
            Self::Vipd(_)
            | Self::VipdRebalance
            | Self::VipdSamePort(_)
            | Self::VipdKernel
            | Self::VipdAddress(_)
            | Self::VipdPair(_)
            | Self::Keepalived(_) => None,
        }
    }

    /// The longest after which a dead local apiserver may still move the address, by the system's own timers.
    pub fn check_time(self) -> Duration {
        match self {
            Self::Vipd(_)
            | Self::VipdRebalance
            | Self::VipdSamePort(_)
            | Self::VipdKernel
            | Self::VipdAddress(_)
            | Self::VipdPair(_) => Duration::from_secs(3),
            Self::VipdLease(pace, _) | Self::KubeVip(pace) | Self::ClientGo(pace) => pace.takeover(),
            // Ten checks three seconds apart, one running check, one election.
            Self::Keepalived(Variant::AsDocumented) => Duration::from_secs(37),
            Self::Keepalived(Variant::Tuned | Variant::Minimum) => Duration::from_secs(4),
        }
    }

    /// How long nothing may have happened before the next fault: longer than the slowest of its timers that
    /// could still move the address back.
    pub fn calm_time(self) -> Duration {
        match self {
            Self::Vipd(timing) | Self::VipdSamePort(timing) | Self::VipdAddress(timing)
                if timing == Timing::Relaxed =>
            {
                Duration::from_secs(6)
            }
            Self::Vipd(_)
            | Self::VipdSamePort(_)
            | Self::VipdKernel
            | Self::VipdAddress(_)
            | Self::VipdPair(_) => Duration::from_millis(1500),
            Self::VipdRebalance => Duration::from_secs(6),
            // Every node has read the Lease since, so each knows how long it still holds.
            Self::VipdLease(pace, _) | Self::KubeVip(pace) | Self::ClientGo(pace) => {
                2 * pace.retry_period() + Duration::from_secs(1)
            }
            // Two good checks three seconds apart, then an election of 3.6 s.
            Self::Keepalived(Variant::AsDocumented) => Duration::from_secs(11),
            Self::Keepalived(Variant::Tuned | Variant::Minimum) => Duration::from_secs(4),
        }
    }

    /// Whether its programs are there that no package brings.
    ///
    /// # Errors
    /// If one is missing; the message says where it was looked for.
    pub fn find(self, programs: &Programs) -> Result<()> {
        match self {
            Self::Vipd(_)
            | Self::VipdRebalance
            | Self::VipdSamePort(_)
            | Self::VipdKernel
            | Self::VipdAddress(_)
            | Self::VipdPair(_)
            | Self::VipdLease(..) => programs.vipd().map(drop),
            Self::KubeVip(_) => programs.kube_vip().map(drop),
            Self::ClientGo(_) => programs.participant().map(drop),
            Self::Keepalived(_) => Ok(()),
        }
    }

    /// Writes the files of one node and says what to start there, in order.
    ///
    /// # Errors
    /// If a program is missing or the folder cannot be written.
    pub fn prepare(self, site: Site<'_>) -> Result<Vec<Launch>> {
        match self {
            Self::Vipd(timing) => Ok(vec![vipd::prepare(timing, &vipd::balancer(), site)?]),
            Self::VipdKernel => {
                Ok(vec![vipd::prepare(Timing::Default, &vipd::balancer_in_the_kernel(), site)?])
            }
            Self::VipdRebalance => {
                Ok(vec![vipd::prepare(Timing::Relaxed, &vipd::rebalancing_balancer(), site)?])
            }
            Self::VipdSamePort(timing) => {
                Ok(vec![vipd::prepare(timing, &vipd::balancer_at_the_same_port(), site)?])
            }
            Self::VipdAddress(timing) => Ok(vec![vipd::prepare(timing, &vipd::own_apiserver(), site)?]),
            Self::VipdPair(arbiter) => vipd::prepare_pair(arbiter, site),
            Self::VipdLease(pace, balancer) => Ok(vec![lease::prepare_vipd(pace, balancer, site)?]),
            Self::KubeVip(pace) => Ok(vec![lease::prepare_kube_vip(pace, site)?]),
            Self::ClientGo(pace) => Ok(vec![lease::prepare_participant(pace, site)?]),
            Self::Keepalived(variant) => {
                Ok(vec![keepalived::prepare_haproxy(site.folder)?, keepalived::prepare(variant, site)?])
            }
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for System {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|system| system.name() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no system {text}: it is one of {}", names.join(", "))
        })
    }
}

/// Where the programs are that no package brings.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// vipd, if the command line names it.
    pub vipd: Option<PathBuf>,
}

impl Programs {
    /// Finds vipd: as told, else by `VIPD_BIN`, else beside the running program.
    ///
    /// # Errors
    /// If there is none; the message says where it was looked for.
    pub fn vipd(&self) -> Result<PathBuf> {
        let told = self.vipd.clone().or_else(|| std::env::var_os("VIPD_BIN").map(PathBuf::from));
        if let Some(path) = told {
            ensure!(path.is_file(), "there is no vipd at {}", path.display());
            return Ok(path.canonicalize()?);
        }
        Self::built()
    }

    /// Finds the vipd that was built beside the running program.
    ///
    /// # Errors
    /// If there is none; the message says where it was looked for.
    pub fn built() -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        // A test's own file lies one folder deeper, in `deps`.
        let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("vipd"));
        let found = beside.into_iter().find(|path| path.is_file());
        found.with_context(|| {
            let folder = own.parent().unwrap_or_else(|| Path::new("/")).display();
            format!("there is no vipd: build it (`cargo build -p vipd` puts it beside this program, in {folder}), or name it with --vipd or VIPD_BIN")
        })
    }

    /// Finds kube-vip in the folder of the control plane's binaries.
    ///
    /// # Errors
    /// If it was not built.
    pub fn kube_vip(&self) -> Result<PathBuf> {
        let folder = std::env::var_os("VIPD_KUBE_BIN").map(PathBuf::from);
        let path = folder.map(|folder| folder.join("kube-vip")).filter(|path| path.is_file());
        path.context("there is no kube-vip in VIPD_KUBE_BIN: `tests/kube/build etcd kube-apiserver kubectl kube-vip` builds it")
    }

    /// Finds the client-go participant by `VIPD_PARTICIPANT`.
    ///
    /// # Errors
    /// If it was not built.
    pub fn participant(&self) -> Result<PathBuf> {
        let path = std::env::var_os("VIPD_PARTICIPANT").map(PathBuf::from).filter(|path| path.is_file());
        let path = path.context("VIPD_PARTICIPANT names no participant: tests/kube/run builds it")?;
        Ok(path.canonicalize()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_is_found_by_its_name() {
        for system in System::ALL {
            assert_eq!(system.name().parse(), Ok(system));
        }
        assert!("keepalive".parse::<System>().unwrap_err().contains("keepalived-tuned"));
    }

    #[test]
    fn what_elects_by_lease_is_asked_for_at_the_port_of_what_answers() {
        let at = |name: &str| name.parse::<System>().map(|system| system.frontend().to_string());
        assert_eq!(at("vipd-lease-5"), Ok("10.0.0.162:6443".to_owned()));
        assert_eq!(at("vipd-lease-5-balancer"), Ok("10.0.0.162:8443".to_owned()));
        assert_eq!(at("kube-vip-15"), Ok("10.0.0.162:6443".to_owned()));
    }
}
