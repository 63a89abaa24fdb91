//! Statuses of gates, as golden lines (`KYB_BLESS=1` writes them anew), and the rule on times.

use std::fmt::Write as _;
use std::path::Path;

use kybernis_proto::v1;

use super::*;
use crate::fixtures::{gate, vote};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn read(state: v1::GateState) -> Gate {
    Gate::try_from(state).unwrap()
}

fn lines(text: &mut String, case: &str, state: v1::GateState) {
    let gate = read(state);
    let status = status(&gate, 1, &GateStatus::default(), at(1_000_000));
    writeln!(text, "## {case}\nphase={:?}", status.phase.unwrap()).unwrap();
    if let Some(ended) = &status.ended_at {
        writeln!(text, "endedAt={}", ended.0).unwrap();
    }
    for Condition { type_, status, reason, message, observed_generation, .. } in &status.conditions {
        writeln!(text, "  {type_}={status} {reason} @{}: {message}", observed_generation.unwrap_or(-1)).unwrap();
    }
    for word in &status.decisions {
        writeln!(text, "  {} {:?} at {}: {}", word.by, word.decision, word.at.0, word.reason.as_deref().unwrap_or("–")).unwrap();
    }
    text.push('\n');
}

#[test]
fn statuses_say_exactly_this() {
    use v1::GatePhase as Phase;
    use v1::GateVerdict as Verdict;
    let (ada, grace) = ("ada@example.com", "https://id.example.com#grace");
    let with = |phase: Phase, votes: &[v1::GateVote]| {
        let ended_at_ms = (!matches!(phase, Phase::Pending | Phase::Approved)).then_some(1_700_000_060_500);
        v1::GateState { phase: phase.into(), votes: votes.to_vec(), ended_at_ms, ..gate("gate-a") }
    };
    let resolution = |phase: Phase, votes: &[v1::GateVote]| v1::GateState {
        kind: v1::GateKind::Resolution.into(),
        class: "resolution".to_owned(),
        required: 1,
        expires_at_ms: None,
        policy: String::new(),
        ..with(phase, votes)
    };
    let later = v1::GateVote { at_ms: 1_700_000_050_000, ..vote(ada, Verdict::Approve, "") };
    let both = [later, vote(grace, Verdict::Approve, "checked with the desk")];
    let denial = [vote(ada, Verdict::Deny, "too large")];
    let mut text = String::new();
    lines(&mut text, "nobody has decided", with(Phase::Pending, &[]));
    lines(&mut text, "one of two", with(Phase::Pending, &both[1..]));
    lines(&mut text, "approved", with(Phase::Approved, &both));
    lines(&mut text, "used", with(Phase::Consumed, &both));
    lines(&mut text, "denied", with(Phase::Denied, &denial));
    lines(&mut text, "nobody in time", with(Phase::Expired, &[]));
    lines(&mut text, "too few in time", with(Phase::Expired, &both[1..]));
    lines(&mut text, "approved and not used in time", with(Phase::Expired, &both));
    lines(&mut text, "the rule asks more", with(Phase::Superseded, &both));
    lines(&mut text, "a resolution waits", resolution(Phase::Pending, &[]));
    lines(&mut text, "executed", resolution(Phase::Executed, &[vote(ada, Verdict::Executed, "seen at the broker")]));
    lines(&mut text, "not executed", resolution(Phase::NotExecuted, &[vote(ada, Verdict::NotExecuted, "")]));
    lines(&mut text, "a probe was first", resolution(Phase::Superseded, &[]));

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gates/status/golden.txt");
    if std::env::var_os("KYB_BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&golden).unwrap_or_default(), "see {}", golden.display());
}

#[test]
fn times_move_only_with_the_status_of_a_condition() {
    let votes = ["ada@example.com", "grace@example.com"].map(|person| vote(person, v1::GateVerdict::Approve, "")).to_vec();
    let in_phase = |phase: v1::GatePhase| read(v1::GateState { phase: phase.into(), votes: votes.clone(), ..gate("gate-a") });
    let first = status(&in_phase(v1::GatePhase::Pending), 1, &GateStatus::default(), at(1000));
    let stored: GateStatus = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
    assert_eq!(stored, first, "what is written is read as it was");
    assert_eq!(status(&in_phase(v1::GatePhase::Pending), 1, &stored, at(2000)), first);
    let times = |status: &GateStatus| -> Vec<i64> {
        status.conditions.iter().map(|condition| condition.last_transition_time.0.as_second()).collect()
    };
    let approved = status(&in_phase(v1::GatePhase::Approved), 1, &first, at(3000));
    assert_eq!(times(&approved), [3000, 3000]);
    let consumed = status(&in_phase(v1::GatePhase::Consumed), 1, &approved, at(4000));
    assert_eq!(times(&consumed), [3000, 3000], "True as before, for another reason");
    let expired = status(&in_phase(v1::GatePhase::Expired), 1, &approved, at(5000));
    assert_eq!(times(&expired), [3000, 3000], "and so when nobody used it");
    let lower = status(&in_phase(v1::GatePhase::Superseded), 1, &approved, at(5000));
    assert_eq!(times(&lower), [5000, 5000]);
}
