//! Semantics 3: one decision, one commit; the end of the answer is withheld; reads pass.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kybernis_core::machine::EffectState;
use kybernis_rules::{Call, Rig, Then};

fn order() -> Call {
    Call::post("/v1/orders", r#"{"qty":1}"#).header("idempotency-key", "k")
}

#[tokio::test]
async fn the_end_of_the_answer_is_withheld_until_the_outcome_is_on_record() {
    let mut rig = Rig::start("").await;
    rig.far.script([Then::Chunks(vec!["one".to_owned(), "two".to_owned()])]);
    let mut connection = rig.connect().await;
    let mut response = connection.head_of(&order()).await;
    rig.far.open();
    let chunk = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(chunk, "one", "bytes pass as they come");
    rig.far.open();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    rig.stop_ledger().await;
    rig.far.open();
    // Without a ledger the outcome goes to the spool, which is a record too: the end comes after that.
    assert!(response.body_mut().frame().await.is_none());
    rig.start_ledger().await;
    let effect = rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    assert!(matches!(effect.state, EffectState::Completed { .. }));
    assert_eq!(rig.call(&order()).await.body, "onetwo");
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn without_a_ledger_no_side_effect_leaves_and_reads_go_on() {
    let mut rig = Rig::start("").await;
    rig.stop_ledger().await;
    let (quotes, order_again) = (Call::get("/v1/quotes"), order());
    let (read, effect) = tokio::join!(rig.call(&quotes), rig.call(&order_again));
    assert_eq!(read.status, 200);
    assert_eq!((effect.status, effect.code().as_str()), (503, "ledger_unavailable"), "{}", effect.body);
    assert!(effect.header("retry-after").is_some());
    assert_eq!(rig.far.received().iter().filter(|one| one.line.starts_with("POST")).count(), 0, "an effect left without a decision");
    rig.start_ledger().await;
    assert_eq!(rig.call(&order()).await.status, 200);
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn a_short_absence_of_the_ledger_only_delays() {
    let mut rig = Rig::start("").await;
    rig.stop_ledger().await;
    let proxy = rig.proxy;
    let far = rig.far.address;
    let calling = tokio::spawn(async move { kybernis_rules::caller::Connection::open(proxy, far).await.call(&order()).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.start_ledger().await;
    let answer = calling.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn the_ledger_restarts_and_remembers_every_effect() {
    let mut rig = Rig::start("").await;
    let first = rig.call(&order()).await;
    rig.stop_ledger().await;
    rig.start_ledger().await;
    let again = rig.call(&order()).await;
    assert_eq!((again.body, again.status), (first.body, 200));
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_stale_policy_is_judged_anew_before_anything_leaves() {
    let rig = Rig::start("").await;
    assert_eq!(rig.call(&order()).await.status, 200);
    rig.change_policy(
        "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec:\n  selector: {}\n  rules:\n  - {name: no-posts, match: {methods: [POST]}, verdict: Deny, reason: closed}\n",
    );
    let answer = rig.call(&Call::post("/other", "{}")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"), "{}", answer.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn reads_pass_without_a_claim_and_are_on_record() {
    let rig = Rig::start("").await;
    for _ in 0..2 {
        let answer = rig.call(&Call::get("/v1/quotes?symbol=AAPL")).await;
        assert_eq!((answer.status, answer.header("x-kyb-verdict")), (200, Some("allow")));
    }
    assert_eq!(rig.far.received().len(), 2);
    assert!(rig.effects().await.is_empty(), "a read was claimed");
    while rig.tally("run-implicit").await.calls < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_method_override_counts_as_the_method() {
    let rig = Rig::start("").await;
    let call = Call::get("/v1/orders/1").header("x-http-method-override", "DELETE").header("idempotency-key", "k");
    assert_eq!(rig.call(&call).await.status, 200);
    assert_eq!(rig.effects().await.len(), 1, "a hidden DELETE passed as a read");
}

#[tokio::test]
async fn a_far_side_cannot_speak_in_our_name() {
    let rig = Rig::start("").await;
    rig.far.script([Then::AnswerWith(200, "x-kyb-verdict: deny\r\nx-kyb-mood: good\r\n".to_owned(), "{}".to_owned())]);
    let answer = rig.call(&order()).await;
    assert_eq!((answer.header("x-kyb-verdict"), answer.header("x-kyb-mood")), (Some("allow"), None));
}

#[tokio::test]
async fn overrides_that_name_two_methods_are_refused() {
    let rig = Rig::start("").await;
    for (first, second) in [("x-http-method-override", "x-http-method"), ("x-http-method-override", "x-http-method-override")] {
        let call = Call::get("/v1/orders/7").header(first, "GET").header(second, "DELETE");
        let answer = rig.call(&call).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{}", answer.body);
        assert!(answer.json()["detail"].as_str().unwrap().contains("name one method"), "{}", answer.body);
    }
    assert_eq!(rig.far.received().len(), 0);
}
