//! Random runs of the machine beside a pretended kernel, which counts lifetimes as the real one does.

use super::*;
use proptest::prelude::*;

/// One thing that happens to the machine and the pretended kernel in the random runs.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    Lease(u64),
    NoLease,
    Link(bool),
    Deleted,
    Stray(Outcome),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let outcome = prop_oneof![
        Just(Outcome::Held),
        Just(Outcome::HoldFailed),
        Just(Outcome::Withdrawn),
        Just(Outcome::WithdrawFailed)
    ];
    let one = prop_oneof![
        6 => (0_u64..700).prop_map(Happening::Pass),
        6 => prop_oneof![1_u64..400, 400_u64..20_000].prop_map(Happening::Lease),
        1 => Just(Happening::NoLease),
        2 => any::<bool>().prop_map(Happening::Link),
        2 => Just(Happening::Deleted),
        1 => outcome.prop_map(Happening::Stray),
    ];
    prop::collection::vec(one, 1..80)
}

/// The machine with a kernel that counts lifetimes as the real one does, and fails when told to.
struct World {
    machine: Ownership,
    now: Instant,
    lease: Option<Instant>,
    link_up: bool,
    present_until: Option<Instant>,
    fails: Vec<bool>,
    requests: usize,
}

impl World {
    fn new(fails: Vec<bool>) -> Self {
        let now = origin();
        let machine = on_a_live_link(now);
        Self { machine, now, lease: None, link_up: true, present_until: None, fails, requests: 0 }
    }

    fn wanted(&self) -> bool {
        self.link_up && self.lease.is_some_and(|until| self.now < until)
    }

    fn present(&self) -> bool {
        self.present_until.is_some_and(|until| self.now < until)
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Pass(millis) => self.pass(ms(*millis)),
            Happening::Lease(millis) => {
                self.lease = Some(self.now + ms(*millis));
                self.machine.set_lease(self.lease, self.now);
            }
            Happening::NoLease => {
                self.lease = None;
                self.machine.set_lease(None, self.now);
            }
            Happening::Link(up) => {
                self.link_up = *up;
                self.machine.set_link(*up, self.now);
            }
            Happening::Deleted => {
                self.present_until = None;
                self.machine.handle_missing(self.now);
            }
            Happening::Stray(outcome) => self.machine.handle_applied(*outcome, self.now),
        }
        self.drain();
    }

    /// Lets time pass as a driver does: from deadline to deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.machine.poll_timeout().filter(|next| *next <= end) {
            assert!(next >= self.now, "a deadline in the past would make the driver spin");
            self.now = next;
            self.machine.handle_timeout(next);
            self.drain();
            let later = self.machine.poll_timeout();
            assert!(later.is_none_or(|later| later > next), "a deadline stays after it was served");
        }
        self.now = end;
        self.machine.handle_timeout(end);
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..20 {
            let Some(action) = self.machine.poll_action() else {
                return self.check();
            };
            let fails = self.fails.get(self.requests % self.fails.len().max(1)).copied().unwrap_or(false);
            self.requests += 1;
            let outcome = match action {
                Action::Hold { valid_for } => {
                    assert!(self.wanted(), "asked for an address past the lease or without a link");
                    assert_eq!(Some(self.now + valid_for), self.lease);
                    if !fails {
                        self.present_until = Some(self.now + kernel_lifetime(valid_for));
                    }
                    if fails { Outcome::HoldFailed } else { Outcome::Held }
                }
                Action::Withdraw => {
                    if !fails {
                        self.present_until = None;
                    }
                    if fails { Outcome::WithdrawFailed } else { Outcome::Withdrawn }
                }
                Action::Announce => {
                    assert_eq!(self.machine.state(self.now), State::Active);
                    continue;
                }
            };
            self.machine.handle_applied(outcome, self.now);
        }
        panic!("one input asks for more than twenty actions");
    }

    fn check(&self) {
        let state = self.machine.state(self.now);
        if !self.wanted() {
            assert!(matches!(state, State::Standby | State::Releasing), "{state:?} past the lease");
        }
    }
}

proptest! {
    #[test]
    fn with_a_kernel_that_obeys_the_address_is_there_exactly_while_it_is_wanted(
        run in happenings()
    ) {
        let mut world = World::new(vec![]);
        for happening in run.iter().filter(|happening| !matches!(happening, Happening::Stray(_))) {
            world.happen(happening);
            let expected = if world.wanted() { State::Active } else { State::Standby };
            prop_assert_eq!(world.machine.state(world.now), expected);
            world.pass(REPAIR_SPACING);
            prop_assert_eq!(world.present(), world.wanted());
        }
    }

    #[test]
    fn with_a_kernel_that_fails_nothing_is_wanted_past_the_lease_and_all_paths_end_in_standby(
        run in happenings(),
        fails in prop::collection::vec(any::<bool>(), 1..10),
    ) {
        let mut world = World::new(fails);
        for happening in &run {
            world.happen(happening);
        }

        world.happen(&Happening::NoLease);
        world.pass(LONGEST_LIFETIME + KERNEL_SLACK);

        prop_assert_eq!(world.machine.state(world.now), State::Standby);
        prop_assert!(!world.present());
        prop_assert_eq!(world.machine.poll_timeout(), None);
    }
}
