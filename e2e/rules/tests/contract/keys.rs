//! Semantics 4: what names an effect, most specific first, and what a repeat meets.

use kybernis_core::machine::{EffectState, GateVerdict, KeyLevel};
use kybernis_rules::{Call, Rig, Then};

const TOOL: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: orders, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/orders}]}]
  class: SideEffect
  effect:
    key: '"order:" + request.body.id'
    volatile: [/sent_at]
    principal: none
"#;

const BATCH: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: batch, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST]}]
  class: SideEffect
  effect: {key: 'request.body.ids'}
"#;

fn order(body: &str) -> Call {
    Call::post("/v1/orders", body)
}

#[tokio::test]
async fn the_tool_s_own_key_wins_over_a_fresh_uuid_on_every_retry() {
    let rig = Rig::start(TOOL).await;
    let first = rig.call(&order(r#"{"id":"a","qty":1}"#).header("idempotency-key", "uuid-1")).await;
    let second = rig.call(&order(r#"{"id":"a","qty":1}"#).header("idempotency-key", "uuid-2")).await;
    assert_eq!(rig.far.executed(), 1, "a fresh key made a second order");
    assert_eq!((second.status, &second.body), (200, &first.body));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(second.header("x-kyb-dedupe-of"), first.header("x-kyb-span-id"));
    assert_eq!(rig.effect().await.spec.level, KeyLevel::Tool);
}

#[tokio::test]
async fn an_error_or_an_empty_result_of_the_tool_s_key_is_400_and_never_the_next_level() {
    let rig = Rig::start(TOOL).await;
    for body in [r#"{"qty":1}"#, r#"{"id":null}"#, r#"{"id":7}"#, "not json"] {
        let answer = rig.call(&order(body).header("idempotency-key", "k")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "idempotency_key_invalid"), "{body}: {}", answer.body);
        assert!(answer.json()["detail"].as_str().unwrap().contains("effect.key"), "{}", answer.body);
    }
    assert_eq!(rig.far.received().len(), 0, "something was sent");
    assert!(rig.effects().await.is_empty(), "something was stored");
}

#[tokio::test]
async fn a_batch_is_claimed_all_or_none() {
    let rig = Rig::start(BATCH).await;
    assert_eq!(rig.call(&Call::post("/b", r#"{"ids":["a","b"]}"#)).await.status, 200);
    let overlapping = rig.call(&Call::post("/b", r#"{"ids":["b","c"]}"#)).await;
    assert_eq!(overlapping.status, 422, "{}", overlapping.body);
    // The refused batch claimed nothing.
    assert_eq!(rig.call(&Call::post("/b", r#"{"ids":["c"]}"#)).await.status, 200);
    let whole = rig.call(&Call::post("/b", r#"{"ids":["a","b"]}"#)).await;
    assert_eq!(whole.header("idempotent-replayed"), Some("true"));
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn the_caller_s_key_replays_in_either_spelling_and_the_far_side_never_sees_it() {
    let rig = Rig::start("").await;
    let first = rig.call(&order(r#"{"qty":1}"#).header("idempotency-key", "\"my-secret-key\"")).await;
    let second = rig.call(&order(r#"{"qty":1}"#).header("x-kyb-idempotency-key", "my-secret-key")).await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    assert_eq!(rig.far.executed(), 1, "the same key in another spelling made a second effect");
    let seen = &rig.far.received()[0];
    assert!(seen.headers.iter().all(|(_, value)| !value.contains("my-secret-key")), "{seen:?}");
    assert!(seen.header("idempotency-key").is_some_and(|key| key.starts_with("kyb-")), "{seen:?}");
    let ours = order(r#"{"qty":2}"#).header("x-kyb-idempotency-key", "another-key").header("x-kyb-mood", "good");
    assert_eq!(rig.call(&ours).await.status, 200);
    let received = rig.far.received();
    assert_eq!(received.len(), 2);
    for seen in received {
        assert!(seen.headers.iter().all(|(name, _)| !name.starts_with("x-kyb-")), "a control header left: {seen:?}");
    }
}

#[tokio::test]
async fn the_caller_s_key_is_scoped_to_method_origin_and_path() {
    let rig = Rig::start("").await;
    for call in [Call::post("/a", "{}"), Call::post("/b", "{}"), Call::post("/a", "{}").method("PUT")] {
        assert_eq!(rig.call(&call.header("idempotency-key", "k")).await.status, 200);
    }
    assert_eq!(rig.far.executed(), 3);
}

#[tokio::test]
async fn two_keys_that_disagree_are_400() {
    let rig = Rig::start("").await;
    let answer = rig.call(&order("{}").header("idempotency-key", "a").header("x-kyb-idempotency-key", "b")).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "idempotency_key_invalid"));
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn in_an_implicit_run_an_intended_repeat_after_a_delivered_answer_goes_through() {
    let rig = Rig::start("").await;
    for _ in 0..3 {
        assert_eq!(rig.call(&order(r#"{"qty":1}"#)).await.status, 200);
    }
    assert_eq!(rig.far.executed(), 3, "an intended repeat was taken for a retry");
}

#[tokio::test]
async fn on_one_connection_too_an_intended_repeat_goes_through() {
    let rig = Rig::start("").await;
    let mut connection = rig.connect().await;
    for _ in 0..3 {
        assert_eq!(connection.call(&order(r#"{"qty":1}"#)).await.status, 200);
    }
    assert_eq!(rig.far.executed(), 3);
}

#[tokio::test]
async fn in_an_implicit_run_a_repeat_while_the_first_is_in_flight_waits_and_gets_its_answer() {
    let rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, r#"{"order":"first"}"#.to_owned())]);
    let call = order(r#"{"qty":1}"#);
    let repeat = async {
        rig.far.arrived(1).await;
        let mut connection = rig.connect().await;
        let asked = connection.call(&call);
        tokio::pin!(asked);
        tokio::select! {
            answer = &mut asked => panic!("answered while the first was in flight: {answer:?}"),
            () = tokio::time::sleep(std::time::Duration::from_millis(100)) => rig.far.open(),
        }
        asked.await
    };
    let (first, second) = tokio::join!(rig.call(&call), repeat);
    assert_eq!(rig.far.executed(), 1, "a repeat in flight made a second effect");
    assert_eq!((first.body.as_str(), second.body.as_str()), (r#"{"order":"first"}"#, r#"{"order":"first"}"#));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn a_client_that_times_out_and_asks_again_gets_the_first_answer() {
    let rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, r#"{"order":"first"}"#.to_owned())]);
    let call = order(r#"{"qty":1}"#);
    rig.connect().await.call_and_leave(&call, rig.far.arrived(1)).await;
    rig.far.open();
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    let again = rig.call(&call).await;
    assert_eq!((again.status, again.body.as_str()), (200, r#"{"order":"first"}"#), "{again:?}");
    assert_eq!(rig.far.executed(), 1, "the retry of an unread answer made a second effect");
    // Now it has been read: a further one is meant.
    assert_eq!(rig.call(&call).await.header("idempotent-replayed"), None);
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn in_an_explicit_run_a_match_replays() {
    let rig = Rig::start("").await;
    let call = order(r#"{"qty":1}"#).header("x-kyb-run-id", "run-7");
    let first = rig.call(&call).await;
    let second = rig.call(&call).await;
    assert_eq!(rig.far.executed(), 1, "an explicit run let the same call go twice");
    assert_eq!(first.body, second.body);
    let other = order(r#"{"qty":1}"#).header("x-kyb-run-id", "run-8");
    assert_eq!(rig.call(&other).await.header("idempotent-replayed"), None);
    assert_eq!(rig.far.executed(), 2, "another run is another intention");
}

#[tokio::test]
async fn sending_back_one_s_own_run_changes_nothing() {
    let rig = Rig::start("").await;
    let call = order(r#"{"qty":1}"#).header("x-kyb-run-id", "run-implicit");
    rig.call(&call).await;
    rig.call(&call).await;
    assert_eq!(rig.far.executed(), 2, "an implicit run became explicit by being named");
}

#[tokio::test]
async fn a_canonical_body_counts_whatever_its_spelling() {
    let rig = Rig::start("").await;
    rig.far.script([Then::ExecuteAndClose]);
    assert_eq!(rig.call(&order(r#"{"qty":1,"price":2.50}"#)).await.status, 423);
    assert_eq!(rig.call(&order("{ \"price\": 2.5, \"qty\": 1 }")).await.status, 423, "another spelling of the same body was sent");
    assert_eq!(rig.far.executed(), 1);
    assert_eq!(rig.call(&order(r#"{"qty":2,"price":2.50}"#)).await.status, 200, "another body is another intention");
}

#[tokio::test]
async fn doubt_holds_under_a_fresh_key_none_and_another_run() {
    let rig = Rig::start("").await;
    rig.far.script([Then::ExecuteAndClose]);
    let body = r#"{"qty":1}"#;
    assert_eq!(rig.call(&order(body).header("idempotency-key", "first")).await.status, 423);
    for call in [
        order(body).header("idempotency-key", "fresh"),
        order(body),
        order(body).header("x-kyb-run-id", "another-run"),
        order(body).header("authorization", "Bearer somebody-else"),
    ] {
        let answer = rig.call(&call).await;
        assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{call:?}");
        assert!(answer.header("x-kyb-gate-id").is_some());
    }
    assert_eq!(rig.far.executed(), 1, "a doubt was escaped");
}

#[tokio::test]
async fn a_doubt_that_was_told_is_no_answer_that_was_read() {
    let rig = Rig::start("").await;
    rig.far.script([Then::ExecuteAndClose]);
    let mut connection = rig.connect().await;
    let doubt = connection.call(&order(r#"{"qty":1}"#)).await;
    assert_eq!(doubt.status, 423);
    rig.say(doubt.header("x-kyb-gate-id").unwrap(), "local:ada", GateVerdict::Executed).await;
    let again = connection.call(&order(r#"{"qty":1}"#)).await;
    assert_eq!((again.status, again.code().as_str()), (410, "replay_unavailable"), "{}", again.body);
    assert_eq!(rig.far.executed(), 1, "an order that a person knows of was placed again");
}

#[tokio::test]
async fn a_rollout_forgets_nothing() {
    let mut rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, r#"{"order":"first"}"#.to_owned())]);
    let call = order(r#"{"qty":1}"#);
    rig.connect().await.call_and_leave(&call, rig.far.arrived(1)).await;
    rig.far.open();
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    rig.stop_sidecar().await;
    rig.start_sidecar(None).await;
    let again = rig.call(&call.clone().header("x-kyb-run-id", "the-next-run")).await;
    assert_eq!(again.body, r#"{"order":"first"}"#, "the unread answer of a pod that is gone was forgotten");
    assert_eq!(rig.far.executed(), 1);
    // It has been read now, by whomever: the next one is meant.
    assert_eq!(rig.call(&call).await.header("idempotent-replayed"), None);
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn the_ledger_hears_of_a_caller_that_goes_while_its_call_is_under_way() {
    let rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, "{}".to_owned())]);
    rig.connect().await.call_and_leave(&order(r#"{"qty":1}"#), rig.far.arrived(1)).await;
    let began = std::time::Instant::now();
    while !rig.effect().await.caller_gone {
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "its successor would go out beside it");
        tokio::task::yield_now().await;
    }
    rig.far.open();
}

#[tokio::test]
async fn what_a_dead_pod_left_is_met_by_its_successor_at_once() {
    let mut rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, "{}".to_owned())]);
    let call = order(r#"{"qty":1}"#);
    rig.connect().await.call_and_leave(&call, rig.far.arrived(1)).await;
    rig.far.open();
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    // Nobody is left to say whose answer was read.
    rig.stop_ledger().await;
    rig.stop_sidecar().await;
    rig.start_ledger().await;
    rig.start_sidecar(Some("the-next-run")).await;
    let again = rig.call(&call).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn volatile_fields_make_no_other_order() {
    let rig = Rig::start(TOOL).await;
    rig.call(&order(r#"{"id":"a","qty":1,"sent_at":"09:00"}"#)).await;
    let second = rig.call(&order(r#"{"id":"a","qty":1,"sent_at":"09:01"}"#)).await;
    assert_eq!(second.header("idempotent-replayed"), Some("true"), "{}", second.body);
    let changed = rig.call(&order(r#"{"id":"a","qty":2}"#)).await;
    assert_eq!((changed.status, changed.code().as_str()), (422, "idempotency_key_reused"));
    assert!(!changed.body.contains("order\":1"), "the first answer was shown to another request");
}

#[tokio::test]
async fn another_principal_under_the_same_key_is_422() {
    let rig = Rig::start("").await;
    let call = |who: &str| order(r#"{"qty":1}"#).header("idempotency-key", "k").header("authorization", who);
    rig.call(&call("Bearer ada")).await;
    let other = rig.call(&call("Bearer bob")).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
    assert!(!other.body.contains("order\""), "{}", other.body);
}

#[tokio::test]
async fn policy_can_widen_derived_keys_and_turn_them_off() {
    let policy = |mode: &str| {
        format!(
            "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {{name: p, namespace: default}}\nspec:\n  selector: {{}}\n  derivedKeys: {{mode: {mode}, window: 10m}}\n"
        )
    };
    let rig = Rig::start(&policy("Replay")).await;
    rig.call(&order(r#"{"qty":1}"#)).await;
    assert_eq!(rig.call(&order(r#"{"qty":1}"#)).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(rig.far.executed(), 1);
    let rig = Rig::start(&policy("Off")).await;
    rig.far.script([Then::ExecuteAndClose]);
    rig.call(&order(r#"{"qty":1}"#)).await;
    assert_eq!(rig.call(&order(r#"{"qty":1}"#)).await.status, 200, "derived keys acted although they are off");
}
