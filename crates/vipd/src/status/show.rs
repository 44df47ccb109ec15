//! `vipd status`: the snapshot on one screen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::colour::{is_wanted, paint};
use super::owner::{Clients, Lease, Move, Owner, Peer, TieBreak};
use super::report::{Backend, Frontend, MainLoop, Other, Snapshot};
use crate::{cli, exit, fail, print};

/// Prints the status of the vipd behind a socket.
pub(crate) fn show(options: &cli::Status) -> ExitCode {
    if options.watch {
        return super::watch::watch(&options.socket);
    }
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
    let text = text(&snapshot);
    print(&if is_wanted() { paint(&text) } else { text })
}

/// What the lines of backends, peers and moves begin with, and those that belong to the one before.
pub(super) const BACKEND: &str = "  backend  ";
pub(super) const PEER: &str = "peer  ";
pub(super) const MOVE: &str = "move  ";
pub(super) const CONTINUED: &str = "           ";

/// The snapshot for people.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ =
        writeln!(out, "node       {}, vipd {}, up {}", snapshot.node, snapshot.version, ago(snapshot.up_ms));
    write_main_loop(&mut out, &snapshot.main_loop);
    for owner in &snapshot.owners {
        write_owner(&mut out, owner, &snapshot.others);
    }
    for frontend in &snapshot.load_balancers {
        write_frontend(&mut out, frontend);
    }
    out
}

fn write_main_loop(out: &mut String, main_loop: &MainLoop) {
    let MainLoop { realtime, delay_p99_us, delay_max_us, delay_permitted_us, late } = *main_loop;
    // Where no election counts in milliseconds it is of no concern.
    let Some(permitted) = delay_permitted_us else { return };
    let ms = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let _ = writeln!(
        out,
        "woken      {} late but for one in a hundred, {} at most, {} permitted{}{}",
        ms(delay_p99_us),
        ms(delay_max_us),
        ms(permitted),
        if late { ": too late, leases may be lost" } else { "" },
        if realtime { "" } else { "; ordinary priority" }
    );
}

fn write_owner(out: &mut String, owner: &Owner, others: &Others) {
    let leader = match (&owner.leader, owner.lease_left_ms) {
        (_, Some(left)) => format!("this node, {left} ms of its lease left"),
        (Some(leader), None) => leader.clone(),
        (None, None) => "nobody".to_owned(),
    };
    let _ = writeln!(out, "leader     {leader}");
    if owner.is_witness() {
        let _ = writeln!(
            out,
            "address    {}: never here, this node is a witness and only votes",
            owner.addresses.join(", ")
        );
        write_peers(out, owner, others);
        return;
    }
    let _ = writeln!(
        out,
        "address    {} on {}: {}; repaired {}, conflicts {}",
        owner.addresses.join(", "),
        owner.interface,
        owner.state,
        count(owner.repairs),
        owner.conflicts
    );
    if !owner.fenced {
        out.push_str(
            "           not fenced by the kernel: if vipd is killed, this node answers until the address's lifetime ends\n",
        );
    }
    if !owner.memory_locked {
        out.push_str("           memory is not locked: a host that is short of it may stall the election\n");
    }
    if !owner.link_up {
        let _ = writeln!(out, "           the link of {} is down", owner.interface);
    }
    if let Some(lease) = &owner.lease {
        write_lease(out, lease);
    }
    if let Some(clients) = &owner.clients {
        write_clients(out, clients);
    }
    if let Some(tie_break) = &owner.tie_break {
        write_tie_break(out, tie_break);
    }
    write_peers(out, owner, others);
    let peers: BTreeSet<&str> = owner.peers.iter().map(|peer| peer.id.as_str()).collect();
    for (name, other) in others.iter().filter(|(name, _)| !peers.contains(name.as_str())) {
        let _ = writeln!(out, "node       {name}");
        write_other(out, owner, other);
    }
    write_moves(out, owner);
}

/// What the other nodes say of themselves.
type Others = BTreeMap<String, Other>;

/// What was told so lately is so: each node says it once a second. Of what is older nobody knows whether it still is.
const TOLD_LATELY_MS: u64 = 1500;

