use proptest::prelude::*;

use super::*;
use crate::config::Backend;

const HEALTHS: [Health; 4] = [Health::Ready, Health::Unknown, Health::Draining, Health::Dead];

fn roster(healths: &[Health]) -> Arc<Roster> {
    let backend =
        |port| Backend { name: "x".into(), address: ([127, 0, 0, 1], port).into(), cordoned: false };
    let backends = (1..).take(healths.len()).map(backend).collect();
    let now = tokio::time::Instant::now().into_std();
    let create = |backend| Target::new(backend, Arc::default(), false, now);
    let roster = Roster::default().successor(backends, create).unwrap_or_default();
    for (target, health) in roster.present().iter().zip(healths) {
        target.member.set_health(*health);
    }
    Arc::new(roster)
}

/// Where no share grows, nobody looks at a clock.
fn unasked() -> Duration {
    panic!("the age was asked for")
}

fn pool(roster: &Arc<Roster>, policy: Policy, seed: u64) -> Pool {
    Pool::new(Arc::clone(roster), Arc::default(), policy, None, seed)
}

fn place(roster: &Roster, candidate: &Candidate) -> usize {
    roster.present().iter().position(|target| Arc::ptr_eq(target, &candidate.target)).unwrap()
}

fn first(pool: &mut Pool) -> usize {
    let candidate = pool.candidates(None, unasked).next().unwrap();
    place(&pool.roster, &candidate)
}

fn fill(roster: &Roster, open: &[usize]) {
    for (target, open) in roster.present().iter().zip(open) {
        (0..*open).for_each(|_| target.member.enter());
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::LeastConnections), Just(Policy::RoundRobin), Just(Policy::SourceHash)]
}

