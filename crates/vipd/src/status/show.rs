//! `vipd status`: the snapshot on one screen.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::report::{Backend, Frontend, Lease, Owner, Peer, Snapshot};
use crate::{cli, exit, fail, print};

/// Prints the status of the vipd behind a socket.
pub(crate) fn show(options: &cli::Status) -> ExitCode {
    let snapshot = match super::ask(&options.socket) {
        Ok(snapshot) => snapshot,
        Err(error) => return fail(exit::UNAVAILABLE, &error),
    };
    if options.json {
        return match serde_json::to_string_pretty(&snapshot) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => fail(exit::SOFTWARE, &anyhow::Error::new(error)),
        };
    }
    print(&text(&snapshot))
}

/// The snapshot for people.
fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ =
        writeln!(out, "node       {}, vipd {}, up {}", snapshot.node, snapshot.version, ago(snapshot.up_ms));
    if let Some(owner) = &snapshot.owner {
        write_owner(&mut out, owner);
    }
    for frontend in &snapshot.load_balancers {
        write_frontend(&mut out, frontend);
    }
    out
}

fn write_owner(out: &mut String, owner: &Owner) {
    let leader = match (&owner.leader, owner.lease_left_ms) {
        (_, Some(left)) => format!("this node, {left} ms of its lease left"),
        (Some(leader), None) => leader.clone(),
        (None, None) => "nobody".to_owned(),
    };
    let _ = writeln!(out, "leader     {leader}");
    let _ = writeln!(
        out,
        "address    {} on {}: {}; repaired {}, conflicts {}",
        owner.addresses.join(", "),
        owner.interface,
        owner.state,
        count(owner.repairs),
        owner.conflicts
    );
    if !owner.link_up {
        let _ = writeln!(out, "           the link of {} is down", owner.interface);
    }
    if let Some(lease) = &owner.lease {
        write_lease(out, lease);
    }
    for Peer { id, address, heard_ms, eligible, version, trouble, .. } in &owner.peers {
        let heard = heard_ms.map_or_else(|| "never heard".to_owned(), |ms| format!("heard {} ago", ago(ms)));
        let fit = if *eligible == Some(false) { ", unfit to lead" } else { "" };
        let version = version.as_deref().map(|version| format!(", vipd {version}")).unwrap_or_default();
        let trouble = trouble.as_deref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let _ = writeln!(out, "peer       {id} ({address}) {heard}{fit}{version}{trouble}");
    }
}

fn write_lease(out: &mut String, lease: &Lease) {
    let Lease { name, holder, transitions, server, watching, trouble, .. } = lease;
    let holder = holder.as_deref().unwrap_or("nobody");
    let server = server.as_deref().unwrap_or("no apiserver yet");
    let watch = if *watching { "" } else { ", no watch open" };
    let _ = writeln!(
        out,
        "lease      {name} held by {holder}, changed hands {}; asked {server}{watch}",
        count(u64::try_from(*transitions).unwrap_or(0))
    );
    if let Some(trouble) = trouble {
        let _ = writeln!(out, "           {trouble}");
    }
}

fn write_frontend(out: &mut String, frontend: &Frontend) {
    let Frontend { name, listen, redirected, connections, backends, .. } = frontend;
    let from = redirected.map(|port| format!(", redirected from port {port}")).unwrap_or_default();
    let _ = writeln!(out, "balancer   {name} on {}{from}: {connections} open", listen.join(", "));
    for Backend { name, address, health, connections, total, last_error, .. } in backends {
        let label = if name == address { String::new() } else { format!(" ({name})") };
        let error = last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        let _ =
            writeln!(out, "  backend  {address}{label} {health}, {connections} open, {total} in all{error}");
    }
}

fn count(times: u64) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

/// A duration in the two units that matter.
fn ago(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    match duration.as_secs() {
        0 => format!("{ms} ms"),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_the_units_that_matter() {
        let shown = [0, 999, 1_000, 61_000, 3_660_000, 90_000_000].map(ago);
        assert_eq!(shown, ["0 ms", "999 ms", "1 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
