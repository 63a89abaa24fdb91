//! Whether a pod holds all that it should and, where it counts, in the same order and nothing else.

use serde_json::Value;

/// Lists that the API server's plug-ins add to.
const EXTENDED: [&str; 4] = ["sources", "tolerations", "volumeMounts", "volumes"];
/// How the golden files end names that it makes up.
const MADE_UP: &str = "x7k2p";
/// Fields of a golden pod that no API server knows yet, and that it takes away before anybody sees them.
const UNKNOWN: &str = "future";

/// The places at which `actual` is not what `expected` says.
pub(super) fn differences(expected: &Value, actual: &Value) -> Vec<String> {
    let mut places = Vec::new();
    compare(expected, actual, "", &mut places);
    places
}

fn compare(expected: &Value, actual: &Value, at: &str, places: &mut Vec<String>) {
    match (expected, actual) {
        // Go's `omitempty`.
        (Value::Null, _) => {}
        (Value::String(text), Value::Null) if text.is_empty() => {}
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected.iter().filter(|(key, _)| !key.starts_with(UNKNOWN)) {
                compare(value, actual.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"), places);
            }
        }
        (Value::Array(expected), Value::Array(actual)) => items(expected, actual, at, places),
        (Value::String(expected), Value::String(actual))
            if expected.strip_suffix(MADE_UP).is_some_and(|start| actual.starts_with(start)) => {}
        (expected, actual) if expected == actual => {}
        (expected, actual) => places.push(format!("{at}: {actual} and not {expected}")),
    }
}

fn items(expected: &[Value], actual: &[Value], at: &str, places: &mut Vec<String>) {
    let is_extended = EXTENDED.iter().any(|list| at.ends_with(&format!(".{list}")));
    if !is_extended {
        if expected.len() != actual.len() {
            places.push(format!("{at}: {} items and not {}", actual.len(), expected.len()));
        }
        let pairs = expected.iter().zip(actual).enumerate();
        return pairs.for_each(|(index, (one, other))| compare(one, other, &format!("{at}[{index}]"), places));
    }
    let mut rest = actual.iter();
    for (index, one) in expected.iter().enumerate() {
        if !rest.any(|other| differences(one, other).is_empty()) {
            places.push(format!("{at}[{index}]: no {one}, or not in its place"));
            return;
        }
    }
}
