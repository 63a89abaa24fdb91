//! Semantics 3 and 5 over TLS and HTTP/2, through the whole stack.

use kybernis_core::machine::EffectState;
use kybernis_rules::{Call, FarTls, Rig, Stream};

async fn rig() -> (Rig, FarTls) {
    let far = FarTls::start().await.unwrap();
    (Rig::start_trusting("", vec![far.ca().to_owned()]).await, far)
}

fn order(far: &FarTls) -> Call {
    Call::post(&far.url("/v1/orders"), r#"{"qty":1}"#).header("idempotency-key", "k").header("te", "trailers")
}

#[tokio::test]
async fn over_http2_an_answer_is_replayed_with_its_trailers() {
    let (rig, far) = rig().await;
    far.script([Stream::Answer(r#"{"order":1}"#)]);
    let (first, again) = (rig.call(&order(&far)).await, rig.call(&order(&far)).await);
    assert_eq!((first.status, first.body.as_str()), (200, r#"{"order":1}"#), "{first:?}");
    assert_eq!((again.status, &again.body, again.header("idempotent-replayed")), (200, &first.body, Some("true")));
    assert_eq!((&first.trailers, first.trailers.get("x-checksum").is_some()), (&again.trailers, true));
    assert_eq!(far.executed(), 1);
}

#[tokio::test]
async fn over_http2_an_announced_empty_answer_is_withheld_until_the_stream_ends() {
    let (rig, far) = rig().await;
    far.script([Stream::EmptyThenReset]);
    let answer = rig.call(&order(&far)).await;
    assert_eq!((answer.status, answer.code().as_str()), (423, "effect_in_doubt"), "{answer:?}");
    rig.until(|state| matches!(state, EffectState::InDoubt { status: Some(200), .. })).await;
    assert_eq!(rig.call(&order(&far)).await.status, 423);
    assert_eq!(far.executed(), 1);
}

#[tokio::test]
async fn over_http2_a_refused_stream_is_proof_that_nothing_was_sent() {
    let (rig, far) = rig().await;
    far.script([Stream::Refused]);
    let unsent = rig.call(&order(&far)).await;
    assert_eq!((unsent.status, unsent.code().as_str()), (502, "upstream_unreachable"), "{unsent:?}");
    rig.until(|state| matches!(state, EffectState::NotSent { .. })).await;
    assert_eq!(rig.call(&order(&far)).await.status, 200);
    assert_eq!(far.executed(), 1);
}
