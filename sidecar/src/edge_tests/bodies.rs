//! Bodies: streamed, trailed, upgraded, cut short; and how their ends are told apart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::far::{answering, far_server, far_side, read_request};
use super::rig::{Rig, client, effect, exchange, post, target};
use crate::body::SendBody;
use crate::boot_clock::BootClock;
use crate::permit::{Allowed, Permit};
use crate::target::Scheme;
use crate::upstream::{BodyEnd, Cut};

/// Drives a body to its end.
async fn end_of(answer: crate::upstream::Answer) -> (Bytes, Option<BodyEnd>) {
    let mut body = answer.body;
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    (bytes.into(), body.end())
}

#[tokio::test]
async fn a_body_says_whether_its_framing_was_complete() {
    let clock = BootClock::kernel();
    for (answer, as_effect, as_read) in [
        ("Content-Length: 2\r\n\r\nok", BodyEnd::Complete, BodyEnd::Complete),
        ("Content-Length: 3\r\n\r\nok", BodyEnd::Cut(Cut::Eof), BodyEnd::Cut(Cut::Eof)),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BodyEnd::Complete, BodyEnd::Complete),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", BodyEnd::Cut(Cut::Eof), BodyEnd::Cut(Cut::Eof)),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", BodyEnd::Cut(Cut::Eof), BodyEnd::Cut(Cut::Eof)),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", BodyEnd::Cut(Cut::Malformed), BodyEnd::Cut(Cut::Malformed)),
        ("Connection: close\r\n\r\nok", BodyEnd::Cut(Cut::UnauthenticatedClose), BodyEnd::Cut(Cut::UnauthenticatedClose)),
    ] {
        for (is_effect, expect) in [(true, as_effect), (false, as_read)] {
            let far = far_side(move |_, mut stream| async move {
                read_request(&mut stream).await.unwrap();
                let whole = format!("HTTP/1.1 200 OK\r\n{answer}");
                stream.write_all(whole.as_bytes()).await.unwrap();
            })
            .await;
            let permit = if is_effect { effect(&clock) } else { Permit::read(Allowed::by_policy()) };
            let sent = client(&clock).send(permit, post(SendBody::whole("x")), &target(far, Scheme::Http)).await.unwrap();
            let (bytes, end) = end_of(sent).await;
            assert_eq!(bytes, "ok", "{answer:?}");
            assert_eq!(end, Some(expect), "{answer:?} effect: {is_effect}");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_whole_only_after_close_notify() {
    let clock = BootClock::kernel();
    for (notify, expect) in [(true, BodyEnd::Complete), (false, BodyEnd::Cut(Cut::UnauthenticatedClose))] {
        let acceptor = tokio_rustls::TlsAcceptor::from(far_server(&[b"http/1.1"]));
        let far = far_side(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut tls = acceptor.accept(stream).await.unwrap();
                read_request(&mut tls).await.unwrap();
                tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok").await.unwrap();
                tls.flush().await.unwrap();
                if notify {
                    tls.shutdown().await.unwrap();
                } else {
                    tls.into_inner().0.shutdown().await.unwrap();
                }
            }
        })
        .await;
        let sent = client(&clock).send(effect(&clock), post(SendBody::whole("x")), &target(far, Scheme::Https)).await.unwrap();
        let (bytes, end) = end_of(sent).await;
        assert_eq!(bytes, "ok");
        assert_eq!(end, Some(expect), "close_notify: {notify}");
    }
}

