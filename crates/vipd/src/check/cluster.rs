//! What does the API permit? And what of the cluster touches the addresses.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use leader::kubernetes::{Access, EVENT_NAMESPACE, Right, Survey, SurveyError};

use tokio::time::timeout;

use super::examination::Situation;
use super::subjects::Subject;
use super::{Finding, about};
use crate::config::{Config, Election, Record};
use crate::daemon::resolution;

/// How long an apiserver has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long all of them have together, with each of the credentials.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(6);

/// What the API has of this command in its log.
const AGENT: &str = concat!("vipd-check/", env!("CARGO_PKG_VERSION"));

/// The interface on which kube-proxy in IPVS mode has the Services' addresses.
const IPVS: &str = "kube-ipvs0";

/// `strictARP` sets these for all interfaces.
const STRICT_ARP: &str = "/proc/sys/net/ipv4/conf/all/arp_ignore";

/// What is done at the API, and what says how to permit it.
struct Errand<'a> {
    access: &'a Access,
    rights: Vec<Right>,
    mend: &'static str,
    /// What comes of it where nobody may be asked.
    without: &'static str,
    /// What vipd does there besides, and goes on without.
    besides: Vec<Besides>,
}

/// Something that is told the API.
struct Besides {
    subject: &'static Subject,
    rights: Vec<Right>,
    /// What it is, as in: it may not be done.
    what: &'static str,
    mend: &'static str,
}

/// Asks the API, if the configuration does. Besides, the DNS name by which the credentials reach it, if they do so by a name.
pub(super) async fn look(situation: &Situation<'_>) -> (Vec<Finding>, Option<String>) {
    let (mut findings, mut proxy, mut name) = (Vec::new(), None, None);
    for errand in errands(situation.config) {
        let besides = errand.besides.iter().flat_map(|besides| &besides.rights);
        let all: Vec<Right> = errand.rights.iter().chain(besides).cloned().collect();
        let asked = Survey::make(errand.access, &all, AGENT, PATIENCE);
        let Ok(surveyed) = timeout(PATIENCE_IN_ALL, asked).await else {
            findings.push(silent(&format!("nobody has answered for {PATIENCE_IN_ALL:?}")));
            continue;
        };
        findings.extend(told(&errand, &surveyed));
        if let Ok(survey) = surveyed {
            proxy = proxy.or(survey.proxy);
            name = name.or(survey.name);
        }
    }
    if situation.link.is_some() {
        findings.extend(kube_proxy(proxy.as_deref()).await);
    }
    (findings, name)
}

/// One for the Lease, which is the same for all addresses, and one for who discovers apiservers alone.
fn errands(config: &Config) -> Vec<Errand<'_>> {
    let mut errands = Vec::new();
    let leases = config.vips.iter().find_map(|vip| match &vip.election {
        Election::Kubernetes(election) => Some(election),
        Election::Peers(_) => None,
    });
    if let Some(election) = leases {
        let lease = |verb| Right {
            verb,
            group: "coordination.k8s.io",
            resource: "leases",
            namespace: Some(election.namespace.clone()),
        };
        let mut rights: Vec<Right> = ["get", "list", "watch", "create", "update"].map(lease).into();
        let nodes = |verb| Right { verb, group: "", resource: "nodes", namespace: None };
        rights.extend(["list", "watch"].map(nodes));
        errands.push(Errand {
            access: &election.access,
            rights,
            mend: "`vipd manifest rbac | kubectl apply -f -`, and use that ServiceAccount; or name an administrator's kubeconfig",
            without: "nobody leads from here until there is one",
            besides: config.record.as_ref().map(besides).unwrap_or_default(),
        });
    } else if let Some(record) = &config.record {
        errands.push(Errand {
            access: &record.access,
            rights: Vec::new(),
            mend: "name a kubeconfig with these rights (`kubernetes.kubeconfig`)",
            without: "the API is told of no move until there is one",
            besides: besides(record),
        });
    }
    if let Some(access) = &config.discovery {
        let slices = |verb| Right {
            verb,
            group: "discovery.k8s.io",
            resource: "endpointslices",
            namespace: Some("default".to_owned()),
        };
        errands.push(Errand {
            access,
            rights: ["list", "watch"].map(slices).into(),
            mend: "docs/balancer-alone.md has a ServiceAccount and its Role; write its kubeconfig to `kubernetes.kubeconfig`",
            without: "nothing is discovered until there is one",
            besides: Vec::new(),
        });
    }
    errands
}

/// The rights that Events and the label take.
fn besides(record: &Record) -> Vec<Besides> {
    let nodes = |verb| Right { verb, group: "", resource: "nodes", namespace: None };
    let events = record.events.then(|| Besides {
        subject: &about::EVENTS,
        rights: vec![Right {
            verb: "create",
            group: "events.k8s.io",
            resource: "events",
            namespace: Some(EVENT_NAMESPACE.to_owned()),
        }],
        what: "Events of moves",
        mend: "apply what `vipd manifest rbac` prints, which has a Role for it; or `kubernetes: {events: false}`",
    });
    let label = record.label.map(|_| Besides {
        subject: &about::NODE_LABEL,
        rights: ["list", "patch"].map(nodes).into(),
        what: "the label of the owner's Node",
        mend: "apply what `vipd manifest rbac --enableNodeLabeling` prints; or `kubernetes: {nodeLabel: false}`",
    });
    events.into_iter().chain(label).collect()
}

