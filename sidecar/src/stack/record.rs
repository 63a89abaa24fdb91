//! What is left behind of a call: its spans in the spool, and the `X-Kyb-*` headers on its answer.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use kybernis_core::ids::{GateId, SpanId};
use kybernis_core::ksp::{KspEvent, SpanEnd, SpanPolicy, SpanStart, SpanStatus, SpanType, Usage};
use kybernis_core::mutation::broken;
use kybernis_core::policy::Class;
use kybernis_core::reason::Refusal;
use kybernis_core::time::{Millis, Timestamp};

use super::call::Call;
use super::judge::Judged;
use crate::body::remove_where;

const VERDICT: HeaderName = HeaderName::from_static("x-kyb-verdict");
const REASON: HeaderName = HeaderName::from_static("x-kyb-reason");
const POLICY_ID: HeaderName = HeaderName::from_static("x-kyb-policy-id");
const RUN_ID: HeaderName = HeaderName::from_static("x-kyb-run-id");
const SPAN_ID: HeaderName = HeaderName::from_static("x-kyb-span-id");
const DEDUPE_OF: HeaderName = HeaderName::from_static("x-kyb-dedupe-of");
const GATE_ID: HeaderName = HeaderName::from_static("x-kyb-gate-id");
const ATTEMPT: HeaderName = HeaderName::from_static("x-kyb-attempt");
/// All of them.
const STAMP_FIELDS: usize = 8;

/// What every answer says about its decision.
#[derive(Debug)]
pub(super) struct Stamp<'a> {
    pub(super) verdict: &'static str,
    pub(super) reason: &'a str,
    pub(super) policy_id: &'a str,
    pub(super) span: &'a SpanId,
    pub(super) attempt: u32,
    pub(super) dedupe_of: Option<&'a SpanId>,
    pub(super) gate: Option<&'a GateId>,
}

impl<'a> Stamp<'a> {
    /// An allowed call's first attempt.
    pub(super) fn allowed(judged: &'a Judged, span: &'a SpanId, attempt: u32) -> Self {
        let reason = judged.judgement.reason.as_deref().unwrap_or("allowed");
        Self { verdict: "allow", reason, policy_id: &judged.judgement.policy_id, span, attempt, dedupe_of: None, gate: None }
    }

    /// Puts the stamp on an answer, in place of whatever the far side sent under these names.
    pub(super) fn put_on(&self, call: &Call, headers: &mut HeaderMap) {
        strip(headers);
        headers.reserve(STAMP_FIELDS);
        headers.insert(VERDICT, HeaderValue::from_static(self.verdict));
        let mut add = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(&kybernis_core::reason::header_text(value)) {
                headers.insert(name, value);
            }
        };
        add(REASON, self.reason);
        if !self.policy_id.is_empty() {
            add(POLICY_ID, self.policy_id);
        }
        add(RUN_ID, call.run.as_str());
        add(SPAN_ID, self.span.as_str());
        if let Some(span) = self.dedupe_of {
            add(DEDUPE_OF, span.as_str());
        }
        if let Some(gate) = self.gate {
            add(GATE_ID, gate.as_str());
        }
        headers.insert(ATTEMPT, HeaderValue::from(self.attempt));
    }
}

/// Takes off what only we may say.
pub(super) fn strip(headers: &mut HeaderMap) {
    if !broken("the_far_side_does_not_speak_for_us") {
        remove_where(headers, |name| name.starts_with("x-kyb-"));
    }
}

