//! Decisions that a person owes: approvals before an effect, resolutions after one that ended in doubt.
//!
//! ```text
//! Approval:   Pending ──required distinct people──▶ Approved ──Decide──▶ Consumed ──NOT_SENT──▶ Approved
//!                │  └──one denial──▶ Denied             └──expiresAt──▶ Expired
//!                └──expiresAt──▶ Expired
//!             Pending | Approved ──the rule now asks more people──▶ Superseded, by a new gate
//! Resolution: Pending ──required distinct people──▶ Executed | NotExecuted;  proof or probe first ──▶ Superseded
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::event::{Event, Fact};
use super::reply::{Action, Refuse, Reply};
use super::state::State;
use super::{Decide, Entropy, Outcome, REASON_NOTE};
use crate::ids::{AgentId, EffectId, GateId, KeyDigest, PersonId, RequestDigest, RunId, SpanId, ToolName};
use crate::mutation::broken;
use crate::reason::Code;
use crate::time::{Millis, Timestamp};
use crate::word::Signature;

/// Open gates for one agent and tool; more would bury the people who answer them.
pub const OPEN_GATES_MAX: usize = 20;

/// What a policy demands before a call may go (`Policy.spec.rules[].approval`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// What the approval binds.
    pub digest: RequestDigest,
    /// Distinct people needed.
    pub required: u32,
    /// Which people: RBAC verb `approve` on `gateclasses/<class>`.
    pub class: String,
    /// How long the gate lives.
    pub expires_after: Millis,
    /// Built from the parsed request, never from the agent's own text.
    pub summary: String,
}

/// Before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GateKind {
    /// May it go?
    Approval,
    /// Did it happen?
    Resolution,
}

/// What a gate binds; never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateSpec {
    /// Its name.
    pub gate: GateId,
    /// Approval or Resolution.
    pub kind: GateKind,
    /// Who wants to act.
    pub agent: AgentId,
    /// In which run.
    pub run: RunId,
    /// At which span.
    pub span: SpanId,
    /// Which tool.
    pub tool: ToolName,
    /// `METHOD host/path`.
    pub action: String,
    /// The request in short.
    pub summary: String,
    /// The request's digest; for a resolution derived from effect and fence.
    pub digest: RequestDigest,
    /// The rule that asked, `namespace/rule`.
    pub policy: String,
    /// Distinct people needed.
    pub required: u32,
    /// Which people.
    pub class: String,
    /// End of its life; a resolution has none.
    pub expires_at: Option<Timestamp>,
    /// The effect in doubt, for a resolution.
    pub effect: Option<EffectId>,
    /// The effect's keys, so that a changed request under an approved key is told why it does not fit.
    pub keys: Vec<KeyDigest>,
}

/// Where a gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GatePhase {
    /// Waits for people.
    Pending,
    /// May be used once.
    Approved,
    /// Must not go.
    Denied,
    /// Nobody decided, or used it, in time.
    Expired,
    /// Its approval was used.
    Consumed,
    /// A person says that the effect happened.
    Executed,
    /// A person says that it did not.
    NotExecuted,
    /// Proof or a probe settled the effect before a person did; or the rule now asks more people than this gate.
    Superseded,
}

impl GatePhase {
    /// Whether a person's word still counts.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending)
    }

    /// Whether nothing comes after it; a used approval may still be given back.
    pub const fn has_ended(self) -> bool {
        match self {
            Self::Pending | Self::Approved => false,
            Self::Denied | Self::Expired | Self::Consumed | Self::Executed | Self::NotExecuted | Self::Superseded => true,
        }
    }
}

/// A person's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GateVerdict {
    /// Let it go.
    Approve,
    /// Do not.
    Deny,
    /// It happened.
    Executed,
    /// It did not happen.
    NotExecuted,
}

/// What a person's word was believed by: with the vote it makes a [`Word`](crate::word::Word), which anyone can check again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The namespace of gate and decision.
    pub namespace: String,
    /// The Gate object's uid.
    pub gate_uid: String,
    /// Admission's.
    pub signature: Signature,
}

/// One word on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// What was said.
    pub verdict: GateVerdict,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// One gate's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What it binds.
    pub spec: GateSpec,
    /// Where it stands.
    pub phase: GatePhase,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When it came to its end; `None` until then.
    pub ended_at: Option<Timestamp>,
    /// Who said what; a person counts once.
    pub votes: BTreeMap<PersonId, Vote>,
    /// The signed words that were taken: one that comes again says nothing new, whatever its person has said since.
    pub heard: BTreeSet<Signature>,
    /// The effects that use its approval; more than one only where a wrong word gave it back too early.
    pub used_by: BTreeSet<EffectId>,
}

