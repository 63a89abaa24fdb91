//! What becomes of people's words.

use kybernis_proto::v1;
use serde_json::{Value, json};
use tonic::Status;

use crate::fixtures::gate;
use crate::gates::stage::{Stage, conditions};
use crate::ledger::fake::for_long;

/// A decision on a Gate object.
fn decision(gate: &Value, changes: &Value) -> Value {
    let mut spec = json!({
        "gate": gate["metadata"]["name"], "gateUid": gate["metadata"]["uid"], "digest": gate["spec"]["digest"],
        "decision": "Approve", "reason": "checked", "decidedBy": "ada@example.com", "signature": "ed25519:00:AA",
    });
    for (name, value) in changes.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({"spec": spec})
}

impl Stage {
    async fn with_gate() -> (Self, Value) {
        let mut stage = Self::start().await;
        stage.ledger([gate("gate-a")]);
        let gate = stage.phase("gate-a", "Pending").await;
        (stage, gate)
    }

    fn say(&self, name: &str, decision: Value) {
        self.api.change(|world| world.put("gatedecisions", "trading", name, decision));
    }

    /// Waits until it is told what became of a decision.
    async fn told(&self, name: &str) -> String {
        let of = |world: &crate::fake_api::World| world.get("gatedecisions", "trading", name).map(conditions).unwrap_or_default();
        self.api.until(&format!("a word on {name}"), |world| !of(world).is_empty()).await;
        of(&self.api.world()).join(" ")
    }

    fn message(&self, name: &str) -> String {
        let world = self.api.world();
        world.get("gatedecisions", "trading", name).unwrap()["status"]["conditions"][0]["message"].as_str().unwrap().to_owned()
    }

    fn decided(&self) -> Vec<v1::DecideGateRequest> {
        self.rig.fake.script.lock().unwrap().decided.clone()
    }

    fn answers(&self, answers: impl IntoIterator<Item = Result<v1::DecideGateReply, Status>>) {
        self.rig.fake.script.lock().unwrap().verdicts.extend(answers);
    }
}

#[tokio::test]
async fn a_signed_word_comes_to_the_ledger_as_it_was_signed_and_once() {
    let (mut stage, gate) = Stage::with_gate().await;
    stage.say("one", decision(&gate, &json!({})));
    assert_eq!(stage.told("one").await, "Recorded=True Recorded");
    let expected = v1::DecideGateRequest {
        tenant: "trading".to_owned(),
        namespace: "trading".to_owned(),
        gate: "gate-a".to_owned(),
        gate_uid: gate["metadata"]["uid"].as_str().unwrap().to_owned(),
        digest: vec![7; 32],
        verdict: v1::GateVerdict::Approve.into(),
        reason: "checked".to_owned(),
        person: "ada@example.com".to_owned(),
        signature: "ed25519:00:AA".to_owned(),
        class: gate["spec"]["class"].as_str().unwrap().to_owned(),
    };
    assert_eq!(stage.decided(), std::slice::from_ref(&expected));

    // An operator that starts anew asks of new ones only.
    stage.operate();
    stage.say("two", decision(&gate, &json!({"decidedBy": "grace@example.com", "reason": null})));
    assert_eq!(stage.told("two").await, "Recorded=True Recorded");
    let second = v1::DecideGateRequest { person: "grace@example.com".to_owned(), reason: String::new(), ..expected.clone() };
    assert_eq!(stage.decided(), [expected, second]);
    assert_eq!(stage.rig.metrics.decisions.recorded.get(), 2);
}

#[tokio::test]
async fn what_nobody_vouches_for_or_is_about_another_gate_is_refused_unasked() {
    let (stage, gate) = Stage::with_gate().await;
    let cases = [
        ("unsigned", json!({"signature": null}), "Unsigned", "admission has not signed it"),
        ("blank", json!({"signature": ""}), "Unsigned", "admission has not signed it"),
        ("nobodys", json!({"decidedBy": null}), "Unsigned", "admission has not signed it"),
        ("namesake", json!({"gateUid": "another"}), "GateReplaced", "the Gate trading/gate-a of today is another object"),
        ("missing", json!({"gate": "gate-b"}), "GateNotFound", "there is no Gate trading/gate-b"),
        ("garbled", json!({"digest": "sha256:no"}), "Unreadable", "it is not one that this release can read"),
    ];
    for (name, changes, reason, message) in cases {
        stage.say(name, decision(&gate, &changes));
        assert_eq!(stage.told(name).await, format!("Recorded=False {reason}"));
        assert!(stage.message(name).starts_with(message), "{}", stage.message(name));
    }
    assert!(stage.decided().is_empty());
    stage
        .api
        .until("the Events", |world| world.events.iter().filter(|event| event.starts_with("Warning GateDecisionRefused")).count() == 6)
        .await;
    assert_eq!((stage.rig.metrics.decisions.recorded.get(), stage.rig.metrics.decisions.refused.get()), (0, 6));
}

