//! GateDecision: one person's word on one gate, said once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One person's word on one gate, created once and never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "GateDecision",
    plural = "gatedecisions",
    shortname = "kgd",
    category = "kybernis",
    namespaced,
    status = "GateDecisionStatus",
    derive = "PartialEq",
    doc = "One person's word on one gate, created once and never changed.",
    printcolumn(name = "GATE", type_ = "string", json_path = ".spec.gate"),
    printcolumn(name = "DECISION", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "BY", type_ = "string", json_path = ".spec.decidedBy"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".spec.reason"),
    printcolumn(name = "RECORDED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Recorded\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a GateDecision never changes; create another one"))]
pub struct GateDecisionSpec {
    /// The gate's name.
    #[schemars(length(min = 1, max = 253))]
    pub gate: String,
    /// The gate's uid: a namesake is another gate.
    #[schemars(length(min = 1, max = 64))]
    pub gate_uid: String,
    /// The gate's digest: what the person saw is what they decide on.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// The word.
    pub decision: Decision,
    /// For the record.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who says it: stamped at admission from the API server's own word; what a client writes here is overwritten.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// Stamped at admission, over all of the above; what a client writes here is overwritten. Without it the word is not taken.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// What became of a decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateDecisionStatus {
    /// `Recorded`: True once the ledger has the word, False when it will not take it; the message says why.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Decision {
    /// It may go.
    Approve,
    /// It may not.
    Deny,
    /// It was done.
    Executed,
    /// It was not done.
    NotExecuted,
}
