//! The last phase: what people read of a gate. Worked out here without a client, written in [`write`].

pub(crate) mod write;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kybernis_crds::kinds::{Decision, GatePhase, GateStatus, GateType};

use crate::ledger::Gate;
use crate::status::{MESSAGE_MAX, seconds, shortened};

const DECIDED: &str = "Decided";
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";

/// What a condition says.
struct Word {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The status of the object of `generation` that shows this gate and had `before`.
pub(super) fn status(gate: &Gate, generation: i64, before: &GateStatus, now: Timestamp) -> GateStatus {
    let condition = |word: Word| {
        let status = if word.holds { "True" } else { "False" };
        let same = before.conditions.iter().find(|known| known.type_ == word.kind && known.status == status);
        Condition {
            type_: word.kind.to_owned(),
            status: status.to_owned(),
            reason: word.reason.to_owned(),
            message: shortened(word.message, MESSAGE_MAX),
            observed_generation: Some(generation),
            last_transition_time: same.map_or_else(|| seconds(now), |known| known.last_transition_time.clone()),
        }
    };
    GateStatus {
        phase: Some(gate.phase),
        conditions: words(gate).into_iter().map(condition).collect(),
        decisions: gate.decisions.clone(),
        ended_at: gate.ended_at.map(Time),
    }
}

/// What each phase says. What was decided stays decided when nothing came of it, as with Kubernetes' own CertificateSigningRequests,
/// unless the rule has come to ask more: whoever waits for it does not wait for ever.
fn words(gate: &Gate) -> Vec<Word> {
    let word = |kind, holds, reason, message: &str| Word { kind, holds, reason, message: message.to_owned() };
    let decided = |reason, message: String| Word { kind: DECIDED, holds: true, reason, message };
    let undecided = |reason, message: &str| word(DECIDED, false, reason, message);
    match (gate.phase, gate.spec.kind) {
        (GatePhase::Pending, kind) => vec![word(DECIDED, false, "Waiting", &waiting(gate, kind))],
        (GatePhase::Approved, _) => {
            vec![
                decided("Approved", said_by(gate, Decision::Approve)),
                word(APPROVED, true, "Approved", "the agent's next such call uses it"),
            ]
        }
        (GatePhase::Consumed, _) => {
            vec![decided("Approved", said_by(gate, Decision::Approve)), word(APPROVED, true, "Consumed", "a call has used it")]
        }
        (GatePhase::Denied, _) => {
            let message = said_by(gate, Decision::Deny);
            vec![decided("Denied", message.clone()), word(DENIED, true, "Denied", &message)]
        }
        (GatePhase::Executed, _) => vec![decided("Executed", said_by(gate, Decision::Executed))],
        (GatePhase::NotExecuted, _) => vec![decided("NotExecuted", said_by(gate, Decision::NotExecuted))],
        (GatePhase::Expired, _) if is_approved(gate) => {
            let message = "no call used it before it ran out; the next such call opens a new gate";
            vec![decided("Approved", said_by(gate, Decision::Approve)), word(APPROVED, true, "ExpiredUnused", message)]
        }
        (GatePhase::Expired, _) => {
            let message = "it was not decided in time; the next such call opens a new gate";
            vec![undecided("Expired", message), word(APPROVED, false, "Expired", message)]
        }
        (GatePhase::Superseded, GateType::Approval) => {
            let message = "the rule now asks more people; the next such call waits for another gate";
            vec![undecided("Superseded", message), word(APPROVED, false, "Superseded", message)]
        }
        (GatePhase::Superseded, GateType::Resolution) => {
            vec![decided("SettledByEvidence", "proof or a probe settled the effect before a person did".to_owned())]
        }
    }
}

/// Who may decide, and how.
fn waiting(gate: &Gate, kind: GateType) -> String {
    let (name, namespace, class, required) = (&gate.place.name, &gate.place.namespace, &gate.spec.class, gate.spec.required);
    match kind {
        GateType::Approval => {
            let have = people(gate, Decision::Approve);
            format!("{have} of {required} people of class {class}; kubectl kyb approve {name} -n {namespace}")
        }
        GateType::Resolution => {
            let have = people(gate, Decision::Executed).max(people(gate, Decision::NotExecuted));
            let how = format!("kubectl kyb resolve {name} -n {namespace} --executed, or --not-executed");
            format!("{have} of {required} people of class {class} agree; {how}")
        }
    }
}

fn is_approved(gate: &Gate) -> bool {
    u32::try_from(people(gate, Decision::Approve)).is_ok_and(|people| people >= gate.spec.required)
}

fn people(gate: &Gate, decision: Decision) -> usize {
    gate.decisions.iter().filter(|word| word.decision == decision).count()
}

/// Those who said it, and the first reason that they gave.
fn said_by(gate: &Gate, decision: Decision) -> String {
    let words = || gate.decisions.iter().filter(|word| word.decision == decision);
    let names: Vec<&str> = words().map(|word| word.by.as_str()).collect();
    let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    match words().find_map(|word| word.reason.as_ref()) {
        Some(reason) => format!("by {names}: {reason}"),
        None => format!("by {names}"),
    }
}

#[cfg(test)]
mod tests;
