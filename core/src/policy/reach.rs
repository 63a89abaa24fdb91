//! Whether anything may go to a host at all, before there is a call: a name that is only looked up tells its servers something too.

use super::compile::CompiledRule;
use super::host::Host;
use super::judge::AgentPolicy;
use super::model::{DefaultVerdict, Level, Mode, RuleVerdict};

impl AgentPolicy {
    /// Whether some call to this host could be allowed, at whatever port and by whatever method. False only where a Policy that
    /// enforces has `default: Deny` and no rule that could list the host; what a rule's `when` says shows with the call.
    pub fn may_reach(&self, host: &Host) -> bool {
        let mut lists = self.policies().filter(|found| found.policy.mode == Mode::Enforce && found.policy.default == DefaultVerdict::Deny);
        self.settings().is_uninspected_at_some_port(host)
            || lists.all(|found| found.rules.iter().any(|rule| self.could_list(rule, found.policy.origin.level, host)))
    }

    fn could_list(&self, compiled: &CompiledRule, level: Level, host: &Host) -> bool {
        let scope = &compiled.rule.scope;
        let lists = match compiled.rule.verdict {
            RuleVerdict::Allow | RuleVerdict::RequireApproval(_) => true,
            RuleVerdict::Deny => false,
        };
        lists
            && (scope.hosts.is_empty() || scope.hosts.iter().any(|pattern| pattern.matches_at_some_port(host)))
            && (scope.tools.is_empty() || scope.tools.iter().any(|name| self.is_at(name, level, host)))
    }

    /// Whether the registration that a rule of this level means by `name` speaks for the host.
    fn is_at(&self, name: &str, level: Level, host: &Host) -> bool {
        let seen = |theirs: Level| level == Level::Namespace || theirs == Level::Cluster;
        let tools = self.set().tools.iter().map(|compiled| &compiled.tool);
        let mut named = tools.filter(|tool| tool.origin.name == name && seen(tool.origin.level));
        named.any(|tool| tool.matches.iter().flat_map(|found| &found.hosts).any(|pattern| pattern.matches_at_some_port(host)))
    }
}
