//! What time alone does.

use super::*;

#[test]
fn a_free_record_is_kept_from_when_it_became_free() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.pass(TOMBSTONE);
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    ledger.pass(Millis::new(TOMBSTONE.get() - 1));
    assert_eq!(ledger.grant(&order("d2")).effect, first.effect, "its far-side key is the same");
}

#[test]
fn after_retention_a_tombstone_refuses_and_then_the_key_is_free() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    ledger.settle("a", &grant, completed());
    let dropped = ledger.pass(Millis::from_secs(72 * 3600));
    assert!(dropped.actions.contains(&Action::DropBody { effect: grant.effect.clone() }));
    assert_eq!(ledger.refusal(&order("d2")).code, Code::EffectExpired);
    ledger.pass(TOMBSTONE);
    assert!(matches!(ledger.decide(&order("d3")), Reply::Grant(_)));
}

#[test]
fn a_run_is_forgotten_when_nothing_of_it_is_on_record_and_never_before_its_doubts() {
    let mut ledger = Ledger::default();
    let (quiet, doubtful) = (RunId::new("run-1").unwrap(), RunId::new("run-2").unwrap());
    let grant = ledger.grant(&order("d1"));
    ledger.settle("a", &grant, completed());
    let open = ledger.grant(&Decide { run: doubtful.clone(), ..nth(2) });
    ledger.settle("a", &open, doubt());
    ledger.pass(Millis::from_secs(72 * 3600));
    ledger.pass(TOMBSTONE);
    assert!(ledger.state.effect(&grant.effect).is_none());
    ledger.pass(Millis::new(RUN_MEMORY.get() - 1));
    assert!(ledger.state.run(&quiet).is_some());
    ledger.pass(Millis::new(1));
    assert!(ledger.state.run(&quiet).is_none());
    ledger.pass(Millis::from_secs(10 * 365 * 24 * 3600));
    assert!(ledger.effect(&open).is_in_doubt() && ledger.state.run(&doubtful).is_some(), "a doubt waits for a person");
    // The record moves with its key: the run that had it before goes, the one that has it now stays.
    let gate = ledger.effect(&open).resolution.clone().unwrap();
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    let again = ledger.grant(&Decide { run: RunId::new("run-3").unwrap(), decision: DecisionId::new("d9").unwrap(), ..nth(2) });
    assert_eq!(again.effect, open.effect);
    ledger.settle("a", &again, doubt());
    ledger.pass(RUN_MEMORY);
    assert!(ledger.state.run(&doubtful).is_none() && ledger.state.run(&RunId::new("run-3").unwrap()).is_some());
}

/// A call of its own, one of many.
fn nth(n: u32) -> Decide {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Decide { keys: vec![KeyDigest::from_bytes(bytes)], meaning: Meaning::from_bytes(bytes), ..order(&format!("nth-{n}")) }
}

#[test]
fn a_long_absence_is_made_up_for_tick_by_tick_and_the_oldest_goes_first() {
    let mut ledger = Ledger::default();
    let grants: Vec<_> = (0..2500)
        .map(|n| {
            ledger.now_ms += 1;
            ledger.grant(&nth(n))
        })
        .collect();
    for (tick, lost) in [TICK_MAX, 2 * TICK_MAX, 2500, 2500].into_iter().enumerate() {
        ledger.pass(if tick == 0 { LEASE } else { Millis::new(0) });
        let doubts = grants.iter().take_while(|grant| ledger.effect(grant).is_in_doubt()).count();
        assert_eq!((doubts, ledger.state.effects().filter(|effect| effect.is_in_doubt()).count()), (lost, lost));
    }
    assert!(ledger.pass(Millis::new(0)).events.is_empty(), "a person is asked: time does nothing more");
}

#[test]
fn a_probe_that_nobody_asked_for_in_time_leaves_nothing_to_do_once_a_person_is_asked() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&Decide { probe: Some(probe(None)), ..order("d1") });
    ledger.settle("a", &grant, doubt());
    let late = ledger.pass(Millis::from_secs(24 * 3600));
    assert!(ledger.effect(&grant).resolution.is_some() && late.actions.iter().all(|action| !matches!(action, Action::Probe { .. })));
    let again = ledger.pass(Millis::new(1));
    assert!(again.events.is_empty() && again.actions.is_empty());
}
