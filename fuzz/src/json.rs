//! Strict JSON, its canonical form, pointers into it, and request bodies that may be JSON.

use http::HeaderMap;
use kybernis_core::json::{Json, Pointer};
use kybernis_core::reason::Code;
use kybernis_sidecar::fuzz::json_body;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::input::{choice, fields, headers};

/// What another parser takes for JSON and we refuse, each because two readers could disagree or one could run out of stack.
const STRICTER: [&str; 4] = ["occurs twice", "nested deeper than", "a lone surrogate", "is not UTF-8"];

/// `d` document and volatile pointers; `p` pointer; `b` header block and body.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let mut fields = fields(rest);
    let first = fields.next().unwrap_or_default();
    match kind {
        b'd' => document(first, fields),
        b'p' => pointer(first),
        b'b' => body(&headers(first), fields.next().unwrap_or_default()),
        _ => {}
    }
}

fn document<'p>(bytes: &[u8], pointers: impl Iterator<Item = &'p [u8]>) {
    let read_by_another = serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    let json = match Json::parse(bytes) {
        Ok(json) => json,
        Err(error) => {
            assert!(error.at <= bytes.len(), "{error} lies outside");
            let named = STRICTER.iter().any(|rule| error.rule.contains(rule));
            assert!(!read_by_another || named, "refused without a reason of ours: {error}");
            return;
        }
    };
    assert!(read_by_another, "no JSON at all was taken");
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        assert_eq!(members(&json), members_of_value(&value), "a member that occurs twice was taken");
    }
    let canonical = json.canonical(&[]);
    assert_eq!(reread(&canonical).canonical(&[]), canonical, "the canonical form is not its own");
    let pointers: Vec<Pointer> = pointers.filter_map(|text| Pointer::parse(std::str::from_utf8(text).ok()?).ok()).collect();
    let rest = json.canonical(&pointers);
    assert!(rest.len() <= canonical.len(), "leaving members out made it longer");
    reread(&rest);
}

fn reread(canonical: &[u8]) -> Json {
    Json::parse(canonical).unwrap_or_else(|error| panic!("the canonical form is no document: {error}"))
}

fn members(json: &Json) -> usize {
    match json {
        Json::Object(of) => of.len() + of.iter().map(|(_, value)| members(value)).sum::<usize>(),
        Json::Array(items) => items.iter().map(members).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

fn members_of_value(value: &Value) -> usize {
    match value {
        Value::Object(of) => of.len() + of.values().map(members_of_value).sum::<usize>(),
        Value::Array(items) => items.iter().map(members_of_value).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn pointer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(pointer) = Pointer::parse(text) {
        assert_eq!(pointer.to_string(), text);
    }
}

fn body(headers: &HeaderMap, bytes: &[u8]) {
    match json_body(headers, bytes) {
        Ok(None) => {}
        Ok(Some(json)) => assert_eq!(Json::parse(bytes), Ok(json)),
        Err(refusal) => assert_eq!(refusal.code, Code::AmbiguousJson),
    }
}
