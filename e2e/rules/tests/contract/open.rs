//! Semantics 11: a side effect while the ledger is away, where policy says `failureMode: Open`.

use kybernis_core::machine::EffectState;
use kybernis_rules::{Call, Rig, Then};

const OPEN: &str = "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: kybernis-system}\nspec: {selector: {}, failureMode: Open}\n";

fn order() -> Call {
    Call::post("/v1/orders", r#"{"qty":1}"#).header("idempotency-key", "k")
}

#[tokio::test]
async fn failure_mode_open_claims_in_the_sidecar_s_own_spool_first() {
    let mut rig = Rig::start(OPEN).await;
    rig.stop_ledger().await;
    let first = rig.call(&order()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let again = rig.call(&order()).await;
    assert_eq!((again.status, again.code().as_str()), (409, "effect_in_flight"), "{}", again.body);
    assert_eq!(rig.far.executed(), 1, "without a ledger the same key went out twice");
    rig.start_ledger().await;
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    let replayed = rig.call(&order()).await;
    assert_eq!((replayed.body, replayed.headers.contains_key("idempotent-replayed")), (first.body, true));
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_claim_under_way_is_met_although_the_ledger_is_back_and_does_not_know_it() {
    let mut rig = Rig::start(OPEN).await;
    rig.stop_ledger().await;
    rig.far.script([Then::WhenOpened(200, "{}".to_owned())]);
    let (call, mut connection) = (order(), rig.connect().await);
    let first = tokio::spawn(async move { connection.call(&call).await });
    rig.far.arrived(1).await;
    rig.start_ledger().await;
    let again = rig.call(&order()).await;
    assert_eq!((again.status, again.code().as_str()), (409, "effect_in_flight"), "{}", again.body);
    assert_eq!(rig.far.received().len(), 1, "the ledger let go out again what had gone out without it");
    rig.far.open();
    assert_eq!(first.await.unwrap().status, 200);
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    assert_eq!(rig.call(&order()).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn what_went_out_before_the_ledger_left_does_not_go_out_again_without_it() {
    let mut rig = Rig::start(OPEN).await;
    assert_eq!(rig.call(&order()).await.status, 200);
    rig.stop_ledger().await;
    let again = rig.call(&order()).await;
    assert_eq!((again.status, again.code().as_str()), (409, "effect_in_flight"), "{}", again.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_key_that_the_far_side_refused_is_free_without_the_ledger_too() {
    let mut rig = Rig::start(OPEN).await;
    rig.far.script([Then::Refuse(422, "{}".to_owned())]);
    assert_eq!(rig.call(&order()).await.status, 422);
    rig.stop_ledger().await;
    assert_eq!(rig.call(&order()).await.status, 200);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn the_ledger_hears_that_the_answer_of_an_adopted_effect_was_read() {
    let mut rig = Rig::start(OPEN).await;
    let keyless = Call::post("/v1/orders", r#"{"qty":1}"#);
    rig.stop_ledger().await;
    assert_eq!(rig.call(&keyless).await.status, 200);
    rig.start_ledger().await;
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    let intended = rig.call(&keyless).await;
    assert_eq!((intended.status, intended.header("idempotent-replayed")), (200, None), "an intended repeat was taken for a retry");
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn a_refusal_without_the_ledger_is_the_far_side_s_own_whatever_the_retry_policy_says() {
    let retries = "\n---\napiVersion: kybernis.io/v1alpha1\nkind: RetryPolicy\nmetadata: {name: far, namespace: default}\nspec: {match: {hosts: [\"FAR\"]}, attempts: 3, backoff: {base: 1ms, max: 5ms}, \"on\": {statuses: [429]}}\n";
    let mut rig = Rig::start(&format!("{OPEN}{retries}")).await;
    rig.stop_ledger().await;
    rig.far.script([Then::Refuse(429, "{\"slow\":1}".to_owned())]);
    let answer = rig.call(&order()).await;
    assert_eq!((answer.status, answer.body.as_str()), (429, "{\"slow\":1}"));
    assert_eq!(rig.far.received().len(), 1);
}
