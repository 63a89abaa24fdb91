//! What a failed dispatch proves: NOT_SENT only on evidence, everything else in doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::far::{answering, echoing, far_side, read_request};
use super::rig::{client, effect, generous, post, proof, target};
use crate::body::SendBody;
use crate::boot_clock::BootClock;
use crate::permit::{Allowed, Granted, Permit};
use crate::target::{Authority, Protocol, Scheme, Target};
use crate::upstream::{Answer, Doubt, NotSent, SendFailure};

fn order() -> http::Request<SendBody> {
    post(SendBody::whole("buy"))
}

fn doubt(failed: Result<Answer, SendFailure>) -> Doubt {
    match failed {
        Err(SendFailure::Doubt(doubt)) => doubt,
        other => panic!("not in doubt: {other:?}"),
    }
}

#[tokio::test]
async fn what_fails_before_a_connection_is_proof() {
    let clock = BootClock::kernel();
    let client = client(&clock);
    // Bound, so that no other test listens there; and not listening itself.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let failed = client.send(effect(&clock), order(), &target(deaf.local_addr().unwrap(), Scheme::Http)).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::ConnectFailed(_)));

    let unknown = Target::new(Scheme::Http, Authority::parse("nowhere.test:80", None).unwrap());
    let failed = client.send(effect(&clock), order(), &unknown).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::ResolveFailed(_)));

    let (plain, got) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let broken = far_side(|_, mut stream| async move {
        let _ = stream.write_all(b"220 this is not TLS\r\n").await;
    })
    .await;
    let failed = client.send(effect(&clock), order(), &target(broken, Scheme::Https)).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::TlsFailed(_)));

    let (http1_only, _) = echoing(&[b"http/1.1"]).await;
    let mut needs_http2 = target(http1_only, Scheme::Https);
    needs_http2.protocol = Protocol::Http2;
    let failed = client.send(effect(&clock), order(), &needs_http2).await.unwrap_err();
    assert!(failed.is_not_sent(), "{failed}");

    let upgrade = http::Request::get("/").header("Connection", "upgrade").header("Upgrade", "websocket").body(SendBody::empty()).unwrap();
    let failed = client.send(effect(&clock), upgrade, &target(plain, Scheme::Http)).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::NoSession));
    assert!(got.lock().unwrap().is_empty());
}

#[tokio::test]
async fn http1_that_breaks_after_the_request_is_in_doubt() {
    let clock = BootClock::kernel();
    for (how, expect) in [("close", Doubt::Eof), ("reset", Doubt::Reset), ("garbage", Doubt::BadAnswer)] {
        let far = far_side(move |_, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            match how {
                "reset" => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
                "garbage" => stream.write_all(b"what?\r\n\r\n").await.unwrap(),
                _ => {}
            }
        })
        .await;
        let failed = client(&clock).send(effect(&clock), order(), &target(far, Scheme::Http)).await;
        assert_eq!(doubt(failed), expect, "{how}");
    }
}

/// Answers one request on each connection, then closes it when told.
async fn one_each(close: Arc<Notify>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let far = far_side(move |_, mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        let close = Arc::clone(&close);
        async move {
            while read_request(&mut stream).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                tokio::select! {
                    () = close.notified() => return,
                    readable = stream.readable() => readable.unwrap(),
                }
            }
        }
    })
    .await;
    (far, connections)
}

async fn finish(answer: Result<Answer, SendFailure>) -> bool {
    let answer = answer.unwrap();
    assert_eq!(answer.body.collect().await.unwrap().to_bytes(), "ok");
    answer.reused
}

#[tokio::test]
async fn an_effect_does_not_ride_on_a_connection_that_idled_for_over_a_second() {
    let clock = BootClock::kernel();
    let client = client(&clock);
    let (far, connections) = one_each(Arc::default()).await;
    let to = target(far, Scheme::Http);
    assert!(!finish(client.send(effect(&clock), order(), &to).await).await);
    assert!(finish(client.send(effect(&clock), order(), &to).await).await);

    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1001)).await;
    tokio::time::resume();
    assert!(!finish(client.send(effect(&clock), order(), &to).await).await);
    assert_eq!(connections.load(Ordering::SeqCst), 2);

    let mut terms = generous(&clock).1;
    terms.fresh_connection = true;
    let permit = Permit::effect(Granted::by_ledger(), terms);
    assert!(!finish(client.send(permit, order(), &to).await).await);
    assert_eq!(connections.load(Ordering::SeqCst), 3);

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    let read = http::Request::get("/").body(SendBody::empty()).unwrap();
    let permit = Permit::read(Allowed::by_policy());
    assert!(finish(client.send(permit, read, &to).await).await);
}

