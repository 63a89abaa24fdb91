//! What the ledger answers, and what it owes the world beside the answer.

use super::effect::{Fence, StoredAnswer};
use crate::ids::{AgentId, EffectId, GateId, SpanId};
use crate::reason::Code;
use crate::time::Millis;

/// What the ledger answers once the events are durable.
#[derive(Clone, Debug, Default)]
pub enum Reply {
    /// It may go.
    Grant(Box<Grant>),
    /// It went already: answer with this, after fetching the body from the vault.
    Replay(Box<Replay>),
    /// It may not go.
    Refuse(Box<Refuse>),
    /// Another's flight stands in the way: park the caller and ask again when this effect changes.
    Wait {
        /// The effect in flight.
        effect: EffectId,
    },
    /// The renewed leases and those that are lost.
    Renewed {
        /// Grants that are no longer this sidecar's to renew.
        lost: Vec<(EffectId, Fence)>,
    },
    /// Where an effect stands after a Settle.
    Settled {
        /// Whether this word is the effect's outcome now; `false` when it came too late to be.
        stands: bool,
        /// The gate that asks a person, when it ended in doubt.
        gate: Option<GateId>,
    },
    /// Spans up to this number are on record.
    SpansAcked {
        /// The highest number of the boot on record.
        through: u64,
    },
    /// Done, or nothing was to be done.
    #[default]
    Done,
}

/// The right to send one request once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The effect's record.
    pub effect: EffectId,
    /// This grant's fence.
    pub fence: Fence,
    /// For the far-side key.
    pub generation: u32,
    /// The gate whose approval was consumed.
    pub approval: Option<GateId>,
}

/// The first answer, for a repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The effect's record.
    pub effect: EffectId,
    /// The fence under which its body was sealed.
    pub fence: Fence,
    /// The span of the first call.
    pub span: SpanId,
    /// What is on record of it.
    pub answer: StoredAnswer,
}

/// Why a call may not go, with what a refusal's body shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// The reason.
    pub code: Code,
    /// What to do next, for the caller.
    pub detail: String,
    /// The gate that waits for a person.
    pub gate: Option<GateId>,
    /// The far side's status, for an effect in doubt.
    pub upstream_status: Option<u16>,
    /// The span of the first call, where there is one.
    pub dedupe_of: Option<SpanId>,
    /// When to ask again.
    pub retry_after: Option<Millis>,
}

/// What the driver owes the world after the append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask one live sidecar of that agent to probe.
    Probe {
        /// Whose sidecar.
        agent: AgentId,
        /// The effect.
        effect: EffectId,
        /// The grant in doubt.
        fence: Fence,
        /// The sealed request.
        sealed: String,
    },
    /// A key became free, or an effect was settled: wake those who wait for it.
    Wake {
        /// The effect.
        effect: EffectId,
    },
    /// Tell people that a gate waits.
    GateOpened {
        /// The gate.
        gate: GateId,
    },
    /// A sidecar's waiting callers may ask again: this gate was decided.
    GateDecided {
        /// The gate.
        gate: GateId,
    },
    /// An answer's body is no longer needed.
    DropBody {
        /// The effect.
        effect: EffectId,
    },
    /// An effect was observed twice: an alarm for people.
    Alarm {
        /// The effect.
        effect: EffectId,
    },
}

impl Refuse {
    /// A refusal with nothing beside its code and what to do.
    pub const fn new(code: Code, detail: String) -> Self {
        Self { code, detail, gate: None, upstream_status: None, dedupe_of: None, retry_after: None }
    }
}
