//! Participants of an election by Lease: what they are here, what goes wrong, and the test.

use std::time::{Duration, Instant};

use fastrand::Rng;
use leader::{
    Leadership, NodeId,
    lease::{Config, Election, Reply, RequestId, Stamp, Timing},
    quorum::Segment,
};

use super::{
    Running, Seen, await_agreement, explain, report, schedules,
    store::{Api, Parcel, by_hand},
};
use crate::world::{Party, Scale, Service as _, Violation, What, World, nanos};

/// As many as take some seconds.
const SCHEDULES: u64 = 3_000;
/// Things go wrong for so many lease durations, and then all is well for so many.
const CHAOS_LEASES: u64 = 14;
const HEALED_LEASES: u64 = 6;
/// After healing, somebody leads within so many lease durations: a claim that was seen just before (1), or a second
/// one that was made by hand, on slow clocks (1.1 each), and a rest after a command (1).
const LEADER_WITHIN_LEASES: u64 = 4;

/// A participant with the few decisions that its driver takes: which server to ask, and when to give up on an answer.
pub(crate) struct Participant {
    election: Election,
    first_server: usize,
    servers: usize,
    server: usize,
    pending: Option<(RequestId, Instant)>,
    /// Whether a watch is open, asked for, or to be asked for at a time.
    watch: Watch,
    stamp: i64,
}

enum Watch {
    Open,
    Asked { until: Instant },
    Wanted { at: Instant },
}

pub(crate) struct Setup {
    config: Config,
    first_server: usize,
    servers: usize,
    own: usize,
    watches: bool,
}

impl Participant {
    fn retry(&self) -> Duration {
        self.election.timing().retry_period()
    }

    fn next_server(&mut self) {
        self.server = (self.server + 1) % self.servers;
    }
}

impl Party for Participant {
    type Setup = Setup;
    type Parcel = Parcel;
    type Service = Api;

    fn start(setup: &Setup, incarnation: u64, seed: u64, now: Instant) -> Self {
        let never = now + Duration::from_secs(1_000_000);
        Self {
            election: Election::new(&setup.config, seed, now),
            first_server: setup.first_server,
            servers: setup.servers,
            server: setup.own,
            pending: None,
            watch: Watch::Wanted { at: if setup.watches { now } else { never } },
            // Wall clocks may show anything, but hardly the same on two hosts to the microsecond.
            stamp: i64::from_ne_bytes(incarnation.to_ne_bytes()) >> 8,
        }
    }

