//! Semantics 6, 8 and 9: verdicts, retries, gates.

use kybernis_core::machine::{EffectState, GatePhase, GateVerdict};
use kybernis_rules::{Call, Rig, Then};

const APPROVAL: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: orders, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/orders}]}]
  class: SideEffect
  effect: {key: '"order:" + request.body.id', volatile: [/sent_at]}
---
apiVersion: kybernis.io/v1alpha1
kind: Policy
metadata: {name: desk, namespace: default}
spec:
  selector: {}
  rules:
  - name: large
    match: {tools: [orders]}
    when: 'request.body.qty * request.body.price > 1000'
    verdict: RequireApproval
    approval: {required: 2, class: desk-heads, expiresAfter: 1h, holdFor: 0s}
  - {name: metadata, match: {hosts: ["169.254.169.254"]}, verdict: Deny, reason: credentials are off limits}
  - {name: guarded, match: {hosts: ["FAR"]}, when: 'request.path == "/guarded" && request.body.missing > 1', verdict: Deny}
"#;

const RETRIES: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: orders, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/orders}]}]
  class: SideEffect
  effect: {key: '"order:" + request.body.id', upstreamKeyHeader: Idempotency-Key, upstreamKeyTtl: 24h}
---
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: refunds, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/refunds}]}]
  class: SideEffect
  effect: {key: '"refund:" + request.body.id', notExecutedStatuses: [503]}
---
apiVersion: kybernis.io/v1alpha1
kind: RetryPolicy
metadata: {name: far, namespace: default}
spec:
  match: {hosts: ["FAR"]}
  attempts: 3
  backoff: {base: 1ms, max: 5ms}
  "on": {statuses: [429, 502, 503], connectFailure: true, reset: true}
  honourRetryAfter: true
"#;

