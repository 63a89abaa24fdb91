//! The verdict on a call: every policy that selects the agent is asked, and the strictest answer wins.

use std::sync::Arc;

use super::call::CallHead;
use super::compile::{CompiledPolicy, CompiledRule, CompiledSet};
use super::model::{ApprovalRule, DefaultVerdict, Level, Mode, RuleVerdict, Scope};
use super::selector::Labels;
use super::settings::Settings;
use super::tool::EffectiveTool;
use crate::cel::{Expression, Facts};
use crate::mutation::broken;
use crate::reason::Code;

/// What the policies say about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What holds.
    pub verdict: Verdict,
    /// `namespace/rule` that decided, or `namespace/policy` where its default did; empty where nothing said anything.
    pub policy_id: String,
    /// For the caller: the rule's own reason, or what refused.
    pub reason: Option<String>,
    /// What policies in Audit mode would have done.
    pub audit: Vec<AuditNote>,
}

/// May it go? The later, the stricter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// People must agree first.
    RequireApproval(ApprovalRule),
    /// It may not.
    Deny(Denial),
}

impl Verdict {
    /// The verdict's name in headers, spans and problem documents.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::RequireApproval(_) => "require_approval",
            Self::Deny(_) => "deny",
        }
    }

    /// Order of strictness; between approvals the one that asks more people.
    fn strength(&self) -> (u8, u32) {
        match self {
            Self::Allow => (0, 0),
            Self::RequireApproval(approval) => (1, approval.required),
            Self::Deny(_) => (2, 0),
        }
    }
}

/// Why a call may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A rule says so: `policy_denied`.
    Rule,
    /// No rule of a policy with `default: Deny` names it: `egress_denied`.
    Default,
    /// A rule's expression erred or is no boolean: `policy_error`.
    Error,
}

impl Denial {
    /// The code that the caller sees.
    pub fn code(self) -> Code {
        match self {
            Self::Rule => Code::PolicyDenied,
            Self::Default => Code::EgressDenied,
            Self::Error => Code::PolicyError,
        }
    }
}

/// What a policy in Audit mode would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditNote {
    /// The verdict that would have held.
    pub verdict: Verdict,
    /// `namespace/rule` or `namespace/policy`.
    pub policy_id: String,
    /// Its reason.
    pub reason: Option<String>,
}

/// What must be at hand before a call can be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Some expression is evaluated at all.
    pub facts: bool,
    /// Some expression or schema reads the request's body.
    pub body: bool,
}

/// The policies of a set that select one agent; what the sidecar keeps and asks.
#[derive(Clone, Debug)]
pub struct AgentPolicy {
    set: Arc<CompiledSet>,
    selected: Vec<usize>,
    settings: Settings,
}

impl CompiledSet {
    /// The policies that select an agent with these labels.
    pub fn for_agent(self: &Arc<Self>, labels: &Labels) -> AgentPolicy {
        let chosen = self.policies.iter().enumerate().filter(|(_, found)| found.policy.selector.selects(labels));
        let selected: Vec<usize> = chosen.map(|(index, _)| index).collect();
        let settings = Settings::of(selected.iter().filter_map(|index| self.policies.get(*index)).map(|c| &c.policy));
        AgentPolicy { set: Arc::clone(self), selected, settings }
    }

    /// What an endpoint means for this call.
    pub fn resolve(&self, call: &CallHead) -> EffectiveTool {
        let find = |index: Option<usize>| index.and_then(|index| self.tools.get(index));
        EffectiveTool::of(call, find(self.cluster.find(call)), find(self.own.find(call)))
    }

    /// Whether the registration that a caller names (`X-Kyb-Tool`) means this call by its own match, at whatever rank.
    pub fn tool_fits(&self, name: &str, call: &CallHead) -> bool {
        self.tools.iter().filter(|tool| tool.name.as_str() == name).any(|tool| {
            tool.tool.matches.iter().any(|found| {
                found.hosts.iter().any(|host| host.matches(call.host(), call.port()))
                    && (found.methods.is_empty() || found.methods.iter().any(|method| method == call.method()))
                    && (found.paths.is_empty() || found.paths.iter().any(|path| path.matches(call.path())))
            })
        })
    }
}

impl AgentPolicy {
    /// The set behind it.
    pub fn set(&self) -> &Arc<CompiledSet> {
        &self.set
    }

    /// What the selected policies say beside their rules.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many policies select this agent.
    pub fn selected(&self) -> usize {
        self.selected.len()
    }

    /// The retry terms for a call, or `None` where no RetryPolicy concerns it.
    pub fn retry(&self, call: &CallHead, tool: &EffectiveTool) -> Option<super::model::RetryTerms> {
        super::retry::effective(&self.set.set.retries, call, tool)
    }

    /// What must be read of a call before [`Self::judge`] and the tool's own expressions can be asked.
    pub fn wants(&self, call: &CallHead, tool: &EffectiveTool) -> Wants {
        let rules = self.rules(call, tool).filter_map(|(_, rule)| rule.when.as_ref());
        let mut wants = Wants { facts: false, body: tool.has_schema() };
        for expression in rules.chain(tool.request_expressions()) {
            wants.facts = true;
            wants.body |= expression.reads_body();
        }
        wants
    }

    /// The verdict on a call. The strictest of all answers wins; of equals the cluster's, then the first by name.
    pub fn judge(&self, call: &CallHead, tool: &EffectiveTool, facts: &Facts) -> Judgement {
        self.judged(call, tool, facts, false)
    }