proptest! {
    #[test]
    fn every_backend_comes_once_and_the_healthier_first(
        policy in policies(),
        seed in any::<u64>(),
        backends in proptest::collection::vec((proptest::sample::select(&HEALTHS), 0_usize..9), 0..20),
    ) {
        let (healths, open): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let roster = roster(&healths);
        fill(&roster, &open);
        let mut pool = pool(&roster, policy, seed);
        for _ in 0..5 {
            let order: Vec<_> = pool.candidates(None, unasked).map(|candidate| place(&roster, &candidate)).collect();
            let ranks: Vec<_> = order.iter().map(|place| encode(healths[*place])).collect();
            prop_assert!(ranks.is_sorted(), "{:?}", ranks);
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..healths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_fullest_of_three_is_never_chosen_first(seed in any::<u64>(), others in 0_usize..5) {
        let roster = roster(&[Health::Ready; 3]);
        fill(&roster, &[others, others + 1, others]);
        let mut pool = pool(&roster, Policy::LeastConnections, seed);
        for _ in 0..50 {
            prop_assert_ne!(first(&mut pool), 1);
        }
    }
}

#[test]
fn least_connections_keeps_three_backends_within_a_few_of_each_other() {
    for seed in 0..20 {
        let roster = roster(&[Health::Ready; 3]);
        let mut pool = pool(&roster, Policy::LeastConnections, seed);

        (0..3000).for_each(|_| pool.candidates(None, unasked).next().unwrap().target.member.enter());

        let counts: Vec<_> = roster.present().iter().map(|target| target.member.open()).collect();
        assert!(counts.iter().all(|count| count.abs_diff(1000) <= 5), "seed {seed}: {counts:?}");
    }
}

#[test]
fn equal_backends_are_chosen_equally_often() {
    let mut counts = [0_usize; 3];
    let mut pool = pool(&roster(&[Health::Ready; 3]), Policy::LeastConnections, 7);

    for _ in 0..30_000 {
        counts[first(&mut pool)] += 1;
    }

    // Five standard deviations (82) of a fair choice.
    assert!(counts.iter().all(|count| count.abs_diff(10_000) < 410), "{counts:?}");
}

#[test]
fn round_robin_takes_turns_across_pools() {
    let (roster, cursor) = (roster(&[Health::Ready; 3]), Arc::default());
    let mut pools = [1, 2]
        .map(|seed| Pool::new(Arc::clone(&roster), Arc::clone(&cursor), Policy::RoundRobin, None, seed));

    let order: Vec<_> = (0..6).map(|turn| first(&mut pools[turn % 2])).collect();

    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn round_robin_is_fair_among_those_that_are_ready() {
    let mut pool = pool(&roster(&[Health::Ready, Health::Dead, Health::Ready]), Policy::RoundRobin, 1);

    let order: Vec<_> = (0..4).map(|_| first(&mut pool)).collect();

    assert_eq!(order, [0, 2, 0, 2]);
}

#[test]
fn as_many_backends_as_there_may_be_are_all_tried() {
    let roster = roster(&[Health::Ready; crate::MAX_BACKENDS]);

    assert_eq!(
        pool(&roster, Policy::LeastConnections, 1).candidates(None, unasked).count(),
        crate::MAX_BACKENDS
    );
}

#[test]
fn a_candidate_knows_the_deaths_before_its_choice() {
    let roster = roster(&[Health::Ready]);
    let mut pool = pool(&roster, Policy::RoundRobin, 1);
    let before = pool.candidates(None, unasked).next().unwrap();

    roster.present()[0].member.set_health(Health::Dead);

    assert!(before.has_died());
    assert!(!pool.candidates(None, unasked).next().unwrap().has_died());
}

#[test]
fn a_connection_that_tried_all_goes_on_to_those_that_have_come_since() {
    let old = roster(&[Health::Ready; 2]);
    let mut pool = pool(&old, Policy::RoundRobin, 1);
    let mut tried = pool.candidates(None, unasked);
    tried.by_ref().for_each(drop);
    assert!(pool.candidates_since(&tried, None, unasked).is_none(), "nothing has changed");
    let keep = |target: &Arc<Target>| Backend { name: "x".into(), address: target.address, cordoned: false };
    let new = Backend { name: "new".into(), address: ([127, 0, 0, 2], 1).into(), cordoned: false };
    let now = tokio::time::Instant::now().into_std();
    let next = old.successor(vec![keep(&old.present()[1]), new.clone()], |backend| {
        Target::new(backend, Arc::default(), false, now)
    });
    pool.set_roster(Arc::new(next.unwrap()));

    let since: Vec<_> = pool
        .candidates_since(&tried, None, unasked)
        .unwrap()
        .map(|candidate| candidate.target.address)
        .collect();

    assert_eq!(since, [new.address]);
}

#[test]
fn a_counter_stays_at_its_maximum() {
    let counter = Counter::default();
    counter.add(u64::MAX - 1);
    counter.add(1);
    assert_eq!(counter.get(), u64::MAX);
    counter.add(5);
    assert_eq!(counter.get(), u64::MAX);
}

#[test]
fn health_survives_its_form_in_an_atomic() {
    for health in HEALTHS {
        assert_eq!(decode(encode(health)), health);
    }
}

#[test]
fn one_that_is_taken_out_comes_after_those_that_take_connections_and_before_the_dead() {
    let roster = roster(&[Health::Ready, Health::Dead, Health::Unknown, Health::Ready]);
    roster.present()[0].member.set_drained(true);
    roster.present()[1].member.set_drained(true);
    let mut pool = pool(&roster, Policy::RoundRobin, 1);

    let order: Vec<_> = pool.candidates(None, unasked).map(|candidate| place(&roster, &candidate)).collect();

    assert_eq!(order, [3, 2, 0, 1]);
}

#[test]
fn one_whose_check_waits_for_its_answer_comes_after_those_that_answer() {
    let roster = roster(&[Health::Ready, Health::Ready, Health::Draining]);
    let late = &roster.present()[0].member;
    assert!(late.set_overdue(true) && !late.set_overdue(true), "it is news once");
    let mut pool = pool(&roster, Policy::LeastConnections, 1);
    for _ in 0..20 {
        let order: Vec<_> =
            pool.candidates(None, unasked).map(|candidate| place(&roster, &candidate)).collect();
        assert_eq!(order, [1, 0, 2]);
    }
    late.set_overdue(false);
    assert!((0..20).any(|_| first(&mut pool) == 0));
}

const SLOW_START: Duration = Duration::from_secs(30);

/// How often each of three backends is tried first when the last has come back at 5 s and it is `seconds` later now. `open` has their
/// connections, which stay.
fn chosen_after(policy: Policy, open: [usize; 3], seconds: u64, times: usize) -> [usize; 3] {
    let roster = roster(&[Health::Ready; 3]);
    fill(&roster, &open);
    roster.present()[2].member.start_slowly(Duration::from_secs(5));
    let mut pool = Pool::new(Arc::clone(&roster), Arc::default(), policy, Some(SLOW_START), 11);
    let mut counts = [0; 3];
    for _ in 0..times {
        let mut candidates = pool.candidates(None, || Duration::from_secs(5 + seconds));
        counts[place(&roster, &candidates.next().unwrap())] += 1;
        assert_eq!(candidates.count(), 2, "whoever is passed over is still tried");
    }
    counts
}

#[test]
fn one_that_has_come_back_is_chosen_more_and_more_often() {
    // Empty, it is in two pairs of three, and wins; in turn it is every third.
    for (policy, whole) in [(Policy::LeastConnections, 2.0 / 3.0), (Policy::RoundRobin, 1.0 / 3.0)] {
        for (seconds, share) in [(0, 0.1), (10, 0.4), (20, 0.7), (30, 1.0), (3000, 1.0)] {
            let counts = chosen_after(policy, [50, 50, 0], seconds, 30_000);
            let expected = 30_000.0 * whole * share;
            // Five standard deviations of 30 000 choices are below 433.
            let difference = f64::from(u32::try_from(counts[2]).unwrap()) - expected;
            assert!(
                difference.abs() < 450.0,
                "{policy:?} after {seconds} s: {counts:?}, expected {expected}"
            );
            assert!(counts[0].abs_diff(counts[1]) < 1000, "the others share the rest: {counts:?}");
        }
    }
}

#[test]
fn where_the_others_are_worse_one_that_has_come_back_gets_everything() {
    let roster = roster(&[Health::Draining, Health::Ready, Health::Dead]);
    roster.present()[1].member.start_slowly(Duration::ZERO);
    let mut pool = Pool::new(roster, Arc::default(), Policy::LeastConnections, Some(SLOW_START), 1);

    for _ in 0..100 {
        let candidate = pool.candidates(None, || Duration::ZERO).next().unwrap();
        assert_eq!(place(&pool.roster, &candidate), 1);
    }
}

#[test]
fn those_that_have_come_back_together_share_as_ever() {
    let roster = roster(&[Health::Ready; 3]);
    roster.present().iter().for_each(|target| target.member.start_slowly(Duration::ZERO));
    let mut pool =
        Pool::new(Arc::clone(&roster), Arc::default(), Policy::LeastConnections, Some(SLOW_START), 3);

    for _ in 0..3000 {
        pool.candidates(None, || Duration::from_secs(3)).next().unwrap().target.member.enter();
    }

    let counts: Vec<_> = roster.present().iter().map(|target| target.member.open()).collect();
    assert!(counts.iter().all(|count| count.abs_diff(1000) <= 20), "{counts:?}");
}

#[test]
fn once_a_share_is_whole_nobody_looks_at_a_clock_until_it_has_come_back_anew() {
    let roster = roster(&[Health::Ready; 2]);
    let member = &roster.present()[0].member;
    member.start_slowly(Duration::from_secs(7));
    let mut pool =
        Pool::new(Arc::clone(&roster), Arc::default(), Policy::LeastConnections, Some(SLOW_START), 1);
    pool.candidates(None, || Duration::from_secs(36));
    assert_eq!(member.share(Duration::from_secs(36), SLOW_START), 970);
    pool.candidates(None, || Duration::from_secs(37));
    pool.candidates(None, unasked);

    member.start_slowly(Duration::from_secs(50));

    assert_eq!(member.share(Duration::from_secs(50), SLOW_START), 100);
}

/// The clients of a test, of both families.
fn clients() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..3000_u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n).into());
    let v6 = (0..3000_u128).map(|n| std::net::Ipv6Addr::from((0xfd00_u128 << 112) + n).into());
    v4.chain(v6)
}

