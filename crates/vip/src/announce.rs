//! When which frames tell the segment where the virtual IPs are.
//!
//! [`Announcer`] knows the schedule and the frames; whether the node may still send them is asked of
//! [`Ownership`](crate::ownership::Ownership) before each one.

use crate::address::{Address, Mac};
use crate::{arp, ndp};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The schedule of a claim in milliseconds after its start; then every [`PERIOD`].
///
/// The first frame moves every neighbour that listens; the next ones are for the lost frame, the port that a switch had
/// just blocked, and the stack that ignores a second change within a second (Linux before 4.13); the last for slow links.
pub const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1100),
    Duration::from_millis(2200),
    Duration::from_secs(5),
];

/// After the burst, this often. Switches forget a station after 300 s, and a router may keep a wrong entry for hours.
pub const PERIOD: Duration = Duration::from_secs(30);

/// A conflicting sender restarts the burst at most once in this time, so that two nodes which both claim the address
/// don't flood the segment. What is heard meanwhile is answered at its end: the last word is the owner's.
///
/// RFC 5227 §2.4 lets a host that only defends its own address wait 10 s; a client that was led astray for so long is
/// what a virtual IP exists to prevent.
pub const DEFENCE_INTERVAL: Duration = Duration::from_secs(1);

/// An Ethernet frame, ready to leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame(pub Vec<u8>);

/// The schedule of the announcements of one group of addresses.
#[derive(Clone, Debug)]
pub struct Announcer {
    addresses: Vec<Address>,
    running: Option<Running>,
    /// Bounded: one round's frames, at most two per address; a round that is due while it isn't empty waits.
    queue: VecDeque<Announcement>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    started: Instant,
    rounds: u32,
    defended: Option<Instant>,
    /// A conflict was heard within [`DEFENCE_INTERVAL`] after the last one.
    provoked: bool,
}

#[derive(Clone, Copy, Debug)]
enum Announcement {
    Request(std::net::Ipv4Addr),
    Reply(std::net::Ipv4Addr),
    Advertisement(std::net::Ipv6Addr),
}

impl Announcer {
    /// An announcer at rest.
    #[must_use]
    pub fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, running: None, queue: VecDeque::new() }
    }

    /// Starts the burst, anew if one is running.
    pub fn start(&mut self, now: Instant) {
        let defended = self.running.and_then(|running| running.defended);
        self.queue.clear();
        self.running = Some(Running { started: now, rounds: 0, defended, provoked: false });
        self.handle_timeout(now);
    }

    /// Ends it: not one frame more.
    pub fn stop(&mut self) {
        self.running = None;
        self.queue.clear();
    }

    /// Takes the news that another station claims one of the addresses.
    pub fn handle_conflict(&mut self, now: Instant) {
        if let Some(running) = &mut self.running {
            running.provoked = true;
        }
        self.handle_timeout(now);
    }

    /// Takes the time. A caller that comes late sends one round, however many were due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(running) = &mut self.running else {
            return;
        };
        if running.defence_at().is_some_and(|at| at <= now) {
            *running = Running { started: now, rounds: 0, defended: Some(now), provoked: false };
            self.queue.clear();
        }
        if self.queue.is_empty() && running.next_round() <= now {
            while running.next_round() <= now {
                running.rounds = running.rounds.saturating_add(1);
            }
            self.queue.extend(self.addresses.iter().flat_map(|address| announcements(address.ip)));
        }
    }

    /// Returns the next frame of the round that is due, as sent by the interface with this hardware address.
    pub fn poll_frame(&mut self, mac: Mac) -> Option<Frame> {
        self.queue.pop_front().map(|announcement| match announcement {
            Announcement::Request(ip) => Frame(arp::Repr::gratuitous_request(mac, ip).emit().to_vec()),
            Announcement::Reply(ip) => Frame(arp::Repr::gratuitous_reply(mac, ip).emit().to_vec()),
            Announcement::Advertisement(ip) => Frame(ndp::Repr::unsolicited_advertisement(mac, ip).emit()),
        })
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let running = self.running?;
        let round = running.next_round();
        Some(running.defence_at().map_or(round, |at| at.min(round)))
    }
}

impl Running {
    fn next_round(&self) -> Instant {
        let round = usize::try_from(self.rounds).unwrap_or(usize::MAX);
        let offset = BURST.get(round).copied().unwrap_or_else(|| {
            let beyond = self.rounds.saturating_sub(LAST_OF_BURST);
            BURST[BURST.len() - 1] + PERIOD * beyond
        });
        self.started + offset
    }

    fn defence_at(&self) -> Option<Instant> {
        self.provoked.then(|| self.defended.map_or(self.started, |last| last + DEFENCE_INTERVAL))
    }
}

fn announcements(ip: IpAddr) -> impl Iterator<Item = Announcement> {
    let (first, second) = match ip {
        // Both kinds: some stacks and switches heed only the one, some only the other.
        IpAddr::V4(ip) => (Announcement::Request(ip), Some(Announcement::Reply(ip))),
        IpAddr::V6(ip) => (Announcement::Advertisement(ip), None),
    };
    std::iter::once(first).chain(second)
}

