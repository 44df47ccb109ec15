//! Two nodes, and what decides between them: the gateway by `tieBreak`, or a third member that only votes. Each cable that there is
//! is cut, both ways and one way, and each kind of death is died; `docs/two-nodes.md` has these as its rows.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

#![expect(clippy::print_stderr, reason = "what was measured is shown")]

mod enclosed;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::arp::at_once;
use lab::lab::Lab;
use lab::network::{CLIENT, NODES, ONLOOKER, VIP, node_address};
use lab::ownership::{Change, holders, overlaps};
use lab::system::{Arbiter, System};
use rtnetlink::RouteMessageBuilder;
use rustix::process::Signal;
use tokio::time::Instant;

/// Some 300 ms are expected where the address moves; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a cut does, it has done by then: several times a lease and an exclusion.
const LASTS: Duration = Duration::from_secs(2);
/// The place of the host that decides, among the nodes.
const ARBITER: usize = 2;

/// What is cut of a host's cable.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// All of it; the host keeps its carrier.
    Cable,
    /// All of it, with the carrier.
    Carrier,
    /// What the host sends.
    Outgoing,
    /// What it gets.
    Incoming,
}

const CUTS: [Cut; 4] = [Cut::Cable, Cut::Carrier, Cut::Outgoing, Cut::Incoming];

impl Cut {
    async fn make(self, lab: &mut Lab, place: usize) -> Result<()> {
        let name = NODES[place];
        let others = || NODES.into_iter().chain([CLIENT, ONLOOKER]).filter(move |other| *other != name);
        match self {
            Self::Cable => lab.switch.set_plugged(name, false).await,
            Self::Carrier => lab.switch.set_link(name, false).await,
            Self::Outgoing => lab.switch.cut(others().map(|other| (name.to_owned(), other.to_owned()))).await,
            Self::Incoming => lab.switch.cut(others().map(|other| (other.to_owned(), name.to_owned()))).await,
        }
    }
}

/// All cables are whole again.
async fn heal(lab: &mut Lab) -> Result<()> {
    lab.switch.heal().await?;
    for name in NODES {
        lab.switch.set_plugged(name, true).await?;
        lab.switch.set_link(name, true).await?;
    }
    Ok(())
}

/// Starts the two nodes with what decides between them; returns the owner.
async fn bring_up(lab: &mut Lab, arbiter: Arbiter) -> Result<usize> {
    for node in &lab.nodes[..ARBITER] {
        let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(node_address(ARBITER)).build();
        node.host.netlink.handle().route().add(route).execute().await?;
    }
    lab.start_system(System::VipdPair(arbiter))?;
    settled(lab).await
}

/// Waits until one node has had the address for some time, and both hear each other: then either may fail. Returns the owner.
async fn settled(lab: &Lab) -> Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        let since = Instant::now();
        let moved = |changes: &std::collections::VecDeque<Change>| {
            changes.back().filter(|change| change.at > since).map(|_| ())
        };
        // Longer than an abstention and an election.
        if lab.ownership.changes().wait_for(since + Duration::from_secs(1), moved).await.is_none() {
            return Ok(owner);
        }
        ensure!(Instant::now() < deadline, "not calm within {PATIENCE:?}");
    }
}

/// Waits until exactly these nodes hold the virtual IP.
async fn held_by(lab: &Lab, wanted: &[usize]) -> Result<()> {
    let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
    let held = lab.ownership.changes().wait_for(Instant::now() + PATIENCE, |changes| {
        (holders(changes, VIP.into()) == wanted).then_some(())
    });
    held.await.with_context(|| {
        let words: Vec<String> = lab.nodes.iter().map(|node| node.last_words_of_system()).collect();
        format!("held by {:?}, not by {wanted:?}, after {PATIENCE:?}:\n{}", lab.holders(), words.join("\n"))
    })
}

/// Since then, no ARP request had two answers.
fn never_two_answers(lab: &Lab, from: Instant) -> Result<()> {
    let (most, time) = lab.arp.rounds().read(|rounds| at_once(rounds.iter(), from));
    ensure!(most <= 1, "{most} nodes answered one ARP request, for {time:?}");
    Ok(())
}

