//! Each rule of the contract as a test named after it, over a small ledger that applies, folds and answers.

use std::collections::BTreeMap;

use super::*;
use crate::ids::{
    AgentId, BodyDigest, BootId, DecisionId, EffectId, Fingerprint, GateId, KeyDigest, Meaning, PersonId, PolicyDigest, Principal,
    RequestDigest, RunId, SpanId, ToolName,
};
use crate::reason::Code;
use crate::time::Millis;

const LEASE: Millis = Millis::from_secs(30);

/// A ledger in memory: what the driver does around [`apply`], with a clock that the test moves.
#[derive(Clone, Default)]
struct Ledger {
    state: State,
    now_ms: u64,
    spent: u64,
}

impl Ledger {
    fn ask(&mut self, command: &Command) -> Outcome {
        self.spent += 1;
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.spent.to_be_bytes());
        let outcome = apply(&self.state, command, Timestamp::from_epoch_ms(self.now_ms), Entropy::new(entropy));
        outcome.events.iter().for_each(|event| self.state.fold(event));
        outcome
    }

    fn decide(&mut self, decide: &Decide) -> Reply {
        self.ask(&Command::Decide(Box::new(decide.clone()))).reply
    }

    fn grant(&mut self, decide: &Decide) -> Grant {
        match self.decide(decide) {
            Reply::Grant(grant) => *grant,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    fn refusal(&mut self, decide: &Decide) -> Refuse {
        match self.decide(decide) {
            Reply::Refuse(refuse) => *refuse,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn settle(&mut self, boot: &str, grant: &Grant, outcome: SettleOutcome) -> Reply {
        self.ask(&Command::Settle(Box::new(settle_of(boot, grant, outcome)))).reply
    }

    fn pass(&mut self, span: Millis) -> Outcome {
        self.now_ms += span.get();
        self.ask(&Command::Expire)
    }

    fn effect(&self, grant: &Grant) -> &Effect {
        self.state.effect(&grant.effect).unwrap()
    }

    fn vote(&mut self, gate: &GateId, person: &str, verdict: GateVerdict) -> Outcome {
        self.ask(&Command::DecideGate(Box::new(DecideGate {
            gate: gate.clone(),
            digest: None,
            person: PersonId::new(person).unwrap(),
            verdict,
            reason: "checked".to_owned(),
        })))
    }
}

fn settle_of(boot: &str, grant: &Grant, outcome: SettleOutcome) -> Settle {
    Settle {
        boot: BootId::new(boot).unwrap(),
        effect: grant.effect.clone(),
        fence: grant.fence,
        outcome,
        fingerprint: None,
        latency: Millis::new(12),
        bytes_out: 100,
        bytes_in: 20,
    }
}

fn answer() -> StoredAnswer {
    StoredAnswer {
        status: 201,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        trailers: Vec::new(),
        digest: BodyDigest::from_bytes([7; 32]),
        len: 20,
        stored: true,
    }
}

fn completed() -> SettleOutcome {
    SettleOutcome::Completed(answer())
}

fn doubt() -> SettleOutcome {
    SettleOutcome::InDoubt { cause: DoubtCause::Eof, status: None }
}

/// An order named by its tool: boot `a`, run `run-1`, key 1, body 1.
fn order(decision: &str) -> Decide {
    Decide {
        boot: BootId::new("a").unwrap(),
        decision: DecisionId::new(decision).unwrap(),
        agent: AgentId::new("trader").unwrap(),
        run: RunId::new("run-1").unwrap(),
        explicit_run: false,
        span: SpanId::new(&format!("span-{decision}")).unwrap(),
        parent_span: None,
        tool: ToolName::new("broker-orders").unwrap(),
        action: "POST broker.example.com/v1/orders".to_owned(),
        level: KeyLevel::Tool,
        keys: vec![KeyDigest::from_bytes([1; 32])],
        key_hint: "order:1".to_owned(),
        meaning: Meaning::from_bytes([1; 32]),
        fingerprint: Some(Fingerprint::from_bytes([1; 32])),
        principal: Principal::from_bytes([1; 32]),
        derived: DerivedMode::Default,
        derived_window: Millis::from_secs(600),
        retention: Millis::from_secs(72 * 3600),
        probe: None,
        policy: PolicyDigest::from_bytes([9; 32]),
        policy_id: String::new(),
        approval: None,
        attempt: 1,
        adopts: None,
        notes: BTreeMap::new(),
        observed: Vec::new(),
        lease: LEASE,
        patience_over: false,
    }
}

fn unnamed(decision: &str) -> Decide {
    Decide { level: KeyLevel::Derived, keys: Vec::new(), key_hint: String::new(), ..order(decision) }
}

fn probe(horizon: Option<Millis>) -> ProbePlan {
    ProbePlan {
        sealed: "sealed".to_owned(),
        initial_delay: Millis::from_secs(2),
        interval: Millis::from_secs(10),
        settle_horizon: horizon,
        give_up_after: Millis::from_secs(600),
    }
}

fn approval(digest: u8, required: u32) -> Approval {
    Approval {
        digest: RequestDigest::from_bytes([digest; 32]),
        required,
        class: "desk-heads".to_owned(),
        expires_after: Millis::from_secs(3600),
        summary: "qty=500".to_owned(),
    }
}

fn seen(grant: &Grant, seen: Seen) -> Observation {
    Observation { effect: grant.effect.clone(), fence: grant.fence, seen }
}

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
fn a_batch_is_claimed_all_or_none() {
    let mut ledger = Ledger::default();
    ledger.grant(&order("d1"));
    let keys = vec![KeyDigest::from_bytes([1; 32]), KeyDigest::from_bytes([2; 32])];
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
fn an_approval_lets_the_same_request_through_once() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 1)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    assert_eq!(ledger.refusal(&gated("d2")).gate.as_ref(), Some(&gate));
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let grant = ledger.grant(&gated("d3"));
    assert_eq!(grant.approval, Some(gate.clone()));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Consumed);
}

#[test]
fn an_approval_does_not_fit_a_changed_request() {
    let mut ledger = Ledger::default();
    let gate = ledger.refusal(&Decide { approval: Some(approval(1, 1)), ..order("d1") }).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let changed = Decide { approval: Some(approval(2, 1)), fingerprint: Some(Fingerprint::from_bytes([2; 32])), ..order("d2") };
    let refusal = ledger.refusal(&changed);
    assert_eq!(refusal.code, Code::ApprovalMismatch);
    assert_ne!(refusal.gate, Some(gate));
}

#[test]
fn two_distinct_people_are_two_people() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 2)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    assert_eq!(ledger.refusal(&gated("d2")).code, Code::ApprovalRequired);
    ledger.vote(&gate, "bob", GateVerdict::Approve);
    assert!(matches!(ledger.decide(&gated("d3")), Reply::Grant(_)));
}