/// As many moves are shown, the latest.
const MOVES_SHOWN: usize = 5;

fn write_moves(out: &mut String, owner: &Owner) {
    for Move { from, to, reason, ago_ms, took_ms } in owner.moves.iter().take(MOVES_SHOWN) {
        let what = match (from, reason.as_str()) {
            (None, _) => format!("{to} was the first to have it"),
            (Some(from), "stepped_down") => format!("to {to}: {from} was told to step down"),
            (Some(from), "stopped") => format!("to {to}: {from} was stopped"),
            (Some(from), "unfit") => format!("to {to}: {from} was no longer fit to lead"),
            (Some(from), "gave_way") => format!("to {to}: {from} gave way to it"),
            (Some(from), "released") => format!("to {to}: {from} let go of the Lease"),
            (Some(from), "silent") => format!("to {to}: {from} fell silent"),
            (Some(from), "restarted") => format!("to {to}: {from} was started anew"),
            (Some(_), "lapsed") => format!("{to} lost its lease, and got it back"),
            (Some(from), _) => format!("from {from} to {to}"),
        };
        let took = took_ms.map(|ms| format!(", {} without", ago(ms))).unwrap_or_default();
        let _ = writeln!(out, "move       {} ago {what}{took}", ago(*ago_ms));
    }
}

fn write_peers(out: &mut String, owner: &Owner, others: &Others) {
    for Peer { id, address, heard_ms, eligible, resting, witness, version, trouble, .. } in &owner.peers {
        let heard = heard_ms.map_or_else(|| "never heard".to_owned(), |ms| format!("heard {} ago", ago(ms)));
        let fit = match (eligible, witness) {
            (_, Some(true)) => ", a witness",
            (Some(false), _) => ", unfit to lead",
            (Some(true) | None, _) => "",
        };
        let rests = if *resting == Some(true) { ", stepped down, rests" } else { "" };
        let version = version.as_deref().map(|version| format!(", vipd {version}")).unwrap_or_default();
        let trouble = trouble.as_deref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let _ = writeln!(out, "peer       {id} ({address}) {heard}{fit}{rests}{version}{trouble}");
        if let Some(other) = others.get(id) {
            write_other(out, owner, other);
        }
    }
}

/// What a peer says of itself.
fn write_other(out: &mut String, owner: &Owner, other: &Other) {
    let is_old = other.told_ms > TOLD_LATELY_MS;
    let old = if is_old { format!("said {} ago: ", ago(other.told_ms)) } else { String::new() };
    let Some(status) = &other.status else {
        let _ = writeln!(out, "           {old}its status is of a release that this one can't read");
        return;
    };
    let seat = status.owners.iter().find(|seat| seat.addresses == owner.addresses);
    let seat = seat.map(|seat| {
        let link = if seat.link_up { "" } else { ", its link is down" };
        let fence = if seat.fenced { "" } else { ", not fenced" };
        format!("{}{link}{fence}, ", seat.state)
    });
    let stops = if status.stopping { ", stopping" } else { "" };
    let late = if status.main_loop.late { ", woken too late" } else { "" };
    let balances: String =
        status.load_balancers.iter().map(|frontend| format!("; {}", summary(frontend))).collect();
    let seat = seat.unwrap_or_default();
    let _ = writeln!(out, "           {old}{seat}up {}{stops}{late}{balances}", ago(status.up_ms));
}

/// A load balancer in a few words.
fn summary(frontend: &Frontend) -> String {
    let Frontend { name, backends, connections, .. } = frontend;
    let ready = backends.iter().filter(|backend| backend.health == "ready").count();
    let bad: Vec<String> = (backends.iter())
        .filter(|backend| backend.health != "ready" || backend.drained || backend.cordoned)
        .map(|backend| {
            let out = if backend.drained || backend.cordoned { " out of use" } else { "" };
            let health = Some(&backend.health).filter(|health| *health != "ready");
            let health = health.map(|health| format!(" {health}")).unwrap_or_default();
            format!("{}{health}{out}", backend.address)
        })
        .collect();
    let bad = if bad.is_empty() { String::new() } else { format!(" ({})", bad.join(", ")) };
    format!("{name} {ready} of {} ready{bad}, {connections} open", backends.len())
}

