use proptest::prelude::*;

use super::*;

const LIFETIMES: Lifetimes =
    Lifetimes { authority: Duration::from_secs(900), leaf: Duration::from_secs(90), grace: Duration::from_secs(10) };

const fn at(seconds: u64) -> Moment {
    Moment::from_millis(seconds * 1000)
}

/// Steps until nothing is left to do, and tells what was done.
fn run(state: &mut State, seen: &Seen, now: Moment) -> Vec<Action> {
    let mut done = Vec::new();
    for _ in 0..4 {
        let next = step(state, seen, now, &LIFETIMES);
        if next.actions.is_empty() {
            assert!(next.wake > now, "a driver that sleeps until then sleeps");
            assert_eq!(&next.state, state);
            return done;
        }
        *state = next.state;
        done.extend(next.actions);
    }
    panic!("it never settles: {done:?}");
}

fn published(state: &State) -> BTreeSet<u64> {
    state.authorities.iter().map(|authority| authority.id).collect()
}

#[test]
fn a_rotation_goes_by_the_table() {
    use Action::{DropAuthority as Drop, MakeAuthority as Make, SignLeaf as Sign};
    let (mut state, mut seen) = (State::default(), Seen::default());
    // The second, whether the configurations hold what is published, and what is done.
    let table: &[(u64, bool, &[Action])] = &[
        (1000, false, &[Make(1), Sign { id: 2, by: 1 }]),
        (1001, true, &[]),
        (1059, true, &[]),
        // The leaf is renewed at two thirds of its life, by the same authority.
        (1060, true, &[Sign { id: 3, by: 1 }]),
        (1120, true, &[Sign { id: 4, by: 1 }]),
        (1180, true, &[Sign { id: 5, by: 1 }]),
        // The authority at two thirds of its own; nobody has seen the new one.
        (1600, true, &[Make(6), Sign { id: 7, by: 1 }]),
        (1601, false, &[]),
        (1640, false, &[]),
        // Seen; the grace time passes.
        (1641, true, &[]),
        (1650, true, &[]),
        (1651, true, &[Sign { id: 8, by: 6 }]),
        (1660, true, &[]),
        // Every replica serves the new leaf.
        (1661, true, &[Drop(1)]),
        (1710, true, &[]),
        (1711, true, &[Sign { id: 9, by: 6 }]),
        // Switched off for longer than a leaf lives, and then longer than an authority.
        (1900, true, &[Sign { id: 10, by: 6 }]),
        (4000, true, &[Drop(6), Make(11), Sign { id: 12, by: 11 }]),
    ];
    for (second, is_published, expect) in table {
        let now = at(*second);
        if *is_published {
            seen.observe(&published(&state), now);
        }
        assert_eq!(run(&mut state, &seen, now), *expect, "at {second}: {state:?}");
    }
}

#[test]
fn what_somebody_takes_away_waits_for_the_grace_time_again() {
    let (mut state, mut seen) = (State::default(), Seen::default());
    run(&mut state, &seen, at(1000));
    seen.observe(&published(&state), at(1000));
    run(&mut state, &seen, at(1600));
    seen.observe(&published(&state), at(1600));
    seen.observe(&BTreeSet::new(), at(1609));
    seen.observe(&published(&state), at(1609));
    assert_eq!(run(&mut state, &seen, at(1610)), []);
    assert_eq!(run(&mut state, &seen, at(1618)), []);
    assert_eq!(state.leaf.as_ref().map(|leaf| leaf.by), Some(1));
    run(&mut state, &seen, at(1619));
    assert_eq!(state.leaf.as_ref().map(|leaf| leaf.by), Some(3));
}

#[test]
fn a_replica_that_has_seen_only_the_old_authority_does_not_go_back_to_it() {
    let (mut state, mut seen) = (State::default(), Seen::default());
    run(&mut state, &seen, at(1000));
    seen.observe(&published(&state), at(1000));
    let late = seen.clone();
    run(&mut state, &seen, at(1600));
    seen.observe(&published(&state), at(1600));
    run(&mut state, &seen, at(1610));
    let switched = state.leaf.clone();
    assert_eq!(switched.as_ref().map(|leaf| leaf.by), Some(3));
    assert_eq!(run(&mut state, &late, at(1611)), []);
    assert_eq!(state.leaf, switched);
}

