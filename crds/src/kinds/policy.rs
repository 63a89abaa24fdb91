//! Policy: may it go?

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use kybernis_core::policy::{Class, DefaultVerdict, Delegate, FailureMode, HostPattern, Mode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::PolicyStatus;
use crate::values::{GoDuration, Method};

/// May it go? Of all policies that select an agent, the strictest verdict wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "Policy",
    plural = "policies",
    shortname = "kpol",
    category = "kybernis",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "May it go? Of all policies that select an agent, the strictest verdict wins.",
    printcolumn(name = "MODE", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "RULES", type_ = "integer", json_path = ".status.rules"),
    printcolumn(name = "AGENTS", type_ = "integer", json_path = ".status.agents"),
    printcolumn(name = "PROGRAMMED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// Which agents, by their pods' labels. Empty: all of them here.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Audit records what would have been refused, changed or replayed, and alters nothing.
    #[serde(default)]
    pub mode: Mode,
    /// Deny makes the rules an allow-list.
    #[serde(default)]
    pub default: DefaultVerdict,
    /// What happens to side effects while the ledger is away. Open needs the release namespace's delegates.
    pub failure_mode: Option<FailureMode>,
    /// Request body bytes buffered for expressions. 262144 unless said.
    #[schemars(range(min = 0, max = 16_777_216))]
    pub body_bytes: Option<u64>,
    /// How far keys that are derived from a call act.
    pub derived_keys: Option<DerivedKeysSpec>,
    /// Looked at all together; their order does not matter.
    #[serde(default)]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<RuleSpec>,
    /// Tunnels that pass unread, recorded as ungoverned.
    #[serde(default)]
    pub uninspected: UninspectedSpec,
    /// In the release's namespace only: what namespaces may loosen for themselves.
    #[serde(default)]
    pub delegates: Vec<Delegate>,
}

/// How far keys that are derived from a call act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DerivedKeysSpec {
    /// Default: in an implicit run only where a repeat is surely a retry. Replay: as in an explicit run. Off: never.
    #[serde(default)]
    pub mode: DerivedKeysMode,
    /// How long after completion they act. 10m unless said.
    pub window: Option<GoDuration>,
}

/// How far derived keys act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DerivedKeysMode {
    /// In an implicit run only where a repeat is surely a retry.
    #[default]
    Default,
    /// As in an explicit run.
    Replay,
    /// Never.
    Off,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.approval) || self.verdict == 'RequireApproval'").message("approval needs verdict RequireApproval"))]
pub struct RuleSpec {
    /// Unique in its policy; `namespace/name` is what callers see.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which calls it looks at; all that is given must fit.
    #[serde(rename = "match", default)]
    pub matches: ScopeSpec,
    /// CEL; absent: always.
    pub when: Option<String>,
    /// What it says.
    pub verdict: VerdictSpec,
    /// For verdict RequireApproval: who must agree. Where a rule of the cluster asks too, its class decides and the larger number.
    pub approval: Option<ApprovalSpec>,
    /// For the caller.
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
}

/// Which calls a rule or a RetryPolicy is about; an empty list fits everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopeSpec {
    /// Names of ToolRegistrations.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub tools: Vec<String>,
    /// `broker.example.com`, `*.example.com`, each with an optional `:port`.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 64))]
    pub hosts: Vec<HostPattern>,
    /// In upper case.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub methods: Vec<Method>,
    /// The call's class.
    pub class: Option<Class>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerdictSpec {
    /// It may go.
    Allow,
    /// It may not go.
    Deny,
    /// People must agree first.
    RequireApproval,
}

/// Who must agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalSpec {
    /// Distinct people. 1 unless said.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub required: u32,
    /// RBAC: verb `approve` on `gateclasses/<class>`. `default` unless said.
    #[serde(default = "default_class")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("!(self in ['resolution', 'budget'])").message("is the class of gates of another type. Name another"))]
    pub class: String,
    /// How long the gate lives. 1h unless said.
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("is no time at all. Lengthen it, or remove it"))]
    pub expires_after: Option<GoDuration>,
    /// How long the call is held open for the answer. 0s unless said.
    pub hold_for: Option<GoDuration>,
}

impl Default for ApprovalSpec {
    fn default() -> Self {
        Self { required: one(), class: default_class(), expires_after: None, hold_for: None }
    }
}

/// Tunnels that pass unread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UninspectedSpec {
    /// Their hosts.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 64))]
    pub hosts: Vec<HostPattern>,
}

fn one() -> u32 {
    1
}

fn default_class() -> String {
    "default".to_owned()
}
