//! Semantics 4: what names an effect, and what a repeat meets.

use kybernis_rules::{Call, Rig, Then};

#[tokio::test]
async fn an_order_goes_out_once_and_its_answer_comes_back() {
    let rig = Rig::start("").await;
    let answer = rig.call(&Call::post("/v1/orders", r#"{"qty":1}"#)).await;
    assert_eq!((answer.status, answer.body.as_str(), answer.broken), (200, r#"{"order":1}"#, false), "{answer:?}");
    assert_eq!(answer.header("x-kyb-verdict"), Some("allow"));
    assert_eq!(rig.far.executed(), 1);
    let _ = Then::Close;
}
