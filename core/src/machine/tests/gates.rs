//! Approvals: who gives them, what they bind, how often they serve.

use super::*;

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
    // The far side refused it, which gives no approval back.
    ledger.settle("a", &grant, SettleOutcome::Rejected { status: 422, not_executed: false });
    let again = ledger.refusal(&gated("d4"));
    assert_eq!(again.code, Code::ApprovalRequired);
    assert_ne!(again.gate, Some(gate));
}

#[test]
fn a_call_that_waits_is_told_why_and_how_many_people_must_agree() {
    let noted = |reason: &str| BTreeMap::from([(REASON_NOTE.to_owned(), reason.to_owned())]);
    for (required, notes, why, people) in [
        (2, noted("orders over 10,000 need two people"), "orders over 10,000 need two people. ", "2 people"),
        (1, noted("large."), "large. ", "1 person"),
        (1, BTreeMap::new(), "", "1 person"),
    ] {
        let mut ledger = Ledger::default();
        let gated = |decision| Decide { approval: Some(approval(1, required)), notes: notes.clone(), ..order(decision) };
        let Refuse { gate: Some(gate), detail, .. } = ledger.refusal(&gated("d1")) else { panic!("no gate") };
        let then = format!("Approve gate {gate}, then send the same request again.");
        assert_eq!(detail, format!("{why}Needs approval by {people} of desk-heads. {then}"));
        assert_eq!(ledger.refusal(&gated("d2")).detail, format!("{why}Waits for approval by desk-heads (0 of {required}). {then}"));
    }
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
    let by_two = |decision| Decide { approval: Some(approval(2, 2)), ..order(decision) };
    let gate = ledger.refusal(&by_two("d3")).gate.unwrap();
    ledger.vote(&gate, "ada", GateVerdict::Approve);
    ledger.pass(Millis::from_secs(3600));
    assert_eq!(ledger.refusal(&by_two("d4")).code, Code::ApprovalRequired, "one of two is no approval");
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
