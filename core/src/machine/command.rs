//! What can be asked of the ledger.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::effect::{DoubtCause, Fence, KeyLevel, NotSentProof, ProbePlan, StoredAnswer};
use super::gate::{Approval, GateVerdict, Voucher};
use crate::ids::{
    AgentId, BootId, DecisionId, EffectId, Fingerprint, GateId, KeyDigest, Meaning, PersonId, PolicyDigest, Principal, RequestDigest,
    RunId, SpanId, ToolName,
};
use crate::ksp::KspEvent;
use crate::time::{Millis, Timestamp};

/// Longest [`Decide::action`] in bytes: one line for people. A longer one is cut with [`crate::text::shortened`].
pub const ACTION_MAX: usize = 2048;

/// The [note](Decide::notes) that holds the deciding rule's own words, for the caller of a call that people must allow.
pub const REASON_NOTE: &str = "reason";
/// The [note](Decide::notes) that holds the request in short, built from the parsed one: what a person reads who must settle a doubt.
/// It stands in the effect's record and in no span.
pub const SUMMARY_NOTE: &str = "summary";

/// One thing asked of the ledger.
#[derive(Clone, Debug)]
pub enum Command {
    /// May this side effect go?
    Decide(Box<Decide>),
    /// What became of it.
    Settle(Box<Settle>),
    /// Keep a sidecar's leases.
    Renew(Renew),
    /// A sidecar gave up waiting for a Decide.
    Abandon(Abandon),
    /// What a sidecar saw of its callers' connections.
    Observe(Observe),
    /// What a probe found.
    Evidence(Evidence),
    /// A person decides a gate.
    DecideGate(Box<DecideGate>),
    /// Spans that needed no decision of the ledger's: reads, refusals, replays, attempts.
    Spans(Box<Spans>),
    /// A caller names a run of its own before anything is decided in it.
    EnterRun(EnterRun),
    /// Time has passed: leases, gates, retention.
    Expire,
}

/// The first use of a run that its caller named, by a call that needs no decision of the ledger's.
#[derive(Clone, Debug)]
pub struct EnterRun {
    /// The run.
    pub run: RunId,
    /// Who acts, as the connection's authentication says.
    pub agent: AgentId,
}

/// How far derived meaning acts for unnamed effects (`Policy.spec.derivedKeys.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DerivedMode {
    /// In an explicit run a match replays; in an implicit run only where a repeat is surely a retry.
    #[default]
    Default,
    /// As in an explicit run, everywhere.
    Replay,
    /// Never.
    Off,
}

/// One side effect before its first byte, with only those fields that the ledger needs.
#[derive(Clone, Debug)]
pub struct Decide {
    /// The asking sidecar's life.
    pub boot: BootId,
    /// A repeat of the same call carries the same id and gets the same grant.
    pub decision: DecisionId,
    /// Who acts, as the connection's authentication says.
    pub agent: AgentId,
    /// The run, and whether its caller named it.
    pub run: RunId,
    /// `X-Kyb-Run-Id` or an SDK named the run; else it is the implicit one.
    pub explicit_run: bool,
    /// The span that a grant opens.
    pub span: SpanId,
    /// The span's parent, if any.
    pub parent_span: Option<SpanId>,
    /// The registration that matched, or the implicit tool.
    pub tool: ToolName,
    /// `METHOD host/path`, for people; at most [`ACTION_MAX`] bytes.
    pub action: String,
    /// What named the effect.
    pub level: KeyLevel,
    /// Keys to claim, all or none; empty at [`KeyLevel::Derived`].
    pub keys: Vec<KeyDigest>,
    /// First characters of the key for people, as [`crate::key::hint`] cuts them; never the whole.
    pub key_hint: String,
    /// What it means, under any key.
    pub meaning: Meaning,
    /// The canonical body's digest, or `None` while the body is being hashed.
    pub fingerprint: Option<Fingerprint>,
    /// On whose behalf.
    pub principal: Principal,
    /// How far meaning acts when nothing named the effect.
    pub derived: DerivedMode,
    /// How long after completion a derived match replays.
    pub derived_window: Millis,
    /// How long a completed answer is kept for replay.
    pub retention: Millis,
    /// The rendered, sealed probe.
    pub probe: Option<ProbePlan>,
    /// The policy that was evaluated, and its rule.
    pub policy: PolicyDigest,
    /// `namespace/rule` that decided; empty for the default.
    pub policy_id: String,
    /// What the policy demands before it may go.
    pub approval: Option<Approval>,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The effect went out already, while the ledger was away and policy said `failureMode: Open`, under this id. Its record
    /// takes the id: reports about its caller name it, and the far-side key was made of it.
    pub adopts: Option<EffectId>,
    /// Every policy that selects the agent is in Audit mode: what the call meets is noted in its span and alters nothing.
    pub audit: bool,
    /// What else the sidecar has to say of the call: attributes of its SPAN_START, where the ledger's own names win. Two of them
    /// are read here: [`REASON_NOTE`] and [`SUMMARY_NOTE`].
    pub notes: BTreeMap<String, String>,
    /// Effects of this boot that its callers have read to the end, or whose callers are gone, seen since the last call.
    pub observed: Vec<Observation>,
    /// How long the lease of a grant lasts.
    pub lease: Millis,
    /// The caller has waited long enough for another's flight: answer `effect_in_flight` instead of [`Reply::Wait`].
    pub patience_over: bool,
}

