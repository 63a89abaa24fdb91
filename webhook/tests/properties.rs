//! What holds for every pod, whatever stands in it.

mod support;

use std::collections::BTreeMap;

use kybernis_webhook::{Config, Namespace, Outcome, inject, patch, validate};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use self::support::{api_server::defaulted, config};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(vec!["", "true", "app", "kybernis-proxy", "HTTP_PROXY", "windows", "\u{0}", "500m"]).prop_map(Value::from),
    ];
    let key = select(vec![
        "metadata",
        "spec",
        "name",
        "labels",
        "annotations",
        "kybernis.io/inject",
        "kybernis.io/status",
        "containers",
        "initContainers",
        "volumes",
        "volumeMounts",
        "env",
        "value",
        "valueFrom",
        "securityContext",
        "capabilities",
        "drop",
        "resources",
        "requests",
        "cpu",
        "ports",
        "containerPort",
        "ownerReferences",
        "projected",
        "sources",
        "mountPath",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key.clone(), inner, 0..6).prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

fn named(name: &str, value: Option<Value>, key: &str) -> Value {
    value.map_or_else(|| json!({"name": name}), |value| json!({"name": name, key: value}))
}

fn variable() -> impl Strategy<Value = Value> {
    let name = select(vec!["A", "B", "HTTP_PROXY", "KYB_API_KEY", "KYB_JOB_UID", "JAVA_TOOL_OPTIONS"]);
    let value = select(vec!["", "x", "local", "http://127.0.0.1:7400", "-Xmx64m", "$(A)"]);
    prop_oneof![
        2 => Just(json!({"name": "HTTP_PROXY", "value": "http://127.0.0.1:7400"})),
        2 => Just(json!({"name": "KYB_API_KEY", "value": "local"})),
        6 => value.clone().prop_map(|value| json!({"name": "JAVA_TOOL_OPTIONS", "value": value})),
        6 => value.clone().prop_map(|value| json!({"name": "A", "value": value})),
        1 => (name, option::of(value)).prop_map(|(name, value)| named(name, value.map(Value::from), "value")),
    ]
}

fn mount() -> impl Strategy<Value = Value> {
    let volume = select(vec!["data", "kybernis-bundle", "kybernis-state"]);
    let path = select(vec!["/data", "/var/run/kybernis", "/var/run/kybernis/", "/tmp"]);
    let any = (volume, path, any::<bool>());
    prop_oneof![
        4 => Just(json!({"name": "data", "mountPath": "/data"})),
        2 => Just(json!({"name": "kybernis-bundle", "mountPath": "/var/run/kybernis/", "readOnly": true})),
        1 => any.prop_map(|(name, path, read_only)| json!({"name": name, "mountPath": path, "readOnly": read_only})),
    ]
}

fn container() -> impl Strategy<Value = Value> {
    let name = prop_oneof![40 => "[a-e]{1,3}", 1 => select(vec!["kybernis-proxy".to_owned(), "kybernis-capture".to_owned()])];
    let user = option::weighted(0.8, prop_oneof![8 => Just(1000), 2 => Just(0), 1 => Just(7400)]);
    (name, vec(variable(), 0..4), vec(mount(), 0..2), user, option::of(any_json())).prop_map(|(name, env, mounts, user, new)| {
        json!({
            "name": name,
            "image": "app",
            "env": if env.is_empty() { Value::Null } else { json!(env) },
            "volumeMounts": mounts,
            "securityContext": user.map(|user| json!({
                "runAsUser": user, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            })),
            "futureField": new,
        })
    })
}

fn annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    let annotation = select(vec![
        ("kybernis.io/capture", "Cooperative"),
        ("kybernis.io/capture", "Strict"),
        ("kybernis.io/agent", "trader"),
        ("kybernis.io/proxy-cpu-request", "0.25"),
        ("kybernis.io/proxy-memory-limit", "0.5Gi"),
        ("kybernis.io/skip-outbound-ports", "5432"),
        ("kybernis.io/log-level", "debug"),
        ("batch.kubernetes.io/job-completion-index", "3"),
        ("kybernis.io/agents", "x"),
    ]);
    vec(annotation, 0..4).prop_map(|pairs| {
        let pairs = pairs.into_iter().chain([("kybernis.io/inject", "true")]);
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = btree_map(select(vec!["app", "batch.kubernetes.io/controller-uid"]), "[a-z]{1,4}", 0..2);
    let amount = || option::of(select(vec!["1", "1500m", "2Gi", "0.1", "4"]));
    let name = select(vec!["name", "generateName"]);
    (annotations(), labels, name, vec(container(), 0..3), vec(container(), 1..4), (amount(), amount()), option::of(any_json())).prop_map(
        |(annotations, labels, name, init, containers, (cpu, memory), new)| {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {name: "pod-", "annotations": annotations, "labels": labels},
                "spec": {
                    "initContainers": init,
                    "containers": containers,
                    "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}},
                    "futureField": new,
                },
            })
        },
    )
}

fn namespace() -> Namespace {
    Namespace { name: "trading".to_owned(), ..Namespace::default() }
}

/// Every member and item of `old` is in `new`, but for Java's options and the amounts that grow.
fn survives(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().all(|(key, value)| {
            matches!(key.as_str(), "value" | "cpu" | "memory") || (value.is_null() || new.get(key).is_some_and(|new| survives(value, new)))
        }),
        (Value::Array(old), Value::Array(new)) => {
            let mut new = new.iter();
            old.iter().all(|old| new.any(|new| survives(old, new)))
        }
        (old, new) => old == new,
    }
}

fn check(pod: &Value, config: &Config) -> Result<bool, TestCaseError> {
    let Ok(Outcome::Injected { pod: injected, .. }) = inject(pod, &namespace(), config) else { return Ok(false) };
    prop_assert!(survives(pod, &injected), "{pod}\n{injected}");
    let stored = defaulted(&injected);
    for (form, is_stored) in [(&injected, false), (&stored, true)] {
        let again = inject(form, &namespace(), config);
        prop_assert!(matches!(&again, Ok(Outcome::Injected { pod, .. }) if pod == form), "stored: {is_stored}\n{form}\n{again:?}");
        let valid = validate(form, &namespace(), config);
        prop_assert!(valid.is_ok(), "stored: {is_stored}\n{form}\n{valid:?}");
    }
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch(pod, &injected)).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(patched, injected);
    Ok(true)
}

proptest! {
    #[test]
    fn nothing_panics(pod in any_json(), label in option::of(select(vec!["enabled", "enforced"]))) {
        let labels = label.map(|label| ("kybernis.io/inject".to_owned(), label.to_owned())).into_iter().collect();
        let namespace = Namespace { labels, ..namespace() };
        let _ = inject(&pod, &namespace, &config(&Value::Null));
        let _ = validate(&pod, &namespace, &config(&Value::Null));
    }

    #[test]
    fn what_is_injected_once_is_injected(pod in pod()) {
        check(&pod, &config(&Value::Null))?;
    }

    #[test]
    fn a_patch_leads_from_any_value_to_any_other(before in any_json(), after in any_json()) {
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch(&before, &after)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(patched, after);
    }
}

/// The property above says nothing of pods that are refused, so enough of them must not be.
#[test]
fn the_random_pods_are_often_injected() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = pod();
    let config = config(&Value::Null);
    let injected = (0..200).filter(|_| {
        let pod = strategy.new_tree(&mut runner).expect("a pod").current();
        check(&pod, &config).expect("what holds for every pod")
    });
    let count = injected.count();
    assert!(count >= 50, "only {count} of 200");
}
