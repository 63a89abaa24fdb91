//! What people and programs read of the ledger: the shapes of `/infra`, which the command line reads back.

use kybernis_core::ids::RunId;
use kybernis_core::ksp::rfc3339;
use kybernis_core::machine::{Effect, EffectState, Event, Fact, Gate, GateKind, GatePhase, GateVerdict, KeyLevel, Run, SettledBy};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The run.
    pub run_id: String,
    /// Whose it is.
    pub agent: String,
    /// Named by its caller.
    pub explicit: bool,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub last_at: String,
    /// Calls made, refused or replayed.
    pub calls: u64,
    /// Effects granted.
    pub effects: u64,
    /// Calls answered with an earlier call's answer.
    pub replayed: u64,
    /// Calls refused.
    pub refused: u64,
    /// Effects in doubt now.
    pub in_doubt: u64,
    /// Events on record.
    pub events: u64,
    /// The last link of the run's hash chain.
    pub head: String,
}

impl RunView {
    /// A run as it is shown.
    pub fn new(id: &RunId, run: &Run) -> Self {
        Self {
            run_id: id.to_string(),
            agent: run.agent.to_string(),
            explicit: run.explicit,
            started_at: rfc3339(run.opened_at),
            last_at: rfc3339(run.last_at),
            calls: run.tally.calls,
            effects: run.tally.effects,
            replayed: run.tally.replayed,
            refused: run.tally.refused,
            in_doubt: run.tally.in_doubt,
            events: run.events,
            head: run.head.to_string(),
        }
    }
}

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectView {
    /// The effect.
    pub effect_id: String,
    /// DISPATCHED, COMPLETED, REJECTED, NOT_SENT, IN_DOUBT or EXPIRED.
    pub state: String,
    /// The run of its last grant.
    pub run_id: String,
    /// The span of its last grant.
    pub span_id: String,
    /// Who acts.
    pub agent: String,
    /// The registration or implicit tool.
    pub tool: String,
    /// `METHOD host/path`.
    pub action: String,
    /// What named it: `tool`, `caller` or `derived`.
    pub key_level: String,
    /// Counts its grants.
    pub fence: u64,
    /// RFC 3339: the last grant.
    pub granted_at: String,
    /// RFC 3339: completion, or the beginning of the doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why it is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The far side's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Who settled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_by: Option<String>,
    /// The gate that asks a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_id: Option<String>,
    /// Whether its answer can be replayed.
    pub replayable: bool,
    /// Whether its answer is known to have been read to the end.
    pub read: bool,
}

impl EffectView {
    /// An effect as it is shown.
    pub fn new(effect: &Effect) -> Self {
        let mut view = Self {
            effect_id: effect.spec.effect.to_string(),
            state: state_name(&effect.state).to_owned(),
            run_id: effect.spec.run.to_string(),
            span_id: effect.spec.span.to_string(),
            agent: effect.spec.agent.to_string(),
            tool: effect.spec.tool.to_string(),
            action: effect.spec.action.clone(),
            key_level: match effect.spec.level {
                KeyLevel::Tool => "tool",
                KeyLevel::Caller => "caller",
                KeyLevel::Derived => "derived",
            }
            .to_owned(),
            fence: effect.fence.get(),
            granted_at: rfc3339(effect.granted_at),
            since: None,
            cause: None,
            status: None,
            settled_by: None,
            gate_id: effect.resolution.as_ref().map(ToString::to_string),
            replayable: false,
            read: effect.read,
        };
        match &effect.state {
            EffectState::Dispatched => {}
            EffectState::Completed { at, answer, by } => {
                view.since = Some(rfc3339(*at));
                view.status = answer.as_ref().map(|answer| answer.status);
                view.replayable = answer.as_ref().is_some_and(|answer| answer.stored);
                view.settled_by = Some(settled_by(by));
            }
            EffectState::Rejected { status } => view.status = Some(*status),
            EffectState::NotSent { by } => view.settled_by = Some(settled_by(by)),
            EffectState::InDoubt { since, cause, status } => {
                view.since = Some(rfc3339(*since));
                view.cause = Some(snake(&format!("{cause:?}")));
                view.status = *status;
            }
            EffectState::Tombstone { since } => view.since = Some(rfc3339(*since)),
        }
        view
    }
}

const fn state_name(state: &EffectState) -> &'static str {
    match state {
        EffectState::Dispatched => "DISPATCHED",
        EffectState::Completed { .. } => "COMPLETED",
        EffectState::Rejected { .. } => "REJECTED",
        EffectState::NotSent { .. } => "NOT_SENT",
        EffectState::InDoubt { .. } => "IN_DOUBT",
        EffectState::Tombstone { .. } => "EXPIRED",
    }
}

fn settled_by(by: &SettledBy) -> String {
    match by {
        SettledBy::Proof => "proof".to_owned(),
        SettledBy::Probe => "probe".to_owned(),
        SettledBy::Person(person) => person.to_string(),
    }
}