/// A frame without it, where it carries trailers.
pub(super) fn stripped(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            strip(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// A span that needs no word of the ledger's.
#[derive(Debug)]
pub(super) struct Span {
    start: SpanStart,
    began: Instant,
    began_at: Timestamp,
    policy: SpanPolicy,
}

impl Span {
    /// Begins with the call.
    pub(super) fn of(call: &Call, id: &SpanId, kind: SpanType, judged: Option<&Judged>) -> Self {
        let mut start = SpanStart::new(call.began.0, call.run.clone(), id.clone(), kind, call.action());
        start.parent_span_id = call.controls.parent.clone();
        start.idempotency_key = call.controls.key.as_ref().map(kybernis_core::key::IdempotencyKey::hint);
        start.attempt = Some(1);
        if !call.controls.unknown.is_empty() {
            start.attributes.insert("unknown_control_headers".to_owned(), call.controls.unknown.clone().into());
        }
        let mut policy = SpanPolicy { verdict: Some("allow".to_owned()), ..SpanPolicy::default() };
        if let Some(judged) = judged {
            start.attributes.insert("tool".to_owned(), judged.tool.name().as_str().into());
            note_audit(judged, &mut start.attributes);
            policy.policy_id = judged.policy_id();
            policy.reason = judged.judgement.reason.clone();
        }
        Self { start, began: call.began.1, began_at: call.began.0, policy }
    }

    /// Begins now, as part of another span.
    pub(super) fn within(mut self, parent: &SpanId, attempt: u32) -> Self {
        self.start.parent_span_id = Some(parent.clone());
        self.start.attempt = Some(attempt);
        self
    }

    /// Adds a remark.
    pub(super) fn noted(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.start.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// The two events of a call that was refused.
    pub(super) fn refused(mut self, refusal: &Refusal) -> [KspEvent; 2] {
        self.policy.verdict = Some(refusal.code.row().verdict.to_owned());
        if refusal.policy_id.is_some() {
            self.policy.policy_id.clone_from(&refusal.policy_id);
        }
        let mut attributes = BTreeMap::new();
        if let Some(gate) = &refusal.gate {
            attributes.insert("gate_id".to_owned(), gate.as_str().into());
        }
        if let Some(first) = &refusal.dedupe_of {
            attributes.insert("dedupe_of".to_owned(), first.as_str().into());
        }
        let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail.clone());
        self.ended(SpanStatus::Blocked, Some(code), Some(detail), Usage::default(), attributes)
    }

    /// The two events of a call that was answered with an earlier one's answer.
    pub(super) fn deduped(self, first: &SpanId) -> [KspEvent; 2] {
        let attributes = BTreeMap::from([("dedupe_of".to_owned(), first.as_str().into())]);
        self.ended(SpanStatus::Deduped, None, None, Usage::default(), attributes)
    }

    /// The two events of a call that went out.
    pub(super) fn ended(
        self,
        status: SpanStatus,
        error_code: Option<String>,
        error_message: Option<String>,
        usage: Usage,
        attributes: BTreeMap<String, serde_json::Value>,
    ) -> [KspEvent; 2] {
        let took = Millis::new(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut end = SpanEnd::new(self.began_at.after(took), self.start.run_id.clone(), self.start.span_id.clone(), status, took);
        end.error_code = error_code;
        end.error_message = error_message;
        end.policy = Some(self.policy);
        end.usage = Some(usage).filter(|usage| *usage != Usage::default());
        end.attributes = attributes;
        [KspEvent::SpanStart(self.start), KspEvent::SpanEnd(end)]
    }
}

/// What would have been, had the policies in Audit mode been enforced.
fn note_audit(judged: &Judged, attributes: &mut BTreeMap<String, serde_json::Value>) {
    let by_policy = judged
        .judgement
        .audit
        .iter()
        .map(|note| serde_json::json!({"verdict": note.verdict.name(), "policy_id": note.policy_id, "reason": note.reason}));
    let besides = judged
        .noted
        .iter()
        .map(|refusal| serde_json::json!({"verdict": refusal.code.row().verdict, "code": refusal.code.as_str(), "reason": refusal.detail}));
    let notes: Vec<_> = by_policy.chain(besides).collect();
    if !notes.is_empty() {
        attributes.insert("audit".to_owned(), notes.into());
    }
}

/// What a call's span measures.
pub(super) const fn span_type(class: Class) -> SpanType {
    match class {
        Class::Read => SpanType::Http,
        Class::Llm => SpanType::Llm,
        Class::SideEffect => SpanType::SideEffect,
    }
}