#[test]
fn a_configuration_that_cannot_be_reached_ends_the_authority_and_not_the_machine() {
    let (mut state, seen) = (State::default(), Seen::default());
    let mut made = 0;
    for second in (1000..20_000).step_by(7) {
        let actions = run(&mut state, &seen, at(second));
        made += actions.iter().filter(|action| matches!(action, Action::MakeAuthority(_))).count();
        assert!(state.authorities.len() <= AUTHORITIES_MAX);
        assert!(state.leaf.as_ref().is_some_and(|leaf| leaf.ends > at(second)), "something is always served");
    }
    assert!(made < 40, "{made} authorities in 20 lifetimes");
}

#[test]
fn lifetimes_that_cannot_work_are_told() {
    assert_eq!(Lifetimes::default().problem(), None);
    assert_eq!(LIFETIMES.problem(), None);
    let second = Duration::from_secs(1);
    for (authority, leaf, grace) in [(9, 3, 0), (9, 2, 1), (8, 3, 1)] {
        let lifetimes = Lifetimes { authority: second * authority, leaf: second * leaf, grace: second * grace };
        assert!(lifetimes.problem().is_some(), "{lifetimes:?}");
    }
}

/// Else a year's authority would be rotated in a year, whatever the settings say by now.
#[test]
fn shorter_lives_hold_for_what_was_made_before() {
    use Action::{MakeAuthority as Make, SignLeaf as Sign};
    let (mut state, mut seen) = (State::default(), Seen::default());
    let first = step(&state, &seen, at(1000), &Lifetimes::default());
    state = first.state;
    seen.observe(&published(&state), at(1000));
    assert_eq!(run(&mut state, &seen, at(1059)), []);
    assert_eq!(run(&mut state, &seen, at(1060)), [Sign { id: 3, by: 1 }]);
    assert_eq!(state.leaf.as_ref().map(|leaf| leaf.ends), Some(at(1150)));
    assert_eq!(run(&mut state, &seen, at(1600)), [Make(4), Sign { id: 5, by: 1 }]);
    assert_eq!(state.authorities.last().map(|authority| authority.ends), Some(at(2500)));
}

/// A replica: what it serves, what it has read, and what it has seen.
#[derive(Clone, Default)]
struct Replica {
    seen: Seen,
    serves: Option<Leaf>,
}

proptest! {
    /// Two replicas, one Secret, one configuration that is written late or not at all, and API servers that learn of it within the
    /// grace time: whoever asks at any second finds a leaf that it trusts, once the first one has been published.
    #[test]
    fn no_leaf_is_served_that_an_api_server_may_not_trust(
        turns in proptest::collection::vec((any::<bool>(), any::<bool>(), 1_u64..9), 200..1200),
    ) {
        let (mut secret, mut replicas) = (State::default(), [Replica::default(), Replica::default()]);
        // Since when the configuration has held each authority, and the first moment at which an API server was ready.
        let mut configuration = BTreeMap::<u64, Moment>::new();
        let (mut second, mut is_begun) = (1000, false);
        for (first, reaches, pause) in turns {
            second += pause;
            let now = at(second);
            // The driver reads the Secret at least every quarter of a grace time, whatever else fails.
            for (index, replica) in replicas.iter_mut().enumerate() {
                replica.serves.clone_from(&secret.leaf);
                if (index == 0) != first {
                    continue;
                }
                if reaches {
                    configuration.retain(|id, _| published(&secret).contains(id));
                    for id in published(&secret) {
                        configuration.entry(id).or_insert(now);
                    }
                    replica.seen.observe(&published(&secret), now);
                }
                let next = step(&secret, &replica.seen, now, &LIFETIMES);
                secret = next.state;
                if !next.actions.is_empty() {
                    replica.serves.clone_from(&secret.leaf);
                }
            }
            let trusts = |leaf: &Leaf| configuration.get(&leaf.by).is_some_and(|since| since.after(LIFETIMES.grace) <= now);
            is_begun |= replicas.iter().all(|replica| replica.serves.as_ref().is_some_and(trusts));
            if is_begun {
                for replica in &replicas {
                    let leaf = replica.serves.as_ref();
                    prop_assert!(leaf.is_some_and(trusts), "at {second}: {leaf:?} under {configuration:?}");
                    prop_assert!(leaf.is_some_and(|leaf| leaf.ends > now));
                }
            }
        }
    }
}
