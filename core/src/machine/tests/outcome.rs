//! How a grant ends, and who may say so afterwards.

use super::*;

#[test]
fn a_lost_lease_is_in_doubt_and_never_free() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    ledger.pass(LEASE);
    assert!(ledger.effect(&grant).is_in_doubt());
    assert_eq!(ledger.refusal(&order("d2")).code, Code::EffectInDoubt);
}

#[test]
fn renewing_keeps_a_lease_and_names_the_lost_ones() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let renew =
        Renew { boot: BootId::new("a").unwrap(), leases: vec![(grant.effect.clone(), grant.fence)], lease: LEASE, observed: Vec::new() };
    ledger.now_ms += 20_000;
    assert!(matches!(ledger.ask(&Command::Renew(renew.clone())).reply, Reply::Renewed { lost } if lost.is_empty()));
    ledger.state.extend_leases(&renew, Timestamp::from_epoch_ms(ledger.now_ms));
    ledger.pass(Millis::from_secs(20));
    assert!(ledger.effect(&grant).is_in_flight());
    ledger.pass(Millis::from_secs(20));
    assert!(matches!(ledger.ask(&Command::Renew(renew)).reply, Reply::Renewed { lost } if lost.len() == 1));
}

#[test]
fn not_sent_frees_the_key_and_raises_the_fence_but_not_the_generation() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    ledger.settle("a", &first, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    let second = ledger.grant(&order("d2"));
    assert_eq!((&second.effect, second.generation), (&first.effect, 0));
    assert!(second.fence > first.fence);
}

#[test]
fn the_generation_rises_only_after_rejected() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    ledger.settle("a", &first, SettleOutcome::Rejected { status: 400, not_executed: false });
    assert_eq!(ledger.grant(&order("d2")).generation, 1);
}

#[test]
fn a_repeated_settle_is_a_no_op_and_a_terminal_outcome_is_never_overwritten() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    ledger.settle("a", &grant, completed());
    for word in [completed(), doubt(), SettleOutcome::NotSent(NotSentProof::ZeroBytesWritten)] {
        let outcome = ledger.ask(&Command::Settle(Box::new(settle_of("a", &grant, word))));
        assert!(outcome.events.is_empty());
    }
}

#[test]
fn an_abandoned_decision_that_was_granted_was_not_sent() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let abandon = Abandon { boot: BootId::new("a").unwrap(), decision: DecisionId::new("d1").unwrap() };
    ledger.ask(&Command::Abandon(abandon.clone()));
    assert!(ledger.effect(&grant).is_free());
    assert!(ledger.ask(&Command::Abandon(abandon)).events.is_empty());
}

#[test]
fn an_abandon_kills_a_decide_that_arrives_later() {
    let mut ledger = Ledger::default();
    ledger.ask(&Command::Abandon(Abandon { boot: BootId::new("a").unwrap(), decision: DecisionId::new("d1").unwrap() }));
    assert_eq!(ledger.refusal(&order("d1")).code, Code::DecisionAbandoned);
}

#[test]
fn a_probe_that_says_executed_settles_at_once() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&Decide { probe: Some(probe(None)), ..order("d1") });
    ledger.settle("a", &grant, doubt());
    let due = ledger.pass(Millis::from_secs(2));
    assert!(matches!(due.actions.as_slice(), [Action::Probe { .. }]));
    ledger.ask(&Command::Evidence(evidence(&grant, Finding::Executed, ledger.now_ms)));
    assert!(matches!(ledger.effect(&grant).state, EffectState::Completed { by: SettledBy::Probe, .. }));
    assert_eq!(ledger.refusal(&order("d2")).code, Code::ReplayUnavailable);
}

fn evidence(grant: &Grant, finding: Finding, asked_ms: u64) -> Evidence {
    Evidence {
        boot: BootId::new("a").unwrap(),
        effect: grant.effect.clone(),
        fence: grant.fence,
        finding,
        asked_at: Timestamp::from_epoch_ms(asked_ms),
    }
}

