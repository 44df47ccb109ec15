//! Which looks a configuration needs, and which of them at the same time.

use std::net::IpAddr;

use super::{
    Finding, about, certificates, cluster, interface, machine, overhearing, ports, rules, segment, settings,
};
use crate::config::{Config, Election, Vip};
use crate::status::{self, Snapshot};

/// What all looks are told.
pub(super) struct Situation<'a> {
    pub(super) config: &'a Config,
    /// The vipd that runs here: its own ports and addresses are not judged.
    pub(super) running: Option<Snapshot>,
    /// The virtual addresses, and those that this host is a witness about are not among them.
    pub(super) addresses: Vec<vip::Address>,
    /// The interface of the addresses, where it can be used.
    pub(super) link: Option<String>,
}

impl Situation<'_> {
    /// The elections among peers that this host takes part in.
    pub(super) fn elections(&self) -> impl Iterator<Item = &leader::peers::Config> {
        let owned = self.config.vips.iter().filter_map(of_peers);
        owned.chain(self.config.witnesses.iter().map(|witness| &witness.election))
    }

    /// The virtual addresses without their prefixes.
    pub(super) fn virtual_ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| address.ip).collect()
    }
}

/// The election of a virtual address, if peers decide.
pub(super) fn of_peers(vip: &Vip) -> Option<&leader::peers::Config> {
    match &vip.election {
        Election::Peers(election) => Some(election),
        Election::Kubernetes(_) => None,
    }
}

/// Looks at everything the configuration needs.
pub(super) async fn examine(config: &Config, endpoint: Option<&str>) -> Vec<Finding> {
    let running = status::ask(&config.socket).ok();
    let mut findings = Vec::new();
    if running.is_some() {
        let text = format!(
            "a vipd runs here and answers on {}: its own ports and addresses are not judged",
            config.socket.display()
        );
        findings.push(Finding::good(&about::RUNNING, text));
    }
    findings.extend(machine::look(config));
    let addresses = config.vips.iter().flat_map(|vip| &vip.addresses).copied().collect();
    let mut situation = Situation { config, running, addresses, link: None };
    // What all addresses have in common is the same for the first of them.
    if let Some(first) = config.vips.first() {
        let (name, found) = interface::link(first).await;
        findings.extend(found);
        situation.link = name;
        if situation.running.is_none() {
            // Alone: what is measured is how late this thread is woken.
            findings.extend(machine::timing(first).await);
        }
    }
    let situation = &situation;
    // Bound before anybody is listened to, so that a port that is taken is told as such.
    findings.extend(ports::look(situation));
    findings.extend(settings::look(situation).await);
    let at_the_cluster = async {
        let (findings, name) = cluster::look(situation).await;
        (findings, certificates::look(situation, endpoint, name).await)
    };
    let (on_the_interface, on_the_segment, overheard, (cluster, certificates), names) = tokio::join!(
        interface::look(situation),
        segment::look(situation),
        overhearing::look(situation),
        at_the_cluster,
        cluster::backend_names(config),
    );
    findings.extend(on_the_interface);
    findings.extend(on_the_segment);
    findings.extend(rules::look(situation, overheard.heard));
    findings.extend(overheard.findings);
    findings.extend(cluster);
    findings.extend(certificates);
    findings.extend(names);
    findings
}
