//! Somebody else's mutating webhook, `tests/agents/hostile.py`, under two names: API servers call webhooks in the order of their
//! configurations' names, so one of these is called before `kybernis` and one after it. What they do to a pod is its label's choice.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybernis_pods::{Agent, Space, Workload, World, said};
use serde_json::{Value, json};

/// On namespaces: their pods pass it.
pub(super) const HERE: &str = "hostile.example.com/here";
/// On pods: what it does to them, a name of [`DEEDS`].
pub(super) const DOES: &str = "hostile.example.com/does";
/// On pods that have passed it.
pub(super) const WAS: &str = "hostile.example.com/was";

const PORT: u16 = 8443;
const NAMES: [&str; 2] = ["a-hostile", "z-hostile"];

/// What it does: the label, whether it is called before ours, where, and whether again after the others' changes.
const DEEDS: [(&str, bool, &str, bool); 9] = [
    ("prepends", false, "prepends", false),
    // Before ours an init container, after ours a container.
    ("surrounds", true, "prepends", true),
    ("surrounds", false, "appends", false),
    ("insists", true, "insists", true),
    ("swaps", false, "swaps", false),
    ("strips-once", false, "strips", false),
    ("strips", false, "strips", true),
    ("overrides", false, "overrides", false),
    ("exchanges", false, "exchanges", false),
];

/// It runs, and API servers call it; it goes when this is dropped.
pub(super) struct Hostile<'s> {
    world: &'s World,
    _agent: Agent<'s>,
}

impl<'s> Hostile<'s> {
    /// Starts it in a namespace whose pods do not pass it.
    pub(super) fn start(world: &'s World, space: &'s Space<'_>) -> Result<Self> {
        remove(world)?;
        let service = format!("hostile.{}.svc", space.name());
        let certified = rcgen::generate_simple_self_signed([service]).context("no certificate for the hostile webhook")?;
        let pem = certified.cert.pem();
        let files = json!({"tls.crt": pem, "tls.key": certified.signing_key.serialize_pem()});
        space.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tls"}, "data": files}).to_string())?;
        let service = json!({"selector": {"app": "hostile"}, "ports": [{"port": 443, "targetPort": PORT}]});
        space.create(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hostile"}, "spec": service}).to_string())?;
        let agent = space.start(&Workload::new("hostile", "hostile.py", &["/tls"]).files("tls", "/tls").bare())?;
        let this = Self { world, _agent: agent };
        for (name, is_before) in NAMES.into_iter().zip([true, false]) {
            space.create(&configuration(name, is_before, space.name(), &pem).to_string())?;
        }
        Ok(this)
    }
}

impl Drop for Hostile<'_> {
    fn drop(&mut self) {
        let _ = remove(self.world);
    }
}

fn remove(world: &World) -> Result<()> {
    said(world.kubectl(["delete", "mutatingwebhookconfigurations", "--ignore-not-found"]).args(NAMES)).map(drop)
}

fn configuration(name: &str, is_before: bool, namespace: &str, authority: &str) -> Value {
    let entry = |at: usize, path: &str, again: bool, selector: Value| {
        json!({
            "name": format!("{path}-{at}.{name}.example.com"),
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": if again { "IfNeeded" } else { "Never" },
            "clientConfig": {
                "service": {"name": "hostile", "namespace": namespace, "path": format!("/{path}")},
                "caBundle": STANDARD.encode(authority),
            },
            "namespaceSelector": {"matchLabels": {HERE: "true"}},
            "objectSelector": selector,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        })
    };
    let mut entries = vec![entry(0, "marks", false, json!({}))];
    let deeds = DEEDS.iter().enumerate().filter(|(_, deed)| deed.1 == is_before);
    entries.extend(deeds.map(|(at, (does, _, path, again))| entry(at, path, *again, json!({"matchLabels": {DOES: does}}))));
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": entries,
    })
}