fn write_clients(out: &mut String, clients: &Clients) {
    let Clients { own, beyond_limit, of_leader, tickles } = clients;
    let _ = writeln!(out, "clients    {own} here, {of_leader} of the leader's known; {tickles} tickles sent");
    if *beyond_limit > 0 {
        let _ = writeln!(
            out,
            "           {beyond_limit} more than the peers are told of: if they are idle, they notice a move late"
        );
    }
}

fn write_tie_break(out: &mut String, tie_break: &TieBreak) {
    let TieBreak { rule, address, answers, needed, votes_for_this_node } = tie_break;
    let who = match address {
        Some(address) if address == rule => address.clone(),
        Some(address) => format!("{rule}, {address}"),
        None => format!("{rule}, of which there is none: no default route leads over the interface"),
    };
    let answers = match answers {
        Some(true) => " answers",
        Some(false) => " does not answer",
        None => "",
    };
    let votes = match (votes_for_this_node, needed) {
        (true, _) => ", and this node leads by the segment's vote",
        (false, true) => ", and the segment has voted for nobody here",
        (false, false) => ", and is not needed",
    };
    let _ = writeln!(out, "tie-break  {who}{answers}{votes}");
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
    let Frontend { name, leaving, listen, redirected, forwarded, connections, backends, .. } = frontend;
    let from = redirected.map(|port| format!(", redirected from port {port}")).unwrap_or_default();
    let by = if *forwarded { " in the kernel" } else { "" };
    let listen = listen.join(", ");
    let at =
        if *leaving { "no more in the configuration".to_owned() } else { format!("on {listen}{from}{by}") };
    let _ = writeln!(out, "balancer   {name} {at}: {connections} open");
    for backend in backends {
        let _ = writeln!(out, "{BACKEND}{}", backend_line(backend, *forwarded));
    }
}

/// A backend in a line; where the kernel carries its connections, only the open ones are known.
pub(super) fn backend_line(backend: &Backend, forwarded: bool) -> String {
    let Backend { name, address, health, share_percent, drained, cordoned, .. } = backend;
    let Backend { connections, total, last_error, .. } = backend;
    let starts = health == "ready" && *share_percent < 100;
    let slowly = if starts { format!(", starting slowly ({share_percent} %)") } else { String::new() };
    let drained = if *drained { ", drained by command" } else { "" };
    let cordoned = if *cordoned { ", on a cordoned node" } else { "" };
    let label = if name == address { String::new() } else { format!(" ({name})") };
    let error = last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let total = if forwarded { String::new() } else { format!(", {total} in all") };
    format!("{address}{label} {health}{slowly}{drained}{cordoned}, {connections} open{total}{error}")
}

fn count(times: u64) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

/// A duration in the two units that matter.
pub(crate) fn ago(ms: u64) -> String {
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
    fn a_tie_break_says_whether_it_answers_and_for_whom_the_segment_votes() {
        let shown = |address: Option<&str>, answers, needed, votes_for_this_node| {
            let address = address.map(str::to_owned);
            let mut out = String::new();
            let rule = "gateway".to_owned();
            write_tie_break(&mut out, &TieBreak { rule, address, answers, needed, votes_for_this_node });
            out
        };
        let gateway = Some("10.0.0.1");
        assert_eq!(
            shown(gateway, Some(true), false, false),
            "tie-break  gateway, 10.0.0.1 answers, and is not needed\n"
        );
        assert_eq!(
            shown(gateway, Some(true), true, true),
            "tie-break  gateway, 10.0.0.1 answers, and this node leads by the segment's vote\n"
        );
        assert_eq!(
            shown(gateway, Some(false), true, false),
            "tie-break  gateway, 10.0.0.1 does not answer, and the segment has voted for nobody here\n"
        );
        assert!(shown(None, None, false, false).contains("there is none"));
    }

    #[test]
    fn durations_are_shown_in_the_units_that_matter() {
        let shown = [0, 999, 1_000, 61_000, 3_660_000, 90_000_000].map(ago);
        assert_eq!(shown, ["0 ms", "999 ms", "1 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