#[test]
fn not_executed_counts_only_after_lease_end_plus_horizon_and_never_without_one() {
    for (horizon, asked_ms, frees) in
        [(Some(Millis::from_secs(30)), 59_999, false), (Some(Millis::from_secs(30)), 60_000, true), (None, 10_000_000, false)]
    {
        let mut ledger = Ledger::default();
        let grant = ledger.grant(&Decide { probe: Some(probe(horizon)), ..order("d1") });
        ledger.settle("a", &grant, doubt());
        ledger.now_ms = asked_ms;
        ledger.ask(&Command::Evidence(evidence(&grant, Finding::NotExecuted, asked_ms)));
        assert_eq!(ledger.effect(&grant).is_free(), frees, "horizon {horizon:?}, asked at {asked_ms}");
    }
}

#[test]
fn a_restart_shortens_no_lease_that_a_probe_counts_by() {
    let mut ledger = Ledger::default();
    let asked = Command::Decide(Box::new(Decide { probe: Some(probe(Some(Millis::from_secs(30)))), ..order("d1") }));
    let mut journal = ledger.ask(&asked).events;
    let effect = ledger.state.effects().next().unwrap();
    let grant = Grant { effect: effect.spec.effect.clone(), fence: effect.fence, generation: 0, approval: None };
    ledger.now_ms = 25_000;
    let leases = vec![(grant.effect.clone(), grant.fence)];
    let renew = Renew { boot: BootId::new("a").unwrap(), leases, lease: LEASE, observed: Vec::new() };
    ledger.state.extend_leases(&renew, Timestamp::from_epoch_ms(ledger.now_ms));
    journal.extend(ledger.ask(&Command::Settle(Box::new(settle_of("a", &grant, doubt())))).events);
    ledger.state = State::default();
    journal.iter().for_each(|event| ledger.state.fold(event));
    ledger.state.restart_leases(Timestamp::from_epoch_ms(ledger.now_ms), LEASE);
    for (asked_ms, frees) in [(84_999, false), (85_000, true)] {
        ledger.now_ms = asked_ms;
        ledger.ask(&Command::Evidence(evidence(&grant, Finding::NotExecuted, asked_ms)));
        assert_eq!(ledger.effect(&grant).is_free(), frees, "asked at {asked_ms}");
    }
}

#[test]
fn a_sidecar_out_of_touch_keeps_its_lease_to_the_end() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&Decide { probe: Some(probe(Some(Millis::from_secs(30)))), ..order("d1") });
    ledger.ask(&Command::Observe(Observe::BootGone { boot: BootId::new("a").unwrap() }));
    // It may only be cut off, and still be sending.
    ledger.pass(Millis::from_secs(29));
    assert!(ledger.effect(&grant).is_in_flight());
    ledger.pass(Millis::from_secs(1));
    assert!(ledger.effect(&grant).is_in_doubt());
    for (asked_ms, frees) in [(59_999, false), (60_000, true)] {
        ledger.now_ms = asked_ms;
        ledger.ask(&Command::Evidence(evidence(&grant, Finding::NotExecuted, asked_ms)));
        assert_eq!(ledger.effect(&grant).is_free(), frees, "asked at {asked_ms}");
    }
}

#[test]
fn a_sidecar_that_came_back_can_go_again() {
    let mut ledger = Ledger::default();
    let gone = Command::Observe(Observe::BootGone { boot: BootId::new("a").unwrap() });
    ledger.grant(&order("d1"));
    assert_eq!((ledger.ask(&gone).events.len(), ledger.ask(&gone).events.len()), (1, 0));
    let second = ledger.grant(&Decide { keys: vec![KeyDigest::from_bytes([2; 32])], meaning: Meaning::from_bytes([2; 32]), ..order("d2") });
    assert!(!ledger.effect(&second).caller_gone);
    assert_eq!(ledger.ask(&gone).events.len(), 1);
    assert!(ledger.effect(&second).caller_gone);
}