#[tokio::test]
async fn a_kept_connection_that_the_far_side_closed_costs_a_read_nothing() {
    let clock = BootClock::kernel();
    let client = client(&clock);
    let close = Arc::new(Notify::new());
    let (far, connections) = one_each(Arc::clone(&close)).await;
    let to = target(far, Scheme::Http);
    for _ in 0..20 {
        let read = http::Request::get("/").body(SendBody::empty()).unwrap();
        let permit = Permit::read(Allowed::by_policy());
        finish(client.send(permit, read, &to).await).await;
        // Races with the next request: sometimes seen before, sometimes in the middle.
        close.notify_one();
    }
    assert!(connections.load(Ordering::SeqCst) > 1);
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, 0];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Reads frames until the request on `stream` has ended.
async fn read_http2_request(far: &mut TcpStream, stream: u32) {
    let mut preface = [0; 24];
    far.read_exact(&mut preface).await.unwrap();
    far.write_all(SETTINGS).await.unwrap();
    loop {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.unwrap();
        let len = usize::from(head[1]) << 8 | usize::from(head[2]);
        far.read_exact(&mut vec![0; len]).await.unwrap();
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if id == stream && head[3] < 2 && head[4] & 1 == 1 {
            return;
        }
    }
}

/// An HTTP/2 far side that reads one request, answers with `frames`, and closes.
async fn http2_breaking(frames: Vec<u8>) -> Target {
    let far = far_side(move |_, mut stream| {
        let frames = frames.clone();
        async move {
            read_http2_request(&mut stream, 1).await;
            stream.write_all(&frames).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let mut target = target(far, Scheme::Http);
    target.protocol = Protocol::Http2;
    target
}

#[tokio::test]
async fn http2_proves_not_sent_by_refused_stream_or_a_goaway_below_and_by_nothing_else() {
    let clock = BootClock::kernel();
    let refused = http2_breaking(frame(3, 1, &[0, 0, 0, 7])).await;
    let failed = client(&clock).send(effect(&clock), order(), &refused).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::RefusedStream));

    let below = http2_breaking(frame(7, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await;
    let failed = client(&clock).send(effect(&clock), order(), &below).await;
    assert!(matches!(proof(&failed.unwrap_err()), NotSent::GoawayBelow { last_stream: 0, stream: 1 }));

    for (frames, expect) in [
        // GOAWAY that includes the stream, whatever its code, and then the end.
        (frame(7, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), Doubt::GoawayAmbiguous),
        (frame(7, 0, &[0, 0, 0, 1, 0, 0, 0, 2]), Doubt::GoawayAmbiguous),
        (frame(7, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]), Doubt::GoawayAmbiguous),
        // RST_STREAM with other codes: CANCEL, INTERNAL_ERROR.
        (frame(3, 1, &[0, 0, 0, 8]), Doubt::Reset),
        (frame(3, 1, &[0, 0, 0, 2]), Doubt::Reset),
        (Vec::new(), Doubt::Eof),
    ] {
        let breaking = http2_breaking(frames.clone()).await;
        let failed = client(&clock).send(effect(&clock), order(), &breaking).await;
        assert_eq!(doubt(failed), expect, "{frames:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_after_the_answers_head_is_a_cut_and_no_proof() {
    let clock = BootClock::kernel();
    // :status 200, then RST_STREAM(REFUSED_STREAM).
    let mut frames = vec![0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    frames.extend(frame(3, 1, &[0, 0, 0, 7]));
    let breaking = http2_breaking(frames).await;
    match client(&clock).send(effect(&clock), order(), &breaking).await {
        Ok(answer) => assert!(answer.body.collect().await.is_err()),
        Err(failed) => panic!("the head had come: {failed}"),
    }
}
