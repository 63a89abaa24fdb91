//! A change as RFC 6902. The lists of a pod grow at their front too, and a difference that counts items would then rewrite all
//! of them; this one knows items by their names.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

use crate::json::Object;

/// By what an item is known; two that agree in each are the same item.
const KEYS: [&str; 2] = ["name", "mountPath"];

/// What turns `before` into `after`.
pub fn patch(before: &Value, after: &Value) -> Patch {
    let mut operations = Vec::new();
    values(before, after, &mut PointerBuf::new(), &mut operations);
    Patch(operations)
}

fn values(before: &Value, after: &Value, at: &mut PointerBuf, operations: &mut Vec<PatchOperation>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(before), Value::Object(after)) => objects(before, after, at, operations),
        (Value::Array(old), Value::Array(new)) if is_growth(old, new) => growth(old, new, at, operations),
        _ => operations.push(PatchOperation::Replace(ReplaceOperation { path: at.clone(), value: after.clone() })),
    }
}

fn objects(before: &Object, after: &Object, at: &mut PointerBuf, operations: &mut Vec<PatchOperation>) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        at.push_back(key);
        operations.push(PatchOperation::Remove(RemoveOperation { path: at.clone() }));
        at.pop_back();
    }
    for (key, value) in after {
        at.push_back(key);
        match before.get(key) {
            Some(before) => values(before, value, at, operations),
            None => operations.push(PatchOperation::Add(AddOperation { path: at.clone(), value: value.clone() })),
        }
        at.pop_back();
    }
}

/// Whether every old item is there still, in the same order.
fn is_growth(before: &[Value], after: &[Value]) -> bool {
    let mut left = before.iter().peekable();
    for item in after {
        left.next_if(|old| is_same(old, item));
    }
    left.peek().is_none()
}

fn growth(before: &[Value], after: &[Value], at: &mut PointerBuf, operations: &mut Vec<PatchOperation>) {
    let mut left = before.iter().peekable();
    for (index, item) in after.iter().enumerate() {
        at.push_back(index);
        match left.next_if(|old| is_same(old, item)) {
            Some(old) => values(old, item, at, operations),
            None => operations.push(PatchOperation::Add(AddOperation { path: at.clone(), value: item.clone() })),
        }
        at.pop_back();
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    let key = |item: &Value| KEYS.map(|key| item.get(key).and_then(Value::as_str).map(str::to_owned));
    one == other || (key(one) == key(other) && key(one) != [None, None])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(before: Value, after: Value, expect: Value) {
        let patch = patch(&before, &after);
        assert_eq!(serde_json::to_value(&patch).unwrap(), expect);
        let mut changed = before;
        json_patch::patch(&mut changed, &patch).unwrap();
        assert_eq!(changed, after);
    }

    #[test]
    fn items_are_known_by_their_names() {
        check(
            json!({"c": [{"name": "a", "x": 1}, {"name": "b"}]}),
            json!({"c": [{"name": "new"}, {"name": "a", "x": 2}, {"name": "b"}, {"name": "last"}]}),
            json!([
                {"op": "add", "path": "/c/0", "value": {"name": "new"}},
                {"op": "replace", "path": "/c/1/x", "value": 2},
                {"op": "add", "path": "/c/3", "value": {"name": "last"}},
            ]),
        );
    }

    #[test]
    fn what_is_no_growth_is_replaced() {
        check(json!({"c": [1, 2]}), json!({"c": [2, 1]}), json!([{"op": "replace", "path": "/c", "value": [2, 1]}]));
        check(json!({"c": null}), json!({"c": []}), json!([{"op": "replace", "path": "/c", "value": []}]));
    }

    #[test]
    fn members_are_added_and_removed_under_escaped_names() {
        check(
            json!({"a/b": 1, "gone": 2}),
            json!({"a/b": {"~": 1}, "new": 3}),
            json!([
                {"op": "remove", "path": "/gone"},
                {"op": "replace", "path": "/a~1b", "value": {"~": 1}},
                {"op": "add", "path": "/new", "value": 3},
            ]),
        );
        check(json!([]), json!([]), json!([]));
    }
}
