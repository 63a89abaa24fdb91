//! Whether something of ours that stands in a pod is still ours: what we expect is there, whatever the API server's defaults,
//! its plug-ins and other webhooks have put beside it.

use serde_json::Value;

use crate::json::Object;
use crate::path::FieldPath;

/// Fields of our containers that others rewrite for good reasons, and on which nothing that we promise rests: AlwaysPullImages
/// sets the policy, autoscalers the resources, meshes the probes. They must be there, no more.
const REWRITTEN: [&str; 4] = ["imagePullPolicy", "livenessProbe", "resources", "startupProbe"];
/// Fields that would change what our containers do, and that we never set.
const HARMFUL: [&str; 3] = ["lifecycle", "envFrom", "workingDir"];
/// By what the items of a list are told apart, the first that an item has.
const KEYS: [&str; 2] = ["mountPath", "name"];

/// The places at which one of our containers is not what it must be.
pub(crate) fn container_differences(expected: &Object, actual: &Value, at: &FieldPath) -> Vec<FieldPath> {
    let mut places = Vec::new();
    for (key, value) in expected {
        let there = actual.get(key).filter(|there| !there.is_null());
        match there {
            Some(_) if REWRITTEN.contains(&key.as_str()) => {}
            Some(there) => compare(value, there, &at.member(key), &mut places),
            None => places.push(at.member(key)),
        }
    }
    let is_there = |field: &&&str| actual.get(**field).is_some_and(|value| !value.is_null() && *value != Value::Array(Vec::new()));
    places.extend(HARMFUL.iter().filter(is_there).map(|field| at.member(field)));
    let capabilities = ["securityContext", "capabilities", "add"];
    let adds = |container: &Value| capabilities.iter().try_fold(container, |value, key| value.get(key)).cloned();
    if adds(&Value::Object(expected.clone())).is_none() && adds(actual).is_some_and(|adds| !adds.is_null()) {
        places.push(capabilities.iter().fold(at.clone(), |at, key| at.member(key)));
    }
    places
}

/// The places at which a volume of ours is not what it must be.
pub(crate) fn volume_differences(expected: &Object, actual: &Object, at: &FieldPath) -> Vec<FieldPath> {
    let mut places = Vec::new();
    members(expected, actual, at, &mut places);
    places
}

fn compare(expected: &Value, actual: &Value, at: &FieldPath, places: &mut Vec<FieldPath>) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => members(expected, actual, at, places),
        (Value::Array(expected), Value::Array(actual)) => items(expected, actual, at, places),
        (expected, actual) if expected == actual => {}
        _ => places.push(at.clone()),
    }
}

fn members(expected: &Object, actual: &Object, at: &FieldPath, places: &mut Vec<FieldPath>) {
    for (key, value) in expected {
        match actual.get(key) {
            Some(there) => compare(value, there, &at.member(key), places),
            None => places.push(at.member(key)),
        }
    }
}

/// Items that have names may have others among them; of several with one name each must be right, since the last one holds.
fn items(expected: &[Value], actual: &[Value], at: &FieldPath, places: &mut Vec<FieldPath>) {
    let key_of = |item: &Value| KEYS.iter().find_map(|key| Some((*key, item.get(key)?.as_str()?.to_owned())));
    let Some(keys) = expected.iter().map(key_of).collect::<Option<Vec<_>>>() else {
        if expected.len() != actual.len() {
            places.push(at.clone());
        }
        expected.iter().zip(actual).enumerate().for_each(|(index, (one, other))| compare(one, other, &at.index(index), places));
        return;
    };
    for ((key, name), item) in keys.iter().zip(expected) {
        let at = at.key(name);
        let mut same = actual.iter().filter(|other| other.get(key).and_then(Value::as_str) == Some(name)).peekable();
        if same.peek().is_none() {
            places.push(at);
            continue;
        }
        same.for_each(|other| compare(item, other, &at, places));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(expected: Value, actual: Value, places: &[&str]) {
        let expected = expected.as_object().cloned().unwrap();
        let found = container_differences(&expected, &actual, &FieldPath::top("c"));
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), places, "{actual}");
    }

    #[test]
    fn what_stands_beside_it_makes_no_difference_and_what_is_changed_does() {
        let ours = json!({"name": "c", "image": "i", "resources": {}, "args": ["a"], "env": [{"name": "A", "value": "1"}]});
        check(ours.clone(), ours.clone(), &[]);
        let mut grown = ours.clone();
        grown["env"] = json!([{"name": "B"}, {"name": "A", "value": "1", "new": true}]);
        grown["resources"] = json!({"limits": {}});
        grown["terminationMessagePath"] = json!("/dev/termination-log");
        check(ours.clone(), grown, &[]);
        for (member, value, place) in [
            ("image", json!("other"), "c.image"),
            ("image", Value::Null, "c.image"),
            ("resources", Value::Null, "c.resources"),
            ("args", json!(["a", "b"]), "c.args"),
            ("args", json!("a"), "c.args"),
            ("env", json!([]), "c.env[A]"),
            ("env", json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), "c.env[A].value"),
            ("lifecycle", json!({"postStart": {}}), "c.lifecycle"),
            ("securityContext", json!({"capabilities": {"add": ["SYS_ADMIN"]}}), "c.securityContext.capabilities.add"),
        ] {
            let mut changed = ours.clone();
            changed[member] = value;
            check(ours.clone(), changed, &[place]);
        }
    }
}