/// Since then, no two had the address at once.
fn never_two_owners(lab: &Lab, from: Instant) -> Result<()> {
    let overlaps = overlaps(&lab.ownership.changes().entries(), from, Instant::now());
    ensure!(overlaps.is_empty(), "two nodes held the address: {overlaps:?}");
    never_two_answers(lab, from)
}

/// Makes a cut, lets it last, and says who has the address then; never two, neither then nor after it is healed.
async fn through(lab: &mut Lab, cut: Cut, place: usize, expected: &[usize]) -> Result<()> {
    let from = Instant::now();
    cut.make(lab, place).await?;
    held_by(lab, expected).await?;
    let took = from.elapsed();
    tokio::time::sleep(LASTS).await;
    let held: BTreeSet<usize> = expected.iter().copied().collect();
    ensure!(lab.holders() == held, "held by {:?} and not by {held:?} while it lasts", lab.holders());
    never_two_owners(lab, from)?;
    heal(lab).await?;
    settled(lab).await?;
    never_two_owners(lab, from)?;
    eprintln!("{cut:?} of {}: {expected:?} after {took:?}", NODES[place]);
    Ok(())
}

/// Makes each cut at one place, and demands that one node has the address while it lasts; both are told by who has it before.
async fn each_cut(lab: &mut Lab, place_and_holder: impl Fn(usize) -> (usize, usize)) -> Result<()> {
    bring_up(lab, Arbiter::TieBreak).await?;
    for cut in CUTS {
        let (place, holder) = place_and_holder(settled(lab).await?);
        through(lab, cut, place, &[holder]).await.with_context(|| format!("{cut:?}"))?;
    }
    Ok(())
}

#[test]
fn a_cut_at_the_owner_moves_the_address_with_a_tie_break() {
    in_a_lab("a_cut_at_the_owner_moves_the_address_with_a_tie_break", async |mut lab| {
        each_cut(&mut lab, |owner| (owner, 1 - owner)).await
    });
}

#[test]
fn a_cut_at_the_other_node_leaves_the_address_with_a_tie_break() {
    in_a_lab("a_cut_at_the_other_node_leaves_the_address_with_a_tie_break", async |mut lab| {
        each_cut(&mut lab, |owner| (1 - owner, owner)).await
    });
}

#[test]
fn a_cut_at_the_tie_break_leaves_the_address() {
    in_a_lab("a_cut_at_the_tie_break_leaves_the_address", async |mut lab| {
        each_cut(&mut lab, |owner| (ARBITER, owner)).await
    });
}

#[test]
fn a_one_way_cut_between_the_two_has_one_owner_with_a_tie_break() {
    in_a_lab("a_one_way_cut_between_the_two_has_one_owner_with_a_tie_break", async |mut lab| {
        bring_up(&mut lab, Arbiter::TieBreak).await?;
        for mute in [true, false] {
            let owner = settled(&lab).await?;
            let from = Instant::now();
            let (one, other) = (NODES[owner].to_owned(), NODES[1 - owner].to_owned());
            // The owner isn't heard, or doesn't hear.
            let (pair, expected) = if mute { ((one, other), 1 - owner) } else { ((other, one), owner) };
            lab.switch.cut([pair]).await?;
            held_by(&lab, &[expected]).await?;
            tokio::time::sleep(LASTS).await;
            ensure!(lab.holders() == [expected].into(), "{:?}", lab.holders());
            heal(&mut lab).await?;
            settled(&lab).await?;
            never_two_owners(&lab, from).with_context(|| format!("mute: {mute}"))?;
        }
        Ok(())
    });
}

/// The limit of a tie-break, named in the documentation.
#[test]
fn a_cut_exactly_between_two_that_see_the_tie_break_has_two_owners_until_it_is_healed() {
    let name = "a_cut_exactly_between_two_that_see_the_tie_break_has_two_owners_until_it_is_healed";
    in_a_lab(name, async |mut lab| {
        let owner = bring_up(&mut lab, Arbiter::TieBreak).await?;
        let (one, two) = (NODES[0].to_owned(), NODES[1].to_owned());
        lab.switch.cut([(one.clone(), two.clone()), (two, one)]).await?;
        held_by(&lab, &[0, 1]).await?;

        let healed = Instant::now();
        lab.switch.heal().await?;
        // The later owner has the higher term.
        held_by(&lab, &[1 - owner]).await?;
        eprintln!("one owner {:?} after healing", healed.elapsed());
        let calm = Instant::now();
        ensure!(settled(&lab).await? == 1 - owner);
        never_two_owners(&lab, calm)
    });
}

