use proptest::prelude::*;

use super::*;

const HEALTHS: [Health; 4] = [Health::Ready, Health::Unknown, Health::Draining, Health::Dead];

fn members(healths: &[Health]) -> Arc<Members> {
    let members = Arc::new(Members::new(healths.len()));
    for (id, health) in members.ids().zip(healths) {
        members.member(id).set_health(*health);
    }
    members
}

fn first(pool: &mut Pool) -> usize {
    pool.candidates().next().unwrap().id.index()
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::LeastConnections), Just(Policy::RoundRobin)]
}

proptest! {
    #[test]
    fn every_backend_comes_once_and_the_healthier_first(
        policy in policies(),
        seed in any::<u64>(),
        backends in proptest::collection::vec((proptest::sample::select(&HEALTHS), 0_usize..9), 0..20),
    ) {
        let healths: Vec<_> = backends.iter().map(|(health, _)| *health).collect();
        let members = members(&healths);
        let _open: Vec<_> = members.ids().zip(&backends).flat_map(|(id, (_, open))| {
            let members = &members;
            (0..*open).map(move |_| members.enter(id))
        }).collect();
        let mut pool = Pool::new(Arc::clone(&members), policy, seed);
        for _ in 0..5 {
            let order: Vec<_> = pool.candidates().map(|candidate| candidate.id).collect();
            let ranks: Vec<_> = order.iter().map(|id| encode(members.member(*id).health())).collect();
            prop_assert!(ranks.is_sorted(), "{:?}", ranks);
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, members.ids().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_fullest_of_three_is_never_chosen_first(seed in any::<u64>(), others in 0_usize..5) {
        let members = members(&[Health::Ready; 3]);
        let ids: Vec<_> = members.ids().collect();
        let _open: Vec<_> = (0..others)
            .flat_map(|_| [members.enter(ids[0]), members.enter(ids[2])])
            .chain((0..=others).map(|_| members.enter(ids[1])))
            .collect();
        let mut pool = Pool::new(members, Policy::LeastConnections, seed);
        for _ in 0..50 {
            prop_assert_ne!(first(&mut pool), 1);
        }
    }
}

#[test]
fn least_connections_keeps_three_backends_within_a_few_of_each_other() {
    for seed in 0..20 {
        let members = members(&[Health::Ready; 3]);
        let mut pool = Pool::new(Arc::clone(&members), Policy::LeastConnections, seed);

        let _open: Vec<_> = (0..3000).map(|_| members.enter(pool.candidates().next().unwrap().id)).collect();

        let counts: Vec<_> = members.ids().map(|id| members.member(id).open()).collect();
        assert!(counts.iter().all(|count| count.abs_diff(1000) <= 5), "seed {seed}: {counts:?}");
    }
}

#[test]
fn equal_backends_are_chosen_equally_often() {
    let mut counts = [0_usize; 3];
    let mut pool = Pool::new(members(&[Health::Ready; 3]), Policy::LeastConnections, 7);

    for _ in 0..30_000 {
        counts[first(&mut pool)] += 1;
    }

    // Five standard deviations (82) of a fair choice.
    assert!(counts.iter().all(|count| count.abs_diff(10_000) < 410), "{counts:?}");
}

#[test]
fn round_robin_takes_turns_across_pools() {
    let members = members(&[Health::Ready; 3]);
    let mut pools = [1, 2].map(|seed| Pool::new(Arc::clone(&members), Policy::RoundRobin, seed));

    let order: Vec<_> = (0..6).map(|turn| first(&mut pools[turn % 2])).collect();

    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn round_robin_is_fair_among_those_that_are_ready() {
    let members = members(&[Health::Ready, Health::Dead, Health::Ready]);
    let mut pool = Pool::new(members, Policy::RoundRobin, 1);

    let order: Vec<_> = (0..4).map(|_| first(&mut pool)).collect();

    assert_eq!(order, [0, 2, 0, 2]);
}

#[test]
fn a_candidate_knows_the_deaths_before_its_choice() {
    let members = members(&[Health::Ready]);
    let mut pool = Pool::new(Arc::clone(&members), Policy::RoundRobin, 1);
    let id = members.ids().next().unwrap();
    let before = pool.candidates().next().unwrap();

    members.member(id).set_health(Health::Dead);

    assert_ne!(before.deaths, members.member(id).deaths());
    assert_eq!(pool.candidates().next().unwrap().deaths, members.member(id).deaths());
}

#[test]
fn a_pool_is_usable_until_the_last_backend_is_dead() {
    for health in HEALTHS {
        assert_eq!(members(&[Health::Dead, health]).usable(), health != Health::Dead, "{health}");
    }
}

#[test]
fn a_connection_counts_until_it_is_dropped() {
    let members = members(&[Health::Ready]);
    let id = members.ids().next().unwrap();

    let open = members.enter(id);

    assert_eq!(members.member(id).open(), 1);
    drop(open);
    assert_eq!(members.member(id).open(), 0);
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