impl Gate {
    /// People who said `verdict`.
    pub fn count(&self, verdict: GateVerdict) -> u32 {
        u32::try_from(self.votes.values().filter(|v| v.verdict == verdict).count()).unwrap_or(u32::MAX)
    }

    /// Moves on.
    pub(super) fn enter(&mut self, phase: GatePhase, ts: Timestamp) {
        self.phase = phase;
        self.ended_at = phase.has_ended().then_some(ts);
    }

    pub(super) fn is_past(&self, now: Timestamp) -> bool {
        self.spec.expires_at.is_some_and(|end| now >= end)
    }

    /// Whether this gate asks no fewer people than the rule does now.
    fn asks_enough(&self, approval: &Approval) -> bool {
        self.spec.required.max(1) >= approval.required.max(1)
    }

    /// The phase that the votes so far lead to.
    pub(super) fn phase_by_votes(&self) -> GatePhase {
        let required = if broken("as_many_people_as_required") { 1 } else { self.spec.required.max(1) };
        let enough = |verdict| self.count(verdict) >= required;
        match self.spec.kind {
            GateKind::Approval if self.count(GateVerdict::Deny) > 0 && !broken("one_denial_denies") => GatePhase::Denied,
            GateKind::Approval if enough(GateVerdict::Approve) => GatePhase::Approved,
            GateKind::Resolution if enough(GateVerdict::Executed) => GatePhase::Executed,
            GateKind::Resolution if enough(GateVerdict::NotExecuted) => GatePhase::NotExecuted,
            GateKind::Approval | GateKind::Resolution => GatePhase::Pending,
        }
    }
}

/// Whether a call that needs an approval has one.
pub(super) enum Standing {
    /// Consume this one.
    Approved(GateId),
    /// Answer this, after these events.
    Refused(Outcome),
}

/// Looks for the approval that `decide` needs; opens a gate where there is none of the rule's class that asks as many people
/// as the rule does now. What one class approved does not serve another; what any class denied is denied.
pub(super) fn standing(state: &State, decide: &Decide, approval: &Approval, now: Timestamp, entropy: Entropy) -> Standing {
    let known = || state.gates_for(&decide.agent, &decide.tool, approval.digest);
    if let Some(gate) = known().find(|gate| gate.phase == GatePhase::Denied && !gate.is_past(now)) {
        return Standing::Refused(Outcome::reply(denied(gate)));
    }
    let why = match known().find(|gate| gate.spec.class == approval.class) {
        None => Anew::First,
        Some(gate) if gate.is_past(now) => {
            let was_approved = matches!(gate.phase, GatePhase::Approved | GatePhase::Expired)
                && gate.count(GateVerdict::Approve) >= gate.spec.required.max(1);
            if was_approved { Anew::Lapsed } else { Anew::First }
        }
        Some(gate) => match gate.phase {
            GatePhase::Approved | GatePhase::Pending if !gate.asks_enough(approval) => Anew::Instead(gate),
            GatePhase::Approved => return Standing::Approved(gate.spec.gate.clone()),
            GatePhase::Pending => return Standing::Refused(waiting(decide, gate)),
            GatePhase::Consumed if broken("approval_is_used_once") => return Standing::Approved(gate.spec.gate.clone()),
            GatePhase::Denied
            | GatePhase::Expired
            | GatePhase::Consumed
            | GatePhase::Executed
            | GatePhase::NotExecuted
            | GatePhase::Superseded => Anew::First,
        },
    };
    Standing::Refused(open(state, decide, approval, why, now, entropy))
}

/// Why a gate is opened.
#[derive(Clone, Copy)]
enum Anew<'a> {
    /// There is none that could serve.
    First,
    /// An approval was not used in time.
    Lapsed,
    /// This one asks fewer people than the rule does now: it ends, so that it serves nobody and nobody answers it in vain.
    Instead(&'a Gate),
}

fn waiting(decide: &Decide, gate: &Gate) -> Outcome {
    let (have, need) = (gate.count(GateVerdict::Approve), gate.spec.required.max(1));
    let name = &gate.spec.gate;
    let class = &gate.spec.class;
    let detail = format!("Waits for approval by {class} ({have} of {need}). Approve gate {name}, then send the same request again.");
    let detail = because(decide, detail);
    Outcome::reply(Reply::Refuse(Box::new(Refuse { gate: Some(name.clone()), ..Refuse::new(Code::ApprovalRequired, detail) })))
}

