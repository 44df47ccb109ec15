use super::*;

mod random;

#[test]
fn a_lease_on_a_live_link_claims_and_announces_once_the_kernel_has_confirmed() {
    let t0 = origin();
    let mut machine = on_a_live_link(t0);
    machine.set_lease(Some(t0 + ms(200)), t0);

    assert_eq!(machine.poll_action(), Some(Action::Hold { valid_for: ms(200) }));
    assert_eq!(machine.poll_action(), None);
    assert_eq!(machine.state(t0), State::Claiming);

    machine.handle_applied(Outcome::Held, t0 + ms(1));

    assert_eq!(machine.poll_action(), Some(Action::Announce));
    assert_eq!(machine.poll_action(), None);
    assert_eq!(machine.state(t0 + ms(1)), State::Active);
}

#[test]
fn nothing_is_claimed_while_the_link_is_down() {
    let t0 = origin();
    let mut machine = Ownership::new(t0);

    machine.set_lease(Some(t0 + ms(200)), t0);

    assert_eq!(machine.poll_action(), None);
    assert_eq!(machine.state(t0), State::Standby);
}

#[test]
fn a_lapse_asks_for_the_withdrawal_at_that_instant_with_no_input_but_the_time() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    assert_eq!(machine.poll_timeout(), Some(t0 + ms(200)));
    assert_eq!(machine.state(t0 + ms(200) - NANO), State::Active);
    assert_eq!(machine.state(t0 + ms(200)), State::Releasing, "although the machine has not been told");
    machine.handle_timeout(t0 + ms(200));

    assert_eq!(actions(&mut machine), [Action::Withdraw]);
    machine.handle_applied(Outcome::Withdrawn, t0 + ms(201));
    assert_eq!(machine.state(t0 + ms(201)), State::Standby);
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn a_lease_given_back_withdraws_at_once() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    machine.set_lease(None, t0 + ms(50));

    assert_eq!(actions(&mut machine), [Action::Withdraw]);
    assert_eq!(machine.state(t0 + ms(50)), State::Releasing);
}

#[test]
fn a_lost_link_withdraws_at_once_and_a_returned_one_claims_again_while_the_lease_lives() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    machine.set_link(false, t0 + ms(10));
    assert_eq!(actions(&mut machine), [Action::Withdraw]);
    machine.handle_applied(Outcome::Withdrawn, t0 + ms(11));
    assert_eq!(machine.state(t0 + ms(11)), State::Standby);
    machine.set_link(true, t0 + ms(20));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(180) }]);
    machine.handle_applied(Outcome::Held, t0 + ms(21));
    assert_eq!(actions(&mut machine), [Action::Announce]);
}

#[test]
fn a_rolling_lease_is_refreshed_by_the_kernels_lifetime_and_not_by_each_renewal() {
    for lease in [ms(16), ms(150)] {
        let t0 = origin();
        let mut machine = active(t0, lease);
        let mut holds = Vec::new();

        for step in 1..=10_000 {
            let now = t0 + ms(1) * step;
            machine.set_lease(Some(now + lease), now);
            for action in actions(&mut machine) {
                assert_eq!(action, Action::Hold { valid_for: lease });
                holds.push(now);
                machine.handle_applied(Outcome::Held, now);
            }
        }

        assert_eq!(holds.len(), 25, "10 s, one each 400 ms");
        assert!(holds.windows(2).all(|pair| pair[1] - pair[0] == ms(400)));
    }
}

#[test]
fn a_long_lease_is_refreshed_seldom() {
    let t0 = origin();
    let mut machine = active(t0, ms(15_000));

    machine.set_lease(Some(t0 + ms(17_000)), t0 + ms(2000));

    assert_eq!(actions(&mut machine), []);
    assert_eq!(machine.poll_timeout(), Some(t0 + ms(6000)));
    machine.handle_timeout(t0 + ms(6000));
    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(11_000) }]);
}

#[test]
fn a_lease_that_is_not_renewed_is_not_refreshed_either() {
    // The longer ends at the very instant from when on the kernel may let go.
    for lease in [ms(900), ms(980)] {
        let t0 = origin();
        let mut machine = active(t0, lease);

        assert_eq!(machine.poll_timeout(), Some(t0 + lease));
        machine.handle_timeout(t0 + lease - NANO);

        assert_eq!(actions(&mut machine), []);
        assert_eq!(machine.poll_timeout(), Some(t0 + lease));
    }
}