    fn take(&mut self, from: usize, parcel: Parcel, now: Instant) {
        match parcel {
            Parcel::Reply(id, reply) => {
                let expected = self.pending.take_if(|(pending, _)| *pending == id);
                if expected.is_some() && reply == Reply::Failed {
                    self.next_server();
                }
                self.election.handle_reply(id, reply, now);
            }
            Parcel::Event(observed) => {
                if from == self.first_server + self.server {
                    self.watch = Watch::Open;
                    self.election.set_watching(true, now);
                }
                match observed {
                    Some(observed) => self.election.handle_seen(observed, now),
                    None => self.election.handle_deleted(now),
                }
            }
            Parcel::Unwatched => {
                self.watch = Watch::Wanted { at: now + self.retry() };
                self.election.set_watching(false, now);
            }
            Parcel::Request(_) | Parcel::Watch => panic!("a participant is no server"),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some((id, _)) = self.pending.take_if(|(_, until)| *until <= now) {
            self.next_server();
            self.election.handle_reply(id, Reply::Failed, now);
        }
        if let Watch::Asked { until } = self.watch
            && until <= now
        {
            self.watch = Watch::Wanted { at: now };
        }
        self.election.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let watch = match self.watch {
            Watch::Open => None,
            Watch::Asked { until } => Some(until),
            Watch::Wanted { at } => Some(at),
        };
        let pending = self.pending.map(|(_, until)| until);
        [self.election.poll_timeout(), pending, watch].into_iter().flatten().min()
    }

    fn poll_parcel(&mut self, now: Instant) -> Option<(usize, Parcel)> {
        let to = self.first_server + self.server;
        if let Watch::Wanted { at } = self.watch
            && at <= now
        {
            self.watch = Watch::Asked { until: now + self.retry() };
            return Some((to, Parcel::Watch));
        }
        self.stamp += 1;
        let request = self.election.poll_request(Stamp(self.stamp), now)?;
        self.pending = Some((request.id, now + request.patience * 9 / 10));
        Some((to, Parcel::Request(request)))
    }

    fn poll_event(&mut self) -> Option<String> {
        self.election.poll_event().map(|event| format!("{event:?}"))
    }

    fn lease_end(&self, now: Instant) -> Option<Instant> {
        self.election.lease_end(now)
    }

    fn set_eligible(&mut self, eligible: bool, now: Instant) {
        let successor = NodeId::new(&format!("n{}", self.stamp.rem_euclid(3))).ok();
        self.election.set_eligible(eligible, successor.filter(|_| self.stamp % 2 == 0), now);
    }

    fn find_segment_free(&mut self, now: Instant) {
        self.election.set_segment(Segment::Free, now);
    }

    fn confirm_standby(&mut self, now: Instant) {
        self.election.confirm_standby(now);
    }

    fn step_down(&mut self, to: Option<usize>, now: Instant) {
        let name = |n: usize| NodeId::new(&format!("n{n}")).expect("good");
        // It may be no leader, or the one that is named; then it says so and nothing happens.
        let known = (0..self.first_server).map(name).collect();
        let _outcome = self.election.step_down(to.map(name).as_ref(), Some(&known), now);
    }

    fn stop(&mut self, now: Instant) {
        self.election.stop(now);
    }

    fn has_left(&self, _: Instant) -> bool {
        self.election.has_left()
    }

    fn describe(parcel: &Parcel) -> String {
        format!("{parcel:?}")
    }
}

fn timing(rng: &mut Rng) -> Timing {
    loop {
        let retry = Duration::from_millis(rng.u64(100..=2_000));
        let deadline = retry * rng.u32(13..=50) / 10;
        let seconds = (deadline.as_secs_f64() * (1.25 + rng.f64())).ceil().max(2.0);
        if let Ok(timing) = Timing::new(Duration::from_secs_f64(seconds), deadline, retry) {
            return timing;
        }
    }
}

fn schedule(seed: u64, transcript: bool) -> (World<Participant>, Result<Seen, Violation>) {
    let _running = Running(seed);
    let mut rng = Rng::with_seed(seed);
    let nodes = *rng.choice(&[1, 2, 3, 3, 3, 5]).expect("not empty");
    let servers = rng.usize(1..=3);
    let timing = timing(&mut rng);
    let setup = |n: usize| Setup {
        config: Config { me: NodeId::new(&format!("n{n}")).expect("good"), timing, preserve: false },
        first_server: nodes,
        servers,
        own: n % servers,
        watches: true,
    };
    let mut setups: Vec<Setup> = (0..nodes).map(setup).collect();
    // Some have no watch, and look in turns.
    setups.iter_mut().for_each(|setup| setup.watches = rng.u8(0..4) > 0);
    // Clocks may differ by what separates the deadline from the duration, and no more.
    let margin = timing.lease_duration().as_secs_f64() / timing.renew_deadline().as_secs_f64();
    let fastest = 1_000_000.0 * margin.min(1.2) * 0.999;
    let lease = nanos(timing.lease_duration());
    let scale = Scale {
        lease,
        timer_grain: nanos(timing.retry_period()) / 8,
        rates: (1_000_000, fastest as u64),
        delay: nanos(timing.retry_period()) / 200,
    };
    let mut world =
        World::new(Rng::with_seed(rng.u64(..)), setups, Api::new(nodes, servers), scale, transcript);
    let outcome = live_through(&mut world, &mut rng);
    (world, outcome)
}

fn live_through(world: &mut World<Participant>, rng: &mut Rng) -> Result<Seen, Violation> {
    let lease = world.scale.lease;
    let calm = rng.u8(0..4) == 0;
    for n in 0..world.nodes.len() {
        let at = rng.u64(0..lease);
        world.schedule(at, What::Start(n));
        if rng.bool() {
            world.schedule(at + rng.u64(0..lease / 4), What::Probe(n));
        }
    }
    let chaos_end = CHAOS_LEASES * lease;
    let mut at = 0;
    while at < chaos_end {
        at += rng.u64(lease / 16..lease * if calm { 6 } else { 2 });
        world.schedule(at, What::Fault);
    }
    let mut seen = Seen::default();
    world.run(chaos_end, |world| {
        seen.leaders += u64::from(world.leader().is_some());
        go_wrong(world, rng);
    })?;

    heal(world);
    seen.recovery = await_agreement(world, LEADER_WITHIN_LEASES, HEALED_LEASES, all_agree)?;
    Ok(seen)
}

fn heal(world: &mut World<Participant>) {
    world.service.down = false;
    for server in &mut world.service.servers {
        server.dead = false;
        server.cut_off = false;
        server.slowness = 0;
    }
    for n in 0..world.nodes.len() {
        world.set_eligible(n, true);
    }
    world.heal();
}

/// Well after healing one leads, and all the others know whom to follow.
fn all_agree(world: &World<Participant>) -> Result<(), Violation> {
    let leader = world.leader().ok_or_else(|| Violation("nobody leads in the end".to_owned()))?;
    let name = NodeId::new(&format!("n{leader}")).ok();
    for n in (0..world.nodes.len()).filter(|n| *n != leader) {
        let party = world.party(n).ok_or_else(|| Violation(format!("n{n} isn't up in the end")))?;
        if party.election.leadership(world.local_now(n)) != (Leadership::Follower { leader: name.clone() }) {
            return Err(Violation(format!("n{n} doesn't follow n{leader} in the end")));
        }
    }
    Ok(())
}

/// One more thing goes wrong, or is mended.
fn go_wrong(world: &mut World<Participant>, rng: &mut Rng) {
    let nodes = world.nodes.len();
    let n = match world.leader() {
        Some(leader) if rng.bool() => leader,
        Some(_) | None => rng.usize(0..nodes),
    };
    let lease = world.scale.lease;
    match rng.u8(0..20) {
        0 | 1 => {
            world.crash(n);
            let at = rng.u64(0..2 * lease);
            world.schedule(at, What::Start(n));
            if rng.bool() {
                world.schedule(at + rng.u64(1..lease / 4), What::Probe(n));
            }
        }
        2..=4 => world.pause(n, rng.u64(lease / 8..3 * lease)),
        5 => {
            for server in nodes..nodes + world.service.places() {
                world.network.blocked[n][server] = true;
                world.network.blocked[server][n] = rng.bool();
            }
            world.note(|_| format!("n{n} is cut off"));
        }
        6 | 7 => {
            let server = nodes + rng.usize(0..world.service.places());
            // Answers get lost after what was asked was done.
            let (from, to) = if rng.bool() { (n, server) } else { (server, n) };
            world.network.blocked[from][to] = true;
            world.note(|_| format!("n{from} ✗ n{to}"));
        }
        8 | 9 => {
            world.network.blocked.iter_mut().for_each(|row| row.fill(false));
            world.note(|_| "the network is whole".to_owned());
        }
        10 => {
            world.network.loss = *rng.choice(&[0.0, 0.05, 0.3]).expect("not empty");
            world.network.delay = *rng.choice(&[lease / 2000, lease / 50, lease / 8]).expect("not empty");
            world.network.rare_delay = *rng.choice(&[lease / 500, lease / 2, 2 * lease]).expect("not empty");
        }
        11 | 12 => world.step_down(n, rng.bool().then(|| rng.usize(0..nodes))),
        13 => world.stop(n),
        14 => world.set_eligible(n, rng.bool()),
        _ => api_goes_wrong(world, rng),
    }
}

fn api_goes_wrong(world: &mut World<Participant>, rng: &mut Rng) {
    let lease = world.scale.lease;
    let server = rng.usize(0..world.service.places());
    let sent = match rng.u8(0..9) {
        0 => world.service.kill(server),
        1 => {
            world.service.servers[server].cut_off = true;
            Vec::new()
        }
        2 => {
            world.service.servers[server].slowness =
                *rng.choice(&[0, lease / 20, lease / 2, 3 * lease]).expect("not empty");
            Vec::new()
        }
        3 => {
            world.service.down = rng.bool();
            Vec::new()
        }
        // The premise of making a Lease: none is made, acted upon and deleted between two looks.
        4 if world.service.writes > 3 => world.service.rewrite(None, rng),
        5 => {
            let known = world.service.lease.as_ref().map(|observed| &observed.record);
            let longest = Duration::from_nanos(lease);
            let record = by_hand(known, world.nodes.len(), longest, rng);
            world.service.rewrite(Some(record), rng)
        }
        _ => {
            for server in &mut world.service.servers {
                server.dead = false;
                server.cut_off = false;
            }
            world.service.down = false;
            Vec::new()
        }
    };
    world.note(|world| {
        let lease = &world.service.lease;
        let state =
            |server: &super::store::Server| (server.dead, server.cut_off, server.slowness / 1_000_000);
        let servers: Vec<_> = world.service.servers.iter().map(state).collect();
        format!("the API: {lease:?}, down {}, servers (dead, cut off, slow) {servers:?}", world.service.down)
    });
    world.pass_on(sent);
}

#[test]
fn at_most_one_participant_leads_at_any_time_and_one_again_after_healing() {
    let seen = schedules(SCHEDULES, |seed| {
        let (_, outcome) = schedule(seed, false);
        outcome.map_err(|violation| explain(schedule(seed, true).0.transcript, seed, &violation))
    });
    report("participants", &seen, LEADER_WITHIN_LEASES);
}
