//! The forward proxy in plain text: absolute form, keep-alive, CONNECT to plain HTTP, and what is no proxy request.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::far::{answering, far_side, read_request};
use super::rig::{Rig, connected, exchange};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok";

#[tokio::test]
async fn absolute_form_goes_out_in_origin_form_on_a_connection_that_is_kept() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    let mut agent = rig.connect().await;
    for path in ["/a?x=1", "/b"] {
        let request = format!(
            "GET http://localhost:{port}{path} HTTP/1.1\r\nHost: localhost:{port}\r\nProxy-Connection: keep-alive\r\n\r\n",
            port = far.port()
        );
        let answer = exchange(&mut agent, &request, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("connection:"), "{answer}");
    }
    let got = got.lock().unwrap().clone();
    assert_eq!(got.len(), 2);
    assert!(got[0].starts_with("GET /a?x=1 HTTP/1.1\r\n"), "{}", got[0]);
    assert!(got[0].contains(&format!("host: localhost:{}\r\n", far.port())));
    assert!(!got[0].contains("proxy-connection"));
}

#[tokio::test]
async fn connect_to_plain_http_is_read_like_any_other() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    let mut agent = rig.connect().await;
    let authority = format!("localhost:{}", far.port());
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let opened = exchange(&mut agent, &connect, "\r\n\r\n").await;
    assert!(opened.starts_with("HTTP/1.1 200 "), "{opened}");
    let request = format!("GET /inside HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    assert!(exchange(&mut agent, &request, "ok").await.ends_with("ok"));
    assert!(got.lock().unwrap()[0].starts_with("GET /inside "));

    let elsewhere = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let answer = exchange(&mut agent, elsewhere, "}").await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert!(answer.contains("authority_mismatch"), "{answer}");
}

#[tokio::test]
async fn a_connection_counts_for_as_long_as_its_stream_lives() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let host = format!("localhost:{}", far.port());
    let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    rig.until_busy(0).await;

    let mut inside = connected(&rig, &host).await;
    assert!(exchange(&mut inside, &get, "ok").await.ends_with("ok"));
    assert_eq!(rig.listeners.busy(), 3, "a CONNECT is not counted");

    let upgrading = far_side(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let mut session = rig.connect().await;
    let upgrade = format!(
        "GET http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        p = upgrading.port()
    );
    assert!(exchange(&mut session, &upgrade, "hello").await.ends_with("hello"));
    assert_eq!(rig.listeners.busy(), 4, "a session is not counted");

    let (mut sender, connection) = h2::client::handshake(rig.connect().await).await.unwrap();
    tokio::spawn(connection);
    let (opened, mut stream) = sender.send_request(http::Request::connect(&host).body(()).unwrap(), false).unwrap();
    let mut answer = opened.await.unwrap().into_body();
    stream.send_data(get.into(), false).unwrap();
    assert!(answer.data().await.unwrap().unwrap().starts_with(b"HTTP/1.1 200 "));
    assert_eq!(rig.listeners.busy(), 6, "an HTTP/2 connection's CONNECT is not counted");

    drop((inside, session, sender, stream, answer));
    rig.until_busy(0).await;
}

#[tokio::test]
async fn connect_and_first_bytes_in_one_packet() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let mut agent = rig.connect().await;
    let authority = format!("localhost:{}", far.port());
    let eager = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\nGET / HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let answer = exchange(&mut agent, &eager, "ok").await;
    assert!(answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn requests_that_no_proxy_understands_are_400_and_say_why() {
    let rig = Rig::start().await;
    for (request, expect) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "absolute form"),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", "http or https"),
        ("GET http://a/x HTTP/1.1\r\nHost: b\r\n\r\n", "different hosts"),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("CONNECT a:0 HTTP/1.1\r\nHost: a:0\r\n\r\n", ""),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", "plain HTTP"),
    ] {
        let mut agent = rig.connect().await;
        let answer = exchange(&mut agent, request, "}").await;
        let status = if expect == "different hosts" { "421" } else { "400" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains(expect), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_asked_to_reach_itself_refuses() {
    let rig = Rig::start().await;
    let mut agent = rig.connect().await;
    let port = rig.proxy.port();
    let request = format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    let answer = exchange(&mut agent, &request, "opened").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn closing_lets_the_exchange_under_way_finish() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let mut agent = rig.connect().await;
    let request = format!("GET http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\n\r\n", p = far.port());
    assert!(exchange(&mut agent, &request, "ok").await.ends_with("ok"));
    rig.listeners.close().await;
    let mut rest = Vec::new();
    assert_eq!(agent.read_to_end(&mut rest).await.unwrap(), 0);
}