#[test]
fn a_lease_for_ever_is_held_by_refreshes_of_a_bounded_lifetime() {
    let t0 = origin();
    let century = Duration::from_hours(24 * 365 * 100);
    let mut machine = active(t0, century);

    assert_eq!(kernel_lifetime(century), Duration::from_mins(1));
    assert_eq!(machine.poll_timeout(), Some(t0 + ms(24_000)));
    machine.handle_timeout(t0 + ms(24_000));
    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: century - ms(24_000) }]);
}

#[test]
fn a_lease_cut_short_shortens_the_kernels_lifetime_too() {
    let t0 = origin();
    let mut machine = active(t0, ms(15_000));

    machine.set_lease(Some(t0 + ms(300)), t0 + ms(100));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(200) }]);
}

#[test]
fn a_lease_cut_short_by_no_more_than_the_kernel_counts_is_not_told() {
    let t0 = origin();
    for shorter in [ms(14_999), ms(14_500), ms(14_000)] {
        let mut machine = active(t0, ms(15_000));
        machine.set_lease(Some(t0 + shorter), t0 + ms(100));
        assert_eq!(actions(&mut machine), [], "{shorter:?}");
    }
    let mut machine = active(t0, ms(15_000));
    machine.set_lease(Some(t0 + ms(14_000) - NANO), t0 + ms(100));
    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(13_900) - NANO }]);
}

#[test]
fn an_address_deleted_while_a_renewal_is_under_way_is_asked_for_again() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));
    machine.set_lease(Some(t0 + ms(600)), t0 + ms(100));
    machine.handle_timeout(t0 + ms(400));
    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(200) }]);

    // The kernel may have renewed it before it was deleted.
    machine.handle_missing(t0 + ms(401));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(199) }]);
}

#[test]
fn an_owner_that_is_not_told_the_time_is_none_once_the_kernel_may_have_let_go() {
    let t0 = origin();
    // The lease is longer than the lifetime that the kernel was given.
    let machine = active(t0, ms(1500));

    assert_eq!(machine.state(t0 + ms(980) - NANO), State::Active);
    assert_eq!(machine.state(t0 + ms(980)), State::Claiming);
}

#[test]
fn a_missing_address_is_asked_for_at_once_without_leaving_active() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    machine.handle_missing(t0 + ms(20));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(180) }]);
    assert_eq!(machine.state(t0 + ms(20)), State::Active);
}

#[test]
fn repairs_against_an_agent_that_never_stops_keep_their_spacing() {
    let t0 = origin();
    let mut machine = active(t0, ms(1000));
    let mut holds = Vec::new();

    for step in 0..5000 {
        let now = t0 + Duration::from_micros(100) * step;
        machine.handle_missing(now);
        for _ in actions(&mut machine) {
            holds.push(now);
            machine.handle_applied(Outcome::Held, now);
        }
    }

    assert_eq!(holds.len(), 100, "500 ms, one each 5 ms");
}

#[test]
fn a_failed_claim_withdraws_what_may_be_there_and_waits_longer_each_time() {
    let t0 = origin();
    let mut machine = on_a_live_link(t0);
    machine.set_lease(Some(t0 + ms(60_000)), t0);
    let mut now = t0;
    let mut pauses = Vec::new();

    for _ in 0..9 {
        assert!(matches!(actions(&mut machine)[..], [Action::Hold { .. }]));
        machine.handle_applied(Outcome::HoldFailed, now);
        assert_eq!(actions(&mut machine), [Action::Withdraw]);
        machine.handle_applied(Outcome::Withdrawn, now);
        assert_eq!(machine.state(now), State::Standby);
        let next = machine.poll_timeout().unwrap();
        pauses.push((next - now).as_millis());
        now = next;
        machine.handle_timeout(now);
    }

    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 3200, 3200]);
}

#[test]
fn a_failed_refresh_is_retried_until_the_kernel_lets_go_and_then_counts_as_a_failed_claim() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));
    let mut now = t0;
    let mut tries = 0;

    let left = loop {
        now += ms(1);
        machine.set_lease(Some(now + ms(200)), now);
        for action in actions(&mut machine) {
            match action {
                Action::Hold { .. } => {
                    tries += 1;
                    machine.handle_applied(Outcome::HoldFailed, now);
                }
                Action::Withdraw => machine.handle_applied(Outcome::Withdrawn, now),
                Action::Announce => panic!("nothing was confirmed"),
            }
        }
        if machine.state(now) != State::Active {
            break now;
        }
        assert!(now < t0 + ms(2000), "it must not stay Active on a lifetime that is over");
    };

    assert_eq!(left, t0 + ms(980), "the kernel's timer may be 20 ms early");
    assert_eq!(tries, 13, "twelve renewals, 50 ms apart from 400 ms on, and one claim");
}

