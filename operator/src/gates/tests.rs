//! What becomes of Gate objects while the ledger's gates, and people, move on.

use kybernis_proto::v1::{GatePhase, GateState, GateVerdict};
use serde_json::json;

use super::stage::{Stage, conditions, hours_ago};
use crate::fixtures::{gate, vote};
use crate::ledger::fake::for_long;
use crate::metrics::Metrics;

fn in_phase(phase: GatePhase, gate: GateState) -> GateState {
    GateState { phase: phase.into(), ..gate }
}

fn ended(phase: GatePhase, gate: GateState) -> GateState {
    GateState { ended_at_ms: Some(hours_ago(0)), ..in_phase(phase, gate) }
}

#[tokio::test]
async fn a_gate_opens_is_approved_by_two_people_used_given_back_and_used_again() {
    let mut stage = Stage::start().await;
    stage.ledger([]);
    stage.gate(gate("gate-a"));
    let pending = stage.phase("gate-a", "Pending").await;
    assert_eq!(pending["metadata"]["labels"], json!({"kybernis.io/tool": "broker-orders", "kybernis.io/class": "desk-heads"}));
    assert_eq!(pending["spec"]["digest"], format!("sha256:{}", "07".repeat(32)));
    assert_eq!((&pending["spec"]["expiresAt"], &pending["status"]["endedAt"]), (&json!("2100-01-01T00:00:00Z"), &json!(null)));
    assert_eq!(conditions(&pending), ["Decided=False Waiting"]);
    assert_eq!(pending["status"]["conditions"][0]["observedGeneration"], 1);

    let mut now = gate("gate-a");
    now.votes.push(vote("grace@example.com", GateVerdict::Approve, "checked"));
    stage.gate(now.clone());
    stage
        .api
        .until("the first word", |world| {
            world
                .get("gates", "trading", "gate-a")
                .is_some_and(|gate| gate["status"]["decisions"].as_array().is_some_and(|all| all.len() == 1))
        })
        .await;
    let one = stage.phase("gate-a", "Pending").await;
    assert_eq!(
        one["status"]["decisions"],
        json!([{"by": "grace@example.com", "decision": "Approve", "reason": "checked", "at": "2023-11-14T22:13:20Z"}])
    );
    let message = one["status"]["conditions"][0]["message"].as_str().unwrap();
    assert_eq!(message, "1 of 2 people of class desk-heads; kubectl kyb approve gate-a -n trading");

    now.votes.push(vote("ada@example.com", GateVerdict::Approve, ""));
    stage.gate(in_phase(GatePhase::Approved, now.clone()));
    let approved = stage.phase("gate-a", "Approved").await;
    assert_eq!(conditions(&approved), ["Decided=True Approved", "Approved=True Approved"]);
    stage.gate(ended(GatePhase::Consumed, now.clone()));
    let consumed = stage.phase("gate-a", "Consumed").await;
    assert_eq!(conditions(&consumed), ["Decided=True Approved", "Approved=True Consumed"]);
    assert!(consumed["status"]["endedAt"].is_string());
    stage.gate(in_phase(GatePhase::Approved, now.clone()));
    let again = stage.phase("gate-a", "Approved").await;
    assert_eq!((conditions(&again), &again["status"]["endedAt"]), (conditions(&approved), &json!(null)));
    stage.gate(ended(GatePhase::Consumed, now));
    stage.phase("gate-a", "Consumed").await;
    let world = stage.api.world();
    assert_eq!((world.count("POST /apis/kybernis.io"), world.count("DELETE"), world.events.len()), (1, 0, 0), "{:?}", world.writes);
}

#[tokio::test]
async fn gates_that_end_otherwise_say_how() {
    let mut stage = Stage::start().await;
    stage.ledger(["gate-d", "gate-e", "gate-s"].map(gate));
    for name in ["gate-d", "gate-e", "gate-s"] {
        stage.phase(name, "Pending").await;
    }
    stage.rig.metrics.gates_open.get();
    let mut denied = gate("gate-d");
    denied.votes.push(vote("ada@example.com", GateVerdict::Deny, "too large"));
    stage.gate(ended(GatePhase::Denied, denied));
    stage.gate(ended(GatePhase::Expired, gate("gate-e")));
    stage.gate(ended(GatePhase::Superseded, gate("gate-s")));
    let denied = stage.phase("gate-d", "Denied").await;
    assert_eq!(conditions(&denied), ["Decided=True Denied", "Denied=True Denied"]);
    assert_eq!(denied["status"]["conditions"][1]["message"], "by ada@example.com: too large");
    assert_eq!(conditions(&stage.phase("gate-e", "Expired").await), ["Decided=False Expired", "Approved=False Expired"]);
    assert_eq!(conditions(&stage.phase("gate-s", "Superseded").await), ["Decided=False Superseded", "Approved=False Superseded"]);
}