fn denied(gate: &Gate) -> Reply {
    let by = gate.votes.iter().find(|(_, vote)| vote.verdict == GateVerdict::Deny);
    let detail = match by {
        Some((person, vote)) if !vote.reason.is_empty() => format!("{person} denied it: {}", vote.reason),
        Some((person, _)) => format!("{person} denied it."),
        None => "It was denied.".to_owned(),
    };
    Reply::Refuse(Box::new(Refuse { gate: Some(gate.spec.gate.clone()), ..Refuse::new(Code::ApprovalDenied, detail) }))
}

fn open(state: &State, decide: &Decide, approval: &Approval, why: Anew<'_>, now: Timestamp, entropy: Entropy) -> Outcome {
    let superseded = match why {
        Anew::First | Anew::Lapsed => None,
        Anew::Instead(gate) => Some(gate),
    };
    let makes_room = usize::from(superseded.is_some_and(|gate| gate.phase.is_open()));
    let waiting = state.open_gates(&decide.agent, &decide.tool);
    if waiting.saturating_sub(makes_room) >= OPEN_GATES_MAX {
        let detail = format!(
            "{waiting} gates of agent {} already wait for tool {}; have them decided before more calls are put up.",
            decide.agent, decide.tool
        );
        return Outcome::reply(Reply::Refuse(Box::new(Refuse::new(Code::GateLimit, detail))));
    }
    let Ok(gate) = GateId::new(&entropy.name("gate", 0)) else {
        return Outcome::default();
    };
    let other = state.gate_on_keys(&decide.agent, &decide.tool, &decide.keys, approval.digest);
    let (code, detail) = asks(approval, other, why, &gate);
    let detail = because(decide, detail);
    let spec = GateSpec {
        gate: gate.clone(),
        kind: GateKind::Approval,
        agent: decide.agent.clone(),
        run: decide.run.clone(),
        span: decide.span.clone(),
        tool: decide.tool.clone(),
        action: decide.action.clone(),
        summary: approval.summary.clone(),
        digest: approval.digest,
        policy: decide.policy_id.clone(),
        required: approval.required,
        class: approval.class.clone(),
        expires_at: Some(now.after(approval.expires_after)),
        effect: None,
        keys: decide.keys.clone(),
    };
    let mut outcome = Outcome::reply(Reply::Refuse(Box::new(Refuse { gate: Some(gate.clone()), ..Refuse::new(code, detail) })));
    if let Some(old) = superseded {
        let gate = old.spec.gate.clone();
        outcome.events.push(Event { ts: now, fact: Fact::GateSuperseded { gate: gate.clone() } });
        // Those who wait for it ask again, and find the new one.
        outcome.actions.push(Action::GateDecided { gate });
    }
    outcome.events.push(Event { ts: now, fact: Fact::GateOpened { gate: Box::new(spec) } });
    outcome.actions.push(Action::GateOpened { gate });
    outcome
}

/// What a call is told for which `gate` was opened.
fn asks(approval: &Approval, other: Option<&Gate>, why: Anew<'_>, gate: &GateId) -> (Code, String) {
    let people = match approval.required.max(1) {
        1 => format!("1 person of {}", approval.class),
        required => format!("{required} people of {}", approval.class),
    };
    match (other.map(|gate| &gate.spec.gate), why) {
        (Some(approved), _) => (
            Code::ApprovalMismatch,
            format!(
                "Gate {approved} approved another request under the same key; this one differs and needs {people} to approve gate {gate}."
            ),
        ),
        (None, Anew::Lapsed) => {
            (Code::ApprovalExpired, format!("The earlier approval was not used in time. Gate {gate} asks {people} again."))
        }
        (None, Anew::Instead(old)) => (
            Code::ApprovalRequired,
            format!(
                "The policy now asks {people}, gate {} asked fewer. Approve gate {gate}, then send the same request again.",
                old.spec.gate
            ),
        ),
        (None, Anew::First) => {
            (Code::ApprovalRequired, format!("Needs approval by {people}. Approve gate {gate}, then send the same request again."))
        }
    }
}

/// The rule's own words first: they say why.
fn because(decide: &Decide, detail: String) -> String {
    let reason = decide.notes.get(REASON_NOTE).map(|reason| reason.trim().trim_end_matches('.')).filter(|reason| !reason.is_empty());
    match reason {
        Some(reason) => format!("{reason}. {detail}"),
        None => detail,
    }
}
