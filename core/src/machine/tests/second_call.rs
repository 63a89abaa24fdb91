//! What a second call meets, by key and by meaning.

use super::*;

#[test]
fn a_repeat_of_one_decision_gets_the_same_grant_and_appends_nothing() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let again = ledger.ask(&Command::Decide(Box::new(order("d1"))));
    assert!(again.events.is_empty());
    assert!(matches!(again.reply, Reply::Grant(same) if *same == grant));
}

#[test]
fn a_second_call_waits_for_the_first_and_then_replays_it() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    assert!(matches!(ledger.decide(&order("d2")), Reply::Wait { effect } if effect == grant.effect));
    ledger.settle("a", &grant, completed());
    assert!(matches!(ledger.decide(&order("d2")), Reply::Replay(replay) if replay.answer == answer() && replay.span.as_str() == "span-d1"));
}

#[test]
fn in_flight_beyond_patience_is_409_with_retry_after() {
    let mut ledger = Ledger::default();
    ledger.grant(&order("d1"));
    let refusal = ledger.refusal(&Decide { patience_over: true, ..order("d2") });
    assert_eq!(refusal.code, Code::EffectInFlight);
    assert!(refusal.retry_after.is_some());
}

#[test]
fn another_body_or_principal_under_the_same_key_is_422() {
    let mut ledger = Ledger::default();
    ledger.grant(&order("d1"));
    let other_body = Decide { fingerprint: Some(Fingerprint::from_bytes([2; 32])), ..order("d2") };
    assert_eq!(ledger.refusal(&other_body).code, Code::IdempotencyKeyReused);
    let other_principal = Decide { principal: Principal::from_bytes([2; 32]), ..order("d3") };
    assert_eq!(ledger.refusal(&other_principal).code, Code::IdempotencyKeyReused);
}

#[test]
fn in_doubt_answers_423_before_any_other_check_and_names_its_gate() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate opened") };
    let other_body = Decide { fingerprint: Some(Fingerprint::from_bytes([2; 32])), ..order("d2") };
    let refusal = ledger.refusal(&other_body);
    assert_eq!((refusal.code, refusal.gate), (Code::EffectInDoubt, Some(gate)));
}

#[test]
fn a_fresh_key_on_retry_meets_the_effect_in_doubt_in_any_run_of_the_agent() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    ledger.settle("a", &grant, doubt());
    let fresh = Decide {
        boot: BootId::new("b").unwrap(),
        run: RunId::new("run-2").unwrap(),
        level: KeyLevel::Caller,
        keys: vec![KeyDigest::from_bytes([5; 32])],
        ..order("d2")
    };
    assert_eq!(ledger.refusal(&fresh).code, Code::EffectInDoubt);
    let stranger = Decide { agent: AgentId::new("other").unwrap(), run: RunId::new("run-3").unwrap(), ..fresh };
    assert!(matches!(ledger.decide(&Decide { decision: DecisionId::new("d3").unwrap(), ..stranger }), Reply::Grant(_)));
}

#[test]
fn in_an_implicit_run_a_repeat_replays_only_while_the_first_answer_is_unread() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&unnamed("d1"));
    ledger.settle("a", &grant, completed());
    assert!(matches!(ledger.decide(&unnamed("d2")), Reply::Replay(_)));
    let intended = Decide { observed: vec![seen(&grant, Seen::Read)], ..unnamed("d3") };
    assert!(matches!(ledger.decide(&intended), Reply::Grant(second) if second.effect != grant.effect));
}

#[test]
fn in_an_explicit_run_a_match_replays_within_its_window() {
    let mut ledger = Ledger::default();
    let explicit = |decision| Decide { explicit_run: true, ..unnamed(decision) };
    let grant = ledger.grant(&explicit("d1"));
    ledger.settle("a", &grant, completed());
    let read = Decide { observed: vec![seen(&grant, Seen::Read)], ..explicit("d2") };
    assert!(matches!(ledger.decide(&read), Reply::Replay(_)));
    ledger.now_ms += 600_001;
    assert!(matches!(ledger.decide(&explicit("d3")), Reply::Grant(_)));
}

#[test]
fn derived_off_lets_every_unnamed_repeat_through() {
    let mut ledger = Ledger::default();
    let off = |decision| Decide { derived: DerivedMode::Off, ..unnamed(decision) };
    let first = ledger.grant(&off("d1"));
    assert_ne!(ledger.grant(&off("d2")).effect, first.effect);
}

#[test]
fn an_unread_answer_of_another_run_replays_only_when_its_caller_is_gone() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&unnamed("d1"));
    ledger.settle("a", &grant, completed());
    let elsewhere = |decision| Decide { boot: BootId::new("b").unwrap(), run: RunId::new("run-2").unwrap(), ..unnamed(decision) };
    let mut other = ledger.clone();
    assert!(matches!(other.decide(&elsewhere("d2")), Reply::Grant(_)));
    ledger.ask(&Command::Observe(Observe::BootGone { boot: BootId::new("a").unwrap() }));
    assert!(matches!(ledger.decide(&elsewhere("d2")), Reply::Replay(_)));
}

