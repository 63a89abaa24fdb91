//! What is judged of a decision without the ledger: whether anybody vouches for it, and whether the Gate that the person saw is
//! still there.

use kube::api::{Api, DynamicObject};
use kybernis_core::ids::RequestDigest;
use kybernis_proto::v1;

use super::object::Decision;
use crate::apply::{WriteError, in_time};
use crate::gates::object::Found;
use crate::ledger::{Place, verdict};
use crate::watch::{GateWatches, gate};

/// Why a decision is not passed on, and will not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "admission has not signed it, so nobody knows who says this. See whether the webhook configurations of Kybernis are in place, and create another one"
    )]
    Unsigned,
    #[error("it is not one that this release can read. Create another one with kubectl kyb")]
    Unreadable,
    #[error("there is no Gate {0}; a Gate goes a day after its end. If the call is still wanted, its next try opens a new one")]
    GateNotFound(Place),
    #[error("the Gate {0} of today is another object than the one decided here (gateUid). Look at it, and decide it anew")]
    GateReplaced(Place),
    /// The ledger's word.
    #[error("{0}")]
    Refused(String),
}

impl Refusal {
    /// As the condition says it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Unsigned => "Unsigned",
            Self::Unreadable => "Unreadable",
            Self::GateNotFound(_) => "GateNotFound",
            Self::GateReplaced(_) => "GateReplaced",
            Self::Refused(_) => "Refused",
        }
    }
}

/// A decision that somebody vouches for, and the Gate that it is about. Tenant and class are the ledger's to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Signed {
    pub(super) gate: Place,
    pub(super) request: v1::DecideGateRequest,
}

/// Whether a decision says all that it must.
pub(super) fn signed(decision: &Decision) -> Result<Signed, Refusal> {
    let (Some(spec), Some(gate)) = (&decision.spec, decision.gate()) else { return Err(Refusal::Unreadable) };
    let (Some(person), Some(signature)) = (&spec.decided_by, &spec.signature) else { return Err(Refusal::Unsigned) };
    if person.is_empty() || signature.is_empty() {
        return Err(Refusal::Unsigned);
    }
    let digest = spec.digest.strip_prefix("sha256:").and_then(RequestDigest::from_hex).ok_or(Refusal::Unreadable)?;
    let request = v1::DecideGateRequest {
        tenant: String::new(),
        class: String::new(),
        namespace: gate.namespace.clone(),
        gate: gate.name.clone(),
        gate_uid: spec.gate_uid.clone(),
        digest: digest.as_bytes().to_vec(),
        verdict: verdict(spec.decision).into(),
        reason: spec.reason.clone().unwrap_or_default(),
        person: person.clone(),
        signature: signature.clone(),
    };
    Ok(Signed { gate, request })
}

/// Whether the Gate object that the person saw lives. A refusal is final, so it is never given by a watch, which may lag.
pub(super) async fn living(client: &kube::Client, watches: &GateWatches, signed: &Signed) -> Result<Result<(), Refusal>, WriteError> {
    let Signed { gate: place, request } = signed;
    let is_it = |found: &DynamicObject| Found::read(found).is_some_and(|found| found.uid == request.gate_uid);
    if watches.gate(place).is_some_and(|found| is_it(&found)) {
        return Ok(Ok(()));
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &place.namespace, &gate());
    Ok(match in_time(api.get_opt(&place.name)).await? {
        None => Err(Refusal::GateNotFound(place.clone())),
        Some(found) if is_it(&found) => Ok(()),
        Some(_) => Err(Refusal::GateReplaced(place.clone())),
    })
}