fn large() -> Call {
    Call::post("/v1/orders", r#"{"id":"a","qty":100,"price":190.5,"sent_at":"09:00"}"#)
}

#[tokio::test]
async fn an_approval_binds_its_bytes_and_is_consumed_once() {
    let rig = Rig::start(APPROVAL).await;
    let first = rig.call(&large()).await;
    assert_eq!((first.status, first.code().as_str()), (403, "approval_required"), "{}", first.body);
    assert_eq!(first.header("x-kyb-verdict"), Some("require_approval"));
    let gate = first.header("x-kyb-gate-id").unwrap().to_owned();
    let shown = &rig.gates().await[0];
    assert_eq!(shown.spec.summary, "id=a qty=100 price=190.5 (not bound: /sent_at)");
    assert_eq!((shown.spec.required, shown.spec.class.as_str()), (2, "desk-heads"));
    rig.say(&gate, "local:ada", GateVerdict::Approve).await;
    assert_eq!(rig.call(&large()).await.code(), "approval_required", "one of two people is not enough");
    rig.say(&gate, "local:bob", GateVerdict::Approve).await;
    let changed = Call::post("/v1/orders", r#"{"id":"a","qty":101,"price":190.5}"#);
    let answer = rig.call(&changed).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_mismatch"), "{}", answer.body);
    assert_eq!(rig.far.received().len(), 0, "something left before it was approved");
    let later = Call::post("/v1/orders", r#"{"id":"a","qty":100,"price":190.5,"sent_at":"09:30"}"#);
    let approved = rig.call(&later).await;
    assert_eq!((approved.status, approved.header("x-kyb-gate-id")), (200, Some(gate.as_str())), "{}", approved.body);
    assert_eq!(rig.far.executed(), 1);
    let gate = rig.gates().await.into_iter().find(|known| known.spec.gate.as_str() == gate).unwrap();
    assert_eq!(gate.phase, GatePhase::Consumed);
}

#[tokio::test]
async fn one_denial_denies() {
    let rig = Rig::start(APPROVAL).await;
    let gate = rig.call(&large()).await.header("x-kyb-gate-id").unwrap().to_owned();
    rig.say(&gate, "local:ada", GateVerdict::Deny).await;
    let answer = rig.call(&large()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_denied"), "{}", answer.body);
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn an_approval_is_given_back_where_nothing_was_done() {
    let manifests = APPROVAL.replace("volatile: [/sent_at]", "volatile: [/sent_at], notExecutedStatuses: [503]");
    let rig = Rig::start(&manifests).await;
    let gate = rig.call(&large()).await.header("x-kyb-gate-id").unwrap().to_owned();
    rig.say(&gate, "local:ada", GateVerdict::Approve).await;
    rig.say(&gate, "local:bob", GateVerdict::Approve).await;
    rig.far.script([Then::Refuse(503, "{}".to_owned())]);
    assert_eq!(rig.call(&large()).await.status, 503);
    assert_eq!(rig.call(&large()).await.status, 200, "the approval was not given back");
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_call_is_held_for_its_approval_as_long_as_the_rule_says() {
    let manifests = APPROVAL.replace("required: 2", "required: 1").replace("holdFor: 0s", "holdFor: 30s");
    let rig = Rig::start(&manifests).await;
    let approve = async {
        let gate = loop {
            if let [gate] = rig.gates().await.as_slice() {
                break gate.spec.gate.clone();
            }
            tokio::task::yield_now().await;
        };
        rig.say(gate.as_str(), "local:ada", GateVerdict::Approve).await;
    };
    let (answer, ()) = {
        let call = large();
        tokio::join!(rig.call(&call), approve)
    };
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_call_is_held_for_one_gate_and_told_of_the_next_when_that_has_run_out() {
    let manifests = APPROVAL.replace("expiresAfter: 1h", "expiresAfter: 1s").replace("holdFor: 0s", "holdFor: 10m");
    let rig = Rig::start(&manifests).await;
    let answer = rig.call(&large()).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    let gates: Vec<String> = rig.gates().await.iter().map(|gate| gate.spec.gate.to_string()).collect();
    // One for each round of asking, and one for whoever calls again.
    assert!(gates.len() <= 3 && gates.iter().any(|gate| Some(gate.as_str()) == answer.header("x-kyb-gate-id")), "{gates:?}");
    assert_eq!(rig.far.executed(), 0);
}

#[tokio::test]
async fn a_denied_call_names_its_rule_and_nothing_leaves() {
    let rig = Rig::start(APPROVAL).await;
    let mut connection = kybernis_rules::caller::Connection::open(rig.proxy, "169.254.169.254:80".parse().unwrap()).await;
    let answer = connection.call(&Call::get("/latest/meta-data")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"), "{}", answer.body);
    assert_eq!(answer.header("x-kyb-policy-id"), Some("default/metadata"));
    assert!(answer.json()["detail"].as_str().unwrap().contains("credentials are off limits"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    while rig.tally("run-implicit").await.refused < 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_expression_that_errs_refuses_the_call_by_name() {
    let rig = Rig::start(APPROVAL).await;
    let answer = rig.call(&Call::post("/guarded", "{}")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_error"), "{}", answer.body);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("guarded") && detail.contains("has()"), "{detail}");
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn a_dispatched_effect_is_retried_only_where_the_far_side_knows_our_key() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::ExecuteAndClose, Then::Refuse(503, String::new()), Then::Answer(200, r#"{"order":"one"}"#.to_owned())]);
    let answer = rig.call(&Call::post("/v1/orders", r#"{"id":"a"}"#)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"order":"one"}"#), "{answer:?}");
    let keys: Vec<_> = rig.far.received().iter().map(|one| one.header("idempotency-key").map(str::to_owned)).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "the far side saw different keys: {keys:?}");
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::ExecuteAndClose]);
    assert_eq!(rig.call(&Call::post("/v1/refunds", r#"{"id":"a"}"#)).await.status, 423, "a dispatched effect was tried again");
    assert_eq!(rig.far.received().len(), 1);
}

#[tokio::test]
async fn a_refusal_on_a_retry_is_no_proof_about_the_first_try() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::ExecuteAndClose, Then::Refuse(400, "{}".to_owned())]);
    let answer = rig.call(&Call::post("/v1/orders", r#"{"id":"a"}"#)).await;
    assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{}", answer.body);
    assert!(matches!(rig.effect().await.state, EffectState::InDoubt { .. }), "the key came free after a try that was executed");
}

#[tokio::test]
async fn a_status_that_promises_nothing_was_done_is_tried_again_under_a_new_decision() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::Refuse(503, String::new()), Then::Answer(200, "{}".to_owned())]);
    let answer = rig.call(&Call::post("/v1/refunds", r#"{"id":"a"}"#)).await;
    assert_eq!((answer.status, answer.header("x-kyb-attempt")), (200, Some("2")), "{answer:?}");
    assert_eq!(rig.effect().await.fence.get(), 2);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn x_kyb_retry_0_switches_retries_off() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::Refuse(503, String::new())]);
    assert_eq!(rig.call(&Call::post("/v1/refunds", r#"{"id":"a"}"#).header("x-kyb-retry", "0")).await.status, 503);
    assert_eq!(rig.far.received().len(), 1);
}

#[tokio::test]
async fn attempts_count_the_first_and_reads_are_retried() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script(std::iter::repeat_n(Then::Refuse(503, "{}".to_owned()), 5));
    assert_eq!(rig.call(&Call::get("/v1/quotes")).await.status, 503);
    assert_eq!(rig.far.received().len(), 3);
}

#[tokio::test]
async fn retries_that_are_used_up_leave_the_effect_in_doubt() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script(std::iter::repeat_n(Then::ExecuteAndClose, 5));
    let answer = rig.call(&Call::post("/v1/orders", r#"{"id":"a"}"#)).await;
    assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"));
    assert_eq!(rig.far.received().len(), 3);
}

#[tokio::test]
async fn the_tool_s_outcome_knows_better_than_the_status() {
    let manifests = APPROVAL
        .replace("volatile: [/sent_at]", r#"outcome: 'response.status == 200 && response.body.rejected == true ? "Rejected" : "Default"'"#);
    let rig = Rig::start(&manifests).await;
    rig.far.script([Then::Refuse(200, r#"{"rejected":true}"#.to_owned()), Then::Answer(200, r#"{"rejected":false}"#.to_owned())]);
    let small = Call::post("/v1/orders", r#"{"id":"a","qty":1,"price":1.0}"#);
    assert_eq!(rig.call(&small).await.body, r#"{"rejected":true}"#);
    assert_eq!(rig.call(&small).await.body, r#"{"rejected":false}"#, "a declined order was replayed");
    assert_eq!(rig.far.executed(), 1);
    let other = Call::post("/v1/orders", r#"{"id":"b","qty":1,"price":1.0}"#);
    rig.far.script([Then::Answer(200, "not json".to_owned())]);
    assert_eq!(rig.call(&other).await.status, 423, "an outcome that errs means in doubt");
}

#[tokio::test]
async fn the_declared_probe_settles_a_doubt() {
    let probe = r#", probe: {url: '"http://FAR/v1/orders?id=" + request.body.id', method: GET, executedWhen: 'response.status == 200 && size(response.body.orders) > 0', notExecutedWhen: 'response.status == 200 && size(response.body.orders) == 0', initialDelay: 0s, interval: 100ms, giveUpAfter: 10m}"#;
    let manifests = APPROVAL.replace("volatile: [/sent_at]", &format!("volatile: [/sent_at]{probe}"));
    let rig = Rig::start(&manifests).await;
    rig.far.script([Then::ExecuteAndClose, Then::Answer(500, String::new()), Then::Answer(200, r#"{"orders":[1]}"#.to_owned())]);
    let small = Call::post("/v1/orders", r#"{"id":"a","qty":1,"price":1.0}"#);
    let first = rig.call(&small).await;
    assert_eq!((first.status, first.code().as_str()), (423, "effect_in_doubt"));
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    assert!(rig.gates().await.is_empty(), "a person was asked although the probe answered");
    assert_eq!(rig.call(&small).await.code(), "replay_unavailable");
    let probes = rig.far.received().iter().filter(|one| one.line == "GET /v1/orders?id=a").count();
    assert_eq!(probes, 2);
}

#[tokio::test]
async fn a_run_belongs_to_the_agent_that_used_it_first() {
    let mut rig = Rig::start("").await;
    let named = |call: Call| call.header("x-kyb-run-id", "run-of-ada");
    assert_eq!(rig.call(&named(Call::get("/quotes"))).await.status, 200);
    rig.stop_sidecar().await;
    rig.start_sidecar_of("another-agent", None).await;
    for call in [named(Call::get("/quotes")), named(Call::post("/orders", "{}"))] {
        let answer = rig.call(&call).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "run_foreign"), "{}", answer.body);
    }
    assert_eq!(rig.far.received().len(), 1, "a stranger acted in somebody's run");
}

#[tokio::test]
async fn retries_stop_before_the_far_side_forgets_the_key() {
    let rig = Rig::start(&RETRIES.replace("upstreamKeyTtl: 24h", "upstreamKeyTtl: 1s")).await;
    rig.far.script([Then::AnswerWith(503, "retry-after: 2\r\n".to_owned(), String::new())]);
    let answer = rig.call(&Call::post("/v1/orders", r#"{"id":"a"}"#)).await;
    assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{}", answer.body);
    assert_eq!(rig.far.received().len(), 1, "a try went out after the far side may have forgotten the key");
}

#[tokio::test]
async fn where_outcome_is_silent_grpc_s_own_status_counts() {
    let tool = r#"effect: {outcome: 'has(response.body) && response.body == "x" ? "Completed" : "Default"'}"#;
    let rig = Rig::start(&format!(
        "apiVersion: kybernis.io/v1alpha1\nkind: ToolRegistration\nmetadata: {{name: pay, namespace: default}}\nspec:\n  match: [{{hosts: [\"FAR\"], methods: [POST]}}]\n  class: SideEffect\n  {tool}\n"
    ))
    .await;
    rig.far.script([Then::AnswerWith(200, "grpc-status: 13\r\n".to_owned(), String::new())]);
    rig.call(&Call::post("/pay.Service/Charge", "").header("te", "trailers").grpc()).await;
    assert!(matches!(rig.effect().await.state, EffectState::InDoubt { .. }), "{:?}", rig.effect().await.state);
}

#[tokio::test]
async fn a_key_in_any_script_names_an_effect() {
    let rig = Rig::start(APPROVAL).await;
    let call = Call::post("/v1/orders", r#"{"id":"返金返金返金返金","qty":1,"price":1}"#);
    assert_eq!(rig.call(&call).await.status, 200);
    assert_eq!(rig.call(&call).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn the_far_side_s_key_is_not_the_caller_s_to_take_off() {
    let rig = Rig::start(RETRIES).await;
    rig.far.script([Then::ExecuteAndReset, Then::Answer(200, "{}".to_owned())]);
    let call = Call::post("/v1/orders", r#"{"id":"a"}"#).header("connection", "keep-alive, Idempotency-Key");
    assert_eq!(rig.call(&call).await.status, 200);
    let received = rig.far.received();
    let keys: Vec<_> = received.iter().map(|one| one.header("idempotency-key")).collect();
    assert!(keys[0].is_some() && keys[0] == keys[1], "a retry went out without the key: {keys:?}");
}
