//! Whether a further attempt may follow, and when. The rules that forbid one are the contract's; the policy only narrows.

use super::effect::{DoubtCause, NotSentProof};
use crate::time::Millis;

/// What a RetryPolicy asks for, with every number checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRule {
    /// Attempts in all; the first one counts.
    pub attempts: u32,
    /// First backoff.
    pub base: Millis,
    /// Longest backoff.
    pub max: Millis,
    /// Statuses that are tried again.
    pub statuses: Vec<u16>,
    /// Failures to connect are tried again.
    pub connect_failure: bool,
    /// Resets, early ends and timeouts are tried again.
    pub reset: bool,
    /// `Retry-After` lengthens the wait.
    pub honour_retry_after: bool,
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The far side answered with this status, and the answer is not a success.
    Status {
        /// The status.
        status: u16,
        /// The answer says that nothing was done.
        rejected: bool,
    },
    /// Proof that nothing was sent.
    NotSent(NotSentProof),
    /// No clear answer.
    Unclear(DoubtCause),
}

/// What may be repeated without a second effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// A read.
    Read,
    /// The tool is declared idempotent, or its far side knows our key and the key has not run out.
    Repeatable,
    /// A repeat after dispatch could be a second effect.
    Once,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again under the same grant after this wait.
    Again(Millis),
    /// The key is free: ask for a new grant after this wait.
    DecideAgain(Millis),
    /// Stop; the attempt's end is the effect's end.
    Stop,
}

/// Decides what follows attempt number `attempt` (from 1).
///
/// `jitter` is drawn uniformly from 0..=u16::MAX by the caller; full jitter waits a random part of the exponential backoff.
/// `head_sent`: the agent has seen the first byte of an answer, after which nothing is tried again.
pub fn next(
    rule: &RetryRule,
    safety: Safety,
    attempt: u32,
    end: AttemptEnd,
    retry_after: Option<Millis>,
    head_sent: bool,
    jitter: u16,
) -> Next {
    if head_sent || attempt >= rule.attempts || !wanted(rule, end) {
        return Next::Stop;
    }
    let wait = backoff(rule, attempt, jitter).max(retry_after.filter(|_| rule.honour_retry_after).unwrap_or_default());
    match (end, safety) {
        (_, Safety::Read) => Next::Again(wait),
        (AttemptEnd::NotSent(_) | AttemptEnd::Status { rejected: true, .. }, Safety::Repeatable | Safety::Once) => Next::DecideAgain(wait),
        (AttemptEnd::Status { rejected: false, .. } | AttemptEnd::Unclear(_), Safety::Repeatable) => Next::Again(wait),
        (AttemptEnd::Status { rejected: false, .. } | AttemptEnd::Unclear(_), Safety::Once) => Next::Stop,
    }
}

fn wanted(rule: &RetryRule, end: AttemptEnd) -> bool {
    match end {
        AttemptEnd::Status { status, .. } => rule.statuses.contains(&status),
        AttemptEnd::NotSent(NotSentProof::ConnectFailed | NotSentProof::TlsFailed) => rule.connect_failure,
        // The sidecar itself stopped these; a further attempt would only be stopped again.
        AttemptEnd::NotSent(NotSentProof::DeadlineBeforeFirstByte | NotSentProof::Abandoned) => false,
        AttemptEnd::NotSent(NotSentProof::ZeroBytesWritten | NotSentProof::RefusedStream | NotSentProof::GoawayBelow) => {
            rule.connect_failure || rule.reset
        }
        AttemptEnd::Unclear(DoubtCause::Reset | DoubtCause::Eof | DoubtCause::Timeout | DoubtCause::Truncated) => rule.reset,
        AttemptEnd::Unclear(DoubtCause::Status | DoubtCause::Outcome | DoubtCause::RetriesExhausted | DoubtCause::LeaseLost) => false,
    }
}

/// Exponential from `base`, capped at `max`, with full jitter.
fn backoff(rule: &RetryRule, attempt: u32, jitter: u16) -> Millis {
    let doubled = rule.base.get().saturating_mul(1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX));
    let ceiling = doubled.min(rule.max.get());
    Millis::new(ceiling.saturating_mul(u64::from(jitter)) / u64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RetryRule {
        RetryRule {
            attempts: 4,
            base: Millis::new(100),
            max: Millis::new(5000),
            statuses: vec![429, 502, 503, 504],
            connect_failure: true,
            reset: true,
            honour_retry_after: true,
        }
    }

    const RESET: AttemptEnd = AttemptEnd::Unclear(DoubtCause::Reset);

    #[test]
    fn a_dispatched_effect_is_repeated_only_where_the_far_side_can_tell() {
        assert_eq!(next(&rule(), Safety::Once, 1, RESET, None, false, u16::MAX), Next::Stop);
        assert_eq!(next(&rule(), Safety::Repeatable, 1, RESET, None, false, u16::MAX), Next::Again(Millis::new(100)));
    }

    #[test]
    fn a_freed_key_needs_a_new_decision() {
        let refused = AttemptEnd::Status { status: 429, rejected: true };
        assert_eq!(next(&rule(), Safety::Once, 1, refused, None, false, 0), Next::DecideAgain(Millis::new(0)));
        let unsent = AttemptEnd::NotSent(NotSentProof::ConnectFailed);
        assert_eq!(next(&rule(), Safety::Repeatable, 1, unsent, None, false, 0), Next::DecideAgain(Millis::new(0)));
    }

    #[test]
    fn nothing_is_tried_again_after_the_first_answer_byte() {
        assert_eq!(next(&rule(), Safety::Read, 1, RESET, None, true, 0), Next::Stop);
    }

    #[test]
    fn attempts_count_the_first() {
        assert_eq!(next(&rule(), Safety::Read, 3, RESET, None, false, 0), Next::Again(Millis::new(0)));
        assert_eq!(next(&rule(), Safety::Read, 4, RESET, None, false, 0), Next::Stop);
    }

    #[test]
    fn backoff_doubles_to_its_cap_with_full_jitter() {
        let waits: Vec<u64> = (1..=7).map(|attempt| backoff(&rule(), attempt, u16::MAX).get()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(backoff(&rule(), 3, 0).get(), 0);
        assert_eq!(backoff(&rule(), 200, u16::MAX).get(), 5000);
    }

    #[test]
    fn retry_after_lengthens_the_wait() {
        let busy = AttemptEnd::Status { status: 503, rejected: false };
        let asked = Some(Millis::from_secs(2));
        assert_eq!(next(&rule(), Safety::Read, 1, busy, asked, false, u16::MAX), Next::Again(Millis::from_secs(2)));
        let deaf = RetryRule { honour_retry_after: false, ..rule() };
        assert_eq!(next(&deaf, Safety::Read, 1, busy, asked, false, u16::MAX), Next::Again(Millis::new(100)));
    }

    #[test]
    fn a_status_that_the_policy_does_not_name_is_final() {
        let other = AttemptEnd::Status { status: 500, rejected: false };
        assert_eq!(next(&rule(), Safety::Read, 1, other, None, false, 0), Next::Stop);
    }
}