#[test]
fn a_probe_that_gives_up_hands_over_to_a_person() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&Decide { probe: Some(probe(None)), ..order("d1") });
    ledger.settle("a", &grant, doubt());
    assert_eq!(ledger.refusal(&order("d2")).gate, None);
    ledger.pass(Millis::from_secs(600));
    assert!(ledger.refusal(&order("d3")).gate.is_some());
}

#[test]
fn a_person_settles_a_doubt_and_is_named() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate") };
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    assert_eq!(ledger.effect(&grant).state, EffectState::NotSent { by: SettledBy::Person(PersonId::new("ada").unwrap()) });
    assert!(matches!(ledger.decide(&order("d2")), Reply::Grant(_)));
}

#[test]
fn proof_of_execution_beats_a_resolution_without_a_later_dispatch() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate") };
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    ledger.settle("a", &grant, completed());
    assert!(matches!(ledger.effect(&grant).state, EffectState::Completed { by: SettledBy::Proof, .. }));
}

#[test]
fn proof_of_not_sent_takes_back_no_resolution_that_says_executed() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    // Wrong: the far side did execute it. The second grant never leaves, and the person then sees the first one's order.
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    let second = ledger.grant(&order("d2"));
    ledger.pass(LEASE);
    let gate = ledger.effect(&second).resolution.clone().unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Executed);
    ledger.settle("a", &second, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    assert!(matches!(ledger.effect(&second).state, EffectState::Completed { by: SettledBy::Person(_), .. }));
    assert_eq!(ledger.refusal(&order("d3")).code, Code::ReplayUnavailable);
}

#[test]
fn proof_of_execution_after_a_later_dispatch_is_an_alarm() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    let second = ledger.grant(&order("d2"));
    let late = ledger.ask(&Command::Settle(Box::new(settle_of("a", &first, completed()))));
    assert!(matches!(late.events.as_slice(), [Event { fact: Fact::DuplicateObserved { .. }, .. }]));
    assert!(ledger.effect(&second).is_in_flight());
    let repeated = ledger.ask(&Command::Settle(Box::new(settle_of("a", &first, completed()))));
    assert!(repeated.events.is_empty() && repeated.actions.is_empty());
}

