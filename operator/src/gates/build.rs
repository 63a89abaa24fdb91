//! The third phase: the objects that are to be made. It cannot fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::ObjectMeta;
use kybernis_core::ids::DNS_LABEL_MAX;
use kybernis_crds::kinds;

use crate::ledger::Gate;

/// Labels by which people look for gates, where the value can be one.
const TOOL: &str = "kybernis.io/tool";
const CLASS: &str = "kybernis.io/class";

/// The objects of gates that have none.
pub(super) fn build(absent: &[Arc<Gate>]) -> Vec<(Arc<Gate>, kinds::Gate)> {
    absent.iter().map(|gate| (Arc::clone(gate), object(gate))).collect()
}

fn object(gate: &Gate) -> kinds::Gate {
    let labels = [(TOOL, &gate.spec.tool), (CLASS, &gate.spec.class)];
    let labels = labels.into_iter().filter(|(_, value)| is_label_value(value));
    let labels: BTreeMap<String, String> = labels.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let metadata = ObjectMeta {
        name: Some(gate.place.name.clone()),
        namespace: Some(gate.place.namespace.clone()),
        labels: (!labels.is_empty()).then_some(labels),
        ..ObjectMeta::default()
    };
    // The API server takes no status with a new object.
    kinds::Gate { metadata, spec: gate.spec.clone(), status: None }
}

/// Whether a text can be a label's value: up to 63 letters, digits and `-_.`, letters or digits at the ends.
fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= DNS_LABEL_MAX && text.bytes().all(inner) && is_end(bytes.first()) && is_end(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_labels_value_becomes_one() {
        for (text, is) in [
            ("broker-orders", true),
            ("a", true),
            ("Desk_1.b", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("POST:broker.example.com/v1", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(is_label_value(text), is, "{text}");
        }
    }
}
