//! KSP v1: the span events that proxy, SDK and ledger share.
//!
//! Members and closed sets are those of the published format. `ksp_version` is `ksp.v1`; `1` is read as the same. Members
//! that the format does not name are left out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{RunId, SpanId, TenantId};
use crate::time::{Millis, Timestamp};

/// What a span measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpanType {
    /// A call to a language model.
    Llm,
    /// A tool.
    Tool,
    /// A read over HTTP.
    Http,
    /// A database call.
    Db,
    /// A vector store call.
    Vector,
    /// Code that ran.
    Code,
    /// A file operation.
    File,
    /// A call with an effect on the far side.
    SideEffect,
    /// Waiting.
    Sleep,
    /// A decision.
    Decision,
    /// A checkpoint.
    Checkpoint,
}

/// How a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpanStatus {
    /// Done.
    Ok,
    /// Failed, or in doubt.
    Error,
    /// Given up.
    Canceled,
    /// Answered with an earlier call's answer.
    Deduped,
    /// Refused.
    Blocked,
}

/// The one version there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KspVersion {
    /// `ksp.v1`.
    #[default]
    #[serde(rename = "ksp.v1", alias = "1")]
    V1,
}

/// What a span cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Answer body bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Request body bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// Processor time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Peak memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_bytes_peak: Option<u64>,
}

/// What policy said about a span.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpanPolicy {
    /// `allow`, `deny`, `delay`, `downgrade` or `require_approval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which rule, `namespace/rule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_id: Option<String>,
}

/// SPAN_START.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpanStart {
    /// The format's version.
    pub ksp_version: KspVersion,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// Filled in by the ledger from the caller's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tenant_id: Option<TenantId>,
    /// The run.
    #[schemars(with = "String")]
    pub run_id: RunId,
    /// The span.
    #[schemars(with = "String")]
    pub span_id: SpanId,
    /// What it measures.
    pub span_type: SpanType,
    /// For people.
    pub name: String,
    /// The span that this one is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub parent_span_id: Option<SpanId>,
    /// The attempt's number, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The first characters of the key; never the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The canonical body's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// SPAN_END.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpanEnd {
    /// The format's version.
    pub ksp_version: KspVersion,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// Filled in by the ledger from the caller's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tenant_id: Option<TenantId>,
    /// The run.
    #[schemars(with = "String")]
    pub run_id: RunId,
    /// The span.
    #[schemars(with = "String")]
    pub span_id: SpanId,
    /// How it ended.
    pub status: SpanStatus,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// A code of the reason table, or `status_NNN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The answer body's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_hash: Option<String>,
    /// In millionths of the currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<i64>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What policy said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<SpanPolicy>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// Either event, told apart by `event_type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event_type")]
pub enum KspEvent {
    /// A span began.
    #[serde(rename = "SPAN_START")]
    SpanStart(SpanStart),
    /// A span ended.
    #[serde(rename = "SPAN_END")]
    SpanEnd(SpanEnd),
}

impl SpanStart {
    /// A start with nothing beside the required members.
    pub fn new(ts: Timestamp, run: RunId, span: SpanId, span_type: SpanType, name: impl Into<String>) -> Self {
        Self {
            ksp_version: KspVersion::V1,
            ts: rfc3339(ts),
            tenant_id: None,
            run_id: run,
            span_id: span,
            span_type,
            name: name.into(),
            parent_span_id: None,
            attempt: None,
            idempotency_key: None,
            input_hash: None,
            attributes: BTreeMap::new(),
        }
    }
}

impl SpanEnd {
    /// An end with nothing beside the required members.
    pub fn new(ts: Timestamp, run: RunId, span: SpanId, status: SpanStatus, latency: Millis) -> Self {
        Self {
            ksp_version: KspVersion::V1,
            ts: rfc3339(ts),
            tenant_id: None,
            run_id: run,
            span_id: span,
            status,
            latency_ms: latency.get(),
            error_code: None,
            error_message: None,
            output_hash: None,
            cost_micros: None,
            usage: None,
            policy: None,
            attributes: BTreeMap::new(),
        }
    }
}

impl KspEvent {
    /// The run that it belongs to.
    pub const fn run_id(&self) -> &RunId {
        match self {
            Self::SpanStart(start) => &start.run_id,
            Self::SpanEnd(end) => &end.run_id,
        }
    }

    /// The span that it is about.
    pub const fn span_id(&self) -> &SpanId {
        match self {
            Self::SpanStart(start) => &start.span_id,
            Self::SpanEnd(end) => &end.span_id,
        }
    }
}

/// The published JSON Schemas, by file name.
pub fn schemas() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("ksp.v1.span_start.json", schemars::schema_for!(SpanStart).to_value()),
        ("ksp.v1.span_end.json", schemars::schema_for!(SpanEnd).to_value()),
    ]
}

/// RFC 3339 in UTC with milliseconds. Days to civil date after Howard Hinnant's `civil_from_days`.
pub fn rfc3339(ts: Timestamp) -> String {
    let ms = ts.epoch_ms();
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, milli) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    let mut text = String::with_capacity("1970-01-01T00:00:00.000Z".len());
    // Every span has two of these: the formatting machinery would be a good part of what it costs.
    for (number, width, end) in
        [(year, 4, '-'), (month, 2, '-'), (day, 2, 'T'), (hour, 2, ':'), (minute, 2, ':'), (second, 2, '.'), (milli, 3, 'Z')]
    {
        push_padded(&mut text, number, width);
        text.push(end);
    }
    text
}

/// The number in decimal, with zeros before it up to `width` digits.
fn push_padded(text: &mut String, number: u64, width: u32) {
    if number >= 10 || width > 1 {
        push_padded(text, number / 10, width.saturating_sub(1));
    }
    // A digit is below ten.
    text.push(char::from(b'0' + u8::try_from(number % 10).unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_rfc_3339_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_epoch_ms(ms)), text);
        }
    }

    #[test]
    fn both_spellings_of_the_version_are_read_and_one_is_written() {
        let text = r#"{"event_type":"SPAN_END","ksp_version":"1","ts":"2026-01-01T00:00:00Z","run_id":"r","span_id":"s","status":"ok","latency_ms":3}"#;
        let event: KspEvent = serde_json::from_str(text).unwrap();
        assert!(serde_json::to_string(&event).unwrap().contains(r#""ksp_version":"ksp.v1""#));
    }

    #[test]
    fn a_span_without_a_required_member_is_refused() {
        let text =
            r#"{"event_type":"SPAN_END","ksp_version":"ksp.v1","ts":"2026-01-01T00:00:00Z","run_id":"r","status":"ok","latency_ms":3}"#;
        let error = serde_json::from_str::<KspEvent>(text).unwrap_err();
        assert!(error.to_string().contains("span_id"), "{error}");
    }

    #[test]
    fn the_schemas_name_every_required_member() {
        let schemas = schemas();
        let required = schemas[0].1["required"].as_array().unwrap();
        for member in ["ksp_version", "ts", "run_id", "span_id", "span_type", "name"] {
            assert!(required.iter().any(|name| name == member), "{member}");
        }
    }
}