#[test]
fn proof_of_execution_closes_a_key_that_a_wrong_word_and_an_unsent_retry_left_free() {
    let mut ledger = Ledger::default();
    let first = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    let second = ledger.grant(&order("d2"));
    let unsent = ledger.clone();
    ledger.settle("a", &second, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    let late = Command::Settle(Box::new(settle_of("a", &first, completed())));
    let heard = ledger.ask(&late);
    assert!(!heard.actions.contains(&Action::Alarm { effect: first.effect.clone() }), "there was no later dispatch");
    assert_eq!(ledger.refusal(&order("d3")).code, Code::ReplayUnavailable);
    assert!(ledger.ask(&late).events.is_empty(), "said once");
    // A stranger's word is an alarm for people, and closes nothing.
    let mut told = unsent.clone();
    told.settle("a", &second, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    let stranger = told.ask(&Command::Settle(Box::new(settle_of("b", &first, completed()))));
    assert!(stranger.actions.contains(&Action::Alarm { effect: first.effect.clone() }) && told.effect(&second).is_free());
    // Where the proof comes while the retry is under way, the retry's end does not free the key either.
    let mut under_way = unsent;
    assert!(under_way.ask(&late).actions.contains(&Action::Alarm { effect: first.effect.clone() }));
    under_way.settle("a", &second, SettleOutcome::Rejected { status: 422, not_executed: false });
    assert_eq!(under_way.refusal(&order("d3")).code, Code::ReplayUnavailable);
}

#[test]
fn proof_of_execution_after_a_dispatch_in_another_batch_is_an_alarm_too() {
    let mut ledger = Ledger::default();
    let keys = vec![KeyDigest::from_bytes([1; 32]), KeyDigest::from_bytes([2; 32])];
    let first = ledger.grant(&Decide { keys, ..order("d1") });
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
    let second = ledger.grant(&order("d2"));
    assert_ne!(second.effect, first.effect);
    let late = ledger.ask(&Command::Settle(Box::new(settle_of("a", &first, completed()))));
    assert!(late.actions.contains(&Action::Alarm { effect: first.effect.clone() }));
    // What the first batch holds alone is known to be done.
    let rest = Decide { keys: vec![KeyDigest::from_bytes([2; 32])], ..order("d3") };
    assert_eq!(ledger.refusal(&rest).code, Code::IdempotencyKeyReused);
}

/// A call that went out as `own` while the ledger was away.
fn adopted(own: &str, decide: Decide) -> Decide {
    Decide { adopts: Some(EffectId::new(own).unwrap()), ..decide }
}

#[test]
fn an_effect_that_went_out_alone_is_known_by_the_name_that_it_had() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&adopted("alone-1", unnamed("d1")));
    assert_eq!((grant.effect.as_str(), grant.fence, grant.generation), ("alone-1", Fence::FIRST, 0));
    ledger.settle("a", &grant, completed());
    assert!(matches!(ledger.decide(&unnamed("d2")), Reply::Replay(_)), "its answer was never read");
    // The sidecar's reports name the effect as it went out.
    let intended = Decide { observed: vec![seen(&grant, Seen::Read)], ..unnamed("d3") };
    assert!(matches!(ledger.decide(&intended), Reply::Grant(_)), "a repeat after a delivered answer goes through");
}