/// Nothing but the messages of the election is cut: the owner is seen to have the address all the same.
#[test]
fn a_firewall_between_the_two_leaves_the_address_with_a_tie_break() {
    in_a_lab("a_firewall_between_the_two_leaves_the_address_with_a_tie_break", async |mut lab| {
        let owner = bring_up(&mut lab, Arbiter::TieBreak).await?;
        let from = Instant::now();
        let rules = "table ip lab { chain in { type filter hook input priority 0; udp dport 10000 drop; }; }";
        for place in [0, 1] {
            lab::network::nft(Some(&lab.nodes[place].host.namespace), rules).await?;
        }
        tokio::time::sleep(LASTS).await;
        ensure!(lab.holders() == [owner].into(), "{:?}", lab.holders());
        for place in [0, 1] {
            lab::network::nft(Some(&lab.nodes[place].host.namespace), "delete table ip lab").await?;
        }
        settled(&lab).await?;
        never_two_owners(&lab, from)
    });
}

/// What the owner dies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    Frozen,
    Stopped,
    /// Its power is gone, and its carrier with it.
    PowerOff,
}

/// Lets the owner die in each way, and brings it back.
async fn deaths(lab: &mut Lab) -> Result<()> {
    for death in [Death::Killed, Death::Frozen, Death::Stopped, Death::PowerOff] {
        let owner = settled(lab).await?;
        let from = Instant::now();
        if death == Death::PowerOff {
            lab.switch.set_link(NODES[owner], false).await?;
        }
        let signal = match death {
            Death::Killed | Death::PowerOff => Signal::KILL,
            Death::Frozen => Signal::STOP,
            Death::Stopped => Signal::TERM,
        };
        lab.nodes[owner].process("vipd")?.signal(signal)?;
        let has = |changes: &std::collections::VecDeque<Change>| {
            holders(changes, VIP.into()).contains(&(1 - owner)).then_some(())
        };
        lab.ownership.changes().wait_for(from + PATIENCE, has).await.context("nobody took over")?;
        eprintln!("{death:?}: the other has it after {:?}", from.elapsed());
        // By then the kernel has taken it off the dead one.
        held_by(lab, &[1 - owner]).await?;
        heal(lab).await?;
        if death == Death::Frozen {
            lab.nodes[owner].process("vipd")?.signal(Signal::CONT)?;
        } else {
            lab.nodes[owner].await_end("vipd", lab::process::STOP_PATIENCE).await?;
            lab.nodes[owner].start_again("vipd")?;
        }
        settled(lab).await?;
        never_two_answers(lab, from).with_context(|| format!("{death:?}"))?;
    }
    Ok(())
}

#[test]
fn a_dead_owner_is_replaced_with_a_tie_break() {
    in_a_lab("a_dead_owner_is_replaced_with_a_tie_break", async |mut lab| {
        bring_up(&mut lab, Arbiter::TieBreak).await?;
        deaths(&mut lab).await
    });
}

#[test]
fn a_lone_node_leads_when_it_starts_and_the_other_joins_it() {
    in_a_lab("a_lone_node_leads_when_it_starts_and_the_other_joins_it", async |mut lab| {
        let owner = bring_up(&mut lab, Arbiter::TieBreak).await?;
        for place in [0, 1] {
            lab.nodes[place].process("vipd")?.stop().await?;
        }
        held_by(&lab, &[]).await?;
        let from = Instant::now();
        lab.nodes[1 - owner].start_again("vipd")?;
        held_by(&lab, &[1 - owner]).await?;
        lab.nodes[owner].start_again("vipd")?;
        ensure!(settled(&lab).await? == 1 - owner, "it moved when the other came");
        never_two_owners(&lab, from)
    });
}

