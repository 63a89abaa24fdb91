//! What holds after any sequence of commands: one test per rule, each over the same kind of random history.
//!
//! [`steps`] says what may happen, [`world`] drives the machine as the ledger does (apply, fold, restart), and [`laws`]
//! judges every transition against the contract with knowledge of its own, never with the machine's.

#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test that is wrong may say so")]

mod laws;
mod names;
mod steps;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use laws::Law;
use world::World;

/// Steps of one history: long enough for grant, doubt, person, second grant and late proof to meet.
const STEPS: usize = 60;

/// Histories for each rule.
const CASES: u32 = 400;

/// Runs random histories and judges every transition by `law`.
fn always(law: Law) {
    // PROPTEST_CASES asks for more.
    let cases = Config::default().cases.max(CASES);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() });
    let histories = prop::collection::vec(steps::step(), 1..STEPS);
    let result = runner.run(&histories, |history| {
        let mut world = World::default();
        for step in &history {
            if let Some(transition) = world.take(step) {
                law(&transition).map_err(|broken| TestCaseError::fail(format!("{broken}\nafter {transition}")))?;
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_key_has_one_live_permit_and_a_fence_is_granted_once() {
    always(laws::one_live_permit_per_key_and_fence);
}

#[test]
fn the_fence_rises_by_one_on_a_grant_and_the_generation_only_after_rejected() {
    always(laws::fence_and_generation_rise_as_declared);
}

#[test]
fn a_dispatched_effect_never_becomes_free_without_proof() {
    always(laws::never_free_without_proof);
}

#[test]
fn no_effect_is_lost_while_it_may_have_happened() {
    always(laws::nothing_is_lost);
}

#[test]
fn a_lease_that_ends_leaves_a_visible_doubt() {
    always(laws::doubt_is_visible);
}

#[test]
fn a_terminal_outcome_is_never_overwritten() {
    always(laws::terminal_outcomes_stand);
}

#[test]
fn proof_of_execution_beats_any_resolution_and_is_an_alarm_after_a_later_dispatch() {
    always(laws::proof_of_execution_is_heard);
}

#[test]
fn a_replay_equals_the_first_answer() {
    always(laws::replay_equals_the_first_answer);
}

#[test]
fn a_repeated_command_is_a_no_op() {
    always(laws::repeats_are_no_ops);
}

#[test]
fn an_approval_is_consumed_once_or_given_back() {
    always(laws::approvals_are_used_once);
}

#[test]
fn a_batch_is_claimed_all_or_none() {
    always(laws::batches_are_whole);
}

#[test]
fn an_effect_in_doubt_blocks_what_means_the_same_in_any_run_of_its_agent() {
    always(laws::doubt_blocks);
}

#[test]
fn another_body_or_principal_under_a_key_is_refused() {
    always(laws::keys_name_one_request);
}

#[test]
fn a_decision_that_was_given_up_is_never_granted() {
    always(laws::given_up_is_never_granted);
}

#[test]
fn a_stranger_s_run_is_refused() {
    always(laws::runs_have_one_owner);
}

#[test]
fn time_never_runs_backwards() {
    always(laws::time_goes_on);
}

#[test]
fn refolding_the_journal_gives_the_same_state_and_the_same_answers() {
    always(laws::refold_is_the_same);
}

/// The histories reach what the rules speak of: without this a rule could hold because nothing ever happened.
#[test]
fn the_histories_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(steps::step(), STEPS / 2..STEPS);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..CASES {
        let history = histories.new_tree(&mut runner).unwrap().current();
        let mut world = World::default();
        for step in &history {
            if let Some(transition) = world.take(step) {
                for sight in transition.sights() {
                    *seen.entry(sight).or_insert(0_u32) += 1;
                }
            }
        }
    }
    for sight in world::SIGHTS {
        let count = seen.get(sight).copied().unwrap_or(0);
        assert!(count >= 5, "{sight} came up {count} times; all: {seen:?}");
    }
}
