//! A thousand policies and two thousand sidecars in one process: how long until all is told, and how much memory that takes. Figures
//! are printed (`cargo test -p kybernis-operator scale -- --nocapture`), and the memory is bounded; nothing here depends on the clock.

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fake_api::{FakeApi, World};
use crate::fixtures::{RELEASE, live};
use crate::ledger::fake::{Rig, Tell, synced};
use crate::reconcile::stage::operate;

const NAMESPACES: usize = 100;
const POLICIES_EACH: usize = 10;
const SIDECARS_EACH: usize = 20;
/// MiB that all of this may take, the API server here included: some three times what it does, as other tests run beside it.
const MEMORY_MAX: u64 = 160;

fn namespace(n: usize) -> String {
    format!("team-{n}")
}

fn policy(rule: &str) -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "trader"}}, "rules": [{
        "name": rule, "match": {"hosts": ["a.example.com"]}, "when": "request.method == 'POST'", "verdict": "Deny",
    }]}})
}

/// Whether the object says, of the generation that it has, that every live sidecar runs with it.
fn is_programmed(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| {
        condition["type"] == "Programmed"
            && condition["reason"] == "Programmed"
            && condition["observedGeneration"] == object["metadata"]["generation"]
    })
}

fn all_programmed(world: &World) -> bool {
    let each = (0..NAMESPACES).flat_map(|n| (0..POLICIES_EACH).map(move |p| (namespace(n), format!("policy-{p}"))));
    each.into_iter().all(|(namespace, name)| world.get("policies", &namespace, &name).is_some_and(is_programmed))
}

/// Every sidecar of a tenant takes what the ledger was given for it.
async fn acknowledge(mut programs: mpsc::UnboundedReceiver<(String, Vec<u8>)>, tell: Tell<kybernis_proto::v1::SidecarUpdate>) {
    while let Some((tenant, digest)) = programs.recv().await {
        for pod in 0..SIDECARS_EACH {
            let _ = tell.send(Ok(live(&tenant, &format!("{tenant}-pod-{pod}"), &digest, "")));
        }
    }
}

/// Resident memory in MiB.
fn memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4 / 1024
}

#[tokio::test]
async fn a_thousand_policies_and_two_thousand_sidecars_converge() {
    let (api, rig) = (FakeApi::new(), Rig::start().await);
    api.change(|world| {
        for n in 0..NAMESPACES {
            world.put("namespaces", "", &namespace(n), json!({}));
            for p in 0..POLICIES_EACH {
                world.put("policies", &namespace(n), &format!("policy-{p}"), policy(&format!("rule-{p}")));
            }
        }
        world.put("namespaces", "", RELEASE, json!({}));
    });
    let (hear, programs) = mpsc::unbounded_channel();
    rig.fake.script.lock().unwrap().on_program = Some(hear);
    let pods = (0..NAMESPACES).flat_map(|n| (0..SIDECARS_EACH).map(move |pod| (namespace(n), pod)));
    let first = pods.map(|(tenant, pod)| Ok(live(&tenant, &format!("{tenant}-pod-{pod}"), b"", "")));
    let tell = rig.stream(first.chain([synced()]));
    tokio::spawn(acknowledge(programs, tell));
    let (before, began) = (memory(), Instant::now());
    let _parts = operate(&api, &rig);
    api.until("everything programmed", all_programmed).await;
    let writes = |api: &FakeApi| api.world().count("PATCH");
    let passes = |rig: &Rig| rig.metrics.reconciles.total(crate::metrics::Outcome::Done);
    let told = writes(&api);
    println!("cold start: {:?}, {} passes, {told} statuses written, {before} -> {} MiB", began.elapsed(), passes(&rig), memory());

    // One policy changes: of its namespace's objects, only it should be told anew.
    let began = Instant::now();
    let mut changed = policy("another-rule");
    changed["metadata"]["generation"] = json!(2);
    api.change(|world| world.put("policies", "team-7", "policy-3", changed));
    api.until("the change programmed", |world| world.get("policies", "team-7", "policy-3").is_some_and(is_programmed)).await;
    let more = writes(&api) - told;
    println!("one policy changes: {:?}, {more} statuses written, {} MiB", began.elapsed(), memory());

    // One of the release's comes: every tenant is programmed anew, and every sidecar takes it.
    rig.fake.script.lock().unwrap().programmed.clear();
    let began = Instant::now();
    api.change(|world| world.put("policies", RELEASE, "everywhere", policy("everywhere")));
    api.until("the release's programmed", |world| world.get("policies", RELEASE, "everywhere").is_some_and(is_programmed)).await;
    let programmed = rig.fake.script.lock().unwrap().programmed.len();
    println!("one of the release's comes: {:?}, {programmed} tenants, {} passes, {} MiB", began.elapsed(), passes(&rig), memory());
    assert_eq!(programmed, NAMESPACES, "each tenant is programmed once");
    api.until("everything programmed", all_programmed).await;
    let after = memory();
    assert!(after < before + MEMORY_MAX, "{before} -> {after} MiB");
}