#[test]
fn one_denial_denies() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 2)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    ledger.vote(&gate, "bob", GateVerdict::Deny);
    assert_eq!(ledger.refusal(&gated("d2")).code, Code::ApprovalDenied);
}

#[test]
fn not_sent_gives_the_approval_back() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 1)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let grant = ledger.grant(&gated("d2"));
    ledger.settle("a", &grant, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Approved);
    assert_eq!(ledger.grant(&gated("d3")).approval, Some(gate));
}

#[test]
fn an_approval_given_back_on_a_wrong_word_is_consumed_by_the_late_proof() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 1)), derived: DerivedMode::Off, ..unnamed(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let grant = ledger.grant(&gated("d2"));
    let Reply::Settled { gate: Some(resolution), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate") };
    ledger.vote(&resolution, "ada", GateVerdict::NotExecuted);
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Approved);
    ledger.settle("a", &grant, completed());
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Consumed);
    assert_eq!(ledger.refusal(&gated("d3")).code, Code::ApprovalRequired);
}

#[test]
fn an_approval_is_given_back_once() {
    let mut ledger = Ledger::default();
    let gated = |decision, n| Decide {
        approval: Some(approval(1, 1)),
        keys: vec![KeyDigest::from_bytes([n; 32])],
        derived: DerivedMode::Off,
        ..order(decision)
    };
    let gate = ledger.refusal(&gated("d1", 1)).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let first = ledger.grant(&gated("d2", 1));
    let Reply::Settled { gate: Some(resolution), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.vote(&resolution, "ada", GateVerdict::NotExecuted);
    assert_eq!(ledger.grant(&gated("d3", 2)).approval.as_ref(), Some(&gate));
    // The sidecar's own proof comes late; the other call still holds the approval.
    ledger.settle("a", &first, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Consumed);
}

#[test]
fn an_approval_that_one_effect_has_used_is_not_given_back_by_another() {
    let mut ledger = Ledger::default();
    let gated = |decision, n| {
        let keys = vec![KeyDigest::from_bytes([n; 32])];
        Decide { approval: Some(approval(1, 1)), keys, derived: DerivedMode::Off, ..order(decision) }
    };
    let gate = ledger.refusal(&gated("d1", 1)).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    let first = ledger.grant(&gated("d2", 1));
    let Reply::Settled { gate: Some(resolution), .. } = ledger.settle("a", &first, doubt()) else { panic!("no gate") };
    ledger.vote(&resolution, "ada", GateVerdict::NotExecuted);
    let second = ledger.grant(&gated("d3", 2));
    ledger.settle("a", &first, completed());
    ledger.settle("a", &second, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Consumed);
}

#[test]
fn an_approval_that_was_not_used_in_time_asks_again() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 1)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    ledger.pass(Millis::from_secs(3600));
    let refusal = ledger.refusal(&gated("d2"));
    assert_eq!(refusal.code, Code::ApprovalExpired);
    assert_ne!(refusal.gate, Some(gate));
}

