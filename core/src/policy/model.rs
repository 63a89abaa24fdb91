//! The lowered policy model: what the manifests mean once Kubernetes is taken out of them. Sidecar and ledger hold the same
//! [`PolicySet`] and name it by its digest, so its serialised form is deterministic and holds no secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::host::HostPattern;
use super::path::PathPattern;
use super::selector::Selector;
use crate::ids::PolicyDigest;
pub use crate::machine::DerivedMode;
use crate::machine::retry::RetryRule;
use crate::time::Millis;

/// Everything that governs the agents of one namespace, from both levels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// What endpoints mean.
    pub tools: Vec<Tool>,
    /// What may go.
    pub policies: Vec<Policy>,
    /// How often it is tried.
    pub retries: Vec<RetryPolicy>,
}

impl PolicySet {
    /// SHA-256 over the set's canonical JSON (RFC 8785).
    pub fn digest(&self) -> PolicyDigest {
        super::digest::of(self)
    }

    /// What of it is of this level.
    #[must_use]
    pub fn part(mut self, level: Level) -> Self {
        self.tools.retain(|tool| tool.origin.level == level);
        self.policies.retain(|policy| policy.origin.level == level);
        self.retries.retain(|retry| retry.origin.level == level);
        self
    }

    /// Puts every list into its one order, so that the same objects have the same digest whatever file they came from.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.tools.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.policies.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.retries.sort_by(|a, b| a.origin.cmp(&b.origin));
        self
    }
}

/// Whom an object binds. The cluster's comes first wherever an order is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// From the release's namespace: every agent in the cluster.
    Cluster,
    /// From the agent's own namespace: can only tighten.
    Namespace,
}

/// Where an object comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Whom it binds.
    pub level: Level,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a call does to the far side (`ToolRegistration.spec.class`); the later, the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Class {
    /// Changes nothing.
    Read,
    /// A call to a model: budgeted, not deduplicated unless it carries a key.
    #[serde(rename = "LLM")]
    Llm,
    /// Changes something that a repeat would change again.
    SideEffect,
}

/// What an endpoint means (`ToolRegistration`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Where it comes from.
    pub origin: Origin,
    /// For people.
    pub display_name: Option<String>,
    /// Any of these.
    pub matches: Vec<ToolMatch>,
    /// `None`: as for an unregistered endpoint.
    pub class: Option<Class>,
    /// How its effects are named, judged and settled.
    pub effect: Effect,
    /// JSON Schema that a request's body must fit.
    pub request_schema: Option<Value>,
}

/// One entry of `ToolRegistration.spec.match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolMatch {
    /// Any of these; never empty.
    pub hosts: Vec<HostPattern>,
    /// Any of these, in upper case; empty: every method.
    pub methods: Vec<String>,
    /// Any of these; empty: every path.
    pub paths: Vec<PathPattern>,
}

/// `ToolRegistration.spec.effect`. `None` means that the object says nothing, so that the other level's word holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// CEL: the effect's key, or a list of them.
    pub key: Option<String>,
    /// JSON pointers that do not count for the fingerprint.
    pub volatile: Option<Vec<String>>,
    /// The far side's own idempotency header, in lower case.
    pub upstream_key_header: Option<String>,
    /// How long the far side keeps that key; no automatic retry after it.
    pub upstream_key_ttl: Option<Millis>,
    /// CEL over request and response: the outcome's name.
    pub outcome: Option<String>,
    /// The far side is safe to repeat.
    pub idempotent: Option<bool>,
    /// Statuses by which the far side promises that nothing was done.
    pub not_executed_statuses: Option<Vec<u16>>,
    /// How long a completed answer is kept for replay.
    pub retention: Option<Millis>,
    /// On whose behalf.
    pub principal: Option<PrincipalRule>,
    /// How an effect in doubt is settled.
    pub probe: Option<Probe>,
}

/// `effect.principal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrincipalRule {
    /// Calls have no principal.
    None,
    /// CEL over the request.
    Expression(String),
}

/// `effect.probe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// CEL over the request: the absolute URL to ask.
    pub url: String,
    /// In upper case; GET unless the manifest says more.
    pub method: String,
    /// Sent as they stand; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What is sent as Authorization.
    pub secret_ref: Option<SecretRef>,
    /// CEL over request and response: proof of execution.
    pub executed_when: Option<String>,
    /// CEL over request and response: proof of the contrary.
    pub not_executed_when: Option<String>,
    /// Wait before the first probe.
    pub initial_delay: Millis,
    /// Time between probes.
    pub interval: Millis,
    /// "Not executed" counts only this long after the lease ended; `None`: only a person may say it.
    pub settle_horizon: Option<Millis>,
    /// After this long a gate of type Resolution opens.
    pub give_up_after: Millis,
}

