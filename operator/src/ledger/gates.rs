//! The gates of every tenant, in the terms of the objects that show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kybernis_core::ids::RequestDigest;
use kybernis_crds::kinds::{Decision, GatePhase, GateSpec, GateType, RecordedDecision};
use kybernis_proto::v1;
use kybernis_proto::v1::gate_update::Update;
use tonic::{Status, Streaming};

/// Where a Gate object lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A gate, as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gate {
    pub(crate) tenant: String,
    pub(crate) place: Place,
    pub(crate) spec: GateSpec,
    pub(crate) phase: GatePhase,
    /// The oldest first.
    pub(crate) decisions: Vec<RecordedDecision>,
    pub(crate) ended_at: Option<Timestamp>,
}

impl Gate {
    fn has_ended(&self, before: Timestamp) -> bool {
        self.ended_at.is_some_and(|ended| ended < before)
    }
}

/// Why a gate cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("the gate's {field} is none that this release knows")]
pub(crate) struct Strange {
    field: &'static str,
}

impl TryFrom<v1::GateState> for Gate {
    type Error = Strange;

    fn try_from(state: v1::GateState) -> Result<Self, Strange> {
        let strange = |field| Strange { field };
        let (kind, phase) = (kind(state.kind()), phase(state.phase()));
        let digest: [u8; 32] = state.digest.as_slice().try_into().map_err(|_| strange("digest"))?;
        let namespace = state.agent.split('/').next().unwrap_or_default().to_owned();
        let decisions: Option<Vec<_>> = state.votes.into_iter().map(decision).collect();
        let mut decisions = decisions.ok_or_else(|| strange("vote"))?;
        decisions.sort_by(|a, b| (a.at.0, &a.by).cmp(&(b.at.0, &b.by)));
        let spec = GateSpec {
            kind: kind.ok_or_else(|| strange("kind"))?,
            agent: state.agent,
            run_id: state.run,
            span_id: state.span,
            tool: state.tool,
            action: state.action,
            summary: state.summary,
            digest: RequestDigest::from_bytes(digest).to_string(),
            policy: state.policy,
            required: state.required.max(1),
            class: state.class,
            expires_at: state.expires_at_ms.map(second).map(Time),
        };
        Ok(Self {
            tenant: state.tenant,
            place: Place { namespace, name: state.gate },
            spec,
            phase: phase.ok_or_else(|| strange("phase"))?,
            decisions,
            ended_at: state.ended_at_ms.map(second),
        })
    }
}

/// Objects have whole seconds. What lies beyond the calendar never comes.
fn second(millis: u64) -> Timestamp {
    i64::try_from(millis / 1000).ok().and_then(|second| Timestamp::from_second(second).ok()).unwrap_or(Timestamp::MAX)
}

const fn kind(kind: v1::GateKind) -> Option<GateType> {
    match kind {
        v1::GateKind::Unspecified => None,
        v1::GateKind::Approval => Some(GateType::Approval),
        v1::GateKind::Resolution => Some(GateType::Resolution),
    }
}

const fn phase(phase: v1::GatePhase) -> Option<GatePhase> {
    Some(match phase {
        v1::GatePhase::Unspecified => return None,
        v1::GatePhase::Pending => GatePhase::Pending,
        v1::GatePhase::Approved => GatePhase::Approved,
        v1::GatePhase::Denied => GatePhase::Denied,
        v1::GatePhase::Expired => GatePhase::Expired,
        v1::GatePhase::Consumed => GatePhase::Consumed,
        v1::GatePhase::Executed => GatePhase::Executed,
        v1::GatePhase::NotExecuted => GatePhase::NotExecuted,
        v1::GatePhase::Superseded => GatePhase::Superseded,
    })
}

fn decision(vote: v1::GateVote) -> Option<RecordedDecision> {
    let decision = match vote.verdict() {
        v1::GateVerdict::Unspecified => return None,
        v1::GateVerdict::Approve => Decision::Approve,
        v1::GateVerdict::Deny => Decision::Deny,
        v1::GateVerdict::Executed => Decision::Executed,
        v1::GateVerdict::NotExecuted => Decision::NotExecuted,
    };
    let reason = Some(vote.reason).filter(|reason| !reason.is_empty());
    Some(RecordedDecision { by: vote.person, decision, reason, at: Time(second(vote.at_ms)) })
}

/// A decision as the ledger takes it.
pub(crate) const fn verdict(decision: Decision) -> v1::GateVerdict {
    match decision {
        Decision::Approve => v1::GateVerdict::Approve,
        Decision::Deny => v1::GateVerdict::Deny,
        Decision::Executed => v1::GateVerdict::Executed,
        Decision::NotExecuted => v1::GateVerdict::NotExecuted,
    }
}

/// All of them. As many as the ledger tells: those that are open, whose number it bounds, and those of the last day.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gates {
    known: BTreeMap<Place, Arc<Gate>>,
    /// Names of those that a newer ledger tells in words that we do not know: there are such gates, so their objects stay.
    strange: BTreeSet<String>,
    /// There may be more, of tenants whose records the ledger cannot read now.
    partial: bool,
}

impl Gates {
    /// Takes one message in; whether it changed anything.
    pub(crate) fn apply(&mut self, message: v1::GateUpdate) -> bool {
        let state = match message.update {
            Some(Update::Gate(state)) => state,
            Some(Update::Synced(v1::Synced { partial })) => {
                self.partial = partial;
                return false;
            }
            None => return false,
        };
        let (tenant, name) = (state.tenant.clone(), state.gate.clone());
        let gate = match Gate::try_from(state) {
            Ok(gate) => gate,
            Err(error) => {
                tracing::error!(tenant, gate = name, %error, "a gate cannot be shown; upgrade ledger and operator to the same release");
                return self.strange.insert(name);
            }
        };
        self.strange.remove(&name);
        match self.known.get(&gate.place) {
            Some(before) if before.tenant != tenant => {
                tracing::error!(tenant, gate = %gate.place, other = before.tenant, "two tenants have a gate of this name here");
                false
            }
            Some(before) if **before == gate => false,
            _ => {
                self.known.insert(gate.place.clone(), Arc::new(gate));
                true
            }
        }
    }

    /// The gate that an object there shows.
    pub(crate) fn get(&self, place: &Place) -> Option<&Arc<Gate>> {
        self.known.get(place)
    }

    /// Those that can be shown.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Gate>> {
        self.known.values()
    }

    /// Whether there may be a gate that an object of this name shows.
    pub(crate) fn is_strange(&self, place: &Place) -> bool {
        self.partial || self.strange.contains(&place.name)
    }

    pub(super) fn any_ended(&self, before: Timestamp) -> bool {
        self.known.values().any(|gate| gate.has_ended(before))
    }

    /// Drops those that ended before; the ledger says no more of them.
    pub(super) fn forget(&mut self, before: Timestamp) {
        self.known.retain(|_, gate| !gate.has_ended(before));
    }
}

/// Reads until the ledger has told of all.
pub(super) async fn synced(stream: &mut Streaming<v1::GateUpdate>) -> Result<Gates, Status> {
    let mut gates = Gates::default();
    while let Some(message) = stream.message().await? {
        let is_all = matches!(message.update, Some(Update::Synced(_)));
        gates.apply(message);
        if is_all {
            return Ok(gates);
        }
    }
    Err(Status::unavailable("the stream ended before all gates were told"))
}
