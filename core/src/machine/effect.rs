//! One intended side effect and its life: DISPATCHED, then COMPLETED, REJECTED, NOT_SENT or IN_DOUBT.
//!
//! ```text
//!             Decide: allow                 answer read to its end, framing complete
//!   (none) ────────────────▶ DISPATCHED ───────────────────────────▶ COMPLETED(response)
//!                              │   │  └── a status that says "refused" ─▶ REJECTED      key free, nothing replayed
//!                              │   └───── proof that nothing was sent ──▶ NOT_SENT      key free, approval given back
//!                              └───────── anything else, lease lost ────▶ IN_DOUBT ── proof, probe or person ──▶ COMPLETED | NOT_SENT
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{
    AgentId, BodyDigest, BootId, DecisionId, EffectId, Fingerprint, GateId, KeyDigest, Meaning, PersonId, PolicyDigest, Principal, RunId,
    SpanId, ToolName,
};
use crate::mutation::broken;
use crate::time::{Millis, Timestamp};

/// Which of the three sources named the effect, most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyLevel {
    /// The tool's own `effect.key`.
    Tool,
    /// The caller's idempotency key.
    Caller,
    /// Derived from method, URL, principal and canonical body.
    Derived,
}

/// Counts the grants of one effect. Rises only when a freed key is granted again; a word under an older fence is evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// The first grant's fence.
    pub const FIRST: Self = Self(1);

    /// Reads a fence that came over the wire; zero names no grant.
    pub const fn new(n: u64) -> Option<Self> {
        if n == 0 { None } else { Some(Self(n)) }
    }

    /// The count of grants so far.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What an effect is, fixed when it is granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectSpec {
    /// Its record's id; the same for every grant of the same keys.
    pub effect: EffectId,
    /// Who acts.
    pub agent: AgentId,
    /// The run that it belongs to.
    pub run: RunId,
    /// The span that this grant opened.
    pub span: SpanId,
    /// The registration that matched, or the implicit tool.
    pub tool: ToolName,
    /// `METHOD host/path`, for people.
    pub action: String,
    /// The request in short, for people who must settle it; empty where its sidecar said nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// What named it.
    pub level: KeyLevel,
    /// The claimed keys: one, several for a batch, none at [`KeyLevel::Derived`].
    pub keys: Vec<KeyDigest>,
    /// What it means, under any key or none.
    pub meaning: Meaning,
    /// The canonical body's digest; `None` while a body beyond the buffering bound is still being hashed.
    pub fingerprint: Option<Fingerprint>,
    /// On whose behalf.
    pub principal: Principal,
    /// How long a completed answer is replayed.
    pub retention: Millis,
    /// The probe that settles a doubt, its request sealed; `None` when the tool declares none.
    pub probe: Option<ProbePlan>,
    /// The approval that this grant consumed.
    pub approval: Option<GateId>,
    /// The policy in force and the rule that allowed it.
    pub policy: PolicyDigest,
    /// It went out while the ledger was away, under an id that its sidecar had made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
}

/// When and how a declared probe may settle an effect in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// The request and its two expressions, rendered before dispatch and sealed by the ledger's vault; opaque here.
    pub sealed: String,
    /// Wait before the first probe, from the moment of doubt.
    pub initial_delay: Millis,
    /// Time between probes.
    pub interval: Millis,
    /// "Not executed" counts only this long after the lease ended; `None`: only a person may say it.
    pub settle_horizon: Option<Millis>,
    /// After this long in doubt a gate of type Resolution opens.
    pub give_up_after: Millis,
}

/// The far side's answer as it is kept for replay. The body itself lies in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// End-to-end headers in their order, less `Set-Cookie`, `Authorization` and hop-by-hop ones.
    pub headers: Vec<(String, String)>,
    /// Trailers in their order.
    pub trailers: Vec<(String, String)>,
    /// SHA-256 of the body bytes.
    pub digest: BodyDigest,
    /// Body length in bytes.
    pub len: u64,
    /// Whether the vault holds the body; longer ones are known by digest only.
    pub stored: bool,
}

/// Why an effect is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DoubtCause {
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer did.
    Eof,
    /// The far side did not answer in time.
    Timeout,
    /// The answer's status says neither "done" nor "refused".
    Status,
    /// The answer's body was cut short.
    Truncated,
    /// The tool's `outcome` expression failed or said so.
    Outcome,
    /// Retries were used up without a clear answer.
    RetriesExhausted,
    /// Nobody renewed the lease.
    LeaseLost,
}

