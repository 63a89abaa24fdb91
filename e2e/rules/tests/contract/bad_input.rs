//! Every bad input has an answer that names the field and the rule; nothing is stored, nothing is sent.

use kybernis_core::ksp::{KspEvent, SpanStart, SpanType};
use kybernis_core::time::Timestamp;
use kybernis_proto::v1;
use kybernis_rules::control::framed;
use kybernis_rules::{Call, Rig};

#[tokio::test]
async fn control_headers_that_make_no_sense_are_refused_by_name() {
    let rig = Rig::start("").await;
    let long = "k".repeat(256);
    let check = async |name: &str, value: &str, code: &str, names: &str| {
        let answer = rig.call(&Call::post("/x", "{}").header(name, value)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{name}: {value:.20}: {}", answer.body);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(names), "{name}: {detail}");
    };
    check("x-kyb-run-id", "", "bad_control_header", "X-Kyb-Run-Id").await;
    check("x-kyb-run-id", "a b", "bad_control_header", "position 1").await;
    check("x-kyb-run-id", &long, "bad_control_header", "at most 128").await;
    check("x-kyb-parent-span-id", "{}", "bad_control_header", "X-Kyb-Parent-Span-Id").await;
    check("x-kyb-retry", "often", "bad_control_header", "X-Kyb-Retry").await;
    check("x-kyb-on", "maybe", "bad_control_header", "X-Kyb-On").await;
    check("x-kyb-ticket", "forged", "bad_control_header", "X-Kyb-Ticket").await;
    check("x-kyb-idempotency-key", &long, "idempotency_key_invalid", "at most 255").await;
    check("idempotency-key", "\"open", "idempotency_key_invalid", "RFC 8941").await;
    check("idempotency-key", "k\u{e9}", "idempotency_key_invalid", "visible ASCII").await;
    assert!(rig.effects().await.is_empty());
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn a_tool_that_is_not_registered_for_the_call_cannot_be_claimed() {
    let rig = Rig::start("").await;
    let answer = rig.call(&Call::post("/x", "{}").header("x-kyb-tool", "orders")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "tool_not_registered"), "{}", answer.body);
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn json_that_can_be_read_in_two_ways_is_refused() {
    let rig = Rig::start("").await;
    let answer = rig.call(&Call::post("/x", r#"{"qty":1,"qty":2}"#)).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_json"), "{}", answer.body);
    assert!(answer.json()["detail"].as_str().unwrap().contains("/qty"));
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn a_body_that_does_not_fit_its_schema_is_refused_with_the_pointer() {
    let rig = Rig::start(
        "apiVersion: kybernis.io/v1alpha1\nkind: ToolRegistration\nmetadata: {name: orders, namespace: default}\nspec:\n  match: [{hosts: [\"FAR\"], methods: [POST]}]\n  requestSchema: {type: object, required: [qty], properties: {qty: {type: integer, minimum: 1}}}\n",
    )
    .await;
    let answer = rig.call(&Call::post("/x", r#"{"qty":0}"#)).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "schema_mismatch"), "{}", answer.body);
    assert!(answer.json()["detail"].as_str().unwrap().contains("/qty"), "{}", answer.body);
    assert_eq!(rig.call(&Call::post("/x", "qty=1")).await.code(), "schema_mismatch");
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused_where_policy_must_read_it_and_streams_where_not() {
    let rig = Rig::start(
        "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec:\n  selector: {}\n  bodyBytes: 1024\n  rules:\n  - {name: sized, match: {methods: [POST]}, when: 'request.path == \"/x\" && request.body.qty > 1', verdict: Deny}\n",
    )
    .await;
    let body = format!("{{\"qty\":1,\"filler\":\"{}\"}}", "x".repeat(2000));
    let answer = rig.call(&Call::post("/x", &body)).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large_for_policy"), "{}", answer.body);
    assert_eq!(rig.far.received().len(), 0);
    let free = rig.call(&Call::post("/y", &body).method("PUT").header("idempotency-key", "big")).await;
    assert_eq!(free.status, 200, "{}", free.body);
    assert_eq!(rig.far.received()[0].body, body, "the body that streamed past was changed");
    // A same-key call is hashed, not sent: the same body replays, another is refused.
    let again = rig.call(&Call::post("/y", &body).method("PUT").header("idempotency-key", "big")).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.body);
    let other = rig.call(&Call::post("/y", &body.replace('1', "2")).method("PUT").header("idempotency-key", "big")).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"), "{}", other.body);
    assert_eq!(rig.far.received().len(), 1);
}

#[tokio::test]
async fn of_a_grpc_stream_that_is_cut_short_only_whole_messages_count() {
    let rig = Rig::start("").await;
    let batch = |seq: u64, span: &str| {
        let (run, id) = ("run-implicit".parse().unwrap(), span.parse().unwrap());
        let start = SpanStart::new(Timestamp::from_epoch_ms(1), run, id, SpanType::Http, "GET far/x");
        let spans = vec![serde_json::to_vec(&KspEvent::SpanStart(start)).unwrap().into()];
        framed(&v1::SpanBatch { boot: "boot-cut".to_owned(), first_seq: seq, spans })
    };
    let (whole, mut cut) = (batch(1, "span-whole"), batch(2, "span-cut"));
    cut.truncate(cut.len() - 1);
    rig.send_and_break("StreamSpans", &[whole, cut]).await;
    rig.send_and_break("Decide", &[vec![0, 0, 0, 1, 0, 10, 4]]).await;
    rig.noted("run-implicit", &["span-whole"]).await;
    assert!(!rig.has_noted("run-implicit", "span-cut").await, "half a message was taken for a whole one");
    assert_eq!(rig.call(&Call::post("/v1/orders", "{}")).await.status, 200, "the ledger does not go on");
    // The same bytes whole are taken, so nothing else was wrong with them.
    rig.send_and_break("StreamSpans", &[batch(1, "span-whole"), batch(2, "span-cut")]).await;
    rig.noted("run-implicit", &["span-cut"]).await;
}