/// A kubeconfig that appears later (`kubeadm init` writes it after the static Pods) is found then.
fn told(errand: &Errand<'_>, surveyed: &Result<Survey, SurveyError>) -> Vec<Finding> {
    let survey = match surveyed {
        Ok(survey) => survey,
        Err(SurveyError::Absent(_)) => {
            let tried = crate::listed(errand.access.kubeconfigs.iter().map(|file| file.display()));
            return vec![Finding::doubtful(
                &about::CREDENTIALS,
                format!("no kubeconfig can be read (tried {tried}): {}", errand.without),
                "before `kubeadm init` that is as it should be; otherwise correct `kubernetes.kubeconfig`",
            )];
        }
        Err(SurveyError::Unusable(error)) => {
            let help =
                "write it anew (`kubeadm init phase kubeconfig admin`), or correct `kubernetes.kubeconfig`";
            return vec![Finding::doubtful(&about::CREDENTIALS, error, help)];
        }
    };
    let mut findings =
        vec![Finding::good(&about::CREDENTIALS, format!("{} can be used", survey.credentials))];
    let Some(server) = survey.server else {
        let each = survey.silent.iter().map(|(server, error)| format!("{server}: {error}"));
        findings.push(silent(&crate::listed(each)));
        return findings;
    };
    findings.push(Finding::good(&about::API, format!("the apiserver {server} answers")));
    findings.extend(rights(errand, survey));
    findings
}

fn silent(why: &str) -> Finding {
    Finding::unseen(
        &about::API,
        format!("the API: no apiserver answers ({why})"),
        "before `kubeadm init` that is as it should be; afterwards look at `crictl ps -a` and `kubernetes.server`",
    )
}

fn rights(errand: &Errand<'_>, survey: &Survey) -> Vec<Finding> {
    if let Some(refusal) = &survey.refusal {
        let what = format!("the rights of {}: {refusal}", survey.credentials);
        return vec![Finding::unseen(&about::RIGHTS, what, errand.mend)];
    }
    let missing = |rights: &[Right]| -> Vec<Right> {
        survey.missing.iter().filter(|right| rights.contains(right)).cloned().collect()
    };
    let mut findings = Vec::new();
    let lacking = missing(&errand.rights);
    if !lacking.is_empty() {
        let text = format!("{} may not {}", survey.credentials, crate::listed(&lacking));
        findings.push(Finding::doubtful(&about::RIGHTS, text, errand.mend));
    } else if !errand.rights.is_empty() {
        let text =
            format!("{} may do all that vipd does: {}", survey.credentials, crate::listed(&errand.rights));
        findings.push(Finding::good(&about::RIGHTS, text));
    }
    for Besides { subject, rights, what, mend } in &errand.besides {
        let lacking = missing(rights);
        findings.push(if lacking.is_empty() {
            Finding::good(subject, format!("{} may write {what}", survey.credentials))
        } else {
            let lacking = crate::listed(&lacking);
            Finding::doubtful(subject, format!("{} may not {lacking}, for {what}", survey.credentials), *mend)
        });
    }
    findings
}

/// By what this host shows: the interface of IPVS mode, and whether ARP is answered for addresses of other interfaces. What the API has is
/// what the hosts get at their next start.
async fn kube_proxy(settings: Option<&str>) -> Option<Finding> {
    let here = vip::linux::interface(IPVS).await.is_ok();
    let is_strict = fs::read_to_string(STRICT_ARP).is_ok_and(|text| text.trim() != "0");
    let (told_ipvs, told_strict) = settings.map(of_settings).unwrap_or_default();
    if !here && !told_ipvs {
        return None;
    }
    if if here { is_strict } else { told_strict } {
        return Some(Finding::good(&about::KUBE_PROXY, "kube-proxy is in IPVS mode, with strictARP"));
    }
    Some(Finding::doubtful(
        &about::KUBE_PROXY,
        format!(
            "kube-proxy is in IPVS mode without strictARP: this host answers ARP for every address on {IPVS}"
        ),
        "set `ipvs.strictARP: true` (`kubectl -n kube-system edit configmap kube-proxy`), and `kubectl -n kube-system rollout restart daemonset kube-proxy`",
    ))
}

/// Whether kube-proxy's configuration says IPVS, and strictARP.
fn of_settings(text: &str) -> (bool, bool) {
    let document: serde_json::Value = serde_yaml::from_str(text).unwrap_or_default();
    (document["mode"] == "ipvs", document["ipvs"]["strictARP"] == true)
}

/// Whether the names of backends resolve. One that doesn't is no obstacle: vipd goes on asking.
pub(super) async fn backend_names(config: &Config) -> Vec<Finding> {
    let listed = config.balancer.iter().flat_map(|balancer| balancer.named.values().flatten());
    let hosts: BTreeSet<&str> = listed.filter_map(resolution::host).collect();
    let asked = hosts.into_iter().map(|host| async move {
        match resolution::look_up(host).await {
            Ok(found) => {
                Finding::good(&about::BACKEND_NAMES, format!("the backend {host} is {}", crate::listed(found)))
            }
            Err(error) => Finding::doubtful(
                &about::BACKEND_NAMES,
                format!("the backend {host} has no address: {error}"),
                "mend its records or this host's resolver (/etc/resolv.conf); vipd starts without it, and asks until it has one",
            ),
        }
    });
    futures_util::future::join_all(asked).await
}

#[cfg(test)]
mod tests {
    use super::of_settings;

    #[test]
    fn the_mode_and_strictness_of_kube_proxy_are_read() {
        assert_eq!(of_settings("mode: ipvs\nipvs: {strictARP: true}\n"), (true, true));
        assert_eq!(of_settings("mode: ipvs\nipvs: {strictARP: false}\n"), (true, false));
        assert_eq!(of_settings("mode: \"\"\n"), (false, false));
        assert_eq!(of_settings("["), (false, false));
    }
}
