//! Who lives in the cluster that the operator is measured in: teams, what they have written, and their pods. Names alone tell which is
//! which, so that the ledger and whoever fills the API server agree without a word.

use serde_json::{Value, json};

/// Namespaces, a tenant each.
pub(crate) const NAMESPACES: usize = 20;
/// Policies of each.
pub(crate) const POLICIES_EACH: usize = 50;
/// Pods of each, all of them with a sidecar.
pub(crate) const PODS_EACH: usize = 100;
/// Deployments of each, among which its pods and its Policies are spread.
const AGENTS_EACH: usize = 10;
/// The release's own namespace.
pub(crate) const RELEASE: &str = "kybernis-system";

/// One of the [`NAMESPACES`].
pub(crate) fn namespace(team: usize) -> String {
    format!("team-{team}")
}

/// A pod's uid, which is a sidecar's name at the ledger.
pub(crate) fn instance(team: usize, pod: usize) -> String {
    format!("{:08x}-0000-4000-9000-{pod:012x}", team)
}

/// The Deployment that a pod is of.
pub(crate) fn agent(pod: usize) -> String {
    format!("agent-{}", pod % AGENTS_EACH)
}

pub(crate) fn namespace_object(team: usize) -> Value {
    let name = namespace(team);
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kybernis.io/inject": "enabled"}}})
}

/// A Policy of three rules, one of which looks into the request, and says another thing in each `edition`.
pub(crate) fn policy(team: usize, number: usize, edition: usize) -> Value {
    let host = format!("broker-{number}.example.com");
    let large = format!("request.body.qty * request.body.price > {}", 1000 + edition);
    json!({
        "apiVersion": "kybernis.io/v1alpha1", "kind": "Policy", "metadata": {"name": policy_name(number), "namespace": namespace(team)},
        "spec": {
            "selector": {"matchLabels": {"app": agent(number)}},
            "rules": [
                {"name": "no-metadata-service", "match": {"hosts": ["169.254.169.254"]}, "verdict": "Deny", "reason": "credentials"},
                {
                    "name": "large-orders", "match": {"hosts": [host], "methods": ["POST"]}, "when": large, "verdict": "RequireApproval",
                    "approval": {"required": 1}, "reason": "large orders need a person",
                },
                {"name": "no-deletes", "match": {"hosts": [host], "methods": ["DELETE"]}, "verdict": "Deny", "reason": "nothing is deleted"},
            ],
        },
    })
}

pub(crate) fn policy_name(number: usize) -> String {
    format!("policy-{number}")
}

pub(crate) fn pod_name(pod: usize) -> String {
    format!("{}-7d9f8c6b5-{pod:05}", agent(pod))
}

/// An injected pod, with as much metadata as pods have: the operator is told all of it each time the pod changes.
pub(crate) fn pod(team: usize, pod: usize) -> Value {
    let agent = agent(pod);
    let fields = json!({"f:metadata": {"f:annotations": {".": {}, "f:kybernis.io/status": {}}, "f:generateName": {},
        "f:labels": {".": {}, "f:app": {}, "f:kybernis.io/injected": {}, "f:pod-template-hash": {}},
        "f:ownerReferences": {".": {}, "k:{\"uid\":\"5c1e\"}": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {},
        "f:env": {".": {}, "k:{\"name\":\"DESK\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {}, "f:imagePullPolicy": {},
        "f:name": {}, "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}}, "f:dnsPolicy": {},
        "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
        "f:terminationGracePeriodSeconds": {}}});
    let status = json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {},
        "f:lastTransitionTime": {}, "f:observedGeneration": {}, "f:status": {}, "f:type": {}}, "k:{\"type\":\"ContainersReady\"}": {".": {},
        "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}}, "f:containerStatuses": {}, "f:hostIP": {},
        "f:hostIPs": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {}, "f:startTime": {}}});
    let note = |manager: &str, fields: Value| json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2030-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(pod), "namespace": namespace(team), "generateName": format!("{agent}-7d9f8c6b5-"),
            "labels": {"app": agent, "pod-template-hash": "7d9f8c6b5", "kybernis.io/injected": "true"},
            "annotations": {"kybernis.io/status": "{\"version\":\"0.1.0\",\"capture\":\"Redirect\"}"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{agent}-7d9f8c6b5"), "uid": "5c1e",
                "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [note("kube-controller-manager", fields), note("kubelet", status)],
        },
        "spec": {"containers": [{"name": "app", "image": "registry.example.com/trader:1"}]},
        "status": {"phase": "Running"},
    })
}
