//! Redirected connections: the original address and the names inside must agree, and what is not HTTP is tunnelled.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::far::{answering, echoing, far_side};
use super::rig::{Rig, agent_tls, connected, exchange};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn the_host_must_stand_for_the_original_address() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    let port = far.port();
    for (host, status) in [
        (format!("localhost:{port}"), "200"),
        (format!("pay.test:{port}"), "200"),
        ("pay.test".to_owned(), "200"),
        (far.to_string(), "200"),
        (format!("other.test:{port}"), "421"),
        (format!("unknown.test:{port}"), "421"),
        (format!("denied.test:{port}"), "403"),
        ("pay.test:1".to_owned(), "421"),
        ("127.0.0.2".to_owned(), "421"),
        ("a b".to_owned(), "400"),
    ] {
        let mut agent = rig.redirected(far).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(&mut agent, &request, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    assert_eq!(got.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn redirected_tls_is_terminated_for_its_server_name() {
    let rig = Rig::start().await;
    let (far, count) = echoing(&[b"http/1.1"]).await;
    let stream = rig.redirected(far).await;
    let mut tls = agent_tls(&rig, stream, "pay.test", &[]).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nHost: pay.test:{}\r\nConnection: close\r\n\r\n", far.port());
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("HTTP/1.1 GET /x "), "{answer}");
    assert_eq!(*count.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_connection_to_our_own_listener_is_refused() {
    let rig = Rig::start().await;
    for own in [rig.proxy, rig.redirect] {
        let mut agent = rig.redirected(own).await;
        let _ = agent.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut answer = Vec::new();
        let end = agent.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{end:?} {answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_tunnelled_byte_for_byte() {
    let rig = Rig::start().await;
    let far: SocketAddr = far_side(|_, mut stream| async move {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        stream.write_all(&bytes).await.unwrap();
    })
    .await;
    let mut agent = rig.redirected(far).await;
    agent.write_all(b"\0ping").await.unwrap();
    let mut answer = Vec::new();
    agent.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"gnip\0");
}

/// The far side would have taken these for requests. Each is read, whichever way it came and however it was cut.
#[tokio::test]
async fn a_request_of_any_spelling_is_read_or_refused_but_not_tunnelled() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    let head = format!("Host: localhost:{}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbuy", far.port());
    for (line, status) in [
        ("post /charge HTTP/1.1", "200"),
        ("Patch /charge HTTP/1.1", "200"),
        ("x-buy!it /charge HTTP/1.1", "200"),
        (" POST /charge HTTP/1.1", "400"),
        ("POST\t/charge HTTP/1.1", "400"),
        ("post /charge\tHTTP/1.1", "400"),
    ] {
        for cut in [0, 3] {
            for mut agent in [rig.redirected(far).await, connected(&rig, &format!("localhost:{}", far.port())).await] {
                let request = format!("{line}\r\n{head}");
                agent.write_all(&request.as_bytes()[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                let answer = exchange(&mut agent, &request[cut..], "").await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
            }
        }
    }
    assert_eq!(got.lock().unwrap().len(), 12);
    // Effects, all of them: none was taken for a read, and none passed as a tunnel.
    assert_eq!(rig.handler.deliveries.lock().unwrap().len(), 12);
    assert!(rig.handler.ends.lock().unwrap().is_empty());
}

#[tokio::test]
async fn words_without_a_newline_are_tunnelled_after_a_while() {
    let rig = Rig::start().await;
    let far: SocketAddr = far_side(|_, mut stream| async move {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ruok");
        stream.write_all(b"imok").await.unwrap();
    })
    .await;
    let mut agent = rig.redirected(far).await;
    agent.write_all(b"ruok").await.unwrap();
    rig.silence().await;
    let mut answer = Vec::new();
    agent.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"imok");
}