/// Index of the burst's last round.
const LAST_OF_BURST: u32 = 6;
const _: () = assert!(BURST.len() == LAST_OF_BURST as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];
    const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 162);
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x162);

    #[test]
    fn each_round_holds_two_frames_per_ipv4_address_and_one_per_ipv6_address() {
        let t0 = origin();
        let mut announcer = announcer();

        announcer.start(t0);

        let expected = [
            Frame(arp::Repr::gratuitous_request(MAC, V4).emit().to_vec()),
            Frame(arp::Repr::gratuitous_reply(MAC, V4).emit().to_vec()),
            Frame(ndp::Repr::unsolicited_advertisement(MAC, V6).emit()),
        ];
        assert_eq!(frames(&mut announcer), expected);
    }

    #[test]
    fn the_schedule_is_the_burst_and_then_every_thirty_seconds() {
        let t0 = origin();
        let mut announcer = announcer();
        announcer.start(t0);

        let rounds = rounds_until(&mut announcer, t0, t0 + ms(100_000));

        let expected = [0, 50, 200, 500, 1100, 2200, 5000, 35_000, 65_000, 95_000];
        assert_eq!(rounds, expected);
    }

    #[test]
    fn nothing_leaves_before_the_start_and_after_the_stop() {
        let t0 = origin();
        let mut announcer = announcer();
        announcer.handle_timeout(t0);
        announcer.handle_conflict(t0);
        assert_eq!(frames(&mut announcer), []);
        assert_eq!(announcer.poll_timeout(), None);

        announcer.start(t0);
        announcer.poll_frame(MAC);
        announcer.stop();

        assert_eq!(frames(&mut announcer), [], "also the rest of the round that had begun");
        assert_eq!(announcer.poll_timeout(), None);
    }

    #[test]
    fn a_long_pause_is_followed_by_one_round_and_not_by_all_that_were_missed() {
        let t0 = origin();
        let mut announcer = announcer();
        announcer.start(t0);
        frames(&mut announcer);

        announcer.handle_timeout(t0 + ms(50_000));

        assert_eq!(frames(&mut announcer).len(), 3);
        assert_eq!(announcer.poll_timeout(), Some(t0 + ms(65_000)));
    }

    #[test]
    fn a_conflicting_sender_restarts_the_burst_at_once() {
        let t0 = origin();
        let mut announcer = announcer();
        announcer.start(t0);
        rounds_until(&mut announcer, t0, t0 + ms(20_000));

        announcer.handle_conflict(t0 + ms(20_000));

        let rounds = rounds_until(&mut announcer, t0 + ms(20_000), t0 + ms(26_000));
        assert_eq!(rounds, [0, 50, 200, 500, 1100, 2200, 5000]);
    }

    #[test]
    fn conflicts_without_end_restart_it_once_a_second_and_the_last_word_is_the_owners() {
        let t0 = origin();
        let mut announcer = announcer();
        announcer.start(t0);
        rounds_until(&mut announcer, t0, t0 + ms(20_000));
        let mut sent = 0;

        for step in 0..10_000 {
            announcer.handle_conflict(t0 + ms(20_000 + step));
            sent += frames(&mut announcer).len();
        }

        assert_eq!(sent, 10 * 4 * 3, "10 s: each second the rounds at 0, 50, 200, 500 ms, of three frames");
        let end = t0 + ms(30_000);
        assert_eq!(rounds_until(&mut announcer, end, end + ms(100)), [0, 50], "after the last conflict");
    }

    proptest! {
        #[test]
        fn whatever_happens_a_deadline_lies_ahead_and_the_frames_are_bounded(
            run in prop::collection::vec((0_u64..3000, 0..4), 1..100)
        ) {
            let mut now = origin();
            let mut announcer = announcer();
            let mut running = false;
            for (pause, what) in run {
                now += ms(pause);
                match what {
                    0 => {
                        announcer.start(now);
                        running = true;
                    }
                    1 => announcer.handle_conflict(now),
                    2 => {
                        announcer.stop();
                        running = false;
                    }
                    _ => announcer.handle_timeout(now),
                }
                let sent = frames(&mut announcer).len();
                prop_assert!(sent == 0 || (running && sent == 3));
                announcer.handle_timeout(now);
                prop_assert_eq!(announcer.poll_timeout().is_some(), running);
                prop_assert!(announcer.poll_timeout().is_none_or(|next| next > now));
            }
        }
    }

    fn announcer() -> Announcer {
        Announcer::new(vec![Address::host(V4.into()), Address::host(V6.into())])
    }

    fn frames(announcer: &mut Announcer) -> Vec<Frame> {
        std::iter::from_fn(|| announcer.poll_frame(MAC)).collect()
    }

    /// Drives the announcer by its own deadlines; returns the times of the rounds after `from`, in milliseconds.
    fn rounds_until(announcer: &mut Announcer, from: Instant, end: Instant) -> Vec<u128> {
        let mut rounds = Vec::new();
        let mut now = from;
        loop {
            announcer.handle_timeout(now);
            if !frames(announcer).is_empty() {
                rounds.push((now - from).as_millis());
            }
            now = announcer.poll_timeout().expect("it runs");
            if now > end {
                return rounds;
            }
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[expect(clippy::disallowed_methods, reason = "an origin to count from; nothing depends on its value")]
    fn origin() -> Instant {
        Instant::now()
    }
}
