//! The chart as helm renders it, the older and the newer: what every object of it must have, whatever values it is given. It needs helm,
//! which is built with the cluster's programs: `cargo xtask cluster test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kybernis_cluster::Programs;
use serde_json::{Value, json};

const NAMESPACE: &str = "kybernis-system";
/// Where `helm test` works.
const TEST_NAMESPACE: &str = "kybernis-helm-test";
const HELMS: [u8; 2] = [3, 4];
/// Our build of Helm 3 does not know which Kubernetes it was made for.
const KUBERNETES: &str = "--kube-version=v1.36.3";
/// Everything that is off by itself.
const EVERYTHING: &str = "networkPolicy: {enabled: true}
monitoring:
  serviceMonitor: {enabled: true}
  podMonitor: {enabled: true}
  rules: {enabled: true}
  dashboard: {enabled: true, annotations: {grafana_folder: Kybernis}}
  labels: {release: prometheus}
commonLabels: {team: agents, release: ours}
operator: {replicas: 2}
image: {pullSecrets: [{name: registry}]}
";
/// With what is good practice for everybody and needs a network that enforces it.
const GUARDED: &str = "networkPolicy: {enabled: true}";
/// Kinds whose objects are in no namespace.
const CLUSTER_KINDS: [&str; 9] = [
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "Namespace",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn helm(major: u8, arguments: &[&str]) -> Output {
    let mut helm = Command::new(Programs::helm_alone(major).unwrap());
    // Neither plug-ins nor repositories of this machine.
    helm.env("HELM_CONFIG_HOME", "/nonexistent").env("HELM_DATA_HOME", "/nonexistent");
    helm.args(arguments).arg(root().join("charts/kybernis")).output().unwrap()
}

/// Kubernetes' own role for those who serve a part of its API: whom the API server's front proxy is to be believed. The only thing of
/// ours outside our namespace.
const FRONT_PROXY: (&str, &str) = ("kube-system", "extension-apiserver-authentication-reader");

/// Whether it gives one of ours that role.
fn reads_front_proxy(object: &Value) -> bool {
    is(object, "RoleBinding")
        && (&object["metadata"]["namespace"], &object["roleRef"]["name"]) == (&json!(FRONT_PROXY.0), &json!(FRONT_PROXY.1))
}

/// What helm makes of these values.
fn template(major: u8, values: &str, more: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, values).unwrap();
    let file = format!("--values={}", file.path().display());
    let arguments = ["template", "kybernis", "--namespace", NAMESPACE, KUBERNETES, &file];
    let output = helm(major, &[&arguments, more].concat());
    assert!(output.status.success(), "helm {major}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The objects, in an order of our own.
fn rendered(major: u8, values: &str) -> Vec<Value> {
    let output = template(major, values, &[]);
    let documents = serde_yaml_ng::Deserializer::from_slice(&output);
    let mut objects: Vec<Value> = documents.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect();
    objects.retain(|object| !object.is_null());
    objects.sort_by_key(name);
    objects
}

/// `KIND/NAME`.
fn name(object: &Value) -> String {
    format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

fn is(object: &Value, kind: &str) -> bool {
    object["kind"] == kind
}

/// The pods' specifications, with the names of what they belong to.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let spec = |object| if is(object, "Pod") { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    objects.iter().filter(|object| spec(object).is_object()).map(|object| (name(object), spec(object))).collect()
}

#[test]
#[ignore = "builds helm"]
fn both_helms_render_the_same_and_find_no_fault() {
    for values in ["", EVERYTHING] {
        let [three, four] = HELMS.map(|major| rendered(major, values));
        assert_eq!(three, four);
    }
    for major in HELMS {
        let linted = helm(major, &["lint", "--strict"]);
        assert!(linted.status.success(), "helm {major}: {}", String::from_utf8_lossy(&linted.stdout));
        let refused = helm(major, &["template", KUBERNETES, "--set=webhook.replicas=two"]);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && words.contains("'/webhook/replicas': got string, want integer"), "helm {major}: {words}");
    }
}

/// A manifest without a release of helm's has nobody who runs hooks, or removes what they left.
#[test]
#[ignore = "builds helm"]
fn a_plain_manifest_has_no_hooks() {
    let text = String::from_utf8(template(4, "", &["--skip-tests"])).unwrap();
    assert!(text.contains("kind: StatefulSet") && !text.contains("helm.sh/hook"), "{text}");
}

/// Of what stays: the test's pod lives for seconds. Advice that we do not take stands, with its reason, in the chart's `.kube-score`.
#[test]
#[ignore = "builds helm"]
fn kube_score_finds_no_fault() {
    let chart = root().join("charts/kybernis");
    let arguments = fs::read_to_string(chart.join(".kube-score")).unwrap();
    let arguments: Vec<&str> = arguments.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for values in [GUARDED, EVERYTHING] {
        let mut objects = tempfile::NamedTempFile::new().unwrap();
        objects.write_all(&template(4, values, &["--skip-tests"])).unwrap();
        let mut score = Command::new(Programs::kube_score().unwrap());
        let scored = score.arg("score").args(&arguments).args(["--output-format=ci"]).arg(objects.path()).output().unwrap();
        let told = String::from_utf8_lossy(&scored.stdout);
        let faults: Vec<&str> = told.lines().filter(|line| line.starts_with("[CRITICAL]") || line.starts_with("[WARNING]")).collect();
        assert!(told.contains("[OK]") && faults.is_empty(), "{}\n{}", faults.join("\n"), String::from_utf8_lossy(&scored.stderr));
    }
}

/// A manifest for `kubectl apply` names no namespace beside that of each object.
#[test]
#[ignore = "builds helm"]
fn every_object_says_where_it_is_and_whose() {
    for object in rendered(4, EVERYTHING) {
        let expected = match () {
            () if CLUSTER_KINDS.iter().any(|kind| is(&object, kind)) => Value::Null,
            () if reads_front_proxy(&object) => json!(FRONT_PROXY.0),
            () => json!(NAMESPACE),
        };
        assert_eq!(object["metadata"]["namespace"], expected, "{}", name(&object));
        if !is(&object, "CustomResourceDefinition") {
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/part-of"], "kybernis", "{}", name(&object));
            assert_eq!(object["metadata"]["labels"]["team"], "agents", "{}", name(&object));
        }
    }
}

/// The level `restricted` of the Pod Security Standards, and what it does not ask for.
#[test]
#[ignore = "builds helm"]
fn every_pod_of_ours_is_restricted_and_bounded() {
    for values in ["", EVERYTHING] {
        let objects = rendered(4, values);
        let pods = pods(&objects);
        assert!(pods.len() >= 3, "{pods:?}");
        for (name, pod) in pods {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_ne!(pod["securityContext"]["runAsUser"], 0, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for field in ["hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"] {
                assert!(pod.get(field).is_none(), "{name}: {field}");
            }
            let plain = |volume: &Value| ["configMap", "emptyDir", "projected"].iter().any(|kind| volume.get(kind).is_some());
            assert!(pod["volumes"].as_array().into_iter().flatten().all(plain), "{name}: {}", pod["volumes"]);
            for container in pod["containers"].as_array().unwrap() {
                let bare = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
                assert_eq!(container["securityContext"], bare, "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
                let served = name != "Pod/test";
                for probe in ["livenessProbe", "readinessProbe"] {
                    assert_eq!(container[probe].is_object(), served, "{name}: {probe}");
                }
                assert!(container["ports"].as_array().into_iter().flatten().all(|port| port.get("hostPort").is_none()), "{name}");
            }
        }
    }
}

#[test]
#[ignore = "builds helm"]
fn a_test_comes_with_every_release_that_can_pull_it() {
    let hooks = |values: &str| {
        let objects = rendered(4, values);
        let hooks: Vec<String> =
            objects.iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test").map(name).collect();
        hooks
    };
    assert_eq!(hooks(""), [format!("Namespace/{TEST_NAMESPACE}"), "Pod/test".to_owned()]);
    assert_eq!(hooks("image: {pullSecrets: [{name: registry}]}"), Vec::<String>::new());
}

/// What a rule allows, as the end of a row of a table.
fn row(rule: &Value) -> String {
    let words = |field: &str, none: &str| {
        let words: Vec<&str> = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(!words.contains(&"*"), "{rule} allows everything");
        let words: Vec<&str> = words.into_iter().map(|word| if word.is_empty() { "core" } else { word }).collect();
        if words.is_empty() { none.to_owned() } else { words.join(", ") }
    };
    let [groups, resources, names, verbs] =
        [("apiGroups", "core"), ("resources", ""), ("resourceNames", "every"), ("verbs", "")].map(|(field, none)| words(field, none));
    format!("{groups} | {resources} | {names} | {verbs} |")
}

/// The chart's rights, as rows of tables.
#[derive(Default)]
struct Rights {
    /// By ServiceAccount, what every binding of its leads to.
    accounts: BTreeMap<String, BTreeSet<String>>,
    /// By which of Kubernetes' own roles they are added to.
    people: BTreeSet<String>,
}

fn rights(objects: &[Value]) -> Rights {
    let accounts = objects.iter().filter(|object| is(object, "ServiceAccount"));
    let account = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let mut rights = Rights { accounts: accounts.map(|object| (account(object), BTreeSet::new())).collect(), ..Rights::default() };
    let mut bound = BTreeSet::new();
    for binding in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding")) {
        let reference = format!("{}/{}", binding["roleRef"]["kind"].as_str().unwrap(), binding["roleRef"]["name"].as_str().unwrap());
        let front_proxy = json!({"rules": [{
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["extension-apiserver-authentication"],
            "verbs": ["get", "list", "watch"],
        }]});
        let (role, place) = if reads_front_proxy(binding) {
            (&front_proxy, FRONT_PROXY.0)
        } else {
            let role = objects.iter().find(|object| name(object) == reference);
            let place = if is(binding, "ClusterRoleBinding") { "the cluster" } else { "the release's namespace" };
            (role.unwrap_or_else(|| panic!("{reference} is not the chart's own")), place)
        };
        for subject in binding["subjects"].as_array().unwrap() {
            assert_eq!((&subject["kind"], &subject["namespace"]), (&json!("ServiceAccount"), &json!(NAMESPACE)), "{}", name(binding));
            let account = subject["name"].as_str().unwrap();
            let rows = rights.accounts.get_mut(account).unwrap_or_else(|| panic!("{account} is not the chart's own"));
            rows.extend(role["rules"].as_array().unwrap().iter().map(|rule| format!("| {place} | {}", row(rule))));
        }
        bound.insert(reference);
    }
    let roles = objects.iter().filter(|object| is(object, "Role") || is(object, "ClusterRole"));
    for role in roles.filter(|role| !bound.contains(&name(role))) {
        let aggregated = |to: &&str| role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] == "true";
        let into: Vec<&str> = ["view", "edit", "admin"].into_iter().filter(aggregated).collect();
        assert!(!into.is_empty(), "{} is nobody's", name(role));
        rights.people.extend(role["rules"].as_array().unwrap().iter().map(|rule| format!("| {} | {}", into.join(", "), row(rule))));
    }
    rights
}

fn table(first: &str, rows: &BTreeSet<String>) -> String {
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    format!("| {first} | API group | resources | names | verbs |\n|---|---|---|---|---|\n{}\n", rows.join("\n"))
}

const HEAD: &str = "# Who may do what, by the chart

Written by `KYB_UPDATE=1 cargo test --package kybernis-cluster --test helm -- --ignored`, from what helm renders; a test compares it.

Each pod of ours has a ServiceAccount of its own, and nobody else is bound to these rules. Kubernetes cannot bound `create` by a name.
";

/// The page that people read is what holds.
#[test]
#[ignore = "builds helm"]
fn the_published_rights_are_those_of_the_chart() {
    let objects = rendered(4, "");
    let Rights { accounts, people } = rights(&objects);
    let mut page = HEAD.to_owned();
    for (account, rows) in &accounts {
        write!(page, "\n## {account}\n\n{}", table("where", rows)).unwrap();
    }
    let without = rights(&rendered(4, "operator: {secrets: false}")).accounts;
    let left_out: Vec<&String> = accounts["kybernis-operator"].difference(&without["kybernis-operator"]).collect();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    write!(page, "\nWith `operator.secrets: false` this one is left out, and Roles in the namespaces allow what is wanted:\n\n").unwrap();
    left_out.iter().for_each(|row| writeln!(page, "    {row}").unwrap());
    write!(page, "\n## People, by Kubernetes' own roles\n\n{}", table("added to", &people)).unwrap();

    let path = root().join("docs/rbac.md");
    if std::env::var_os("KYB_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "{} is not what the chart says:\n{page}", path.display());

    for (name, pod) in pods(&objects) {
        let own = pod["serviceAccountName"].as_str().is_some_and(|account| accounts.contains_key(account));
        assert!(own || pod["automountServiceAccountToken"] == false, "{name} runs with an account that is not the chart's own");
    }
}
