//! One folder for each pod: `case.yaml` says what it is, `expected.txt` what becomes of it. `UPDATE_GOLDEN=1` writes the
//! latter anew; read what it wrote before you keep it.
//!
//! Whatever is injected must also be what every injected pod is: unchanged by a second pass, before and after the API server's
//! defaults, valid, and reached by the patch.

mod golden_text;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kybernis_webhook::{Namespace, Outcome, inject, patch, validate};
use serde::Deserialize;
use serde_json::{Value, json};

use self::golden_text::text;
use self::support::{api_server::defaulted, config};

/// The namespace of a case that does not say.
const NAMESPACE: &str = "trading";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows.
    #[serde(rename = "shows")]
    _shows: String,
    #[serde(default)]
    namespace: NamespaceCase,
    /// Settings over the release's.
    #[serde(default)]
    config: Value,
    /// Begin with the pod that this other case ends with.
    from: Option<String>,
    /// Begin with this pod.
    pod: Option<Value>,
    /// The API server has filled in its defaults.
    #[serde(default)]
    defaulted: bool,
    /// RFC 6902: what others have done to the pod.
    #[serde(default)]
    edits: Vec<Value>,
    /// It is the validating webhook that sees it.
    #[serde(default)]
    validate: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceCase {
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Case {
    fn read(name: &str) -> Self {
        let path = folder().join(name).join("case.yaml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn namespace(&self) -> Namespace {
        let NamespaceCase { name, labels } = &self.namespace;
        Namespace { name: name.clone().unwrap_or_else(|| NAMESPACE.to_owned()), labels: labels.clone() }
    }

    fn pod(&self) -> Value {
        let mut pod = match (&self.from, &self.pod) {
            (Some(from), None) => {
                let case = Self::read(from);
                match inject(&case.pod(), &case.namespace(), &config(&case.config)) {
                    Ok(Outcome::Injected { pod, .. }) => pod,
                    other => panic!("{from} ends with no pod: {other:?}"),
                }
            }
            (None, Some(pod)) => pod.clone(),
            _ => panic!("a case has either from or pod"),
        };
        if self.defaulted {
            pod = defaulted(&pod);
        }
        let edits: json_patch::Patch = serde_json::from_value(json!(self.edits)).expect("RFC 6902");
        json_patch::patch(&mut pod, &edits).expect("edits that fit the pod");
        pod
    }

    fn outcome(&self) -> String {
        let (pod, namespace, config) = (self.pod(), self.namespace(), config(&self.config));
        let warned =
            |head: String, warnings: Vec<String>| warnings.into_iter().fold(head, |head, warning| head + "warning: " + &warning + "\n");
        if self.validate {
            return match validate(&pod, &namespace, &config) {
                Ok(warnings) => warned("valid\n".to_owned(), warnings),
                Err(refusal) => format!("refused\n{refusal}\n"),
            };
        }
        match inject(&pod, &namespace, &config) {
            Err(refusal) => format!("refused\n{refusal}\n"),
            Ok(Outcome::Untouched { why, warnings }) => warned(format!("untouched: {why}\n"), warnings),
            Ok(Outcome::Injected { pod: injected, warnings }) => {
                holds_for_every_injected_pod(&pod, &injected, &namespace, &config);
                let head = if injected == pod { "unchanged\n" } else { "injected\n" };
                let body = if injected == pod { String::new() } else { text(&injected) + "\n" };
                warned(head.to_owned(), warnings) + &body
            }
        }
    }
}

fn holds_for_every_injected_pod(given: &Value, injected: &Value, namespace: &Namespace, config: &kybernis_webhook::Config) {
    let stored = defaulted(injected);
    for pod in [injected, &stored] {
        match inject(pod, namespace, config) {
            Ok(Outcome::Injected { pod: again, .. }) => assert_eq!(&again, pod, "a second pass changes nothing"),
            other => panic!("a second pass: {other:?}"),
        }
    }
    let mut patched = given.clone();
    json_patch::patch(&mut patched, &patch(given, injected)).expect("a patch that applies");
    assert_eq!(&patched, injected);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_pod_becomes_what_it_must() {
    let entries = fs::read_dir(folder()).expect("the folder of cases").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    paths.sort();
    assert!(paths.len() >= 45, "only {} cases were found", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let found = Case::read(&name).outcome();
        let golden = path.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &found).expect("a writable folder");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
            wrong.push(format!("{name}: first difference {differs:#?}\n--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pod_of_two_hundred_containers_is_injected() {
    let containers: Vec<Value> = (0..200)
        .map(|at| json!({"name": format!("c{at}"), "image": "app", "env": [{"name": "N", "value": "1"}], "envFrom": [{"secretRef": {"name": "s"}}]}))
        .collect();
    let pod = json!({"metadata": {"annotations": {"kybernis.io/inject": "true"}}, "spec": {"containers": containers}});
    let (namespace, config) = (Namespace { name: NAMESPACE.to_owned(), ..Namespace::default() }, config(&Value::Null));
    let Ok(Outcome::Injected { pod: injected, warnings }) = inject(&pod, &namespace, &config) else { panic!("it is injected") };
    holds_for_every_injected_pod(&pod, &injected, &namespace, &config);
    assert!(validate(&defaulted(&injected), &namespace, &config).is_ok());
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.starts_with("envFrom of the containers c0, c1, c2, c3, c4 and 195 more may carry "), "{warning}");
    let all = injected["spec"]["containers"].as_array().expect("a list");
    assert!(all.iter().all(|container| container["env"].as_array().is_some_and(|env| env.last().is_some_and(|own| own["name"] == "N"))));

    let mut stripped = injected;
    let all = stripped["spec"]["containers"].as_array_mut().expect("a list");
    all.iter_mut().for_each(|container| container["env"] = json!([]));
    let refusal = validate(&stripped, &namespace, &config).expect_err("much is gone");
    assert_eq!(refusal.faults().len(), 200);
    assert_eq!(refusal.to_string().lines().count(), 27, "a message stays readable");
    assert!(refusal.to_string().ends_with("\n- and 175 more, which show once these are mended."), "{refusal}");
}

#[test]
fn malformed_shapes_are_refused_with_their_places() {
    let namespace = Namespace { name: NAMESPACE.to_owned(), labels: BTreeMap::from([("kybernis.io/inject".into(), "enabled".into())]) };
    let check = |pod: Value, expect: &[&str]| {
        let refusal = inject(&pod, &namespace, &config(&Value::Null)).expect_err("malformed");
        let found: Vec<String> = refusal.faults().iter().map(|fault| format!("{}: {}", fault.path, fault.rule)).collect();
        assert_eq!(found, expect, "{pod}");
        assert!(validate(&pod, &namespace, &config(&Value::Null)).is_err());
    };
    check(json!(null), &["the pod: is null where an object belongs"]);
    check(json!([]), &["the pod: is a list where an object belongs"]);
    check(json!({}), &["spec.containers: is empty"]);
    check(json!({"spec": 7}), &["spec: is a number where an object belongs"]);
    check(json!({"spec": {"containers": {}}}), &["spec.containers: is an object where a list belongs"]);
    check(json!({"spec": {"containers": ["a"]}}), &["spec.containers[0]: is a string where an object belongs"]);
    check(json!({"spec": {"containers": [{}]}}), &["spec.containers[0].name: is missing"]);
    let with = |key: &str, value: Value| json!({"metadata": {}, "spec": {"containers": [{"name": "app", key: value}]}});
    let kind = |place: &str, found: &str, expected: &str| format!("spec.containers[0].{place}: is {found} where {expected} belongs");
    for (key, value, place, found, expected) in [
        ("name", json!(1), "name", "a number", "a string"),
        ("env", json!("A=1"), "env", "a string", "a list"),
        ("env", json!([1]), "env[0]", "a number", "an object"),
        ("env", json!([{"name": true}]), "env[0].name", "true or false", "a string"),
        ("env", json!([{"name": "JAVA_TOOL_OPTIONS", "value": 1}]), "env[0].value", "a number", "a string"),
        ("envFrom", json!({}), "envFrom", "an object", "a list"),
        ("volumeMounts", json!("x"), "volumeMounts", "a string", "a list"),
        ("securityContext", json!([]), "securityContext", "a list", "an object"),
        ("securityContext", json!({"runAsUser": "0"}), "securityContext.runAsUser", "a string", "a whole number"),
        ("securityContext", json!({"capabilities": {"drop": "ALL"}}), "securityContext.capabilities.drop", "a string", "a list of strings"),
    ] {
        check(with(key, value), &[&kind(place, found, expected)]);
    }
    let several = json!({
        "metadata": {"labels": [], "annotations": {"a": 1}, "ownerReferences": {}},
        "spec": {"hostNetwork": "yes", "volumes": 1, "initContainers": [null], "containers": [{"name": "app"}], "os": "linux"},
    });
    check(
        several,
        &[
            "metadata.labels: is a list where an object belongs",
            "metadata.annotations[a]: is a number where a string belongs",
            "metadata.ownerReferences: is an object where a list belongs",
            "spec.initContainers[0]: is null where an object belongs",
            "spec.volumes: is a number where a list belongs",
            "spec.hostNetwork: is a string where true or false belongs",
            "spec.os: is a string where an object belongs",
        ],
    );
}