#[test]
fn a_replay_by_meaning_is_for_the_same_principal_only() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&unnamed("d1"));
    ledger.settle("a", &grant, completed());
    let other = Decide { principal: Principal::from_bytes([2; 32]), ..unnamed("d2") };
    assert!(matches!(ledger.decide(&other), Reply::Grant(_)));
}

#[test]
fn a_run_belongs_to_the_agent_that_used_it_first() {
    let mut ledger = Ledger::default();
    ledger.grant(&order("d1"));
    let foreign = Decide { agent: AgentId::new("other").unwrap(), ..order("d2") };
    assert_eq!(ledger.refusal(&foreign).code, Code::RunForeign);
}

#[test]
fn a_batch_is_claimed_all_or_none() {
    let mut ledger = Ledger::default();
    ledger.grant(&order("d1"));
    let keys = vec![KeyDigest::from_bytes([2; 32]), KeyDigest::from_bytes([1; 32])];
    let meaning = Meaning::from_bytes([2; 32]);
    let batch = Decide { keys, meaning, fingerprint: Some(Fingerprint::from_bytes([3; 32])), ..order("d2") };
    assert_eq!(ledger.refusal(&batch).code, Code::IdempotencyKeyReused);
    assert!(ledger.state.by_key(&KeyDigest::from_bytes([2; 32])).is_none());
}

#[test]
fn a_batch_is_never_answered_with_another_batch_s_answer() {
    let batch = |decision, keys: [u8; 2], meaning| Decide {
        keys: keys.map(|key| KeyDigest::from_bytes([key; 32])).to_vec(),
        meaning: Meaning::from_bytes([meaning; 32]),
        ..order(decision)
    };
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&batch("d1", [1, 2], 1));
    ledger.settle("a", &grant, completed());
    assert_eq!(ledger.refusal(&batch("d2", [1, 3], 2)).code, Code::IdempotencyKeyReused);
    assert!(matches!(ledger.decide(&batch("d3", [2, 1], 1)), Reply::Replay(_)));
}

#[test]
fn in_audit_mode_a_call_goes_beside_what_it_meets_and_its_span_says_so() {
    let mut ledger = Ledger::default();
    let audited = |decision: &str| Decide { audit: true, ..order(decision) };
    let first = ledger.grant(&audited("d1"));
    let note = |outcome: &Outcome| {
        outcome.events.iter().find_map(|event| match &event.fact {
            Fact::EffectGranted { start, .. } => Some(start.attributes.get("audit_effect").cloned().unwrap_or_default()),
            _ => None,
        })
    };
    let ask = |ledger: &mut Ledger, decision: &str| ledger.ask(&Command::Decide(Box::new(audited(decision))));
    let check = |outcome: &Outcome, expect: &str| {
        let note = note(outcome).expect("a grant, whatever it meets");
        assert!(note.as_str().unwrap().starts_with(expect), "{note}");
    };
    check(&ask(&mut ledger, "d2"), "wait: for effect");
    ledger.settle("a", &first, completed());
    check(&ask(&mut ledger, "d3"), "replay: the answer of span");
    let mut doubted = Ledger::default();
    let grant = doubted.grant(&audited("d1"));
    doubted.settle("a", &grant, doubt());
    check(&ask(&mut doubted, "d2"), "refuse: effect_in_doubt: ");
    assert!(doubted.effect(&grant).is_in_doubt(), "what is met stays as it is");
    // Once the policies are enforced, what is on record counts.
    assert!(
        matches!(doubted.ask(&Command::Decide(Box::new(order("d3")))).reply, Reply::Refuse(refuse) if refuse.code == Code::EffectInDoubt)
    );
}

#[test]
fn what_is_done_is_met_by_its_meaning_after_its_answer_is_gone() {
    let check = |decide: fn(&str) -> Decide, later: Millis| {
        let mut ledger = Ledger::default();
        let grant = ledger.grant(&decide("d1"));
        ledger.settle("a", &grant, completed());
        ledger.pass(later);
        let expired = ledger.refusal(&decide("d2"));
        assert_eq!(expired.code, Code::EffectExpired);
    };
    check(unnamed, Millis::from_secs(72 * 3600));
    check(|decision| Decide { explicit_run: true, retention: Millis::from_secs(60), ..unnamed(decision) }, Millis::from_secs(120));
    let mut read = Ledger::default();
    let grant = read.grant(&unnamed("d1"));
    read.settle("a", &grant, completed());
    read.ask(&Command::Observe(Observe::Seen { boot: BootId::new("a").unwrap(), observed: vec![seen(&grant, Seen::Read)] }));
    read.pass(Millis::from_secs(72 * 3600));
    assert!(matches!(read.decide(&unnamed("d2")), Reply::Grant(_)), "an intended repeat goes through");
}
