//! A refusal as the caller sees it: `application/problem+json` (RFC 9457) and the headers beside it.

use std::borrow::Cow;

use serde::Serialize;

use super::{Code, Retryable};
use crate::ids::{GateId, RunId, SpanId};
use crate::time::Millis;

/// Longest text that a header carries: `detail` is whole in the body, cut in `X-Kyb-Reason`.
const HEADER_TEXT_MAX: usize = 256;

/// Where the page of a code lies.
const TYPE_BASE: &str = "https://kybernis.io/errors/";

/// A refusal with everything that its body and headers show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// What to do next, down to the field.
    pub detail: String,
    /// The rule, `namespace/rule`.
    pub policy_id: Option<String>,
    /// The run.
    pub run: Option<RunId>,
    /// The span.
    pub span: Option<SpanId>,
    /// The gate that waits for a person.
    pub gate: Option<GateId>,
    /// The span of the first call.
    pub dedupe_of: Option<SpanId>,
    /// When to ask again.
    pub retry_after: Option<Millis>,
    /// The far side's status, for an effect in doubt.
    pub upstream_status: Option<u16>,
}

/// The body's members, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A page about the code.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The same for every occurrence.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// About this occurrence: what to do next.
    pub detail: String,
    /// The code.
    pub code: &'static str,
    /// The verdict.
    pub verdict: &'static str,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_id: Option<String>,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<SpanId>,
    /// The gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate_id: Option<GateId>,
    /// Milliseconds until asking again makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The far side's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
}

impl Refusal {
    /// A refusal with nothing beside its code and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            policy_id: None,
            run: None,
            span: None,
            gate: None,
            dedupe_of: None,
            retry_after: None,
            upstream_status: None,
        }
    }

    /// The body.
    pub fn problem(&self) -> Problem {
        let row = self.code.row();
        Problem {
            type_uri: format!("{TYPE_BASE}{}", row.code),
            title: row.title,
            status: row.status,
            detail: self.detail.clone(),
            code: row.code,
            verdict: row.verdict,
            policy_id: self.policy_id.clone(),
            run_id: self.run.clone(),
            span_id: self.span.clone(),
            gate_id: self.gate.clone(),
            retry_after_ms: self.retry_after.map(Millis::get),
            upstream_status: self.upstream_status,
        }
    }

    /// The headers beside the body, lower-case names, values that are safe in a header whatever `detail` holds.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let row = self.code.row();
        let mut headers = vec![
            ("content-type", "application/problem+json".to_owned()),
            ("x-kyb-verdict", row.verdict.to_owned()),
            ("x-kyb-reason", header_text(&format!("{}: {}", row.code, self.detail)).into_owned()),
        ];
        let mut add = |name, value: Option<String>| headers.extend(value.map(|value| (name, header_text(&value).into_owned())));
        add("x-kyb-policy-id", self.policy_id.clone());
        add("x-kyb-run-id", self.run.as_ref().map(ToString::to_string));
        add("x-kyb-span-id", self.span.as_ref().map(ToString::to_string));
        add("x-kyb-gate-id", self.gate.as_ref().map(ToString::to_string));
        add("x-kyb-dedupe-of", self.dedupe_of.as_ref().map(ToString::to_string));
        match row.retryable {
            Retryable::Final => {
                add("x-should-retry", Some("false".to_owned()));
                add("stripe-should-retry", Some("false".to_owned()));
            }
            Retryable::Later => {
                // Whole seconds, rounded up (RFC 9110, 10.2.3); a client that may ask again is always told when.
                let seconds = self.retry_after.map_or(1, |after| after.get().div_ceil(1000).max(1));
                add("retry-after", Some(seconds.to_string()));
            }
        }
        headers
    }
}

/// Visible ASCII and spaces only, cut to a header's length.
pub fn header_text(text: &str) -> Cow<'_, str> {
    if text.len() <= HEADER_TEXT_MAX && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Cow::Borrowed(text);
    }
    let safe = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    Cow::Owned(text.chars().take(HEADER_TEXT_MAX).map(safe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_refusals_tell_client_libraries_not_to_retry() {
        let headers = Refusal::new(Code::EffectInDoubt, "look").headers();
        assert!(headers.contains(&("x-should-retry", "false".to_owned())));
        assert!(headers.contains(&("stripe-should-retry", "false".to_owned())));
        assert!(!headers.iter().any(|(name, _)| *name == "retry-after"));
    }

    #[test]
    fn a_refusal_that_may_be_asked_again_says_when() {
        let refusal = Refusal { retry_after: Some(Millis::new(1200)), ..Refusal::new(Code::EffectInFlight, "wait") };
        assert!(refusal.headers().contains(&("retry-after", "2".to_owned())));
    }

    #[test]
    fn no_detail_can_break_out_of_a_header() {
        let headers = Refusal::new(Code::PolicyError, "bad\r\nset-cookie: x\u{1f600}").headers();
        let reason = &headers.iter().find(|(name, _)| *name == "x-kyb-reason").unwrap().1;
        assert_eq!(reason, "policy_error: bad??set-cookie: x?");
    }

    #[test]
    fn the_body_has_the_members_of_the_contract() {
        let refusal = Refusal {
            upstream_status: Some(503),
            policy_id: Some("trading/large".to_owned()),
            ..Refusal::new(Code::EffectInDoubt, "look")
        };
        let body = serde_json::to_value(refusal.problem()).unwrap();
        assert_eq!(body["type"], "https://kybernis.io/errors/effect_in_doubt");
        assert_eq!(body["status"], 423);
        assert_eq!(body["code"], "effect_in_doubt");
        assert_eq!(body["upstream_status"], 503);
    }
}
