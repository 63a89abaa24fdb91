//! What the API server does to a pod between webhooks and before it is stored: defaults of `k8s.io/kubernetes/pkg/apis/core/v1`,
//! the ServiceAccount plug-in, and the name that it makes from `generateName`.

use serde_json::{Value, json};

const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The pod with every default.
pub(crate) fn defaulted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return pod };
    for (key, value) in [
        ("dnsPolicy", json!("ClusterFirst")),
        ("restartPolicy", json!("Always")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
        ("serviceAccountName", json!("default")),
        (
            "tolerations",
            json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]),
        ),
    ] {
        default(spec, key, value);
    }
    for volume in items(spec, "volumes") {
        for kind in ["configMap", "secret", "projected", "downwardAPI"] {
            volume
                .get_mut(kind)
                .filter(|source| source.is_object())
                .into_iter()
                .for_each(|source| default(source, "defaultMode", json!(420)));
        }
    }
    let mut has_mounted = false;
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            container_defaults(container);
            let mounts = container.get("volumeMounts").and_then(Value::as_array).cloned().unwrap_or_default();
            if !mounts.iter().any(|mount| mount["mountPath"] == API_TOKEN_FOLDER) {
                push(container, "volumeMounts", json!({"name": "kube-api-access-x7k2p", "mountPath": API_TOKEN_FOLDER, "readOnly": true}));
                has_mounted = true;
            }
        }
    }
    if has_mounted && !items(spec, "volumes").iter().any(|volume| volume["name"] == "kube-api-access-x7k2p") {
        push(spec, "volumes", json!({"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": []}}));
    }
    let made = pod["metadata"]["generateName"].as_str().map(|name| json!(format!("{name}x7k2p")));
    if let Some((metadata, name)) = pod.get_mut("metadata").zip(made) {
        default(metadata, "name", name);
    }
    pod
}

fn container_defaults(container: &mut Value) {
    for (key, value) in [
        ("imagePullPolicy", json!("IfNotPresent")),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("resources", json!({})),
    ] {
        default(container, key, value);
    }
    items(container, "ports").iter_mut().for_each(|port| default(port, "protocol", json!("TCP")));
    for variable in items(container, "env") {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            default(field, "apiVersion", json!("v1"));
        }
        // Go's `omitempty`.
        if variable.get("value") == Some(&json!("")) {
            variable.as_object_mut().into_iter().for_each(|variable| drop(variable.remove("value")));
        }
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else { continue };
        for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
            default(probe, key, json!(value));
        }
        probe.get_mut("httpGet").into_iter().for_each(|get| default(get, "scheme", json!("HTTP")));
    }
}

fn default(owner: &mut Value, key: &str, value: Value) {
    if let Some(owner) = owner.as_object_mut() {
        let there = owner.entry(key).or_insert(Value::Null);
        if there.is_null() {
            *there = value;
        }
    }
}

fn push(owner: &mut Value, key: &str, item: Value) {
    default(owner, key, json!([]));
    owner[key].as_array_mut().into_iter().for_each(|items| items.push(item.clone()));
}

fn items<'v>(owner: &'v mut Value, key: &str) -> &'v mut [Value] {
    owner.get_mut(key).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}
