//! What a machine has to let vipd do: capabilities, memory, time, descriptors.

use std::io;

use rustix::fs::inotify;
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

use super::{Finding, about};
use crate::config::{Config, Vip};
use crate::{exit, memory, punctuality, scheduling};

/// Everything but the time.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = for_addresses(config);
    findings.extend(for_ports(config));
    if !config.vips.is_empty() {
        findings.push(locked_memory());
    }
    findings.extend(open_files(config));
    findings.extend(config.reload_on_change.then(watches));
    findings
}

/// The capabilities that the addresses need.
pub(super) fn for_addresses(config: &Config) -> Vec<Finding> {
    let needed = !config.vips.is_empty();
    capabilities(&[
        (CapabilitySet::NET_ADMIN, "NET_ADMIN", "put the address on the interface", needed),
        (CapabilitySet::NET_RAW, "NET_RAW", "send ARP and ND frames", needed),
    ])
}

/// Whether an owner of the address would stay in RAM.
fn locked_memory() -> Finding {
    match memory::is_permitted() {
        Ok(true) => Finding::good(
            &about::MEMORY,
            "memory can be locked: a host that is short of it does not stall the election",
        ),
        Ok(false) => Finding::doubtful(
            &about::MEMORY,
            "memory can't be locked: a host that is short of it may stall the election",
            memory::HELP,
        ),
        Err(error) => Finding::unseen(
            &about::MEMORY,
            format!("failed to find out whether memory can be locked: {error}"),
            "run as root",
        ),
    }
}

/// Whether this host wakes a process in time for an election of short deadlines: one that runs here tells in its status.
pub(super) async fn timing(vip: &Vip) -> Option<Finding> {
    let timing = vip.timing().filter(|timing| punctuality::is_worth_a_trial(timing))?;
    // As the daemon's main thread is. It is the last of this command's cares whether that is permitted: the finding tells.
    let is_realtime = scheduling::raise().is_ok();
    let trial = punctuality::measure(timing).await?;
    Some(match trial.refusal(timing, is_realtime) {
        None => {
            let text = format!(
                "this host wakes vipd in time for a lease of {:?}: {:?} late, {:?} permitted",
                timing.lease(),
                trial.delay(),
                timing.tolerance()
            );
            Finding::good(&about::WAKE_UPS, text)
        }
        Some(refusal) if vip.refuses_late_hosts => {
            Finding::bad(&about::WAKE_UPS, exit::UNAVAILABLE, refusal.to_string(), refusal.help())
        }
        Some(refusal) => Finding::doubtful(&about::WAKE_UPS, refusal.to_string(), refusal.help()),
    })
}

/// The capability that a port below 1024 needs.
fn for_ports(config: &Config) -> Vec<Finding> {
    let low_port = config
        .balancer
        .iter()
        .flat_map(|balancer| &balancer.config.frontends)
        .filter_map(|frontend| frontend.listen.own_port())
        .any(|port| port < 1024);
    capabilities(&[(
        CapabilitySet::NET_BIND_SERVICE,
        "NET_BIND_SERVICE",
        "listen on a port below 1024",
        low_port,
    )])
}

/// Which of the capabilities that are needed this process has: each with its name and its purpose.
fn capabilities(needed: &[(CapabilitySet, &str, &str, bool)]) -> Vec<Finding> {
    let effective = match rustix::thread::capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => {
            let what = format!("failed to read this process's capabilities: {error}");
            return vec![Finding::unseen(&about::CAPABILITY, what, "run as root")];
        }
    };
    needed
        .iter()
        .filter(|&&(.., needed)| needed)
        .map(|&(capability, name, why, _)| {
            if effective.contains(capability) {
                Finding::good(&about::CAPABILITY, format!("the capability {name} is here, to {why}"))
            } else {
                Finding::bad(
                    &about::CAPABILITY,
                    exit::NOPERM,
                    format!("the capability {name} is missing: it is needed to {why}"),
                    format!("run as root, or add {name} to the container's or the unit's capabilities"),
                )
            }
        })
        .collect()
}

/// Whether as many connections as the load balancers may hold would find descriptors. vipd lifts the soft limit to the hard one.
fn open_files(config: &Config) -> Option<Finding> {
    let frontends = &config.balancer.as_ref()?.config.frontends;
    let carried = frontends.iter().filter(|frontend| frontend.listen.own_port().is_some());
    let connections: u64 = carried.map(|frontend| frontend.limits.max_connections as u64).sum();
    let wanted = lb::files_of(connections);
    let limit = getrlimit(Resource::Nofile);
    let (Some(soft), Some(hard)) = (limit.current, limit.maximum) else {
        return Some(Finding::good(&about::OPEN_FILES, "descriptors are not limited"));
    };
    if wanted <= hard {
        let text = format!("{hard} descriptors can be had, {soft} without asking");
        return Some(Finding::good(&about::OPEN_FILES, text));
    }
    Some(Finding::doubtful(
        &about::OPEN_FILES,
        format!(
            "{connections} connections (`maxConnections`) take {wanted} descriptors, and {hard} can be had"
        ),
        format!(
            "`LimitNOFILE={wanted}` in the unit, or `ulimit -n {wanted}` before the start; or write fewer `maxConnections`"
        ),
    ))
}

/// Whether a changed file would be heard of.
fn watches() -> Finding {
    let begun = inotify::init(inotify::CreateFlags::CLOEXEC)
        .and_then(|events| inotify::add_watch(&events, "/", inotify::WatchFlags::CLOSE_WRITE).map(drop));
    match begun.map_err(io::Error::from) {
        Ok(()) => Finding::good(&about::INOTIFY, "changes of the file can be heard of (`reloadOnChange`)"),
        Err(error) => Finding::doubtful(
            &about::INOTIFY,
            format!("changes of the file can't be heard of (`reloadOnChange`): {error}"),
            "`sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=65536`, and a file in /etc/sysctl.d that \
             says so; until then `systemctl reload vipd` after a change",
        ),
    }
}