/// A key of a Secret in the registration's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretRef {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// May it go? (`Policy`)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Where it comes from.
    pub origin: Origin,
    /// Which agents, by their pods' labels.
    pub selector: Selector,
    /// Enforce or only record.
    pub mode: Mode,
    /// What happens where no rule says anything.
    pub default: DefaultVerdict,
    /// What happens while the ledger is away; `None`: says nothing.
    pub failure_mode: Option<FailureMode>,
    /// Body bytes buffered for expressions; `None`: says nothing.
    pub body_bytes: Option<u64>,
    /// How far derived keys act; `None`: says nothing.
    pub derived_keys: Option<DerivedKeys>,
    /// In the manifest's order.
    pub rules: Vec<Rule>,
    /// Hosts whose tunnels pass unread.
    pub uninspected: Vec<HostPattern>,
    /// What namespaces may loosen; at the cluster's level only.
    pub delegates: Vec<Delegate>,
}

/// Whether verdicts hold (`Policy.spec.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Mode {
    /// The verdict holds.
    #[default]
    Enforce,
    /// The verdict is recorded and alters nothing.
    Audit,
}

/// What happens where no rule says anything (`Policy.spec.default`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DefaultVerdict {
    /// What no rule names may go.
    #[default]
    Allow,
    /// The rules are an allow-list.
    Deny,
}

/// What happens to side effects while the ledger is away (`Policy.spec.failureMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum FailureMode {
    /// No ledger, no side effect.
    #[default]
    Closed,
    /// The sidecar claims in its own spool and goes on.
    Open,
}

/// What namespaces may loosen for themselves (`Policy.spec.delegates`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Delegate {
    /// Namespaces may say `failureMode: Open`.
    FailureModeOpen,
    /// Namespaces may name uninspected hosts.
    Uninspected,
}

impl Delegate {
    /// The field that a namespace's Policy may use by it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::FailureModeOpen => "failureMode",
            Self::Uninspected => "uninspected",
        }
    }

    /// As a manifest names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FailureModeOpen => "FailureModeOpen",
            Self::Uninspected => "Uninspected",
        }
    }
}

/// `Policy.spec.derivedKeys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedKeys {
    /// How far they act.
    pub mode: DerivedMode,
    /// How long after completion a match still acts.
    pub window: Millis,
}

/// One rule of a Policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its policy.
    pub name: String,
    /// Which calls it looks at.
    pub scope: Scope,
    /// CEL; `None`: always.
    pub when: Option<String>,
    /// What it says.
    pub verdict: RuleVerdict,
    /// For the caller.
    pub reason: Option<String>,
}

/// `match` of a rule or of a RetryPolicy: all that is given must fit, and an empty list fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Names of registrations.
    pub tools: Vec<String>,
    /// Hosts.
    pub hosts: Vec<HostPattern>,
    /// Methods in upper case.
    pub methods: Vec<String>,
    /// The call's class.
    pub class: Option<Class>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleVerdict {
    /// It may go.
    Allow,
    /// People must agree first.
    RequireApproval(ApprovalRule),
    /// It may not go.
    Deny,
}

/// `rules[].approval`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRule {
    /// Distinct people needed, at least 1.
    pub required: u32,
    /// Which people: verb `approve` on `gateclasses/<class>`.
    pub class: String,
    /// How long the gate lives.
    pub expires_after: Millis,
    /// How long the call is held open for an answer.
    pub hold_for: Millis,
}

/// How often? (`RetryPolicy`)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Where it comes from.
    pub origin: Origin,
    /// Which calls.
    pub scope: Scope,
    /// What it says.
    pub terms: RetryTerms,
}

/// The behaviour that a RetryPolicy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryTerms {
    /// Tries in all; the first one counts.
    pub attempts: u32,
    /// Time for each try; `None`: unbounded by the policy.
    pub per_try_timeout: Option<Millis>,
    /// The first wait's ceiling; it doubles with each try, with full jitter.
    pub backoff_base: Millis,
    /// The ceiling of every wait.
    pub backoff_max: Millis,
    /// Statuses that are tried again.
    pub statuses: Vec<u16>,
    /// Try again when no connection came about.
    pub connect_failure: bool,
    /// Try again when the connection broke.
    pub reset: bool,
    /// Wait as long as the far side's `Retry-After` says.
    pub honour_retry_after: bool,
}

impl RetryTerms {
    /// The terms as the retry machine takes them.
    pub fn rule(&self) -> RetryRule {
        RetryRule {
            attempts: self.attempts,
            base: self.backoff_base,
            max: self.backoff_max,
            statuses: self.statuses.clone(),
            connect_failure: self.connect_failure,
            reset: self.reset,
            honour_retry_after: self.honour_retry_after,
        }
    }
}
