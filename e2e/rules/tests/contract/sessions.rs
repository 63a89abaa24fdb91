//! Semantics 3 and 12: sessions and streams pass as they come, are decided and recorded, and claim nothing.

use http_body_util::BodyExt as _;
use kybernis_rules::{Call, Rig, Then};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const APPROVAL: &str = "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec:\n  selector: {}\n  rules:\n  - {name: asked, match: {hosts: [\"FAR\"]}, verdict: RequireApproval, approval: {required: 1, class: heads, expiresAfter: 1h, holdFor: 0s}}\n";
const DENY: &str = "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec:\n  selector: {}\n  rules:\n  - {name: closed, match: {hosts: [\"FAR\"]}, verdict: Deny}\n";

async fn upgrade(rig: &Rig) -> String {
    let far = rig.far.address;
    let mut stream = TcpStream::connect(rig.proxy).await.unwrap();
    let head = format!("GET http://{far}/ws HTTP/1.1\r\nhost: {far}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let mut more = [0; 4096];
    loop {
        match tokio::time::timeout(kybernis_rules::rig::PATIENCE, stream.read(&mut more)).await.expect("nothing came") {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&more[..count]),
        }
        let so_far = String::from_utf8_lossy(&text);
        if so_far.ends_with("hello") || so_far.contains("problem+json") {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn an_upgrade_is_a_session_that_is_recorded_and_claims_nothing() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\nhello".to_owned())]);
    let text = upgrade(&rig).await;
    assert!(text.starts_with("HTTP/1.1 101") && text.ends_with("hello"), "{text}");
    assert!(text.to_ascii_lowercase().contains("x-kyb-verdict: allow"), "{text}");
    assert!(rig.effects().await.is_empty(), "a session was claimed");
    while rig.tally("run-implicit").await.calls < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_session_is_refused_where_an_approval_is_due() {
    let rig = Rig::start(APPROVAL).await;
    let text = upgrade(&rig).await;
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("session_refused"), "{text}");
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn events_of_a_read_pass_as_they_come() {
    let rig = Rig::start("").await;
    rig.far.script([Then::Chunks(vec!["data: one\n\n".to_owned(), "data: two\n\n".to_owned()])]);
    let mut connection = rig.connect().await;
    let mut response = connection.head_of(&Call::get("/events")).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for expect in ["data: one\n\n", "data: two\n\n"] {
        rig.far.open();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expect);
    }
    rig.far.open();
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn a_refusal_of_a_grpc_call_speaks_grpc() {
    let rig = Rig::start(DENY).await;
    let answer = rig.call(&Call::post("/pay.Service/Charge", "").header("te", "trailers").grpc()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("7")), "{answer:?}");
    assert!(answer.header("grpc-message").unwrap().starts_with("policy_denied: "));
    assert!(answer.header("grpc-status-details-bin").is_some());
    assert_eq!(rig.far.received().len(), 0);
}

#[tokio::test]
async fn a_post_that_offers_an_upgrade_is_an_effect() {
    let rig = Rig::start("").await;
    let far = rig.far.address;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(rig.proxy).await.unwrap();
        let head = format!(
            "POST http://{far}/v1/orders HTTP/1.1\r\nhost: {far}\r\nconnection: Upgrade, close\r\nupgrade: h2c\r\nidempotency-key: k\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(kybernis_rules::rig::PATIENCE, stream.read_to_string(&mut answer)).await.expect("nothing came").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(rig.effects().await.len(), 1, "an offer of an upgrade went past the decision");
    assert_eq!(rig.far.executed(), 1);
    assert_eq!(rig.far.received()[0].header("upgrade"), None, "the offer went out with an effect");
}

#[tokio::test]
async fn a_grpc_call_with_a_key_is_an_effect_however_slowly_it_ends() {
    let rig = Rig::start("").await;
    let far = rig.far.address;
    rig.far.script([Then::AnswerWith(200, "grpc-status: 0\r\n".to_owned(), String::new())]);
    let mut stream = TcpStream::connect(rig.proxy).await.unwrap();
    let head = format!(
        "POST http://{far}/pay.Service/Charge HTTP/1.1\r\nhost: {far}\r\ncontent-type: application/grpc\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\n\0\0\0\0\0\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Longer than a call without a key may take to end and still be taken for one message.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(kybernis_rules::rig::PATIENCE, stream.read_to_string(&mut answer)).await.expect("nothing came").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(rig.effects().await.len(), 1, "a call with a key became a session");
}
