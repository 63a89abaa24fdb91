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
/// Prefixes of variables that our program, its loader or its allocator reads.
const READ: [&str; 4] = [OWN, "LD_", "MALLOC_", "MIMALLOC_"];
const OWN: &str = "KYBERNIS_";
/// Fields of our containers that are the same in every release; while replicas change over, one that differed would be refused.
const SAME: [&str; 7] = ["args", "command", "env", "name", "restartPolicy", "securityContext", "volumeMounts"];
/// By which our program finds the ledger, says how strict it is, and lets calls to the API server pass.
const LEADING: [&str; 6] =
    ["KYBERNIS_API_SERVER", "KYBERNIS_CAPTURE", "KYBERNIS_LEDGER", "KYBERNIS_LEDGER_CA", "KYBERNIS_LEDGER_NAME", "KYBERNIS_TOKEN_FILE"];
/// Where API server plug-ins and clouds put credentials into every container; nothing of ours lies there.
const CREDENTIALS: &str = "/var/run/secrets/";
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
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
    additions(expected, actual, at, &mut places);
    let capabilities = ["securityContext", "capabilities", "add"];
    let adds = |container: &Value| capabilities.iter().try_fold(container, |value, key| value.get(key)).cloned();
    if adds(&Value::Object(expected.clone())).is_none() && adds(actual).is_some_and(|adds| !adds.is_null()) {
        places.push(capabilities.iter().fold(at.clone(), |at, key| at.member(key)));
    }
    places
}

/// The same for a container that another release has injected: its image differs, and variables of ours come and go. What it runs, as
/// whom, with which files, and which ledger it finds, is the same in all releases.
pub(crate) fn other_container_differences(expected: &Object, actual: &Value, at: &FieldPath) -> Vec<FieldPath> {
    let (mut expected, mut actual) = (Value::Object(expected.clone()), actual.clone());
    let name = |variable: &Value| variable.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_same = |variable: &Value| LEADING.contains(&name(variable).as_str()) || !name(variable).starts_with(OWN);
    for container in [&mut expected, &mut actual] {
        container.get_mut("env").and_then(Value::as_array_mut).into_iter().for_each(|env| env.retain(is_same));
    }
    let Value::Object(mut expected) = expected else { return Vec::new() };
    expected.retain(|key, _| SAME.contains(&key.as_str()));
    container_differences(&expected, &actual, at)
}

/// The same for a volume: it is of its kind, and of its name where it has one.
pub(crate) fn other_volume_differences(expected: &Object, actual: &Object, at: &FieldPath) -> Vec<FieldPath> {
    let mut expected = expected.clone();
    expected.values_mut().filter_map(Value::as_object_mut).for_each(|source| source.retain(|key, _| key == "name"));
    volume_differences(&expected, actual, at)
}

/// What stands beside ours and would make our program do, or be, something else: a file laid over it, a variable that it or its
/// loader reads, a command that a probe runs as its user.
fn additions(expected: &Object, actual: &Value, at: &FieldPath, places: &mut Vec<FieldPath>) {
    let named = |container: Option<&Value>, key: &str| -> Vec<String> {
        let items = container.and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|item| item.get(key)?.as_str().map(str::to_owned)).collect()
    };
    let beside = |list: &str, key: &str| {
        let ours = named(expected.get(list), key);
        named(actual.get(list), key).into_iter().filter(move |name| !ours.contains(name))
    };
    let reads = |name: &String| name == "PATH" || READ.iter().any(|prefix| name.starts_with(prefix));
    places.extend(beside("env", "name").filter(reads).map(|name| at.member("env").key(&name)));
    let elsewhere = |path: &String| !path.starts_with(CREDENTIALS) || path.contains("..");
    places.extend(beside("volumeMounts", "mountPath").filter(elsewhere).map(|path| at.member("volumeMounts").key(&path)));
    let runs = |probe: &&&str| actual.get(**probe).and_then(|probe| probe.get("exec")).is_some_and(|exec| !exec.is_null());
    places.extend(PROBES.iter().filter(runs).map(|probe| at.member(probe).member("exec")));
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
        grown["volumeMounts"] = json!([{"name": "cloud", "mountPath": "/var/run/secrets/cloud.example/token"}]);
        grown["readinessProbe"] = json!({"httpGet": {}});
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
            ("env", json!([{"name": "A", "value": "1"}, {"name": "LD_PRELOAD", "value": "/x"}]), "c.env[LD_PRELOAD]"),
            ("env", json!([{"name": "A", "value": "1"}, {"name": "PATH", "value": "/x"}]), "c.env[PATH]"),
            ("env", json!([{"name": "A", "value": "1"}, {"name": "KYBERNIS_ROOTS", "value": "/x"}]), "c.env[KYBERNIS_ROOTS]"),
            ("volumeMounts", json!([{"name": "x", "mountPath": "/usr/local/bin"}]), "c.volumeMounts[/usr/local/bin]"),
            (
                "volumeMounts",
                json!([{"name": "x", "mountPath": "/var/run/secrets/../../../x"}]),
                "c.volumeMounts[/var/run/secrets/../../../x]",
            ),
            ("readinessProbe", json!({"exec": {"command": ["x"]}}), "c.readinessProbe.exec"),
            ("securityContext", json!({"capabilities": {"add": ["SYS_ADMIN"]}}), "c.securityContext.capabilities.add"),
        ] {
            let mut changed = ours.clone();
            changed[member] = value;
            check(ours.clone(), changed, &[place]);
        }
    }
}
