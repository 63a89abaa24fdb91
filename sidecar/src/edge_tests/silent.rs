//! Agents that connect and say nothing: who speaks first decides, and silence makes nothing unreadable.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::far::{answering, echoing, far_side};
use super::rig::{Rig, agent_tls, connected, exchange};
use crate::listen::{TunnelEnd, TunnelError};
use crate::session::Carried;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A connection to `far` in each way that leads to a place of its own.
async fn both_ways(rig: &Rig, far: std::net::SocketAddr) -> [TcpStream; 2] {
    [rig.redirected(far).await, connected(rig, &format!("localhost:{}", far.port())).await]
}

#[tokio::test]
async fn http_after_silence_is_read_like_any_other() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    for (nth, mut agent) in both_ways(&rig, far).await.into_iter().enumerate() {
        rig.silence().await;
        let request = format!("\r\nPOST /charge HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 3\r\n\r\nbuy", far.port());
        assert!(exchange(&mut agent, &request, "ok").await.ends_with("ok"));
        assert_eq!(rig.handler.deliveries.lock().unwrap().len(), nth + 1, "it passed unread");
        assert!(got.lock().unwrap()[nth].starts_with("POST /charge HTTP/1.1\r\n"));
    }
    assert!(rig.handler.ends.lock().unwrap().iter().all(|(_, end)| matches!(end, Ok(TunnelEnd::ReadAfterAll))));
}

#[tokio::test]
async fn tls_after_silence_is_terminated_like_any_other() {
    let rig = Rig::start().await;
    let (far, _) = echoing(&[b"http/1.1"]).await;
    for agent in both_ways(&rig, far).await {
        rig.silence().await;
        let mut tls = agent_tls(&rig, agent, "localhost", &[]).await.unwrap();
        let request = format!("GET /x HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n", far.port());
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("HTTP/1.1 GET /x "), "{answer}");
    }
    assert_eq!(rig.handler.deliveries.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn empty_lines_before_a_request_do_not_hide_it() {
    let rig = Rig::start().await;
    let (far, got) = answering(OK).await;
    for (nth, mut agent) in both_ways(&rig, far).await.into_iter().enumerate() {
        let request = format!("\r\n\r\nPOST /charge HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 3\r\n\r\nbuy", far.port());
        assert!(exchange(&mut agent, &request, "ok").await.ends_with("ok"));
        assert_eq!(rig.handler.deliveries.lock().unwrap().len(), nth + 1, "it passed unread");
    }
    // What the head check does not forgive is refused, and not carried either.
    let mut agent = rig.redirected(far).await;
    let answer = exchange(&mut agent, "\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n", "}").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(got.lock().unwrap().len(), 2);
}

/// A far side that speaks first, and what it was told.
async fn greeting() -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let far = far_side(move |_, mut stream| {
        let log = Arc::clone(&log);
        async move {
            stream.write_all(b"220 mail\r\n").await.unwrap();
            let mut bytes = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                log.lock().unwrap().extend_from_slice(&bytes[..read]);
                stream.write_all(b"250 ok\r\n").await.unwrap();
            }
        }
    })
    .await;
    (far, told)
}

#[tokio::test]
async fn a_far_side_that_speaks_first_is_heard_and_answered() {
    let rig = Rig::start().await;
    let (far, told) = greeting().await;
    for mut agent in both_ways(&rig, far).await {
        rig.silence().await;
        assert_eq!(exchange(&mut agent, "", "mail\r\n").await, "220 mail\r\n");
        assert_eq!(exchange(&mut agent, "EHLO me\r\n", "ok\r\n").await, "250 ok\r\n");
        // From here on it is nobody's to read: a STARTTLS would follow.
        assert_eq!(exchange(&mut agent, "\x16\x03\x01", "ok\r\n").await, "250 ok\r\n");
        agent.shutdown().await.unwrap();
        assert_eq!(agent.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), b"EHLO me\r\n\x16\x03\x01");
    }
    rig.until_busy(0).await;
    let ends = rig.handler.ends.lock().unwrap();
    let carried = Carried { sent: 12, received: 26 };
    assert!(ends.iter().all(|end| matches!(end, (each, Ok(TunnelEnd::Carried)) if *each == carried)), "{ends:?}");
}

#[tokio::test]
async fn what_should_be_read_does_not_pass_because_the_far_side_spoke_first() {
    let rig = Rig::start().await;
    let (far, told) = greeting().await;
    for pieces in
        [&[&b"POST /charge HTTP/1.1\r\nHost: a\r\n\r\n"[..]][..], &[b"\x16", b"\x03\x01\x02\x00"], &[b"\r\nPO", b"ST / HTTP/1.1\r\n"]]
    {
        for mut agent in both_ways(&rig, far).await {
            rig.silence().await;
            exchange(&mut agent, "", "mail\r\n").await;
            for piece in pieces {
                agent.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let end = agent.read(&mut [0; 8]).await;
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{pieces:?}");
        }
    }
    assert_eq!(told.lock().unwrap().len(), 0);
    assert!(rig.handler.ends.lock().unwrap().iter().all(|(_, end)| matches!(end, Err(TunnelError::SpokeLate))));
}

#[tokio::test]
async fn a_far_side_that_ends_while_the_agent_is_silent_ends_the_agent_s_side_too() {
    let rig = Rig::start().await;
    let far = far_side(|_, mut stream| async move { stream.write_all(b"12:00\n").await.unwrap() }).await;
    let mut agent = rig.redirected(far).await;
    rig.silence().await;
    let mut said = String::new();
    agent.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "12:00\n");
    agent.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    rig.until_busy(0).await;
    assert!(matches!(rig.handler.ends.lock().unwrap()[0].1, Err(TunnelError::SpokeLate)));
}