/// Who each client is meant for, by the port of the backend, of which each has its own.
fn meant(roster: &Arc<Roster>, seed: u64) -> Vec<u16> {
    let mut pool = pool(roster, Policy::SourceHash, seed);
    let first = |client| pool.candidates(Some(client), unasked).next().unwrap().target.address.port();
    clients().map(first).collect()
}

/// A roster of backends with these ports, in this order.
fn of_ports(ports: &[u16]) -> Arc<Roster> {
    let backend =
        |port: &u16| Backend { name: "x".into(), address: ([127, 0, 0, 1], *port).into(), cordoned: false };
    let now = tokio::time::Instant::now().into_std();
    let create = |backend| Target::new(backend, Arc::default(), false, now);
    Arc::new(Roster::default().successor(ports.iter().map(backend).collect(), create).unwrap())
}

#[test]
fn by_source_hash_each_backend_has_its_share_of_clients_the_same_everywhere() {
    let meant_for = meant(&of_ports(&[1, 2, 3]), 1);

    for port in 1..=3 {
        let count = meant_for.iter().filter(|meant| **meant == port).count();
        // Five standard deviations (37) of a fair choice.
        assert!(count.abs_diff(2000) < 185, "{port}: {count}");
    }
    assert_eq!(meant(&of_ports(&[3, 1, 2]), 2), meant_for, "another seed, another order");
}

