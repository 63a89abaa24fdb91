//! Whether an answer was read to its end, by what the agent's connection shows.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::far::{answering, far_server, far_side, read_request};
use super::rig::{Rig, agent_tls, connected, exchange};
use crate::delivery::{Delivery, ReadToEnd};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(port: u16) -> String {
    format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")
}

fn delivery(rig: &Rig, index: usize) -> Delivery {
    rig.handler.deliveries.lock().unwrap()[index].clone()
}

async fn becomes(delivery: &Delivery, expect: ReadToEnd) {
    let settled = async {
        while delivery.read_to_end() != expect {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
}

#[tokio::test]
async fn an_answer_taken_by_an_agent_that_stays_is_read() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let mut agent = rig.connect().await;
    exchange(&mut agent, &get(far.port()), "ok").await;
    becomes(&delivery(&rig, 0), ReadToEnd::Yes).await;
    // A next request says so for good, whatever becomes of the connection.
    exchange(&mut agent, &get(far.port()), "ok").await;
    socket2::SockRef::from(&agent).set_linger(Some(Duration::ZERO)).unwrap();
    drop(agent);
    becomes(&delivery(&rig, 0), ReadToEnd::Yes).await;
    becomes(&delivery(&rig, 1), ReadToEnd::No).await;
}

#[tokio::test]
async fn a_fin_after_the_answer_confirms_it_for_good() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    for closing in ["", "Connection: close\r\n"] {
        let mut agent = rig.connect().await;
        let request = get(far.port()).replace("\r\n\r\n", &format!("\r\n{closing}\r\n"));
        exchange(&mut agent, &request, "ok").await;
        drop(agent);
        let last = rig.handler.deliveries.lock().unwrap().len() - 1;
        becomes(&delivery(&rig, last), ReadToEnd::Yes).await;
    }
}

#[tokio::test]
async fn an_agent_that_leaves_before_the_end_has_not_read_it() {
    let rig = Rig::start().await;
    let far = far_side(|_, mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        read_request(&mut stream).await.unwrap();
        let size = 64 * 1024 * 1024;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&vec![1; size]).await;
    })
    .await;
    let mut agent = rig.connect().await;
    exchange(&mut agent, &get(far.port()), "200 OK").await;
    assert_eq!(delivery(&rig, 0).read_to_end(), ReadToEnd::No);
    drop(agent);
    assert_eq!(delivery(&rig, 0).read_to_end(), ReadToEnd::No);
}

#[tokio::test]
async fn an_answer_that_lies_unread_when_the_agent_closes_was_not_read() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let mut agent = rig.connect().await;
    exchange(&mut agent, &get(far.port()), "HTTP/1.1").await;
    let mut second: TcpStream = rig.connect().await;
    // Never reads: its kernel has the answer, its program has not; closing resets.
    tokio::io::AsyncWriteExt::write_all(&mut second, get(far.port()).as_bytes()).await.unwrap();
    second.readable().await.unwrap();
    let all = OK.len() - 10;
    while second.peek(&mut vec![0; OK.len()]).await.unwrap() < all {}
    drop(second);
    becomes(&delivery(&rig, 1), ReadToEnd::No).await;
}

#[tokio::test]
async fn through_tls_and_http2_the_same_holds() {
    let rig = Rig::start().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(far_server(&[b"http/1.1"]));
    let far = far_side(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            use tokio::io::AsyncWriteExt as _;
            let mut tls = acceptor.accept(stream).await.unwrap();
            while read_request(&mut tls).await.is_ok() {
                tls.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let authority = format!("pay.test:{}", far.port());
    let stream = connected(&rig, &authority).await;
    let tls = agent_tls(&rig, stream, "pay.test", &[b"h2"]).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    let driver = tokio::spawn(connection);
    let uri = format!("https://{authority}/");
    let request = http::Request::get(uri).body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    becomes(&delivery(&rig, 0), ReadToEnd::Yes).await;
    drop((sender, body));
    let _ = driver.await;
    becomes(&delivery(&rig, 0), ReadToEnd::Yes).await;
}

#[tokio::test]
async fn reading_on_after_half_closing_counts() {
    let rig = Rig::start().await;
    let (far, _) = answering(OK).await;
    let mut agent = rig.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut agent, get(far.port()).as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut agent).await.unwrap();
    let mut answer = String::new();
    agent.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
}