#[tokio::test]
async fn every_byte_comes_before_the_word_that_a_close_was_not_authenticated() {
    const SIZE: usize = 3 * 1024 * 1024;
    let clock = BootClock::kernel();
    for over_tls in [false, true] {
        let acceptor = tokio_rustls::TlsAcceptor::from(far_server(&[b"http/1.1"]));
        let far = far_side(move |_, mut stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
                answer.resize(answer.len() + SIZE, b'x');
                if !over_tls {
                    read_request(&mut stream).await.unwrap();
                    return stream.write_all(&answer).await.unwrap();
                }
                let mut tls = acceptor.accept(stream).await.unwrap();
                read_request(&mut tls).await.unwrap();
                tls.write_all(&answer).await.unwrap();
                tls.flush().await.unwrap();
                tls.into_inner().0.shutdown().await.unwrap();
            }
        })
        .await;
        let scheme = if over_tls { Scheme::Https } else { Scheme::Http };
        let sent = client(&clock).send(effect(&clock), post(SendBody::whole("x")), &target(far, scheme)).await.unwrap();
        let (bytes, end) = end_of(sent).await;
        assert_eq!((bytes.len(), end), (SIZE, Some(BodyEnd::Cut(Cut::UnauthenticatedClose))), "TLS: {over_tls}");
    }
}

fn get(port: u16) -> String {
    format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")
}

