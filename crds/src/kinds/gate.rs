//! Gate: a decision that people owe. Made by Kybernis, read by people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Decision;

/// A decision that people owe: an approval before a call, or a resolution of an effect in doubt after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "Gate",
    plural = "gates",
    shortname = "kg",
    category = "kybernis",
    namespaced,
    status = "GateStatus",
    derive = "PartialEq",
    doc = "A decision that people owe: an approval before a call, or a resolution of an effect in doubt after it. Made by Kybernis.",
    printcolumn(name = "STATUS", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "TYPE", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "AGENT", type_ = "string", json_path = ".spec.agent"),
    printcolumn(name = "TOOL", type_ = "string", json_path = ".spec.tool"),
    printcolumn(name = "SUMMARY", type_ = "string", json_path = ".spec.summary"),
    printcolumn(name = "REQUIRED", type_ = "integer", json_path = ".spec.required"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a Gate's spec never changes"))]
pub struct GateSpec {
    /// Before the call, or after it.
    #[serde(rename = "type")]
    pub kind: GateType,
    /// Who wants to act.
    pub agent: String,
    /// In which run.
    pub run_id: String,
    /// At which span.
    pub span_id: String,
    /// With which tool.
    pub tool: String,
    /// Method, host and path.
    pub action: String,
    /// Built from the parsed request, never from the agent's own text.
    pub summary: String,
    /// What a decision binds: `sha256:` and 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// The rule that asked, `namespace/rule`.
    pub policy: String,
    /// Distinct people needed.
    #[schemars(range(min = 1))]
    pub required: u32,
    /// RBAC: verb `approve` on `gateclasses/<class>`.
    pub class: String,
    /// When it is over; a Resolution has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// What a gate asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateType {
    /// May it go?
    Approval,
    /// Did it happen?
    Resolution,
}

/// Where a gate stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// In one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<GatePhase>,
    /// `Decided`, then `Approved` or `Denied`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The words on record, the oldest first; a person counts once.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["by".into()]))]
    pub decisions: Vec<RecordedDecision>,
    /// When it came to its end; the object goes a day later, and the ledger keeps the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
}

/// One person's word on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordedDecision {
    /// Who said it, by the API server's word.
    #[schemars(length(max = 256))]
    pub by: String,
    /// What was said.
    pub decision: Decision,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the ledger took it.
    pub at: Time,
}

/// Where a gate stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GatePhase {
    /// Nobody has decided yet, or not enough people.
    Pending,
    /// It may go.
    Approved,
    /// It may not.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// The approval was used.
    Consumed,
    /// A Resolution: it was done.
    Executed,
    /// A Resolution: it was not done.
    NotExecuted,
    /// A Resolution that proof or a probe settled first, or an Approval of a rule that now asks more people, by another gate.
    Superseded,
}
