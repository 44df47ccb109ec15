//! Are the servers' certificates for the address and the name that clients connect to? They do their own TLS through the balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use lb::certificate::{self, Served, served};

use super::examination::Situation;
use super::{Finding, about};
use crate::config::{Config, Election};
use crate::daemon::resolution;

/// How long a server has to show its certificate.
const PATIENCE: Duration = Duration::from_secs(2);

/// Servers that are asked: more than a control plane has.
const SERVERS_MAX: usize = 32;

/// Names of a certificate that are told.
const TOLD_MAX: usize = 12;

/// Asks all servers at the same time, and looks the name up that clients are given. The other name is one that a kubeconfig has, which may
/// also lead elsewhere.
pub(super) async fn look(
    situation: &Situation<'_>,
    endpoint: Option<&str>,
    other: Option<String>,
) -> Vec<Finding> {
    let mut names: Vec<String> = situation.virtual_ips().iter().map(ToString::to_string).collect();
    names.extend(endpoint.map(str::to_owned).or(other));
    if names.is_empty() {
        return Vec::new();
    }
    let names = &names;
    let servers = servers(situation.config);
    let asked = servers.iter().take(SERVERS_MAX).map(|(address, is_certain)| async move {
        judged(*address, *is_certain, &served(*address, names, PATIENCE).await)
    });
    let (judged, named) = tokio::join!(join_all(asked), resolved(situation, endpoint));
    judged.into_iter().flatten().chain(named).collect()
}

/// The servers that clients come to, and whether each is sure to speak TLS.
fn servers(config: &Config) -> BTreeMap<SocketAddr, bool> {
    let mut servers = BTreeMap::new();
    let balanced = config.balancer.iter().map(|balancer| &balancer.config);
    for frontend in balanced.chain(&config.health_check).flat_map(|config| &config.frontends) {
        let is_certain = match &frontend.check.kind {
            lb::CheckKind::Https { .. } => true,
            lb::CheckKind::Auto { .. } => false,
            lb::CheckKind::Tcp | lb::CheckKind::None => continue,
        };
        for backend in &frontend.backends {
            servers.insert(backend.address, is_certain);
        }
    }
    for vip in &config.vips {
        if let Election::Kubernetes(election) = &vip.election {
            servers.insert(election.access.own, true);
        }
    }
    servers
}

fn judged(
    address: SocketAddr,
    is_certain: bool,
    served: &Result<Served, certificate::Error>,
) -> Option<Finding> {
    let subject = &about::CERTIFICATE;
    match served {
        Ok(Served { missing, .. }) if missing.is_empty() => {
            let text = format!("the certificate of {address} is for all that clients connect to");
            Some(Finding::good(subject, text))
        }
        Ok(served) => {
            let missing = served.missing.join(", ");
            let shown: Vec<&str> = served.presented.iter().take(TOLD_MAX).map(String::as_str).collect();
            let text =
                format!("the certificate of {address} is not for {missing}, but for {}", shown.join(", "));
            Some(Finding::doubtful(subject, text, mend(served)))
        }
        // Some other service, whose clients know what they talk to.
        Err(certificate::Error::NotTls) if !is_certain => None,
        Err(certificate::Error::Silent(error)) => Some(Finding::unseen(
            subject,
            format!("the certificate of {address}: {error}"),
            "before `kubeadm init`, or `join` there, that is as it should be; afterwards check again",
        )),
        Err(error @ (certificate::Error::NotTls | certificate::Error::Unreadable(_))) => {
            Some(Finding::unseen(
                subject,
                format!("the certificate of {address}: {error}"),
                format!("`openssl s_client -connect {address}` shows what it answers"),
            ))
        }
    }
}

/// What gives a server's certificate the names that it lacks.
fn mend(served: &Served) -> String {
    if !served.is_apiserver {
        return format!("issue it anew with {} as subject alternative names", served.missing.join(", "));
    }
    format!(
        "add {} to `apiServer.certSANs` of the ClusterConfiguration (`kubectl -n kube-system edit configmap kubeadm-config`; before `kubeadm init`: in \
         its --config file); then on that host `mv /etc/kubernetes/pki/apiserver.* /root/`, `kubeadm init phase certs apiserver --config FILE`, and \
         restart kube-apiserver",
        served.missing.join(" and ")
    )
}

/// Whether the name that clients are given leads to the virtual addresses.
async fn resolved(situation: &Situation<'_>, endpoint: Option<&str>) -> Option<Finding> {
    let endpoint = endpoint?;
    let virtual_ips: BTreeSet<IpAddr> = situation.virtual_ips().into_iter().collect();
    let wanted = crate::listed(&virtual_ips);
    Some(match resolution::look_up(endpoint).await {
        Err(error) => Finding::doubtful(
            &about::ENDPOINT,
            format!("{endpoint} has no address: {error}"),
            format!(
                "add a DNS record that says {wanted}; while a cluster is made, a line in each host's /etc/hosts"
            ),
        ),
        Ok(found) if virtual_ips.is_empty() || found.iter().all(|ip| virtual_ips.contains(ip)) => {
            Finding::good(&about::ENDPOINT, format!("{endpoint} is {}", crate::listed(found)))
        }
        Ok(found) => Finding::doubtful(
            &about::ENDPOINT,
            format!("{endpoint} is {}, and the virtual address is {wanted}", crate::listed(found)),
            format!("make its DNS record, or the line in /etc/hosts, say {wanted}"),
        ),
    })
}
