//! ToolRegistration: what an endpoint means.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use kybernis_core::policy::{Class, HostPattern, PathKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObjectStatus;
use crate::values::{GoDuration, KeyHeader, Method, Pointer, ProbeHeader};

/// What an endpoint means: which calls it is about, what they do, how their effects are named and settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "ToolRegistration",
    plural = "toolregistrations",
    shortname = "tool",
    shortname = "tools",
    category = "kybernis",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    doc = "What an endpoint means: which calls it is about, what they do, how their effects are named and settled.",
    printcolumn(name = "CLASS", type_ = "string", json_path = ".spec.class"),
    printcolumn(name = "HOST", type_ = "string", json_path = ".spec.match[0].hosts[0]"),
    printcolumn(name = "HOSTS", type_ = "string", json_path = ".spec.match[*].hosts", priority = 1),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ToolRegistrationSpec {
    /// For people.
    #[schemars(length(max = 256))]
    pub display_name: Option<String>,
    /// Any of these. The most specific registration of a namespace wins; a tie is a conflict.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 64))]
    pub matches: Vec<ToolMatch>,
    /// What the call does to the far side. Absent: GET, HEAD and OPTIONS are Read, known model hosts LLM, the rest SideEffect.
    pub class: Option<Class>,
    /// How its effects are named, judged and settled.
    #[serde(default)]
    pub effect: EffectSpec,
    /// JSON Schema; a request body that does not fit is refused with the pointer that fails.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub request_schema: Option<serde_json::Value>,
}

/// One way to match a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolMatch {
    /// Any of these: `broker.example.com`, `*.example.com`, each with an optional `:port`.
    #[schemars(with = "Vec<String>", length(min = 1, max = 64))]
    pub hosts: Vec<HostPattern>,
    /// Any of these, in upper case; none: every method.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub methods: Vec<Method>,
    /// Any of these; none: every path.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub paths: Vec<PathMatch>,
}

/// One path pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathMatch {
    /// How `value` is read.
    #[serde(rename = "type")]
    pub kind: PathKind,
    /// `/v1/orders`; in a Template `{name}` stands for one segment.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a tool's effects are named, judged and settled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectSpec {
    /// CEL over `request`: the effect's key, or a list of them for a batch. It wins over any header.
    pub key: Option<String>,
    /// JSON pointers into the body that do not count for the fingerprint.
    #[schemars(length(max = 64))]
    pub volatile: Option<Vec<Pointer>>,
    /// The far side's own idempotency header. Naming it makes a dispatched effect safe to retry.
    pub upstream_key_header: Option<KeyHeader>,
    /// How long the far side keeps that key; no automatic retry after it.
    pub upstream_key_ttl: Option<GoDuration>,
    /// CEL over `request` and `response`: Completed, Rejected, NotSent, InDoubt, or Default for what the status says.
    pub outcome: Option<String>,
    /// The far side is safe to repeat.
    pub idempotent: Option<bool>,
    /// The far side promises: these statuses mean that nothing was done.
    #[schemars(length(max = 32), inner(range(min = 300, max = 599)))]
    pub not_executed_statuses: Option<Vec<u16>>,
    /// How long a completed answer is kept for replay. 72h unless said.
    pub retention: Option<GoDuration>,
    /// On whose behalf a call is made: CEL over `request`, or `none`. Absent: by the call's credential.
    pub principal: Option<String>,
    /// How an effect in doubt is settled.
    pub probe: Option<ProbeSpec>,
}

/// A question to the far side that settles an effect in doubt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSpec {
    /// CEL over `request`: the absolute URL to ask. Rendered before the call is dispatched.
    pub url: String,
    /// GET unless said.
    pub method: Option<ProbeMethod>,
    /// Headers that it carries; none that frames the request, is for one hop, or is ours.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<ProbeHeader, String>,
    /// A key of a Secret in this namespace, sent as Authorization.
    pub secret_ref: Option<SecretKeyRef>,
    /// CEL over `response`: proof that it was done.
    pub executed_when: Option<String>,
    /// CEL over `response`: proof that it was not.
    pub not_executed_when: Option<String>,
    /// Wait before the first probe. 2s unless said.
    pub initial_delay: Option<GoDuration>,
    /// Time between probes, at least 100ms. 10s unless said.
    // What is no duration is told by its own rule.
    #[x_kube(validation = Rule::new("self != '0' && (!self.matches('^[0-9.]+(ms|s|m|h)') || duration(self) >= duration('100ms'))")
        .message("is shorter than 100ms. Lengthen it"))]
    pub interval: Option<GoDuration>,
    /// A "not executed" counts only this long after the lease ended. Absent: only a person may say it.
    pub settle_horizon: Option<GoDuration>,
    /// After this long a gate of type Resolution opens. 10m unless said.
    pub give_up_after: Option<GoDuration>,
}

/// How a probe asks, by what changes nothing: GET unless said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    /// For the answer with its body.
    #[default]
    Get,
    /// For its head alone.
    Head,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}
