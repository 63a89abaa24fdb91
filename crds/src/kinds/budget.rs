//! Budget: how much?

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::ScopeSpec;
use super::status::ObjectStatus;
use crate::values::{Currency, GoDuration, Money, Pointer};

/// How much may be spent. Not yet enforced: its conditions say so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kybernis.io",
    version = "v1alpha1",
    kind = "Budget",
    plural = "budgets",
    shortname = "kbud",
    category = "kybernis",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    doc = "How much may be spent. Not yet enforced: its conditions say so.",
    printcolumn(name = "COST", type_ = "string", json_path = ".spec.limit.cost"),
    printcolumn(name = "CALLS", type_ = "integer", json_path = ".spec.limit.calls"),
    printcolumn(name = "TOKENS", type_ = "integer", json_path = ".spec.limit.tokens"),
    printcolumn(name = "PER", type_ = "string", json_path = ".spec.per"),
    printcolumn(name = "WINDOW", type_ = "string", json_path = ".spec.window.type"),
    printcolumn(name = "ACCEPTED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.delay) || self.onExceeded == 'Delay'").message("delay needs onExceeded Delay"),
    validation = Rule::new("has(self.downgrade) == (has(self.onExceeded) && self.onExceeded == 'Downgrade')")
        .message("downgrade and onExceeded Downgrade need one another")
)]
pub struct BudgetSpec {
    /// Which agents, by their pods' labels. Empty: all of them here.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Which of their calls; all that is given must fit.
    #[serde(rename = "match", default)]
    pub matches: ScopeSpec,
    /// Whose calls are counted together.
    pub per: Per,
    /// How much they may use; whatever is given holds at once.
    pub limit: LimitSpec,
    /// Over which time.
    pub window: WindowSpec,
    /// What happens to a call that would go beyond it.
    #[serde(default)]
    pub on_exceeded: OnExceeded,
    /// Fractions at which a warning is given.
    #[serde(default)]
    #[schemars(length(max = 16), inner(range(min = 1, max = 99)))]
    pub warn_at_percent: Vec<u8>,
    /// More effects in doubt than this: new ones need approval.
    pub max_in_doubt: Option<u32>,
    /// For onExceeded Delay.
    pub delay: Option<BudgetDelay>,
    /// For onExceeded Downgrade.
    pub downgrade: Option<BudgetDowngrade>,
}

/// Whose calls are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Per {
    /// Those of a run.
    Run,
    /// Those of an agent.
    Agent,
    /// Those of a tool.
    Tool,
    /// All in the namespace.
    Namespace,
}

/// How much may be used in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cost) || has(self.calls) || has(self.tokens)").message("name a cost, calls or tokens"),
    validation = Rule::new("has(self.cost) == has(self.currency)").message("cost and currency need one another")
)]
pub struct LimitSpec {
    /// Money, a decimal number in quotes.
    pub cost: Option<Money>,
    /// Its currency (ISO 4217).
    pub currency: Option<Currency>,
    /// Calls.
    pub calls: Option<u64>,
    /// Tokens of language models.
    pub tokens: Option<u64>,
}

/// Over which time calls are counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.unit) == (self.type == 'Calendar')").message("unit and type Calendar need one another"),
    validation = Rule::new("has(self.length) == (self.type == 'Rolling')").message("length and type Rolling need one another")
)]
pub struct WindowSpec {
    /// How it is counted.
    #[serde(rename = "type")]
    pub kind: WindowType,
    /// For type Calendar, in UTC.
    pub unit: Option<CalendarUnit>,
    /// For type Rolling.
    pub length: Option<GoDuration>,
}

/// How a window is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WindowType {
    /// Once for each run.
    Run,
    /// By the clock, in UTC.
    Calendar,
    /// The time that has just passed.
    Rolling,
}

/// A calendar's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CalendarUnit {
    /// Minute.
    Minute,
    /// Hour.
    Hour,
    /// Day.
    Day,
    /// Month.
    Month,
}

/// What happens to a call that would go beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExceeded {
    /// It may not go.
    #[default]
    Deny,
    /// A person must agree first.
    RequireApproval,
    /// It waits for the next window.
    Delay,
    /// It goes out changed.
    Downgrade,
}

/// How long a call waits for the next window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetDelay {
    /// Longest wait.
    pub up_to: GoDuration,
}

/// How a call is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetDowngrade {
    /// Values that are put into the body.
    #[schemars(length(min = 1, max = 16))]
    pub set: Vec<SetValue>,
}

/// A value that is put into a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetValue {
    /// Where.
    pub pointer: Pointer,
    /// What.
    pub value: String,
}