/// The request of [`approval`] 1 under a rule that asks `required` people of `class`.
fn ruled(decision: &str, class: &str, required: u32) -> Decide {
    Decide { approval: Some(Approval { class: class.to_owned(), ..approval(1, required) }), ..order(decision) }
}

#[test]
fn an_approval_serves_no_rule_that_asks_more_people() {
    for approved_before in [true, false] {
        let mut ledger = Ledger::default();
        let weak = ledger.refusal(&ruled("d1", "desk", 1)).gate.unwrap();
        if approved_before {
            ledger.vote(&weak, "ada", GateVerdict::Approve);
        }
        let asked = ledger.ask(&Command::Decide(Box::new(ruled("d2", "desk", 2))));
        let Reply::Refuse(refusal) = asked.reply else { panic!("one person's word served a rule that asks two") };
        let strict = refusal.gate.unwrap();
        assert_eq!(refusal.code, Code::ApprovalRequired);
        assert_ne!(strict, weak);
        assert!(asked.actions.contains(&Action::GateDecided { gate: weak.clone() }), "who waits for the old gate must ask again");
        assert_eq!(ledger.state.gate(&weak).unwrap().phase, GatePhase::Superseded);
        assert!(
            matches!(ledger.vote(&weak, "bob", GateVerdict::Approve).reply, Reply::Refuse(refuse) if refuse.code == Code::GateClosed),
            "the old gate takes no more words"
        );
        ledger.vote(&strict, "ada", GateVerdict::Approve);
        assert_eq!(ledger.refusal(&ruled("d3", "desk", 2)).gate.as_ref(), Some(&strict));
        ledger.vote(&strict, "bob", GateVerdict::Approve);
        assert_eq!(ledger.grant(&ruled("d4", "desk", 1)).approval, Some(strict), "more people than asked are enough");
    }
}

#[test]
fn an_approval_serves_no_rule_of_another_class() {
    let mut ledger = Ledger::default();
    let desk = ledger.refusal(&ruled("d1", "desk", 2)).gate.unwrap();
    ledger.vote(&desk, "ada", GateVerdict::Approve);
    ledger.vote(&desk, "bob", GateVerdict::Approve);
    let treasury = ledger.refusal(&ruled("d2", "treasury", 1)).gate.unwrap();
    assert_ne!(treasury, desk);
    // Two rules of one policy may ask two classes about the same request, and neither's gate ends the other's.
    assert_eq!(ledger.refusal(&ruled("d3", "treasury", 1)).gate.as_ref(), Some(&treasury));
    assert_eq!(ledger.grant(&ruled("d4", "desk", 2)).approval, Some(desk));
}

#[test]
fn a_denial_holds_whichever_class_is_asked() {
    let mut ledger = Ledger::default();
    let desk = ledger.refusal(&ruled("d1", "desk", 1)).gate.unwrap();
    ledger.vote(&desk, "ada", GateVerdict::Deny);
    for stricter in [ruled("d2", "desk", 2), ruled("d3", "treasury", 1)] {
        assert_eq!(ledger.refusal(&stricter).code, Code::ApprovalDenied);
    }
}

#[test]
fn a_gate_that_another_supersedes_leaves_its_place_under_the_cap() {
    let mut ledger = Ledger::default();
    let gated = |n: u8, required: u32, decision: &str| Decide {
        approval: Some(approval(n, required)),
        keys: vec![KeyDigest::from_bytes([n; 32])],
        meaning: Meaning::from_bytes([n; 32]),
        ..order(decision)
    };
    (1..=20).for_each(|n| assert_eq!(ledger.refusal(&gated(n, 1, &format!("weak-{n}"))).code, Code::ApprovalRequired));
    (1..=20).for_each(|n| assert_eq!(ledger.refusal(&gated(n, 2, &format!("strict-{n}"))).code, Code::ApprovalRequired));
    assert_eq!(ledger.refusal(&gated(21, 2, "one-more")).code, Code::GateLimit);
    assert_eq!(ledger.state.gates().filter(|gate| gate.phase.is_open()).count(), 20);
}

#[test]
fn open_gates_of_one_agent_and_tool_are_capped() {
    let mut ledger = Ledger::default();
    let gated = |n: u8| Decide {
        approval: Some(approval(n, 1)),
        keys: vec![KeyDigest::from_bytes([n; 32])],
        meaning: Meaning::from_bytes([n; 32]),
        ..order(&format!("d{n}"))
    };
    for n in 1..=20 {
        assert_eq!(ledger.refusal(&gated(n)).code, Code::ApprovalRequired);
    }
    assert_eq!(ledger.refusal(&gated(21)).code, Code::GateLimit);
}

#[test]
fn a_call_beyond_the_buffering_bound_cannot_be_gated() {
    let mut ledger = Ledger::default();
    let huge = Decide { approval: Some(approval(1, 1)), fingerprint: None, ..order("d1") };
    assert_eq!(ledger.refusal(&huge).code, Code::BodyTooLargeForPolicy);
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