#[test]
fn a_failed_withdrawal_is_retried_until_the_kernels_lifetime_has_done_it() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));
    machine.set_lease(None, t0 + ms(100));
    let mut now = t0 + ms(100);
    let mut tries = 0;

    while machine.state(now) != State::Standby {
        for action in actions(&mut machine) {
            assert_eq!(action, Action::Withdraw);
            tries += 1;
            machine.handle_applied(Outcome::WithdrawFailed, now);
        }
        now = machine.poll_timeout().unwrap();
        machine.handle_timeout(now);
    }

    assert_eq!(now, t0 + ms(2000), "1 s of lifetime and 1 s of grace");
    assert_eq!(tries, 38);
}

#[test]
fn a_renewal_seen_late_holds_and_announces_again_but_does_not_tear_down() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    machine.set_lease(Some(t0 + ms(450)), t0 + ms(250));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(200) }, Action::Announce]);
    assert_eq!(machine.state(t0 + ms(250)), State::Active);
}

#[test]
fn a_resume_after_a_long_pause_withdraws_and_does_nothing_else() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));

    machine.handle_missing(t0 + ms(30_000));

    assert_eq!(actions(&mut machine), [Action::Withdraw]);
}

#[test]
fn a_lease_that_comes_while_releasing_claims_after_the_withdrawal() {
    let t0 = origin();
    let mut machine = active(t0, ms(200));
    machine.set_lease(None, t0 + ms(10));
    machine.set_lease(Some(t0 + ms(300)), t0 + ms(11));
    assert_eq!(actions(&mut machine), [Action::Withdraw]);

    machine.handle_applied(Outcome::Withdrawn, t0 + ms(12));

    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(288) }]);
}

#[test]
fn a_hold_that_is_confirmed_after_the_lease_is_withdrawn_and_not_announced() {
    let t0 = origin();
    let mut machine = on_a_live_link(t0);
    machine.set_lease(Some(t0 + ms(16)), t0);
    assert_eq!(actions(&mut machine), [Action::Hold { valid_for: ms(16) }]);

    machine.handle_applied(Outcome::Held, t0 + ms(16));

    assert_eq!(actions(&mut machine), [Action::Withdraw]);
}

#[test]
fn a_hold_that_is_confirmed_when_nothing_is_held_is_taken_back_until_no_lifetime_can_have_it_there() {
    let t0 = origin();
    let mut machine = on_a_live_link(t0);
    let gone_by = t0 + ms(61_000);

    machine.handle_applied(Outcome::Held, t0);

    assert_eq!(actions(&mut machine), [Action::Withdraw]);
    machine.handle_applied(Outcome::WithdrawFailed, gone_by - NANO);
    assert_eq!(machine.state(gone_by - NANO), State::Releasing);
    machine.handle_timeout(gone_by);
    assert_eq!(
        machine.state(gone_by),
        State::Standby,
        "the longest lifetime is 60 s, and the kernel's timer no second late"
    );
}

#[test]
fn lifetimes_are_whole_seconds_rounded_down_and_never_zero() {
    let cases = [(0, 1), (1, 1), (999, 1), (1999, 1), (2000, 2), (15_000, 15), (59_999, 59), (90_000, 60)];

    for (valid_for, expected) in cases {
        assert_eq!(kernel_lifetime(ms(valid_for)), Duration::from_secs(expected), "for {valid_for} ms");
    }
    assert_eq!(kernel_lifetime(Duration::MAX), Duration::from_mins(1));
}

const NANO: Duration = Duration::from_nanos(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[expect(clippy::disallowed_methods, reason = "an origin to count from; nothing depends on its value")]
fn origin() -> Instant {
    Instant::now()
}

fn on_a_live_link(now: Instant) -> Ownership {
    let mut machine = Ownership::new(now);
    machine.set_link(true, now);
    machine
}

fn active(now: Instant, lease: Duration) -> Ownership {
    let mut machine = on_a_live_link(now);
    machine.set_lease(Some(now + lease), now);
    machine.handle_applied(Outcome::Held, now);
    actions(&mut machine);
    assert_eq!(machine.state(now), State::Active);
    machine
}

fn actions(machine: &mut Ownership) -> Vec<Action> {
    std::iter::from_fn(|| machine.poll_action()).collect()
}