#[test]
fn an_effect_that_went_out_alone_takes_up_no_other_record() {
    for ask in [order as fn(&str) -> Decide, unnamed] {
        let mut ledger = Ledger::default();
        let first = ledger.grant(&ask("d1"));
        ledger.settle("a", &first, doubt());
        let gate = ledger.effect(&first).resolution.clone().unwrap();
        ledger.vote(&gate, "ada", GateVerdict::NotExecuted);
        let alone = ledger.grant(&adopted("alone-1", ask("d2")));
        assert_eq!((alone.effect.as_str(), alone.fence), ("alone-1", Fence::FIRST));
        let mut once_more = ledger.clone();
        once_more.settle("a", &alone, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
        assert_eq!(once_more.grant(&ask("d3")).effect, alone.effect, "what went last is what a further grant takes up");
        for mut ledger in [ledger, once_more] {
            let late = ledger.ask(&Command::Settle(Box::new(settle_of("a", &first, completed()))));
            assert!(late.actions.contains(&Action::Alarm { effect: first.effect.clone() }), "it was executed, and went out again");
        }
    }
}

#[test]
fn a_claim_is_adopted_once_however_late_it_is_told_again() {
    let mut ledger = Ledger::default();
    let ask = adopted("alone-1", order("d1"));
    let grant = ledger.grant(&ask);
    assert_eq!(ledger.grant(&ask), grant);
    ledger.pass(Millis::new(1));
    ledger.settle("a", &grant, completed());
    ledger.pass(Millis::from_secs(2 * 3600));
    ledger.grant(&Decide { keys: vec![KeyDigest::from_bytes([5; 32])], meaning: Meaning::from_bytes([5; 32]), ..order("d2") });
    assert!(!ledger.state.has_decided(&ask.boot, &ask.decision), "decisions are remembered for an hour");
    assert_eq!(ledger.refusal(&ask).code, Code::DecisionAbandoned, "settled already");
    assert_eq!(ledger.refusal(&Decide { decision: DecisionId::new("d9").unwrap(), ..ask }).code, Code::BadRequest);
}

#[test]
fn what_the_sidecar_notes_stands_in_the_span_that_the_grant_opens() {
    let mut ledger = Ledger::default();
    let notes = [("audit", "would deny: desk/limits"), ("tool", "forged")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let outcome = ledger.ask(&Command::Decide(Box::new(Decide { notes: notes.into(), ..order("d1") })));
    let start = outcome.events.iter().find_map(|event| match &event.fact {
        Fact::EffectGranted { start, .. } => Some(start),
        _ => None,
    });
    let attributes = &start.unwrap().attributes;
    assert_eq!(attributes["audit"], "would deny: desk/limits");
    assert_eq!(attributes["tool"], "broker-orders", "what the ledger says of itself is not the sidecar's to write");
}

#[test]
fn spans_numbered_up_to_the_end_of_numbers_are_a_gap_and_no_fault() {
    let mut ledger = Ledger::default();
    let run = RunId::new("run-1").unwrap();
    let end = crate::ksp::SpanEnd::new(Timestamp::default(), run, SpanId::new("s").unwrap(), crate::ksp::SpanStatus::Ok, Millis::new(1));
    let spans = vec![crate::ksp::KspEvent::SpanEnd(end); 2];
    let (boot, agent) = (BootId::new("a").unwrap(), AgentId::new("trader").unwrap());
    let outcome = ledger.ask(&Command::Spans(Box::new(Spans { boot, agent, first_seq: u64::MAX, spans })));
    assert!(outcome.events.is_empty());
    assert!(matches!(outcome.reply, Reply::SpansAcked { through: 0 }));
}

#[test]
fn journal_replay_gives_the_same_answers() {
    let mut ledger = Ledger::default();
    let mut events = Vec::new();
    events.extend(ledger.ask(&Command::Decide(Box::new(order("d1")))).events);
    let grant = ledger.grant(&order("d1"));
    events.extend(ledger.ask(&Command::Settle(Box::new(settle_of("a", &grant, completed())))).events);
    let bytes = serde_json::to_vec(&events).unwrap();
    let mut reborn = State::default();
    serde_json::from_slice::<Vec<Event>>(&bytes).unwrap().iter().for_each(|event| reborn.fold(event));
    assert_eq!(reborn.effect(&grant.effect), ledger.state.effect(&grant.effect));
    assert_eq!(reborn.run(&RunId::new("run-1").unwrap()), ledger.state.run(&RunId::new("run-1").unwrap()));
}

#[test]
fn a_resolution_says_what_was_to_be_done() {
    let noted = || BTreeMap::from([(SUMMARY_NOTE.to_owned(), "payment_id=p1 amount=500".to_owned()), ("other".to_owned(), "x".to_owned())]);
    for (approval, notes, expect) in [
        (None, noted(), "payment_id=p1 amount=500: was POST broker.example.com/v1/orders executed? Look at the far side."),
        (Some(approval(1, 1)), noted(), "qty=500: was POST broker.example.com/v1/orders executed? Look at the far side."),
        (None, BTreeMap::new(), "Was POST broker.example.com/v1/orders executed? Look at the far side."),
    ] {
        let mut ledger = Ledger::default();
        let call = |decision| Decide { approval: approval.clone(), notes: notes.clone(), ..order(decision) };
        if approval.is_some() {
            let gate = ledger.refusal(&call("d1")).gate.unwrap();
            ledger.vote(&gate, "ada", GateVerdict::Approve);
        }
        let granted = ledger.ask(&Command::Decide(Box::new(call("d2"))));
        let Reply::Grant(grant) = granted.reply else { panic!("{:?}", granted.reply) };
        let Some(Fact::EffectGranted { start, .. }) = granted.events.into_iter().map(|event| event.fact).next_back() else {
            panic!("no grant")
        };
        assert_eq!((start.attributes.contains_key(SUMMARY_NOTE), start.attributes.contains_key("other")), (false, notes.len() == 2));
        let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate") };
        assert_eq!(ledger.state.gate(&gate).unwrap().spec.summary, expect);
    }
}
