//! The facts that the journal holds. Each says what has become true; none is decided again when it is read back.

use serde::{Deserialize, Serialize};

use super::effect::{DoubtCause, EffectSpec, Fence, NotSentProof, SettledBy, StoredAnswer};
use super::gate::{GateSpec, GateVerdict, Voucher};
use crate::ids::{AgentId, BootId, DecisionId, EffectId, Fingerprint, GateId, PersonId, RunId};
use crate::ksp::{KspEvent, SpanEnd, SpanStart};
use crate::time::{Millis, Timestamp};

/// A fact with the instant at which the ledger stamped it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When; never before the event ahead of it.
    pub ts: Timestamp,
    /// What.
    pub fact: Fact,
}

/// What became true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Fact {
    /// A run was used for the first time; it belongs to that agent from now on.
    RunOpened {
        /// The run.
        run: RunId,
        /// Its owner.
        agent: AgentId,
        /// Named by its caller.
        explicit: bool,
    },
    /// A decision: claim, consumed approval and SPAN_START in one.
    EffectGranted {
        /// What was granted.
        spec: Box<EffectSpec>,
        /// Under which fence.
        fence: Fence,
        /// For the far-side key.
        generation: u32,
        /// To whom.
        boot: BootId,
        /// By which call.
        decision: DecisionId,
        /// The lease's length from `ts`.
        lease: Millis,
        /// SPAN_START.
        start: Box<SpanStart>,
    },
    /// The outcome and SPAN_END in one.
    EffectSettled {
        /// The effect.
        effect: EffectId,
        /// The grant.
        fence: Fence,
        /// What became of it.
        outcome: Settled,
        /// The fingerprint, where it was still being hashed at the grant.
        fingerprint: Option<Fingerprint>,
        /// The approval that is given back.
        approval_returned: Option<GateId>,
        /// The older grant that is proven to have been executed, where that is what settles it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proven_late: Option<Fence>,
        /// SPAN_END; absent when the span ended before (late evidence).
        end: Option<Box<SpanEnd>>,
    },
    /// What a sidecar saw of the caller.
    CallerSeen {
        /// The effect.
        effect: EffectId,
        /// The grant.
        fence: Fence,
        /// Read to its end, or gone.
        seen: super::command::Seen,
    },
    /// A sidecar's life is over; its callers are gone.
    BootGone {
        /// The boot.
        boot: BootId,
    },
    /// A decision was given up before it was made; if it arrives later it is refused.
    DecisionAbandoned {
        /// The sidecar.
        boot: BootId,
        /// The decision.
        decision: DecisionId,
    },
    /// A gate waits for people.
    GateOpened {
        /// What it binds.
        gate: Box<GateSpec>,
    },
    /// One person's word.
    GateVoted {
        /// The gate.
        gate: GateId,
        /// Who.
        person: PersonId,
        /// What.
        verdict: GateVerdict,
        /// Why.
        reason: String,
        /// What the person's name was believed by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        voucher: Option<Box<Voucher>>,
    },
    /// Nobody decided in time, or an approval was not used in time.
    GateExpired {
        /// The gate.
        gate: GateId,
    },
    /// The rule now asks more people than this approval's gate: another one was opened for the same request.
    GateSuperseded {
        /// The gate.
        gate: GateId,
    },
    /// An older grant is proven to have been executed although a later one was made.
    DuplicateObserved {
        /// The effect.
        effect: EffectId,
        /// The grant that was executed.
        fence: Fence,
        /// The run that pays for it.
        run: RunId,
    },
    /// The answer's retention ended; a tombstone refuses repeats.
    AnswerDropped {
        /// The effect.
        effect: EffectId,
    },
    /// The record's time is over.
    EffectForgotten {
        /// The effect.
        effect: EffectId,
    },
    /// Nothing has happened in the run for so long that it is no longer known.
    RunForgotten {
        /// The run.
        run: RunId,
    },
    /// A span that needed no decision.
    SpanRecorded {
        /// The sidecar and its spool's number.
        boot: BootId,
        /// The number.
        seq: u64,
        /// The span.
        span: Box<KspEvent>,
    },
    /// A span of a run that is not its sender's: counted, so that the spool goes on, and not kept.
    SpanRefused {
        /// The sidecar.
        boot: BootId,
        /// The number.
        seq: u64,
    },
}

/// A settled outcome as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Settled {
    /// Executed.
    Completed {
        /// What is replayed.
        answer: Option<StoredAnswer>,
        /// Who said so.
        by: SettledBy,
    },
    /// Refused by the far side.
    Rejected {
        /// Its status.
        status: u16,
    },
    /// Not executed.
    NotSent {
        /// Who said so.
        by: SettledBy,
        /// The proof, where it is one.
        proof: Option<NotSentProof>,
    },
    /// Nobody knows.
    InDoubt {
        /// Why.
        cause: DoubtCause,
        /// The far side's status.
        status: Option<u16>,
    },
}
