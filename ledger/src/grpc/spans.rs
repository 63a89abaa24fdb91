//! Spans as they come: KSP v1 in JSON, each small and flat enough to be read again from inside the journal.

use kybernis_core::ids::AgentId;
use kybernis_core::ksp::KspEvent;
use kybernis_core::machine::Spans;
use kybernis_proto::{SPANS_MAX, v1};
use serde_json::Value;
use tonic::Status;

use super::boot::own_boot;

/// Bytes of one span. An honest one repeats the path and some header names of a request head, which has 64 KiB at most; there is
/// room to quote them twice.
const SPAN_MAX: usize = 256 * 1024;

/// Lists and objects within one another in an attribute. An honest one has two; what JSON readers take, the journal's own
/// included, ends at about 127, and a span lies four levels deep in a segment.
const NESTING_MAX: usize = 16;

/// What `serde_json` keeps for itself: an object whose first member is so named is read as something else than it was, or not
/// at all, and members are written in the order of their names.
const RESERVED: &str = "$serde_json::";

/// Reads a batch of the agent that the caller's token names.
pub(crate) fn spans(batch: v1::SpanBatch, agent: AgentId) -> Result<Spans, Status> {
    if batch.spans.len() > SPANS_MAX {
        return Err(Status::invalid_argument(format!("spans: {} in one batch; at most {SPANS_MAX} are allowed", batch.spans.len())));
    }
    let spans = batch
        .spans
        .iter()
        .enumerate()
        .map(|(nth, bytes)| span(bytes).map_err(|rule| Status::invalid_argument(format!("spans[{nth}]: {rule}"))));
    let spans = spans.collect::<Result<_, _>>()?;
    Ok(Spans { boot: own_boot(&agent, &batch.boot)?, agent, first_seq: batch.first_seq, spans })
}

fn span(bytes: &[u8]) -> Result<KspEvent, String> {
    if bytes.len() > SPAN_MAX {
        return Err(format!("has {} bytes; at most {SPAN_MAX} are allowed", bytes.len()));
    }
    let span = serde_json::from_slice(bytes).map_err(|error| format!("not KSP v1: {error}"))?;
    let attributes = match &span {
        KspEvent::SpanStart(start) => &start.attributes,
        KspEvent::SpanEnd(end) => &end.attributes,
    };
    for (name, value) in attributes {
        check(value, NESTING_MAX).map_err(|rule| format!("the attribute {:?} {rule}", kybernis_core::text::shortened(name, 64)))?;
    }
    Ok(span)
}

/// Whether a value can be read back, with at most `levels` of lists and objects.
fn check(value: &Value, levels: usize) -> Result<(), String> {
    let below = || levels.checked_sub(1).ok_or_else(|| format!("is nested deeper than {NESTING_MAX}"));
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(items) => {
            let levels = below()?;
            items.iter().try_for_each(|item| check(item, levels))
        }
        Value::Object(members) => {
            let levels = below()?;
            if members.keys().any(|name| name.starts_with(RESERVED)) {
                return Err(format!("has a member whose name begins with {RESERVED}, which is reserved"));
            }
            members.values().try_for_each(|member| check(member, levels))
        }
    }
}