#[test]
fn by_source_hash_only_those_move_whose_backend_goes_or_comes() {
    let (before, without) = (meant(&of_ports(&[1, 2, 3, 4, 5]), 1), meant(&of_ports(&[1, 2, 4, 5]), 1));
    let moved = before.iter().zip(&without).filter(|(before, after)| before != after).count();

    assert!(before.iter().zip(&without).all(|(before, after)| before == after || *before == 3));
    assert_eq!(moved, before.iter().filter(|port| **port == 3).count());
    for port in [1, 2, 4, 5] {
        let heirs = before.iter().zip(&without).filter(|(before, after)| **before == 3 && **after == port);
        // A quarter of the 1200 or so that were its own.
        assert!(heirs.count().abs_diff(300) < 100, "{port}");
    }
}

#[test]
fn by_source_hash_an_unhealthy_backend_is_passed_over_as_if_it_was_not_there() {
    let (three, all) = (of_ports(&[1, 2, 4]), of_ports(&[1, 2, 3, 4]));
    for health in [Health::Unknown, Health::Draining, Health::Dead] {
        three.present().iter().for_each(|target| target.member.set_health(Health::Ready));
        all.present().iter().for_each(|target| target.member.set_health(Health::Ready));
        all.present()[2].member.set_health(health);

        assert_eq!(meant(&all, 1), meant(&three, 1), "{health}");
    }
}

#[test]
fn by_source_hash_a_client_moves_once_to_a_backend_that_has_come_back() {
    let roster = of_ports(&[1, 2, 3]);
    let before = meant(&roster, 1);
    roster.present()[2].member.start_slowly(Duration::ZERO);
    let mut pool = Pool::new(Arc::clone(&roster), Arc::default(), Policy::SourceHash, Some(SLOW_START), 1);
    let mut has_moved = vec![false; before.len()];

    for seconds in 0..=30 {
        for ((client, before), has_moved) in clients().zip(&before).zip(&mut has_moved) {
            let first = pool.candidates(Some(client), || Duration::from_secs(seconds)).next().unwrap();
            let port = first.target.address.port();
            assert!(port == *before || *before == 3 && !*has_moved, "{client} after {seconds} s");
            *has_moved |= port == 3;
        }
        let moved = u32::try_from(has_moved.iter().filter(|has_moved| **has_moved).count()).unwrap();
        let of_all = u32::try_from(before.iter().filter(|port| **port == 3).count()).unwrap();
        let share = 100 + 900 * u32::try_from(seconds).unwrap() / 30;
        // Five standard deviations of some two thousand clients are 112.
        assert!(moved.abs_diff(of_all * share / 1000) < 112, "{moved} of {of_all} after {seconds} s");
    }
    assert_eq!(meant(&roster, 1), before);
}
