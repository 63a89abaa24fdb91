//! RetryPolicy: how often?

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::policy::ScopeSpec;
use super::status::ObjectStatus;
use crate::values::GoDuration;

/// Attempts beyond this are no retrying but a load.
pub const ATTEMPTS_MAX: u32 = 20;

/// How often a call is tried. Of overlapping ones the most specific match wins; a tie takes the fewest attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "RetryPolicy",
    plural = "retrypolicies",
    shortname = "krp",
    category = "kybernis",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    doc = "How often a call is tried. Of overlapping ones the most specific match wins; a tie takes the fewest attempts.",
    printcolumn(name = "ATTEMPTS", type_ = "integer", json_path = ".spec.attempts"),
    printcolumn(name = "ON", type_ = "string", json_path = ".spec.on.statuses", priority = 1),
    printcolumn(name = "PROGRAMMED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicySpec {
    /// Which calls; all that is given must fit.
    #[serde(rename = "match", default)]
    pub matches: ScopeSpec,
    /// Tries in all; the first one counts.
    #[schemars(range(min = 1, max = 20))]
    pub attempts: u32,
    /// Time for each try.
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("is no time at all. Lengthen it, or remove it"))]
    pub per_try_timeout: Option<GoDuration>,
    /// Waits between tries: exponential, with full jitter.
    #[serde(default)]
    pub backoff: BackoffSpec,
    /// What is tried again.
    #[serde(default)]
    pub on: RetryOnSpec,
    /// Wait as long as the far side's `Retry-After` says.
    #[serde(default = "yes")]
    pub honour_retry_after: bool,
}

/// Waits between tries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackoffSpec {
    /// The first wait's ceiling; it doubles with each try. 100ms unless said.
    pub base: Option<GoDuration>,
    /// The ceiling of every wait. 5s unless said.
    pub max: Option<GoDuration>,
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryOnSpec {
    /// Statuses of the far side. 429, 502, 503 and 504 unless said.
    #[serde(default = "transient")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub statuses: Vec<u16>,
    /// No connection came about.
    #[serde(default = "yes")]
    pub connect_failure: bool,
    /// The connection broke.
    #[serde(default = "yes")]
    pub reset: bool,
}

impl Default for RetryOnSpec {
    fn default() -> Self {
        Self { statuses: transient(), connect_failure: true, reset: true }
    }
}

fn transient() -> Vec<u16> {
    vec![429, 502, 503, 504]
}

fn yes() -> bool {
    true
}
