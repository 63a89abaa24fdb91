//! Which RetryPolicy holds for a call: the most specific match of each level, a tie taking the fewest attempts, and between
//! the levels whatever tries less.

use std::cmp::Reverse;

use super::call::CallHead;
use super::host::{HostPattern, Name};
use super::judge::in_scope;
use super::model::{Level, RetryPolicy, RetryTerms, Scope};
use super::tool::EffectiveTool;

/// The terms for a call, or `None` where no RetryPolicy concerns it.
pub(super) fn effective(policies: &[RetryPolicy], call: &CallHead, tool: &EffectiveTool) -> Option<RetryTerms> {
    let of = |level| {
        policies
            .iter()
            .filter(|policy| policy.origin.level == level && in_scope(&policy.scope, level, call, tool))
            .max_by_key(|policy| (specificity(&policy.scope, call), Reverse(policy.terms.attempts)))
            .map(|policy| &policy.terms)
    };
    match (of(Level::Cluster), of(Level::Namespace)) {
        (Some(cluster), Some(own)) => Some(tighter(cluster, own)),
        (Some(terms), None) | (None, Some(terms)) => Some(terms.clone()),
        (None, None) => None,
    }
}

/// Tool before host (an exact one before a wildcard, a longer before a shorter), then methods, then class.
type Specificity = (bool, Option<(bool, usize, bool)>, bool, bool);

fn specificity(scope: &Scope, call: &CallHead) -> Specificity {
    let rank = |pattern: &HostPattern| match &pattern.name {
        Name::Exact(host) => (true, host.as_str().len(), pattern.port.is_some()),
        Name::Below(host) => (false, host.as_str().len(), pattern.port.is_some()),
    };
    let host = scope.hosts.iter().filter(|pattern| pattern.matches(call.host(), call.port())).map(rank).max();
    (!scope.tools.is_empty(), host, !scope.methods.is_empty(), scope.class.is_some())
}

fn tighter(a: &RetryTerms, b: &RetryTerms) -> RetryTerms {
    let timeout = match (a.per_try_timeout, b.per_try_timeout) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (either, other) => either.or(other),
    };
    RetryTerms {
        attempts: a.attempts.min(b.attempts),
        per_try_timeout: timeout,
        backoff_base: a.backoff_base.max(b.backoff_base),
        backoff_max: a.backoff_max.max(b.backoff_max),
        statuses: a.statuses.iter().copied().filter(|status| b.statuses.contains(status)).collect(),
        connect_failure: a.connect_failure && b.connect_failure,
        reset: a.reset && b.reset,
        honour_retry_after: a.honour_retry_after || b.honour_retry_after,
    }
}