#[tokio::test]
async fn events_pass_as_they_come() {
    let rig = Rig::start().await;
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let far = far_side(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_request(&mut stream).await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
                told.notified().await;
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let mut agent = rig.connect().await;
    let mut seen = exchange(&mut agent, &get(far.port()), "data: 1\n\n").await;
    for event in ["data: 2\n\n", "data: 3\n\n", "0\r\n\r\n"] {
        assert!(!seen.contains(event));
        go_on.notify_one();
        seen += &exchange(&mut agent, "", event).await;
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let rig = Rig::start().await;
    let far = far_side(|_, mut stream| async move {
        let mut got = Vec::new();
        while !got.ends_with(b"x-sum: 7\r\n\r\n") {
            got.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 200 OK\r\nTrailer: X-Total\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Total: 9\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let mut agent = rig.connect().await;
    let request = format!(
        "POST http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
        p = far.port()
    );
    let answer = exchange(&mut agent, &request, "9\r\n\r\n").await;
    assert!(answer.to_ascii_lowercase().ends_with("x-total: 9\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn control_headers_and_keys_behind_a_body_stay_here() {
    let rig = Rig::start().await;
    let got = Arc::new(std::sync::Mutex::new(String::new()));
    let heard = Arc::clone(&got);
    let far = far_side(move |_, mut stream| {
        let heard = Arc::clone(&heard);
        async move {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"x-sum: 7\r\n\r\n") {
                bytes.push(stream.read_u8().await.unwrap());
            }
            *heard.lock().unwrap() = String::from_utf8(bytes).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mut agent = rig.connect().await;
    let request = format!(
        "POST http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\nTE: trailers\r\n\
         Trailer: X-Kyb-Run-Id, X-Kyb-Mood, Idempotency-Key, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Kyb-Run-Id: run-7\r\nx-kyb-mood: good\r\nIdempotency-Key: s3cret\r\nX-Sum: 7\r\n\r\n",
        p = far.port()
    );
    assert!(exchange(&mut agent, &request, "ok").await.ends_with("ok"));
    let got = got.lock().unwrap().to_ascii_lowercase();
    let (_, trailers) = got.split_once("\r\n0\r\n").unwrap();
    assert_eq!(trailers, "x-sum: 7\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_before_it_sends() {
    let rig = Rig::start().await;
    let (far, got) = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut agent = rig.connect().await;
    let head = format!(
        "POST http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        p = far.port()
    );
    let interim = exchange(&mut agent, &head, "\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 Continue\r\n"), "{interim}");
    let answer = exchange(&mut agent, "buy", "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let got = got.lock().unwrap()[0].clone();
    assert!(got.ends_with("buy"), "{got}");
    assert!(!got.contains("expect"), "{got}");
}

#[tokio::test]
async fn a_websocket_is_a_session_that_passes_both_ways() {
    let rig = Rig::start().await;
    let far = far_side(|_, mut stream| async move {
        let request = read_request(&mut stream).await.unwrap();
        assert!(request.contains("upgrade: websocket\r\n"), "{request}");
        assert!(request.contains("sec-websocket-key: abc\r\n"), "{request}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello";
        stream.write_all(answer).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    })
    .await;
    let mut agent = rig.connect().await;
    let request = format!(
        "GET http://localhost:{p}/chat HTTP/1.1\r\nHost: localhost:{p}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n",
        p = far.port()
    );
    let opened = exchange(&mut agent, &request, "hello").await;
    assert!(opened.starts_with("HTTP/1.1 101 "), "{opened}");
    assert!(opened.to_ascii_lowercase().contains("upgrade: websocket"), "{opened}");
    assert_eq!(exchange(&mut agent, "ping", "").await, "ping");
}

#[tokio::test]
async fn an_answer_that_is_cut_short_resets_the_agent_and_never_ends_well() {
    let rig = Rig::start().await;
    let cut = Arc::new(Notify::new());
    let told = Arc::clone(&cut);
    let far = far_side(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
            told.notified().await;
        }
    })
    .await;
    let mut agent = rig.connect().await;
    let answer = exchange(&mut agent, &get(far.port()), "half").await;
    assert!(answer.ends_with("half"), "{answer}");
    cut.notify_one();
    let end = agent.read(&mut [0; 8]).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// In a process of its own: what the other tests hold would count.
#[test]
fn a_large_body_streams_through_in_flat_memory() {
    const ALONE: &str = "KYB_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(a_large_body_streams_through());
        return;
    }
    let name = "edge_tests::bodies::a_large_body_streams_through_in_flat_memory";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn a_large_body_streams_through() {
    const SIZE: usize = 192 * 1024 * 1024;
    const GROWTH: u64 = 32 * 1024 * 1024;
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let rig = Rig::start().await;
    let far = far_side(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let block = vec![7; 64 * 1024];
        for _ in 0..SIZE / block.len() {
            stream.write_all(&block).await.unwrap();
        }
        // And back: the far side reads what it is sent.
        let mut sink = vec![0; 64 * 1024];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let before = resident();
    let mut peak = before;
    let mut agent = rig.connect().await;
    agent.write_all(get(far.port()).as_bytes()).await.unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    while read < SIZE {
        read += agent.read(&mut buffer).await.unwrap();
        peak = peak.max(resident());
    }
    assert!(peak - before < GROWTH, "grew by {} KiB", (peak - before) / 1024);
}

#[tokio::test]
async fn an_upload_waits_for_a_far_side_that_does_not_read() {
    let rig = Rig::start().await;
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let far = far_side(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    const SIZE: usize = 64 * 1024 * 1024;
    let mut agent = rig.connect().await;
    let head = format!("POST http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}\r\nContent-Length: {SIZE}\r\n\r\n", p = far.port());
    agent.write_all(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), agent.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < SIZE / 2, "{sent} bytes were taken with nobody reading");
    }
    go_on.notify_one();
    while sent < SIZE {
        let part = block.len().min(SIZE - sent);
        sent += agent.write(&block[..part]).await.unwrap();
    }
    assert!(exchange(&mut agent, "", "ok").await.ends_with("ok"));
}

#[tokio::test]
async fn http2_streams_both_ways_and_its_trailers_arrive() {
    let clock = BootClock::kernel();
    let far = far_side(|_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    stream.send_data(data, false).unwrap();
                }
                stream
                    .send_trailers(http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("x-end"),
                        http::HeaderValue::from_static("1"),
                    )]))
                    .unwrap();
            });
        }
    })
    .await;
    let mut to = target(far, Scheme::Http);
    to.protocol = crate::target::Protocol::Http2;
    let large = Bytes::from(vec![5; 3 * 1024 * 1024]);
    let request = Request::post("/").body(SendBody::whole(large.clone())).unwrap();
    let answer = client(&clock).send(effect(&clock), request, &to).await.unwrap();
    let whole = answer.body.collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-end"], "1");
    assert_eq!(whole.to_bytes(), large);
}