    /// The same for a call that `rule`, which is built in, lists: no policy's default denies it, and everything else holds.
    pub fn judge_listed(&self, rule: &str, call: &CallHead, tool: &EffectiveTool, facts: &Facts) -> Judgement {
        let mut judgement = self.judged(call, tool, facts, true);
        if judgement.policy_id.is_empty() {
            rule.clone_into(&mut judgement.policy_id);
        }
        judgement
    }

    fn judged(&self, call: &CallHead, tool: &EffectiveTool, facts: &Facts, listed: bool) -> Judgement {
        let mut decided: Option<(Level, AuditNote)> = None;
        let mut audit = Vec::new();
        for policy in self.policies() {
            for note in findings(policy, call, tool, facts, listed) {
                match policy.policy.mode {
                    Mode::Audit if note.verdict != Verdict::Allow => audit.push(note),
                    Mode::Audit => {}
                    Mode::Enforce => {
                        let level = policy.policy.origin.level;
                        decided = Some(match decided.take() {
                            Some(so_far) => stricter(so_far, (level, note)),
                            None => (level, note),
                        });
                    }
                }
            }
        }
        match decided {
            Some((_, AuditNote { verdict, policy_id, reason })) => Judgement { verdict, policy_id, reason, audit },
            None => Judgement { verdict: Verdict::Allow, policy_id: String::new(), reason: None, audit },
        }
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &CompiledPolicy> {
        self.selected.iter().filter_map(|index| self.set.policies.get(*index))
    }

    fn rules(&self, call: &CallHead, tool: &EffectiveTool) -> impl Iterator<Item = (&CompiledPolicy, &CompiledRule)> {
        self.policies().flat_map(move |policy| {
            let level = policy.policy.origin.level;
            let mine = policy.rules.iter().filter(move |rule| in_scope(&rule.rule.scope, level, call, tool));
            mine.map(move |rule| (policy, rule))
        })
    }
}

/// The stricter of two answers, `one` being of a policy that comes first. Where both ask for an approval the cluster's people are
/// asked, and as many as either wants: a namespace cannot put its own in their place.
fn stricter(mut one: (Level, AuditNote), other: (Level, AuditNote)) -> (Level, AuditNote) {
    if let ((Level::Cluster, note), (Level::Namespace, more)) = (&mut one, &other)
        && let (Verdict::RequireApproval(approval), Verdict::RequireApproval(more)) = (&mut note.verdict, &more.verdict)
        && !broken("a_namespace_only_tightens_an_approval")
    {
        approval.required = approval.required.max(more.required);
        return one;
    }
    if other.1.verdict.strength() > one.1.verdict.strength() { other } else { one }
}

/// Everything that one policy says about a call, which something else may have listed.
fn findings(policy: &CompiledPolicy, call: &CallHead, tool: &EffectiveTool, facts: &Facts, mut listed: bool) -> Vec<AuditNote> {
    let origin = &policy.policy.origin;
    let mut found = Vec::new();
    for compiled in &policy.rules {
        let rule = &compiled.rule;
        if !in_scope(&rule.scope, origin.level, call, tool) {
            continue;
        }
        let note = |verdict, reason| AuditNote { verdict, policy_id: compiled.id.clone(), reason };
        match compiled.when.as_ref().map_or(Ok(true), |when| fires(when, facts)) {
            Ok(false) => {}
            Err(problem) => {
                let reason = format!("rule {} of Policy {}/{}: when: {problem}", rule.name, origin.namespace, origin.name);
                found.push(note(Verdict::Deny(Denial::Error), Some(reason)));
            }
            Ok(true) => match &rule.verdict {
                // Whichever of its two methods the far side obeys, an allowance must cover it.
                RuleVerdict::Allow if !call.is_covered_by(&rule.scope.methods) => {}
                RuleVerdict::Allow => {
                    listed = true;
                    found.push(note(Verdict::Allow, rule.reason.clone()));
                }
                RuleVerdict::RequireApproval(approval) => {
                    listed |= call.is_covered_by(&rule.scope.methods);
                    found.push(note(Verdict::RequireApproval(approval.clone()), rule.reason.clone()));
                }
                RuleVerdict::Deny => found.push(note(Verdict::Deny(Denial::Rule), rule.reason.clone())),
            },
        }
    }
    let denied = found.iter().any(|note| matches!(note.verdict, Verdict::Deny(_)));
    if policy.policy.default == DefaultVerdict::Deny && !listed && !denied {
        found.push(AuditNote {
            verdict: Verdict::Deny(Denial::Default),
            policy_id: format!("{}/{}", origin.namespace, origin.name),
            reason: Some(format!("no rule of Policy {}/{} names this call, and its default is Deny", origin.namespace, origin.name)),
        });
    }
    found
}

fn fires(when: &Expression, facts: &Facts) -> Result<bool, String> {
    when.eval_bool(facts).map_err(|error| error.to_string())
}

/// Whether a `match` concerns a call: all that is given fits.
pub(super) fn in_scope(scope: &Scope, level: Level, call: &CallHead, tool: &EffectiveTool) -> bool {
    scope.class.is_none_or(|class| class == tool.class())
        && call.concerns(&scope.methods)
        && (scope.tools.is_empty() || scope.tools.iter().any(|name| tool.is_called(name, level)))
        && (scope.hosts.is_empty() || scope.hosts.iter().any(|host| host.matches(call.host(), call.port())))
}
