//! A small cluster for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kybernis_proto::v1;
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::facts::{Facts, Namespace, SecretName, SecretState};
use crate::kinds::Kind;
use crate::object::{Key, Object};
use crate::status::Now;

pub(crate) const RELEASE: &str = "kybernis-system";

pub(crate) fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.to_owned(), kind, name: name.to_owned() }
}

pub(crate) fn object(kind: Kind, namespace: &str, name: &str, spec: &Value) -> Arc<Object> {
    object_with(kind, namespace, name, spec, &Value::Null)
}

pub(crate) fn object_with(kind: Kind, namespace: &str, name: &str, spec: &Value, status: &Value) -> Arc<Object> {
    let mut found: DynamicObject = serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-of-{name}"), "generation": 2, "resourceVersion": "10"},
        "spec": spec,
    }))
    .unwrap();
    if !status.is_null() {
        found.data["status"] = status.clone();
    }
    Arc::new(Object::read(kind, Arc::new(found)).unwrap())
}

pub(crate) fn tool(namespace: &str, name: &str, host: &str) -> Arc<Object> {
    object(Kind::Tool, namespace, name, &json!({"match": [{"hosts": [host]}], "class": "SideEffect"}))
}

pub(crate) fn probed(namespace: &str, name: &str, host: &str) -> Arc<Object> {
    let probe =
        json!({"url": "\"https://a.example.com\"", "executedWhen": "response.status == 200", "secretRef": {"name": "s", "key": "k"}});
    let spec = json!({"match": [{"hosts": [host]}], "class": "SideEffect", "effect": {"key": "\"k\"", "probe": probe}});
    object(Kind::Tool, namespace, name, &spec)
}

pub(crate) fn policy(namespace: &str, name: &str, tools: &[&str]) -> Arc<Object> {
    let rule = json!({"name": name, "match": {"tools": tools}, "verdict": "Deny"});
    let selector = json!({"matchLabels": {"app": "trader"}});
    object(Kind::Policy, namespace, name, &json!({"selector": selector, "rules": [rule]}))
}

/// A cluster in which every namespace of an object, and these, are known.
pub(crate) fn facts(mut objects: Vec<Arc<Object>>, namespaces: &[(&str, Option<&str>, Option<&str>)]) -> Facts {
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let mut known: BTreeMap<String, Namespace> =
        objects.iter().map(|object| (object.key.namespace.clone(), Namespace::default())).collect();
    for (name, inject, tenant) in namespaces {
        let found = Namespace { inject: inject.map(str::to_owned), tenant: tenant.map(str::to_owned), terminating: false };
        known.insert((*name).to_owned(), found);
    }
    Facts { release: RELEASE.to_owned(), objects, namespaces: known, ..Facts::default() }
}

pub(crate) fn secret(facts: &mut Facts, namespace: &str, key: &str, value: &str) {
    let name = SecretName { namespace: namespace.to_owned(), name: "s".to_owned() };
    let values = BTreeMap::from([(key.to_owned(), Zeroizing::new(value.as_bytes().to_vec()))]);
    facts.secrets.insert(name, SecretState::There(values));
}

pub(crate) fn live(tenant: &str, instance: &str, digest: &[u8], error: &str) -> v1::SidecarUpdate {
    let live = v1::LiveSidecar {
        tenant: tenant.to_owned(),
        instance: instance.to_owned(),
        agent: format!("{tenant}/trader/Deployment/trader"),
        labels: [("app".to_owned(), "trader".to_owned())].into(),
        digest: digest.to_vec(),
        error: error.to_owned(),
    };
    v1::SidecarUpdate { update: Some(v1::sidecar_update::Update::Live(live)) }
}

pub(crate) fn now(second: i64) -> Now {
    Now { wall: Timestamp::from_second(second).unwrap(), steady: Instant::now() }
}

/// A gate of an agent in `trading` that waits for two people.
pub(crate) fn gate(name: &str) -> v1::GateState {
    v1::GateState {
        tenant: "trading".to_owned(),
        gate: name.to_owned(),
        kind: v1::GateKind::Approval.into(),
        agent: "trading/trader/Deployment/trader".to_owned(),
        run: "run-1".to_owned(),
        span: "span-1".to_owned(),
        tool: "broker-orders".to_owned(),
        action: "POST broker.example.com/v1/orders".to_owned(),
        summary: "qty=500 symbol=AAPL".to_owned(),
        digest: vec![7; 32],
        policy: "trading/large-orders".to_owned(),
        required: 2,
        class: "desk-heads".to_owned(),
        expires_at_ms: Some(4_102_444_800_999),
        phase: v1::GatePhase::Pending.into(),
        opened_at_ms: 1_000_000_000,
        ended_at_ms: None,
        votes: Vec::new(),
    }
}

/// A word on a gate.
pub(crate) fn vote(person: &str, verdict: v1::GateVerdict, reason: &str) -> v1::GateVote {
    v1::GateVote { person: person.to_owned(), verdict: verdict.into(), reason: reason.to_owned(), at_ms: 1_700_000_000_123 }
}
