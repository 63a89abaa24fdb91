//! Every interleaving of a small world, explored to its end over the real `apply` and `fold`.
//!
//! Two callers in two pods want the same order. Between their sidecars, the ledger and the far side a reply is lost, a
//! request arrives late, a sidecar dies, the ledger starts anew, time passes, a probe looks, a person decides: each at any
//! step. The far side counts what it executed. [`world`] is that world; here is what must be true of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test that is wrong may say so")]

mod ledger;
mod world;

use kybernis_core::machine::{Effect, EffectState, GatePhase, SettledBy};
use stateright::{Checker, Model, Property};

use world::{Action, Limits, Told, World};

/// Which worlds are explored.
struct Orders {
    limits: Limits,
    properties: fn() -> Vec<Property<Orders>>,
}

impl Model for Orders {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.limits)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        last.after(action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        (self.properties)()
    }
}

fn is_free_only_if_not_executed(_: &Orders, world: &World) -> bool {
    world.ledger.state.effects().filter(|effect| effect.is_free()).all(|effect| !world.far.executed.contains(&effect.fence))
}

fn is_replayed_only_if_executed(_: &Orders, world: &World) -> bool {
    world.callers.iter().all(|caller| caller.last != Told::Replayed || !world.far.executed.is_empty())
}

/// When nothing more can happen, nothing is in flight, and what was executed is on record or asks for a word.
fn is_settled_or_visibly_in_doubt_at_rest(_: &Orders, world: &World) -> bool {
    let state = &world.ledger.state;
    let visible = |effect: &Effect| match &effect.state {
        EffectState::Dispatched => false,
        EffectState::InDoubt { .. } => {
            let asked = effect.resolution.as_ref().and_then(|gate| state.gate(gate)).is_some_and(|gate| gate.phase == GatePhase::Pending);
            asked || effect.spec.probe.is_some()
        }
        EffectState::Completed { .. } | EffectState::Rejected { .. } | EffectState::NotSent { .. } | EffectState::Tombstone { .. } => true,
    };
    let known = |effect: &Effect| effect.is_in_doubt() || matches!(effect.state, EffectState::Completed { .. });
    // A wrong word stands on record as the word of the person who said it.
    let is_known = world.far.executed.is_empty() || state.effects().any(known) || world.wrong_words > 0;
    (is_known && state.effects().all(visible)) || !world.is_at_rest()
}

fn settled_by(world: &World, by: fn(&SettledBy) -> bool) -> bool {
    world.ledger.state.effects().any(|effect| match &effect.state {
        EffectState::Completed { by: who, .. } | EffectState::NotSent { by: who } => by(who),
        EffectState::Dispatched | EffectState::Rejected { .. } | EffectState::InDoubt { .. } | EffectState::Tombstone { .. } => false,
    })
}

/// What holds while the people who decide gates look before they speak.
fn with_careful_people() -> Vec<Property<Orders>> {
    vec![
        Property::always("the far side executes the order at most once", |_, world: &World| world.far.executed.len() <= 1),
        Property::always("a permit is sent once", |_, world: &World| !world.far.sent_twice),
        Property::always("a free key means that its last grant was not executed", is_free_only_if_not_executed),
        Property::always("a replay shows what was executed", is_replayed_only_if_executed),
        Property::always("at rest all is settled or visibly in doubt", is_settled_or_visibly_in_doubt_at_rest),
        Property::sometimes("both callers have the first answer", |_, world: &World| {
            world.far.executed.len() == 1
                && world.callers.iter().any(|c| c.last == Told::Replayed)
                && world.callers.iter().any(|c| c.last == Told::Done)
        }),
        Property::sometimes("a freed key is granted again and executed", |_, world: &World| {
            world.far.executed.iter().any(|fence| fence.get() > 1)
        }),
        Property::sometimes("the far side refuses, and a retry is executed", |_, world: &World| {
            world.ledger.state.effects().any(|effect| effect.generation > 0) && !world.far.executed.is_empty()
        }),
        Property::sometimes("a doubt blocks", |_, world: &World| world.callers.iter().any(|caller| caller.last == Told::InDoubt)),
        Property::sometimes("a decision given up is never granted", |_, world: &World| world.refused_late),
        Property::sometimes("the exchange's own word settles a lost lease", |_, world: &World| {
            world.late_word && settled_by(world, |by| *by == SettledBy::Proof)
        }),
    ]
}

fn with_a_probe() -> Vec<Property<Orders>> {
    let mut properties = with_careful_people();
    properties.push(Property::sometimes("a probe settles", |_, world: &World| settled_by(world, |by| *by == SettledBy::Probe)));
    properties.push(Property::sometimes("a probe frees, and the retry is executed", |_, world: &World| {
        world.freed_by_probe && world.far.executed.len() == 1
    }));
    properties
}

fn with_people_alone() -> Vec<Property<Orders>> {
    let mut properties = with_careful_people();
    properties.push(Property::sometimes("a person settles", |_, world: &World| settled_by(world, |by| matches!(by, SettledBy::Person(_)))));
    properties
}

/// What holds when a person says "not executed" without looking.
fn with_a_careless_person() -> Vec<Property<Orders>> {
    vec![
        Property::always("a wrong word is the only way to a second execution", |_, world: &World| {
            world.far.executed.len() <= 1 + usize::from(world.wrong_words)
        }),
        Property::always("a permit is sent once", |_, world: &World| !world.far.sent_twice),
        Property::always("a second execution that both grants prove is an alarm", |_, world: &World| {
            world.far.proven.len() <= 1 || world.ledger.state.effects().any(|effect| !effect.proven_late.is_empty())
        }),
        Property::always("at rest all is settled or visibly in doubt", is_settled_or_visibly_in_doubt_at_rest),
        Property::sometimes("a duplicate is observed", |_, world: &World| {
            world.ledger.state.effects().any(|effect| !effect.proven_late.is_empty())
        }),
    ]
}

fn explore(limits: Limits, properties: fn() -> Vec<Property<Orders>>) {
    let model = Orders { limits, properties };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checker = model.checker().threads(threads).spawn_dfs().join();
    println!("{} worlds, {} of them different, {} steps deep", checker.state_count(), checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done(), "the exploration ended early");
    checker.assert_properties();
}

#[test]
fn with_a_probe_no_order_is_executed_twice_whatever_is_lost_or_dies() {
    explore(Limits { probe: true, ..Limits::default() }, with_a_probe);
}

#[test]
fn with_people_alone_no_order_is_executed_twice_whatever_is_lost_or_dies() {
    explore(Limits::default(), with_people_alone);
}

#[test]
fn a_second_execution_after_a_wrong_word_is_an_alarm() {
    explore(Limits { careless: true, calls: [1, 1], ..Limits::default() }, with_a_careless_person);
}
