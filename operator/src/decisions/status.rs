//! What became of a decision, as people read it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::Recorder;
use serde_json::{Value, json};

use super::object::{Decision, RECORDED};
use super::validate::Refusal;
use crate::apply::{MANAGER, WriteError, in_time};
use crate::events;
use crate::status::{MESSAGE_MAX, seconds, shortened};
use crate::watch;

/// The Event of a refusal.
const REFUSED: &str = "GateDecisionRefused";

/// Final.
pub(super) type Verdict = Result<(), Refusal>;

/// Tells the person. The object is written upon in the state that is known; where it has moved on, it is written again.
pub(super) async fn write(client: &kube::Client, decision: &Decision, verdict: &Verdict, now: Timestamp) -> Result<(), WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &decision.place.namespace, &watch::decision());
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let mut conditions = decision.others.clone();
    conditions.push(json!(condition(decision, verdict, now)));
    let body: Value = json!({"metadata": {"resourceVersion": decision.version}, "status": {"conditions": conditions}});
    match in_time(api.patch_status(&decision.place.name, &params, &Patch::Merge(&body))).await {
        Ok(_) => Ok(()),
        // Of what is gone there is nothing to say.
        Err(WriteError::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells those who look at Events.
pub(super) async fn tell(recorder: &Recorder, decision: &Decision, verdict: &Verdict) {
    if let Err(refusal) = verdict {
        events::tell(recorder, &watch::decision(), decision.about(), true, REFUSED, &refusal.to_string()).await;
    }
}

fn condition(decision: &Decision, verdict: &Verdict, now: Timestamp) -> Condition {
    let (status, reason, message) = match verdict {
        Ok(()) => ("True", "Recorded", "the ledger has this word on record".to_owned()),
        Err(refusal) => ("False", refusal.reason(), refusal.to_string()),
    };
    Condition {
        type_: RECORDED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: shortened(message, MESSAGE_MAX),
        observed_generation: Some(decision.generation),
        last_transition_time: seconds(now),
    }
}
