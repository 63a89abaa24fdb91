//! Semantics 5: the effect's life, and what a second call is answered.

use kybernis_core::machine::{DoubtCause, EffectState, GateKind, GateVerdict, SettledBy};
use kybernis_rules::{Call, Rig, Then};

fn order() -> Call {
    Call::post("/v1/orders", r#"{"qty":1}"#).header("idempotency-key", "k")
}

fn text(body: &str) -> String {
    body.to_owned()
}

#[tokio::test]
async fn statuses_that_say_done_complete_and_replay() {
    for status in [200, 201, 202, 301, 302, 303] {
        let rig = Rig::start("").await;
        rig.far.script([Then::AnswerWith(
            status,
            text("location: /elsewhere\r\nx-made: yes\r\nset-cookie: s=1\r\n"),
            text(r#"{"id":"ord-9"}"#),
        )]);
        let first = rig.call(&order()).await;
        assert_eq!((first.status, first.body.as_str()), (status, r#"{"id":"ord-9"}"#));
        assert_eq!(first.header("set-cookie"), Some("s=1"));
        let second = rig.call(&order()).await;
        assert_eq!((second.status, second.body.as_str()), (status, r#"{"id":"ord-9"}"#));
        assert_eq!(
            (second.header("x-made"), second.header("location"), second.header("content-type")),
            (Some("yes"), Some("/elsewhere"), Some("application/json"))
        );
        assert_eq!(second.header("set-cookie"), None, "a cookie was replayed");
        assert_eq!(second.header("idempotent-replayed"), Some("true"));
        assert_eq!(rig.far.executed(), 1, "{status}");
    }
}

#[tokio::test]
async fn statuses_that_say_refused_free_the_key_and_replay_nothing() {
    for status in [400, 401, 403, 404, 410, 422, 429] {
        let rig = Rig::start("").await;
        rig.far.script([Then::Refuse(status, text(r#"{"no":1}"#))]);
        let first = rig.call(&order()).await;
        assert_eq!((first.status, first.body.as_str()), (status, r#"{"no":1}"#), "a refusal is the far side's own answer");
        let second = rig.call(&order()).await;
        assert_eq!((second.status, second.header("idempotent-replayed")), (200, None), "{status}: {}", second.body);
        assert_eq!(rig.far.executed(), 1);
    }
}

#[tokio::test]
async fn statuses_that_say_neither_leave_the_effect_in_doubt() {
    for status in [300, 304, 408, 409, 500, 502, 503, 504, 600] {
        let rig = Rig::start("").await;
        rig.far.script([Then::Answer(status, text("")), Then::Answer(200, text("{}"))]);
        let first = rig.call(&order()).await;
        assert_eq!((first.status, first.code().as_str()), (423, "effect_in_doubt"), "{status}");
        assert_eq!(first.json()["upstream_status"], status);
        assert_eq!(first.header("x-should-retry"), Some("false"));
        assert_eq!(rig.call(&order()).await.status, 423, "a doubt was retried");
        assert_eq!(rig.far.received().len(), 1, "{status}");
        assert!(matches!(rig.effect().await.state, EffectState::InDoubt { cause: DoubtCause::Status, .. }));
    }
}

#[tokio::test]
async fn a_conflict_without_a_far_side_key_is_a_refusal() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Refuse(409, text("{}"))]);
    assert_eq!(rig.call(&Call::post("/x", "{}")).await.status, 409);
    assert_eq!(rig.call(&Call::post("/x", "{}")).await.status, 200);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_leaves_the_effect_in_doubt() {
    for then in [Then::ExecuteAndClose, Then::ExecuteAndReset, Then::Close] {
        let rig = Rig::start("").await;
        rig.far.script([then.clone()]);
        let answer = rig.call(&order()).await;
        assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{then:?}: {}", answer.body);
        let gates = rig.gates().await;
        assert_eq!(gates.len(), 1, "a person must be asked");
        assert_eq!(gates[0].spec.kind, GateKind::Resolution);
        assert_eq!(answer.header("x-kyb-gate-id"), Some(gates[0].spec.gate.as_str()));
    }
}

#[tokio::test]
async fn a_body_cut_short_is_never_completed() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Half(text(r#"{"order":"a long enough body"}"#))]);
    let answer = rig.call(&order()).await;
    assert!(answer.broken, "half a body was passed off as whole: {answer:?}");
    let effect = rig.until(|state| matches!(state, EffectState::InDoubt { .. })).await;
    assert!(matches!(effect.state, EffectState::InDoubt { cause: DoubtCause::Truncated, status: Some(200), .. }), "{effect:?}");
    assert_eq!(rig.call(&order()).await.status, 423);
}

#[tokio::test]
async fn a_body_that_breaks_along_with_its_head_is_told_as_a_doubt() {
    let rig = Rig::start("").await;
    let no_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nno number\r\n";
    rig.far.script([Then::Raw(text(no_chunk))]);
    let answer = rig.call(&order()).await;
    assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{}", answer.body);
    let effect = rig.effect().await;
    assert!(matches!(effect.state, EffectState::InDoubt { cause: DoubtCause::Truncated, status: Some(200), .. }), "{effect:?}");
    assert_eq!(answer.header("x-kyb-gate-id"), Some(rig.gates().await[0].spec.gate.as_str()));
}

#[tokio::test]
async fn a_body_delimited_by_close_in_the_clear_is_not_whole() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Raw(text("HTTP/1.1 200 OK\r\n\r\n{\"order\":1}"))]);
    assert!(rig.call(&order()).await.broken);
    rig.until(|state| matches!(state, EffectState::InDoubt { .. })).await;
}

/// Refuses connections for as long as it lives: bound, so that nothing else listens there, and not listening itself.
fn deaf() -> tokio::net::TcpSocket {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

#[tokio::test]
async fn proof_that_nothing_was_sent_frees_the_key() {
    let rig = Rig::start("").await;
    let nobody = deaf();
    let mut connection = kybernis_rules::caller::Connection::open(rig.proxy, nobody.local_addr().unwrap()).await;
    let answer = connection.call(&order()).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"), "{}", answer.body);
    assert!(matches!(rig.effect().await.state, EffectState::NotSent { by: SettledBy::Proof }));
    let again = connection.call(&order()).await;
    assert_eq!(again.status, 502, "the key is free, so it is tried again: {}", again.body);
}

#[tokio::test]
async fn a_person_settles_a_doubt_as_executed_and_repeats_are_told_so() {
    let rig = Rig::start("").await;
    rig.far.script([Then::ExecuteAndClose]);
    let gate = rig.call(&order()).await.header("x-kyb-gate-id").unwrap().to_owned();
    rig.say(&gate, "local:ada", GateVerdict::Executed).await;
    let again = rig.call(&order()).await;
    assert_eq!((again.status, again.code().as_str()), (410, "replay_unavailable"), "{}", again.body);
    assert!(again.json()["detail"].as_str().unwrap().contains("local:ada"));
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn a_person_settles_a_doubt_as_not_executed_and_the_next_call_goes_out() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Close]);
    let gate = rig.call(&order()).await.header("x-kyb-gate-id").unwrap().to_owned();
    rig.say(&gate, "local:ada", GateVerdict::NotExecuted).await;
    assert_eq!(rig.call(&order()).await.status, 200);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn the_caller_s_disconnect_cancels_nothing_after_dispatch() {
    let rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, text(r#"{"order":"first"}"#))]);
    rig.connect().await.call_and_leave(&order(), rig.far.arrived(1)).await;
    rig.far.open();
    rig.until(|state| matches!(state, EffectState::Completed { .. })).await;
    assert_eq!(rig.call(&order()).await.body, r#"{"order":"first"}"#);
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn in_flight_beyond_the_wait_is_409_with_retry_after() {
    let rig = Rig::start("").await;
    rig.far.script([Then::WhenOpened(200, text("{}"))]);
    let (call, other) = (order(), order());
    let second = async {
        rig.far.arrived(1).await;
        let began = std::time::Instant::now();
        let answer = rig.call(&other).await;
        rig.far.open();
        (answer, began.elapsed())
    };
    let (_, (answer, waited)) = tokio::join!(rig.call(&call), second);
    assert_eq!((answer.status, answer.code().as_str()), (409, "effect_in_flight"), "{}", answer.body);
    assert!(answer.header("retry-after").is_some() && answer.header("x-should-retry").is_none());
    assert!(waited >= std::time::Duration::from_secs(5), "it waited only {waited:?}");
    assert_eq!(rig.far.executed(), 1);
}

#[tokio::test]
async fn the_same_effect_goes_on_where_307_leads() {
    let rig = Rig::start("").await;
    rig.far.script([Then::AnswerWith(307, text("location: /v2/orders\r\n"), String::new()), Then::Answer(200, text("{}"))]);
    assert_eq!(rig.call(&order()).await.status, 200);
    let lines: Vec<String> = rig.far.received().into_iter().map(|one| one.line).collect();
    assert_eq!(lines, ["POST /v1/orders", "POST /v2/orders"]);
    assert_eq!(rig.effects().await.len(), 1, "a redirect became a second effect");
    assert_eq!(rig.call(&order()).await.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn credentials_stay_at_their_origin() {
    let rig = Rig::start("").await;
    let elsewhere = format!("location: http://localhost:{}/v2/orders\r\n", rig.far.address.port());
    rig.far.script([Then::AnswerWith(307, elsewhere, String::new()), Then::Answer(200, text("{}"))]);
    let secrets = ["authorization", "cookie", "x-api-key", "x-goog-api-key"];
    let call = secrets.iter().fold(order(), |call, name| call.header(name, "secret")).header("x-order", "kept");
    assert_eq!(rig.call(&call).await.status, 200);
    let received = rig.far.received();
    assert_eq!((received.len(), received[1].header("x-order")), (2, Some("kept")));
    for name in secrets {
        assert_eq!((received[0].header(name), received[1].header(name)), (Some("secret"), None), "{name}");
    }
}

#[tokio::test]
async fn a_redirect_that_policy_denies_is_not_followed() {
    let rig = Rig::start(
        "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec:\n  selector: {}\n  rules:\n  - {name: no-v2, match: {hosts: [\"FAR\"]}, when: 'request.path.startsWith(\"/v2\")', verdict: Deny}\n",
    )
    .await;
    rig.far.script([Then::AnswerWith(307, text("location: /v2/orders\r\n"), String::new())]);
    assert_eq!(rig.call(&order()).await.status, 307);
    assert_eq!(rig.far.received().len(), 1, "a denied redirect was followed");
}

#[tokio::test]
async fn a_long_body_is_replayed_byte_for_byte_and_beyond_the_bound_known_by_digest() {
    let rig = Rig::start("").await;
    let long: String = (0..1_000_000).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap())).collect();
    rig.far.script([Then::Answer(200, long.clone())]);
    assert!(rig.call(&order()).await.body == long);
    let again = rig.call(&order()).await;
    assert!(again.body == long, "the replay differs: {} bytes", again.body.len());
    let longer = "x".repeat(9 * 1024 * 1024);
    rig.far.script([Then::Answer(200, longer.clone())]);
    let call = Call::post("/big", "{}").header("idempotency-key", "big");
    assert!(rig.call(&call).await.body == longer);
    let again = rig.call(&call).await;
    assert_eq!((again.status, again.code().as_str()), (410, "replay_unavailable"));
    assert_eq!(again.json()["upstream_status"], 200);
    assert!(again.json()["detail"].as_str().unwrap().contains("sha256:"), "{}", again.body);
    assert_eq!(rig.far.executed(), 2);
}

#[tokio::test]
async fn what_was_sent_on_is_no_proof_that_nothing_was_sent() {
    let rig = Rig::start("").await;
    let closed = deaf();
    let location = format!("location: http://{}/elsewhere\r\n", closed.local_addr().unwrap());
    rig.far.script([Then::AnswerWith(307, location, text("{}"))]);
    let answer = rig.call(&order()).await;
    assert_eq!(answer.status, 307, "the far side's word stands where it leads nowhere: {}", answer.body);
    rig.until(|state| matches!(state, EffectState::Rejected { status: 307 })).await;
}
