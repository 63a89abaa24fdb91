//! What a broker does when nothing goes wrong.

use std::io::{Read as _, Write as _};

use crate::peer::{ORDER, Rig, answer, connect, curl, exchange, get, post};

fn say(rig: &Rig, request: &str) -> (String, serde_json::Value) {
    let mut stream = connect(rig.broker.http());
    stream.write_all(request.as_bytes()).unwrap();
    let (head, body) = answer(&mut stream);
    (head.split(' ').nth(1).unwrap().to_owned(), serde_json::from_str(&body).unwrap())
}

#[test]
fn without_authorization_nothing_happens_and_no_fault_is_spent() {
    let rig = Rig::with([kybernis_broker::Fault::new(kybernis_broker::Then::Drop)]);
    let request = post("/v1/orders", ORDER, "").replace("Authorization", "X-Other");
    assert_eq!(say(&rig, &request).0, "401");
    assert!(rig.executed().is_empty() && rig.fired() == 0);
}

#[test]
fn orders_are_found_by_the_clients_id_and_by_ours() {
    let rig = Rig::start();
    assert_eq!(say(&rig, &post("/v1/orders", ORDER, "")).0, "201");
    let (_, found) = say(&rig, &get("/v1/orders?client_order_id=c-1"));
    assert_eq!(found["orders"][0]["order_id"], "ord-1");
    assert_eq!(say(&rig, &get("/v1/orders?client_order_id=c-2")).1["orders"], serde_json::json!([]));
    assert_eq!(say(&rig, &get("/v1/orders/ord-1")).1["client_order_id"], "c-1");
    assert_eq!(say(&rig, &get("/v1/orders/ord-9")).0, "404");
}

#[test]
fn bad_orders_are_refused_and_not_executed() {
    let rig = Rig::start();
    for body in ["", "{", "{}", r#"{"client_order_id":"c","symbol":"A","side":"buy","qty":"5","price":1}"#] {
        assert_eq!(say(&rig, &post("/v1/orders", body, "")).0, "400", "{body}");
    }
    assert_eq!(say(&rig, &post("/v1/refunds", r#"{"payment_id":"p-1"}"#, "")).0, "400");
    assert_eq!(say(&rig, &post("/v1/nothing", "{}", "")).0, "404");
    assert_eq!(say(&rig, &post("/v1/quotes/AAPL", "{}", "")).0, "405");
    assert!(rig.executed().is_empty());
}

#[test]
fn refunds_are_executed() {
    let rig = Rig::start();
    assert_eq!(say(&rig, &post("/v1/refunds", r#"{"payment_id":"p-1","amount":100}"#, "")).0, "201");
    let executed = &rig.broker.executed()[0];
    assert_eq!((executed.subject.as_str(), executed.body["amount"].as_u64()), ("p-1", Some(100)));
}

#[test]
fn a_key_means_nothing_until_it_is_honoured() {
    let rig = Rig::start();
    let order = |key: &str, body: &str| post("/v1/orders", body, &format!("Idempotency-Key: {key}\r\n"));
    for _ in 0..2 {
        say(&rig, &order("k", ORDER));
    }
    assert_eq!(rig.executed().len(), 2);

    rig.broker.honour_keys(true);
    let first = say(&rig, &order("\"k-2\"", ORDER));
    assert_eq!(say(&rig, &order("k-2", ORDER)), first, "quoted or bare, it is the same key");
    assert_eq!(rig.executed().len(), 3);
    assert_eq!(rig.broker.executed()[2].idempotency_key.as_deref(), Some("k-2"));
    assert_eq!(say(&rig, &order("k-2", &ORDER.replace('5', "6"))).0, "422");
    assert_eq!(say(&rig, &order("k-3", ORDER)).0, "201");
    assert_eq!(rig.executed().len(), 4);
}

#[test]
fn a_key_remembers_an_order_whose_answer_was_lost() {
    let rig = Rig::with([kybernis_broker::Fault::new(kybernis_broker::Then::Drop).executing()]);
    rig.broker.honour_keys(true);
    let order = post("/v1/orders", ORDER, "Idempotency-Key: k\r\n");
    assert_eq!(exchange(rig.broker.http(), &order).0, "");
    assert_eq!(say(&rig, &order).1["order_id"], "ord-1");
    assert_eq!(rig.executed().len(), 1);
}

#[test]
fn events_come_one_after_the_other() {
    for http in ["--http1.1", "--http2"] {
        let rig = Rig::start();
        let out = curl(&rig.broker, "/v1/stream?events=3&interval_ms=1", &[http, "--no-buffer"]);
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(text, (1..=3).map(|n| format!("id: {n}\ndata: {{\"tick\":{n}}}\n\n")).collect::<String>(), "{http}");
    }
}

#[test]
fn what_is_sent_is_echoed() {
    let rig = Rig::start();
    let chunked = "PUT /v1/echo?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n";
    let (status, echoed) = say(&rig, chunked);
    assert_eq!(
        (status.as_str(), &echoed["method"], &echoed["body"], &echoed["query"]),
        ("200", &"PUT".into(), &"abcde".into(), &"a=b".into())
    );
    for http in ["--http1.1", "--http2"] {
        let long = "x".repeat(2 << 20);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &long).unwrap();
        // So long that curl waits for 100 Continue.
        let out = curl(&rig.broker, "/v1/echo", &[http, "--data-binary", &format!("@{}", file.path().display())]);
        let echoed: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(echoed["body"] == long.as_str(), "{http}");
    }
}

#[test]
fn a_websocket_echoes_until_it_is_closed() {
    let rig = Rig::start();
    let mut stream = connect(rig.broker.http());
    let handshake = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nAuthorization: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).unwrap();
    let mut head = vec![0; b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".len()];
    stream.read_exact(&mut head).unwrap();
    // The very example of RFC 6455, 1.3.
    assert!(String::from_utf8(head).unwrap().contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    // "Hello", masked, as in RFC 6455, 5.7; then a close.
    stream.write_all(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).unwrap();
    let mut echoed = [0; 7];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"\x81\x05Hello");
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
    let mut goodbye = Vec::new();
    stream.read_to_end(&mut goodbye).unwrap();
    assert_eq!(goodbye, [0x88, 0]);
}