/// `LeaseLost` as `lease_lost`.
fn snake(camel: &str) -> String {
    let mut text = String::with_capacity(camel.len() + 4);
    for (at, letter) in camel.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// The gate.
    pub gate_id: String,
    /// Approval or Resolution.
    #[serde(rename = "type")]
    pub kind: String,
    /// PENDING, APPROVED (also once consumed), DENIED, EXPIRED, OVERRIDDEN.
    pub status: String,
    /// Pending, Approved, Denied, Expired, Consumed; Resolution: Pending, Executed, NotExecuted, Superseded.
    pub phase: String,
    /// Who wants to act.
    pub agent: String,
    /// In which run.
    pub run_id: String,
    /// At which span.
    pub span_id: String,
    /// Which tool.
    pub tool: String,
    /// `METHOD host/path`.
    pub action: String,
    /// The request in short.
    pub summary: String,
    /// What it binds.
    pub digest: String,
    /// Which rule asked.
    pub policy: String,
    /// Which people.
    pub class: String,
    /// Distinct people needed.
    pub required: u32,
    /// Those who have said yes.
    pub approvals: u32,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The effect in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_id: Option<String>,
    /// Who said what.
    pub decisions: Vec<VoteView>,
}

/// One person's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteView {
    /// Who.
    pub person: String,
    /// Approve, Deny, Executed or NotExecuted.
    pub decision: String,
    /// Why.
    pub reason: String,
    /// RFC 3339.
    pub at: String,
}

impl GateView {
    /// A gate as it is shown.
    pub fn new(gate: &Gate) -> Self {
        let spec = &gate.spec;
        let yes = match spec.kind {
            GateKind::Approval => GateVerdict::Approve,
            GateKind::Resolution => GateVerdict::Executed,
        };
        Self {
            gate_id: spec.gate.to_string(),
            kind: format!("{:?}", spec.kind),
            status: status(gate.phase).to_owned(),
            phase: format!("{:?}", gate.phase),
            agent: spec.agent.to_string(),
            run_id: spec.run.to_string(),
            span_id: spec.span.to_string(),
            tool: spec.tool.to_string(),
            action: spec.action.clone(),
            summary: spec.summary.clone(),
            digest: spec.digest.to_string(),
            policy: spec.policy.clone(),
            class: spec.class.clone(),
            required: spec.required.max(1),
            approvals: gate.count(yes),
            opened_at: rfc3339(gate.opened_at),
            expires_at: spec.expires_at.map(rfc3339),
            effect_id: spec.effect.as_ref().map(ToString::to_string),
            decisions: gate
                .votes
                .iter()
                .map(|(person, vote)| VoteView {
                    person: person.to_string(),
                    decision: format!("{:?}", vote.verdict),
                    reason: vote.reason.clone(),
                    at: rfc3339(vote.at),
                })
                .collect(),
        }
    }
}

/// The five words of the HTTP API.
const fn status(phase: GatePhase) -> &'static str {
    match phase {
        GatePhase::Pending => "PENDING",
        GatePhase::Approved | GatePhase::Consumed => "APPROVED",
        GatePhase::Denied => "DENIED",
        GatePhase::Expired | GatePhase::Superseded => "EXPIRED",
        GatePhase::Executed | GatePhase::NotExecuted => "OVERRIDDEN",
    }
}

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its number in the run, from 1.
    pub seq: u64,
    /// RFC 3339, the ledger's clock.
    pub ts: String,
    /// `SPAN_START`, `SPAN_END`, or the fact's own name, as in `gate_opened`.
    #[serde(rename = "type")]
    pub kind: String,
    /// KSP v1 members for spans; the fact for others.
    pub payload: Value,
    /// The effect that the event is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_id: Option<String>,
}

impl EventView {
    /// An event as it is shown.
    pub fn new(seq: u64, event: &Event) -> Self {
        let effect = |id: &kybernis_core::ids::EffectId| Some(id.to_string());
        let (span, effect_id) = match &event.fact {
            Fact::SpanRecorded { span, .. } => (serde_json::to_value(span).ok(), None),
            Fact::EffectGranted { spec, start, .. } => (span("SPAN_START", serde_json::to_value(start).ok()), effect(&spec.effect)),
            Fact::EffectSettled { effect: id, end: Some(end), .. } => (span("SPAN_END", serde_json::to_value(end).ok()), effect(id)),
            Fact::EffectSettled { effect: id, end: None, .. }
            | Fact::CallerSeen { effect: id, .. }
            | Fact::DuplicateObserved { effect: id, .. }
            | Fact::AnswerDropped { effect: id }
            | Fact::EffectForgotten { effect: id } => (None, effect(id)),
            _ => (None, None),
        };
        let payload = span.unwrap_or_else(|| serde_json::to_value(&event.fact).unwrap_or_default());
        let name = payload.get("event_type").or_else(|| payload.get("type")).and_then(Value::as_str).unwrap_or_default();
        Self { seq, ts: rfc3339(event.ts), kind: name.to_owned(), effect_id, payload }
    }
}

fn span(kind: &str, value: Option<Value>) -> Option<Value> {
    let mut value = value?;
    value.as_object_mut()?.insert("event_type".to_owned(), Value::from(kind));
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_spelled_as_codes_are() {
        assert_eq!(snake("LeaseLost"), "lease_lost");
        assert_eq!(snake("Reset"), "reset");
    }
}
