//! One pod for each case: `golden/CASE.json` says what the cluster shows, `golden/CASE.txt` what is said of it. `KYB_BLESS=1` writes the
//! latter anew.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::facts::Owner;
use super::*;
use crate::kubectl::release::Release;
use crate::kubectl::seen::Seen;

/// What a cluster shows. What a case leaves out is there and says nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    pod: Value,
    /// `null`: it may not be read.
    #[serde(default = "namespace")]
    namespace: Value,
    #[serde(default)]
    owners: Vec<CaseOwner>,
    /// `null`: there is none.
    #[serde(default = "webhook")]
    webhook: Value,
    #[serde(default)]
    policies: Vec<Value>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    retry_policies: Vec<Value>,
    /// Whether the release's own objects may not be read.
    #[serde(default)]
    release_is_hidden: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseOwner {
    kind: String,
    name: String,
    /// `null`: it is not there.
    object: Value,
}

fn namespace() -> Value {
    json!({"metadata": {"name": "trading"}})
}

fn webhook() -> Value {
    json!({"metadata": {"name": "kybernis", "creationTimestamp": "2026-01-01T00:00:00Z"}})
}

/// With what every object has.
fn object<T: for<'de> Deserialize<'de>>(mut value: Value) -> T {
    let metadata = &mut value["metadata"];
    for (member, default) in [("namespace", "trading"), ("uid", "uid-1")] {
        if metadata[member].is_null() {
            metadata[member] = json!(default);
        }
    }
    serde_json::from_value(value).unwrap()
}

impl Case {
    fn facts(self) -> Facts {
        let denied = |what: &str| format!("Error from server (Forbidden): {what} is forbidden: User \"eve\" may not read it");
        let list = |kind: &str, items: Vec<Value>| {
            let own = Seen::Found(items.into_iter().map(object).collect());
            let release = if self.release_is_hidden { Seen::Hidden(denied(kind)) } else { Seen::Found(Vec::new()) };
            vec![own, release]
        };
        let (policies, tools) = (list("Policy", self.policies), list("ToolRegistration", self.tools));
        let retry_policies = list("RetryPolicy", self.retry_policies);
        let owner = |CaseOwner { kind, name, object: seen }: CaseOwner| {
            let object = if seen.is_null() { Seen::Absent } else { Seen::Found(object(seen)) };
            Owner { uid: format!("uid-{}", kind.to_ascii_lowercase()), kind, name, object }
        };
        let webhook = if self.webhook.is_null() { Seen::Absent } else { Seen::Found(object(self.webhook)) };
        Facts {
            pod: object(self.pod),
            namespace: if self.namespace.is_null() { Seen::Hidden(denied("namespaces")) } else { Seen::Found(object(self.namespace)) },
            owners: self.owners.into_iter().map(owner).collect(),
            release: Release { namespace: "kybernis-system".to_owned(), webhook },
            policies,
            tools,
            retry_policies,
        }
    }
}

#[test]
fn every_pod_is_explained_as_it_should_be() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kubectl/explain/golden");
    let mut cases = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let input = entry.unwrap().path();
        if input.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        cases += 1;
        let case: Case = serde_json::from_str(&fs::read_to_string(&input).unwrap()).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        let text = Explanation::of(&case.facts()).to_string();
        let golden = input.with_extension("txt");
        if std::env::var_os("KYB_BLESS").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&golden).unwrap_or_default(), "see {}", golden.display());
    }
    assert!(cases >= 16, "{cases} cases");
}

#[test]
fn programs_get_the_same_in_members() {
    let case = json!({"pod": {
        "metadata": {"name": "p", "annotations": {"kybernis.io/status": r#"{"version":"0.1.0","capture":"Strict"}"#}},
        "spec": {"containers": [], "initContainers": [{"name": "kybernis-proxy", "image": "i", "restartPolicy": "Always"}]},
    }});
    let facts = serde_json::from_value::<Case>(case).unwrap().facts();
    let told = serde_json::to_value(Explanation::of(&facts)).unwrap();
    assert_eq!((&told["pod"], &told["injected"]), (&json!("trading/p"), &json!(true)));
    assert_eq!(told["capture"]["mode"], "Strict");
    assert_eq!(told["sidecar"]["state"], "not started");
    assert_eq!(told["agent"], json!({"agent": "trading/default/Pod/p", "run": "uid-1", "tenant": "trading"}));
    assert_eq!(told["tools"], json!({"count": 0, "notInForce": []}));
}

/// The table of the ledger's own test (`ledger/src/auth/identity.rs`): both must go by one rule.
#[test]
fn the_topmost_owner_is_the_agent_and_the_job_the_run() {
    let owner = |kind: &str, name: &str| json!({"kind": kind, "name": name, "object": {"metadata": {"name": name}}});
    let deployment = json!([owner("ReplicaSet", "trader-5d9c"), owner("Deployment", "trader")]);
    for (owners, index, agent, run) in [
        (json!([]), None, "trading/trader/Pod/p-1", "uid-1"),
        (deployment, None, "trading/trader/Deployment/trader", "uid-1"),
        (json!([owner("StatefulSet", "desk")]), Some("0"), "trading/trader/StatefulSet/desk", "uid-1"),
        (json!([owner("Job", "once")]), None, "trading/trader/Job/once", "uid-job"),
        (json!([owner("Job", "once")]), Some("3"), "trading/trader/Job/once", "uid-job-3"),
        (json!([owner("Job", "nightly-2911"), owner("CronJob", "nightly")]), None, "trading/trader/CronJob/nightly", "uid-job"),
    ] {
        let annotations = index.map(|index| json!({"batch.kubernetes.io/job-completion-index": index}));
        let pod = json!({
            "metadata": {"name": "p-1", "annotations": annotations},
            "spec": {"serviceAccountName": "trader", "containers": []},
        });
        let facts = serde_json::from_value::<Case>(json!({"pod": pod, "owners": owners})).unwrap().facts();
        let known = Agent::of(&facts);
        assert_eq!((known.agent.as_str(), known.run.as_str(), known.doubt), (agent, run, None));
    }
    let long = json!({"kind": "Deployment", "name": "n".repeat(250), "object": null});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
    let facts = serde_json::from_value::<Case>(json!({"pod": pod, "owners": [long]})).unwrap().facts();
    assert_eq!(Agent::of(&facts).agent.len(), kybernis_core::ids::NAME_MAX);
}