#[test]
fn two_that_start_together_behind_a_firewall_have_one_owner() {
    in_a_lab("two_that_start_together_behind_a_firewall_have_one_owner", async |mut lab| {
        bring_up(&mut lab, Arbiter::TieBreak).await?;
        let rules = "table ip lab { chain in { type filter hook input priority 0; udp dport 10000 drop; }; }";
        for place in [0, 1] {
            lab.nodes[place].process("vipd")?.stop().await?;
            lab::network::nft(Some(&lab.nodes[place].host.namespace), rules).await?;
        }
        held_by(&lab, &[]).await?;
        for _ in 0..3 {
            let from = Instant::now();
            for place in [0, 1] {
                lab.nodes[place].start_again("vipd")?;
            }
            lab.await_owner(PATIENCE, |_| true).await?;
            tokio::time::sleep(LASTS).await;
            never_two_owners(&lab, from)?;
            for place in [0, 1] {
                lab.nodes[place].process("vipd")?.stop().await?;
            }
            held_by(&lab, &[]).await?;
        }
        Ok(())
    });
}

#[test]
fn a_dead_tie_break_and_then_a_dead_owner_leave_nobody() {
    in_a_lab("a_dead_tie_break_and_then_a_dead_owner_leave_nobody", async |mut lab| {
        let owner = bring_up(&mut lab, Arbiter::TieBreak).await?;
        lab.switch.set_plugged(NODES[ARBITER], false).await?;
        lab.nodes[owner].process("vipd")?.signal(Signal::KILL)?;
        held_by(&lab, &[]).await?;
        tokio::time::sleep(LASTS).await;
        ensure!(lab.holders().is_empty(), "{:?}", lab.holders());
        let from = Instant::now();
        lab.switch.set_plugged(NODES[ARBITER], true).await?;
        held_by(&lab, &[1 - owner]).await?;
        never_two_answers(&lab, from)
    });
}

#[test]
fn with_a_witness_every_cut_has_one_owner_who_has_a_majority() {
    in_a_lab("with_a_witness_every_cut_has_one_owner_who_has_a_majority", async |mut lab| {
        bring_up(&mut lab, Arbiter::Witness).await?;
        for cut in CUTS {
            for at_owner in [true, false] {
                let owner = settled(&lab).await?;
                let (place, expected) = if at_owner { (owner, 1 - owner) } else { (1 - owner, owner) };
                through(&mut lab, cut, place, &[expected]).await.with_context(|| format!("{cut:?}"))?;
            }
            let owner = settled(&lab).await?;
            through(&mut lab, cut, ARBITER, &[owner]).await.with_context(|| format!("{cut:?}, witness"))?;
        }
        Ok(())
    });
}

#[test]
fn with_a_witness_a_cut_exactly_between_the_two_leaves_one_owner() {
    in_a_lab("with_a_witness_a_cut_exactly_between_the_two_leaves_one_owner", async |mut lab| {
        let owner = bring_up(&mut lab, Arbiter::Witness).await?;
        let from = Instant::now();
        let (one, two) = (NODES[0].to_owned(), NODES[1].to_owned());
        lab.switch.cut([(one.clone(), two.clone()), (two, one)]).await?;
        tokio::time::sleep(LASTS).await;
        ensure!(lab.holders() == [owner].into(), "{:?}", lab.holders());
        heal(&mut lab).await?;
        settled(&lab).await?;
        never_two_owners(&lab, from)
    });
}

#[test]
fn with_a_witness_a_dead_owner_is_replaced_and_a_dead_witness_missed_by_nobody() {
    let name = "with_a_witness_a_dead_owner_is_replaced_and_a_dead_witness_missed_by_nobody";
    in_a_lab(name, async |mut lab| {
        bring_up(&mut lab, Arbiter::Witness).await?;
        deaths(&mut lab).await?;
        let owner = settled(&lab).await?;
        let from = Instant::now();
        lab.nodes[ARBITER].process("vipd")?.kill().await?;
        tokio::time::sleep(LASTS).await;
        ensure!(lab.holders() == [owner].into(), "{:?}", lab.holders());
        never_two_owners(&lab, from)
    });
}