/// What became of a granted effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// The answer was received whole and says that it was done.
    Completed(StoredAnswer),
    /// The answer says that it was refused.
    Rejected {
        /// The far side's status.
        status: u16,
        /// The tool promised that this status means nothing was done: an approval is given back.
        not_executed: bool,
    },
    /// Proof that nothing was sent.
    NotSent(NotSentProof),
    /// Anything else.
    InDoubt {
        /// Why.
        cause: DoubtCause,
        /// The far side's status, when there was a head.
        status: Option<u16>,
    },
}

/// The second and last call of an effect: its SPAN_END.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The settling sidecar.
    pub boot: BootId,
    /// The effect.
    pub effect: EffectId,
    /// The grant that is settled.
    pub fence: Fence,
    /// What became of it.
    pub outcome: SettleOutcome,
    /// The fingerprint of a body that was still being hashed at Decide.
    pub fingerprint: Option<Fingerprint>,
    /// From the permit to the end, in milliseconds.
    pub latency: Millis,
    /// Request body bytes sent.
    pub bytes_out: u64,
    /// Answer body bytes received.
    pub bytes_in: u64,
}

/// Keeps every lease that a sidecar names.
#[derive(Clone, Debug)]
pub struct Renew {
    /// The sidecar.
    pub boot: BootId,
    /// Its unsettled grants.
    pub leases: Vec<(EffectId, Fence)>,
    /// How long each goes on from now.
    pub lease: Millis,
    /// What it saw since the last call.
    pub observed: Vec<Observation>,
}

/// A sidecar will not use the answer of this Decide, whenever it arrives.
#[derive(Clone, Debug)]
pub struct Abandon {
    /// The sidecar.
    pub boot: BootId,
    /// The decision it gave up.
    pub decision: DecisionId,
}

/// One fact about the agent's connection on which an effect was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The effect.
    pub effect: EffectId,
    /// Under this grant.
    pub fence: Fence,
    /// What was seen.
    pub seen: Seen,
}

/// What a sidecar saw of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// The answer was read to its end.
    Read,
    /// The caller disconnected before that.
    CallerGone,
}

/// Facts about callers, without a Decide to carry them.
#[derive(Clone, Debug)]
pub enum Observe {
    /// What a living sidecar saw.
    Seen {
        /// The sidecar.
        boot: BootId,
        /// The facts.
        observed: Vec<Observation>,
    },
    /// A sidecar's boot is over: its callers are gone with it.
    BootGone {
        /// The boot.
        boot: BootId,
    },
}

/// What a probe found about an effect in doubt.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The probing sidecar.
    pub boot: BootId,
    /// The effect.
    pub effect: EffectId,
    /// The grant that is probed.
    pub fence: Fence,
    /// What the far side said.
    pub finding: Finding,
    /// When the ledger asked for this probe; a "not executed" counts by it.
    pub asked_at: Timestamp,
}

/// What a probe's two expressions say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// `executedWhen` held.
    Executed,
    /// `notExecutedWhen` held.
    NotExecuted,
    /// Neither, both, or an error: changes nothing.
    Unsure,
}

/// A person's word on a gate. The server has stamped who it is.
#[derive(Clone, Debug)]
pub struct DecideGate {
    /// The gate.
    pub gate: GateId,
    /// The digest that the person saw; must be the gate's own.
    pub digest: Option<RequestDigest>,
    /// Who decides.
    pub person: PersonId,
    /// The word.
    pub verdict: GateVerdict,
    /// Why, in the person's words.
    pub reason: String,
    /// What the person's name was believed by, for whoever looks at the record later; none on a laptop.
    pub voucher: Option<Box<Voucher>>,
}

/// Spans in the order of the sidecar's spool.
#[derive(Clone, Debug)]
pub struct Spans {
    /// The sidecar.
    pub boot: BootId,
    /// Who acts, as the connection's authentication says.
    pub agent: AgentId,
    /// The number of the first, counted from 1 for each boot.
    pub first_seq: u64,
    /// The spans.
    pub spans: Vec<KspEvent>,
}
