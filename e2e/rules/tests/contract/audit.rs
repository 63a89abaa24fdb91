//! Semantics 6: Audit mode records what would have been refused, changed or replayed, and alters nothing.

use kybernis_core::machine::EffectState;
use kybernis_rules::{Call, Rig, Then};

const AUDIT: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: orders, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/orders}]}]
  class: SideEffect
  effect: {key: '"order:" + request.body.id', upstreamKeyHeader: X-Order-Key, upstreamKeyTtl: 24h}
---
apiVersion: kybernis.io/v1alpha1
kind: RetryPolicy
metadata: {name: far, namespace: default}
spec: {match: {hosts: ["FAR"]}, attempts: 3, backoff: {base: 1ms, max: 5ms}, "on": {statuses: [503], reset: true}}
---
apiVersion: kybernis.io/v1alpha1
kind: Policy
metadata: {name: look, namespace: default}
spec: {selector: {}, mode: Audit, default: Deny}
"#;

fn order(id: &str) -> Call {
    Call::post("/v1/orders", &format!(r#"{{"id":"{id}"}}"#))
}

#[tokio::test]
async fn audit_replays_nothing_and_says_what_it_would_have() {
    let rig = Rig::start(AUDIT).await;
    let (first, again) = (rig.call(&order("a")).await, rig.call(&order("a")).await);
    assert_eq!((first.status, again.status), (200, 200));
    assert_ne!(first.body, again.body, "the second is the far side's own");
    assert_eq!(again.header("idempotent-replayed"), None);
    assert_eq!(rig.far.executed(), 2, "audit altered what the far side executed");
    rig.noted("run-implicit", &["deny by default/look", "replay: the answer of span"]).await;
}

#[tokio::test]
async fn audit_shows_the_far_side_s_answer_and_retries_nothing() {
    let rig = Rig::start(AUDIT).await;
    rig.far.script([
        Then::AnswerWith(503, "retry-after: 0\r\n".to_owned(), r#"{"late":true}"#.to_owned()),
        Then::AnswerWith(307, "location: /v1/elsewhere\r\n".to_owned(), "{}".to_owned()),
        Then::Half(r#"{"order":12345678}"#.to_owned()),
        Then::ExecuteAndClose,
    ]);
    let unclear = rig.call(&order("a")).await;
    assert_eq!((unclear.status, unclear.body.as_str()), (503, r#"{"late":true}"#), "a doubt is the caller's to see as it came");
    rig.until(|state| matches!(state, EffectState::InDoubt { status: Some(503), .. })).await;
    let moved = rig.call(&order("a")).await;
    assert_eq!((moved.status, moved.header("location")), (307, Some("/v1/elsewhere")), "{}", moved.body);
    let half = rig.call(&order("b")).await;
    assert_eq!((half.status, half.broken), (200, true));
    assert_eq!(rig.call(&order("c")).await.status, 502);
    assert_eq!(rig.far.received().len(), 4, "audit sent something again");
    rig.noted("run-implicit", &["refuse: effect_in_doubt"]).await;
}

#[tokio::test]
async fn audit_sends_the_request_as_it_came() {
    let rig = Rig::start(AUDIT).await;
    let keyed = order("a").header("idempotency-key", "the-caller-s-own");
    assert_eq!(rig.call(&keyed).await.status, 200);
    let twice = Call::post("/v1/orders", r#"{"id":"a","id":"b"}"#).header("x-kyb-tool", "another").header("x-kyb-run-id", "run-7");
    assert_eq!(rig.call(&twice).await.status, 200);
    let nameless = Call::post("/v1/orders", "{}").header("x-kyb-idempotency-key", "");
    assert_eq!(rig.call(&nameless).await.status, 200);
    let received = rig.far.received();
    assert_eq!(received.iter().map(|one| one.body.as_str()).collect::<Vec<_>>(), [r#"{"id":"a"}"#, r#"{"id":"a","id":"b"}"#, "{}"]);
    assert_eq!((received[0].header("idempotency-key"), received[0].header("x-order-key")), (Some("the-caller-s-own"), None));
    assert!(received[1].headers.iter().all(|(name, _)| !name.starts_with("x-kyb-")), "{received:?}");
    rig.noted("run-7", &["tool_not_registered", "ambiguous_json"]).await;
    rig.noted("run-implicit", &["X-Kyb-Idempotency-Key is empty", "The call names no effect"]).await;
}

#[tokio::test]
async fn audit_needs_no_ledger() {
    let mut rig = Rig::start(AUDIT).await;
    rig.stop_ledger().await;
    assert_eq!(rig.call(&order("a")).await.status, 200);
    assert_eq!(rig.far.executed(), 1);
    rig.start_ledger().await;
    // The question was asked beside the exchange, and what became of it is settled under its grant.
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
}

#[tokio::test]
async fn audit_shows_an_answer_that_ends_with_its_connection() {
    let rig = Rig::start(AUDIT).await;
    rig.far.script([Then::Raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"order\":1}".to_owned())]);
    let answer = rig.call(&order("a")).await;
    assert_eq!((answer.status, answer.body.as_str(), answer.broken), (200, r#"{"order":1}"#, false));
    rig.until(|state| matches!(state, EffectState::InDoubt { .. })).await;
}

#[tokio::test]
async fn audit_judges_a_conflict_by_the_key_that_was_sent() {
    let rig = Rig::start(AUDIT).await;
    rig.far.script([Then::Refuse(409, "{}".to_owned())]);
    assert_eq!(rig.call(&order("a")).await.status, 409);
    rig.until(|state| matches!(state, EffectState::Rejected { status: 409 })).await;
}

#[tokio::test]
async fn what_audit_recorded_counts_once_the_policies_are_enforced() {
    let rig = Rig::start(AUDIT).await;
    rig.far.script([Then::Answer(503, "{}".to_owned())]);
    assert_eq!(rig.call(&order("a")).await.status, 503);
    rig.until(|state| matches!(state, EffectState::InDoubt { .. })).await;
    rig.change_policy(&AUDIT.replace("mode: Audit, default: Deny", "mode: Enforce"));
    let refused = rig.call(&order("a")).await;
    assert_eq!((refused.status, refused.code().as_str()), (423, "effect_in_doubt"), "{}", refused.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn one_policy_that_is_enforced_enforces_the_contract() {
    let enforced =
        "\n---\napiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: held, namespace: default}\nspec: {selector: {}}\n";
    let rig = Rig::start(&format!("{AUDIT}{enforced}")).await;
    let (first, again) = (rig.call(&order("a")).await, rig.call(&order("a")).await);
    assert_eq!((first.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(rig.far.executed(), 1);
}
