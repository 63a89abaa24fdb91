//! The reviews that admission is measured with: pods of three sizes, in the `AdmissionReview` that an API server makes of each.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The namespace that they are for, which is opted in.
pub(crate) const NAMESPACE: &str = "trading";
/// The huge pod's JSON. etcd takes requests of 1.5 MiB, and ours is added to it.
const HUGE_BYTES: usize = 1_400_000;
/// Variables of the Deployment's pod, over its three containers.
const VARIABLES: usize = 40;

/// One container and nothing else.
pub(crate) fn small() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "trader", "namespace": NAMESPACE, "labels": {"app": "trader"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example.com/trader:1"}]},
    })
}

/// What a ReplicaSet's controller makes of the template of a service in use.
pub(crate) fn deployment() -> Value {
    noted(with_variables(VARIABLES, "a value as long as many are"))
}

/// The same with more variables than anybody writes by hand.
pub(crate) fn huge() -> Value {
    let (value, sample) = ("v".repeat(100), 500);
    // Each adds as much as any other, but for a digit of its name.
    let size = |variables| noted(with_variables(variables, &value)).to_string().len();
    let each = (size(2 * sample) - size(sample)) / sample;
    noted(with_variables(HUGE_BYTES / each, &value))
}

fn with_variables(variables: usize, value: &str) -> Value {
    let containers: Vec<Value> = ["app", "worker", "exporter"]
        .into_iter()
        .enumerate()
        .map(|(number, name)| {
            let numbers = (0..variables).filter(|variable| variable % 3 == number);
            let env: Vec<Value> = numbers.map(|variable| json!({"name": format!("SETTING_{variable}"), "value": value})).collect();
            container(name, 8080 + number, env)
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "trader-7d9f8c6b5-", "namespace": NAMESPACE,
            "labels": {"app": "trader", "app.kubernetes.io/name": "trader", "app.kubernetes.io/part-of": "desk", "pod-template-hash": "7d9f8c6b5"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8082", "checksum/config": "5f2b8c0f6f4f4f1f9f0a5c1e2d3b4a59"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "trader-7d9f8c6b5",
                "uid": "0f0e5c1e-8a7b-4f0e-9c3d-2b1a0f0e5c1e", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": containers,
            "volumes": [
                {"name": "config", "configMap": {"name": "trader-config", "defaultMode": 420}},
                {"name": "keys", "secret": {"secretName": "trader-keys", "defaultMode": 420}},
                {"name": "scratch", "emptyDir": {}},
            ],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm":
                {"labelSelector": {"matchLabels": {"app": "trader"}}, "topologyKey": "kubernetes.io/hostname"}}]}},
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "serviceAccount": "trader", "serviceAccountName": "trader", "terminationGracePeriodSeconds": 30,
            "securityContext": {"runAsNonRoot": true, "fsGroup": 2000, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    })
}

fn container(name: &str, port: usize, env: Vec<Value>) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    json!({
        "name": name, "image": format!("registry.example.com/desk/{name}:1.4.2"), "imagePullPolicy": "IfNotPresent", "env": env,
        "ports": [{"name": format!("{name}-http"), "containerPort": port, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "startupProbe": probe("/started"), "livenessProbe": probe("/livez"), "readinessProbe": probe("/readyz"),
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/trader", "readOnly": true},
            {"name": "keys", "mountPath": "/etc/keys", "readOnly": true},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    })
}

/// With the note of who wrote which field, as the API server has put it there when it asks.
fn noted(mut pod: Value) -> Value {
    let fields = json!({"f:metadata": fields(&pod["metadata"]), "f:spec": fields(&pod["spec"])});
    pod["metadata"]["managedFields"] = json!([{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2030-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    pod
}

/// `FieldsV1` of a value: members by their names, items of a list by the key that tells them apart, and a dot for the thing itself.
fn fields(value: &Value) -> Value {
    let own = (".".to_owned(), json!({}));
    let members: Map<String, Value> = match value {
        Value::Object(members) => members.iter().map(|(name, member)| (format!("f:{name}"), fields(member))).collect(),
        Value::Array(items) => {
            let key = |item: &Value| ["name", "uid", "containerPort"].into_iter().find(|key| !item[key].is_null());
            let item = |item: &Value| {
                let (key, mut fields) = (key(item)?, fields(item));
                fields["."] = json!({});
                Some((format!("k:{}", json!({key: item[key]})), fields))
            };
            std::iter::once(own).chain(items.iter().filter_map(item)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Map::new(),
    };
    Value::Object(members)
}

/// The review of a pod that is about to be made.
pub(crate) fn review(pod: &Value) -> Value {
    let (kind, resource) =
        (json!({"group": "", "version": "v1", "kind": "Pod"}), json!({"group": "", "version": "v1", "resource": "pods"}));
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
            "namespace": NAMESPACE, "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "2d2e6f1c-9f55-4f0c-8f5a-5a0b6a0d7c11",
                "groups": groups, "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7c1f0a5e-2b1a-4c3d-9e8f-0a1b2c3d4e5f"]}},
            "object": pod, "oldObject": null, "dryRun": false, "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

/// The pod as it is after what a webhook said of it, which must have allowed it.
pub(crate) fn admitted(mut pod: Value, answer: &[u8]) -> Result<Value> {
    let answer: Value = serde_json::from_slice(answer)?;
    let response = &answer["response"];
    anyhow::ensure!(response["allowed"] == true, "the pod is refused: {response}");
    if let Some(patch) = response["patch"].as_str() {
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch)?)?;
        json_patch::patch(&mut pod, &patch).context("the patch does not fit")?;
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_as_large_as_they_are_said_to_be() {
        let size = |pod: &Value| pod.to_string().len();
        assert!((HUGE_BYTES * 9 / 10..=HUGE_BYTES * 11 / 10).contains(&size(&huge())), "{}", size(&huge()));
        let pod = deployment();
        let containers = pod["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.iter().map(|container| container["env"].as_array().unwrap().len()).sum::<usize>(), VARIABLES);
        let fields = &pod["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]["k:{\"name\":\"app\"}"]["f:env"];
        assert_eq!(fields["k:{\"name\":\"SETTING_0\"}"], json!({".": {}, "f:name": {}, "f:value": {}}));
    }
}