/// How we know that an effect did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NotSentProof {
    /// The connection was refused or could not be made.
    ConnectFailed,
    /// The TLS handshake failed.
    TlsFailed,
    /// On an HTTP/1 connection of its own, the byte counter above TLS read zero.
    ZeroBytesWritten,
    /// HTTP/2: the stream ended in `REFUSED_STREAM`.
    RefusedStream,
    /// HTTP/2: a remote GOAWAY below the stream's id.
    GoawayBelow,
    /// `send_by` passed before the first byte.
    DeadlineBeforeFirstByte,
    /// The sidecar gave up before it received the permit.
    Abandoned,
}

/// Who settled an effect in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettledBy {
    /// The exchange itself: an answer, or proof.
    Proof,
    /// The tool's declared probe.
    Probe,
    /// A person, through a gate of type Resolution.
    Person(PersonId),
}

impl SettledBy {
    /// For a sentence: "settled by …".
    pub fn phrase(&self) -> String {
        match self {
            Self::Proof => "the far side's own answer".to_owned(),
            Self::Probe => "the tool's probe".to_owned(),
            Self::Person(person) => person.to_string(),
        }
    }
}

/// Where an effect stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectState {
    /// Granted; the request may be on its way.
    Dispatched,
    /// Executed. `answer` is absent when a probe or a person said so.
    Completed {
        /// When it was settled.
        at: Timestamp,
        /// What a repeat is answered with.
        answer: Option<StoredAnswer>,
        /// Who said so.
        by: SettledBy,
    },
    /// The far side refused it: the key is free and nothing is replayed.
    Rejected {
        /// The far side's status.
        status: u16,
    },
    /// It never left, or it was settled that it was not executed: the key is free and an approval was given back.
    NotSent {
        /// Who said so.
        by: SettledBy,
    },
    /// Nobody knows yet.
    InDoubt {
        /// Since when.
        since: Timestamp,
        /// Why.
        cause: DoubtCause,
        /// The far side's status, when there was a head.
        status: Option<u16>,
    },
    /// Completed so long ago that its answer is gone; refuses until the tombstone expires too.
    Tombstone {
        /// When the answer was dropped.
        since: Timestamp,
    },
}

/// One effect's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What it is, as of its last grant.
    pub spec: EffectSpec,
    /// Where it stands.
    pub state: EffectState,
    /// The last grant's fence.
    pub fence: Fence,
    /// Rises after REJECTED only; the far-side key is an HMAC of effect and generation.
    pub generation: u32,
    /// The sidecar that holds the grant, and its decision.
    pub holder: (BootId, DecisionId),
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When its lease ends. Kept in memory only: renewals are not journaled, and leases start anew with the ledger.
    pub lease_until: Timestamp,
    /// Its answer was read to its end by its caller.
    pub read: bool,
    /// Its caller disconnected, or its sidecar's boot is gone.
    pub caller_gone: bool,
    /// The gate that asks a person to settle it.
    pub resolution: Option<GateId>,
    /// Earlier grants whose end no proof settled, and who held them: a probe or a person freed the key, and may have erred.
    pub unproven: BTreeMap<Fence, BootId>,
    /// Grants that are proven to have been executed although a later one was made. The key does not become free again.
    pub proven_late: BTreeSet<Fence>,
    /// When it last left a grant's flight or doubt.
    pub settled_at: Timestamp,
    /// When the ledger last asked a sidecar to probe it; memory only.
    pub probed_at: Option<Timestamp>,
}

impl Effect {
    /// Whether the key is free to be granted again.
    pub fn is_free(&self) -> bool {
        match self.state {
            EffectState::Rejected { .. } => !broken("refused_frees"),
            EffectState::NotSent { .. } => !broken("not_sent_frees"),
            EffectState::Dispatched | EffectState::Completed { .. } | EffectState::InDoubt { .. } | EffectState::Tombstone { .. } => false,
        }
    }

    /// The generation of a further grant: a new one only where the far side refused the last under its key.
    pub(super) const fn next_generation(&self) -> u32 {
        match self.state {
            EffectState::Rejected { .. } => self.generation.saturating_add(1),
            EffectState::Dispatched
            | EffectState::Completed { .. }
            | EffectState::NotSent { .. }
            | EffectState::InDoubt { .. }
            | EffectState::Tombstone { .. } => self.generation,
        }
    }

    /// Whether a grant is out and unsettled.
    pub const fn is_in_flight(&self) -> bool {
        matches!(self.state, EffectState::Dispatched)
    }

    /// Whether only proof, a probe or a person can settle it.
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self.state, EffectState::InDoubt { .. })
    }

    /// Completed, and not known to have been read to its end by its caller.
    pub const fn is_unread(&self) -> bool {
        matches!(self.state, EffectState::Completed { .. }) && !self.read
    }
}