#[tokio::test]
async fn what_the_ledger_refuses_is_final_and_told() {
    let (mut stage, gate) = Stage::with_gate().await;
    let reply = v1::DecideGateReply { code: "gate_closed".to_owned(), detail: "Gate gate-a is Denied already.".to_owned() };
    stage.answers([Ok(reply)]);
    stage.say("late", decision(&gate, &json!({})));
    assert_eq!(stage.told("late").await, "Recorded=False Refused");
    assert_eq!(stage.message("late"), "Gate gate-a is Denied already. (gate_closed)");
    stage.operate();
    stage.answers([Err(Status::invalid_argument("person: too long"))]);
    stage.say("odd", decision(&gate, &json!({})));
    assert_eq!(stage.told("odd").await, "Recorded=False Refused");
    assert_eq!((stage.message("odd").as_str(), stage.decided().len()), ("person: too long", 2));
}

#[tokio::test]
async fn a_ledger_that_is_away_is_asked_again_and_holds_up_nobody_else() {
    let (mut stage, gate) = Stage::with_gate().await;
    stage.answers((0..3).map(|_| Err(Status::unavailable("the disk is full"))));
    stage.say("one", decision(&gate, &json!({})));
    // While it waits for another try, others are seen to.
    stage.say("unsigned", decision(&gate, &json!({"signature": null})));
    assert_eq!(stage.told("unsigned").await, "Recorded=False Unsigned");
    assert_eq!(stage.told("one").await, "Recorded=True Recorded");
    assert_eq!(stage.decided().len(), 4);

    stage.ledger_goes();
    stage.rig.until(|link| link.connection.is_none()).await;
    stage.say("two", decision(&gate, &json!({})));
    stage.say("three", decision(&gate, &json!({"gateUid": "another"})));
    assert_eq!(stage.told("three").await, "Recorded=False GateReplaced", "that needs no ledger");
    stage.ledger([crate::fixtures::gate("gate-a")]);
    assert_eq!(stage.told("two").await, "Recorded=True Recorded");
    assert_eq!(stage.decided().len(), 5);
}

#[tokio::test]
async fn a_verdict_that_cannot_be_written_is_written_later_and_the_ledger_not_asked_again() {
    let (stage, gate) = Stage::with_gate().await;
    stage.api.world().failures.extend([("gatedecisions/one/status", 500), ("gatedecisions/one/status", 409)]);
    stage.say("one", decision(&gate, &json!({})));
    assert_eq!(stage.told("one").await, "Recorded=True Recorded");
    assert_eq!((stage.decided().len(), stage.rig.metrics.decisions.recorded.get()), (1, 1));
}

#[tokio::test]
async fn a_word_on_a_gate_that_the_ledger_has_not_told_waits_until_it_has() {
    let (stage, _) = Stage::with_gate().await;
    // Its object is there before the stream tells of it: another leader made it.
    let object = json!({"spec": {"type": "Approval"}});
    let found = stage.api.change(|world| world.put("gates", "trading", "gate-b", object));
    let said = json!({"digest": format!("sha256:{}", "07".repeat(32))});
    stage.say("early", decision(&found, &said));
    // The object shows no such gate, so it goes; then there is nothing that the word could be about.
    assert_eq!(stage.told("early").await, "Recorded=False GateNotFound");
    assert!(stage.decided().is_empty());
}

#[tokio::test]
async fn who_does_not_lead_passes_nothing_on() {
    let (stage, gate) = Stage::with_gate().await;
    stage.rig.tell_lead.send_replace(None);
    let writes = stage.api.world().writes.len();
    stage.say("one", decision(&gate, &json!({})));
    stage.say("unsigned", decision(&gate, &json!({"signature": null})));
    tokio::time::sleep(crate::gates::stage::MOMENT).await;
    assert_eq!((stage.decided().len(), stage.api.world().writes.len()), (0, writes));
    stage.rig.tell_lead.send_replace(for_long());
    assert_eq!(stage.told("one").await, "Recorded=True Recorded");
}