#[tokio::test]
async fn a_gate_object_that_is_deleted_comes_back_and_one_that_is_written_to_is_put_right() {
    let mut stage = Stage::start().await;
    stage.ledger([gate("gate-a")]);
    let right = stage.phase("gate-a", "Pending").await;
    // Somebody who may do anything says that it is approved.
    let mut wrong = right.clone();
    wrong["status"] = json!({
        "phase": "Approved",
        "endedAt": "2026-01-01T00:00:00Z",
        "decisions": [{"by": "mallory", "decision": "Approve", "at": "2026-01-01T00:00:00Z"}],
        "conditions": [
            {"type": "Approved", "status": "True", "reason": "Mine", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Decided", "status": "True", "reason": "Mine", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ],
    });
    stage.api.change(|world| world.put("gates", "trading", "gate-a", wrong));
    let mended = stage.phase("gate-a", "Pending").await;
    assert_eq!((conditions(&mended), &mended["status"]["decisions"]), (vec!["Decided=False Waiting".to_owned()], &json!([])));
    assert_eq!((&mended["status"]["endedAt"], &mended["metadata"]["uid"]), (&json!(null), &right["metadata"]["uid"]));

    stage.api.change(|world| world.remove("gates", "trading", "gate-a"));
    let back = stage.phase("gate-a", "Pending").await;
    assert_ne!(back["metadata"]["uid"], right["metadata"]["uid"]);

    // Somebody makes another of its name.
    let mut other = back.clone();
    other["spec"]["summary"] = json!("qty=1 symbol=AAPL");
    stage.api.change(|world| {
        world.remove("gates", "trading", "gate-a");
        world.put("gates", "trading", "gate-a", other)
    });
    stage
        .api
        .until("the right spec", |world| {
            world
                .get("gates", "trading", "gate-a")
                .is_some_and(|gate| gate["spec"] == right["spec"] && gate["status"]["phase"] == "Pending")
        })
        .await;
    assert!(stage.api.world().events.iter().any(|event| event.starts_with("Warning GateDiffers")), "{:?}", stage.api.world().events);
}

#[tokio::test]
async fn objects_of_which_the_ledger_knows_no_gate_go_and_none_goes_while_it_is_away() {
    let mut stage = Stage::start().await;
    let made_up = json!({"spec": {"type": "Approval", "agent": "a"}, "status": {"phase": "Approved"}});
    stage.api.change(|world| world.put("gates", "trading", "gate-z", made_up.clone()));
    tokio::time::sleep(super::stage::MOMENT * 3).await;
    assert!(stage.api.world().get("gates", "trading", "gate-z").is_some(), "nobody knows whether there is such a gate");
    stage.ledger([gate("gate-a")]);
    stage.gone("gate-z").await;
    stage.phase("gate-a", "Pending").await;
    let told = |stage: &Stage| stage.api.world().events.iter().filter(|event| event.starts_with("Warning GateUnknown")).count();
    stage.api.until("the Event", |world| world.events.len() == 1).await;
    assert_eq!(told(&stage), 1);

    // The ledger goes: what it last said stands, although nobody can say whether it still holds.
    stage.ledger_goes();
    stage.rig.until(|link| link.connection.is_none()).await;
    stage.api.change(|world| world.put("gates", "trading", "gate-y", made_up));
    tokio::time::sleep(super::stage::MOMENT * 3).await;
    let world = stage.api.world();
    assert!(world.get("gates", "trading", "gate-a").is_some() && world.get("gates", "trading", "gate-y").is_some());
}

#[tokio::test]
async fn a_gate_goes_a_day_after_its_end_and_is_not_made_when_that_is_over() {
    let mut stage = Stage::start().await;
    let of = |name: &str, hours| GateState { ended_at_ms: Some(hours_ago(hours)), ..in_phase(GatePhase::Denied, gate(name)) };
    stage.ledger([gate("gate-old"), of("gate-past", 25), of("gate-day", 23)]);
    stage.phase("gate-old", "Pending").await;
    stage.phase("gate-day", "Denied").await;
    stage.gate(of("gate-old", 25));
    stage.gone("gate-old").await;
    let world = stage.api.world();
    assert!(world.get("gates", "trading", "gate-day").is_some() && world.get("gates", "trading", "gate-past").is_none());
    assert_eq!((world.count("gates/gate-past"), world.events.len()), (0, 0), "what is over is no news");
}

#[tokio::test]
async fn a_gate_waits_for_its_namespace_and_one_that_cannot_be_made_keeps_none_back() {
    let mut stage = Stage::start().await;
    let elsewhere = GateState { agent: "elsewhere/a/Deployment/a".to_owned(), ..gate("gate-b") };
    stage.api.world().failures.push_back(("POST /apis/kybernis.io", 500));
    stage.ledger([elsewhere, gate("gate-a"), gate("gate_of_no_name"), gate("gate-c")]);
    stage.phase("gate-a", "Pending").await;
    stage.phase("gate-c", "Pending").await;
    assert_eq!(stage.api.world().count("/namespaces/elsewhere/"), 0);
    stage.api.change(|world| world.put("namespaces", "", "elsewhere", json!({})));
    stage
        .api
        .until("the Gate elsewhere", |world| {
            world.get("gates", "elsewhere", "gate-b").is_some_and(|gate| gate["status"]["phase"] == "Pending")
        })
        .await;
    assert!(stage.api.world().get("gates", "trading", "gate_of_no_name").is_none());
}

#[tokio::test]
async fn only_the_leader_writes() {
    let mut stage = Stage::start().await;
    stage.rig.tell_lead.send_replace(None);
    stage.ledger([gate("gate-a")]);
    stage.rig.until(|link| link.gates.is_some() && link.connection.is_some()).await;
    tokio::time::sleep(super::stage::MOMENT * 2).await;
    assert!(stage.api.world().writes.is_empty(), "{:?}", stage.api.world().writes);
    stage.rig.tell_lead.send_replace(for_long());
    stage.phase("gate-a", "Pending").await;
    let open = |metrics: &Metrics| metrics.gates_open.get();
    assert_eq!(open(&stage.rig.metrics), 1);
    stage.rig.tell_lead.send_replace(None);
    stage.rig.until_counted(|metrics| open(metrics) == 0).await;
}
