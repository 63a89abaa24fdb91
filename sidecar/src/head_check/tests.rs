//! Streams of messages, cut at every place, against what must come through.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// What comes through, and what is answered on closing.
async fn pass(pieces: Vec<Vec<u8>>) -> (Vec<u8>, String) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let writer = tokio::spawn(async move {
        for piece in pieces {
            // The other end may have refused and gone.
            if client.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let mut check = HeadCheck::new(server, BytesMut::new());
    let mut through = Vec::new();
    check.read_to_end(&mut through).await.unwrap();
    check.shutdown().await.unwrap();
    drop(check);
    (through, writer.await.unwrap())
}

fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = tail;
    }
    pieces
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        body.clone().prop_map(|body| {
            let mut bytes = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            let mut bytes = std::mem::take(&mut bytes).into_bytes();
            bytes.extend(body);
            bytes
        }),
        (prop::collection::vec(body, 0..4), any::<bool>()).prop_map(|(chunks, trailers)| {
            let mut bytes = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                bytes.extend(format!("{:x};ext\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            if trailers {
                bytes.extend(b"X-Sum: 1\r\n");
            }
            bytes.extend(b"\r\n");
            bytes
        }),
        Just(b"GET /c HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sound_messages_pass_unchanged_and_nothing_of_a_refused_one_does(
        messages in prop::collection::vec(message(), 1..5),
        sizes in prop::collection::vec(1usize..200, 1..20),
    ) {
        let sound: Vec<u8> = messages.concat();
        let mut sent = sound.clone();
        sent.extend(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        sent.extend(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let (through, answer) = runtime().block_on(pass(cut(&sent, &sizes)));
        prop_assert_eq!(through, sound);
        prop_assert!(answer.starts_with("HTTP/1.1 400 "), "{}", answer);
        prop_assert!(answer.contains("both Content-Length and Transfer-Encoding"));
    }
}

#[test]
fn what_is_not_http_is_answered_at_once() {
    let (through, answer) = runtime().block_on(pass(vec![b"\x16\x03\x01\x02\x00".to_vec()]));
    assert!(through.is_empty());
    assert!(answer.contains("not an HTTP request line"), "{answer}");
}

#[test]
fn a_head_over_64_kib_is_431_and_never_held_whole() {
    let mut sent = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    sent.extend(vec![b'x'; HEAD_BYTES]);
    let (through, answer) = runtime().block_on(pass(vec![sent]));
    assert!(through.is_empty());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn a_head_that_dribbles_is_refused_after_fifteen_seconds() {
    runtime().block_on(async {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut check = HeadCheck::new(server, BytesMut::new());
        let begun = Instant::now();
        let dribble = tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut through = Vec::new();
        check.read_to_end(&mut through).await.unwrap();
        assert!(through.is_empty());
        assert_eq!(begun.elapsed().as_secs(), HEAD_WITHIN.as_secs());
        check.shutdown().await.unwrap();
        drop(check);
        assert!(dribble.await.unwrap().contains("15 seconds"));
    });
}

#[test]
fn bytes_after_an_upgrade_wait_for_the_answer() {
    runtime().block_on(async {
        for (answer, expect) in [("HTTP/1.1 101 Switching Protocols\r\n\r\n", "not http"), ("HTTP/1.1 200 OK\r\n\r\n", "")] {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut check = HeadCheck::new(server, BytesMut::new());
            let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            let mut through = vec![0; head.len()];
            check.read_exact(&mut through).await.unwrap();
            client.write_all(b"not http").await.unwrap();
            client.shutdown().await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(1), check.read(&mut [0; 8])).await;
            assert!(early.is_err(), "bytes came through before the answer");
            check.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = String::new();
            check.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, expect);
        }
    });
}

#[test]
fn so_do_bytes_after_the_body_of_an_upgrade() {
    const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    const DECLINED: &str = "HTTP/1.1 200 OK\r\n\r\n";
    let head = |framing: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n{framing}\r\n\r\n");
    let chunks = "3\r\nbuy\r\n0\r\nX-Sum: 1\r\n\r\n";
    for (framing, body, half) in [("Content-Length: 3", "buy", 2), ("Transfer-Encoding: chunked", chunks, 4)] {
        for (answer, rest) in [(GRANTED, "not http"), (DECLINED, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n")] {
            for cut in [0, half, body.len()].map(|part| head(framing).len() + part) {
                for early in [false, true] {
                    runtime().block_on(upgrade_with_body(&(head(framing) + body), cut, early, answer, rest));
                }
            }
        }
    }
}

/// `early`: the answer begins when `cut` bytes have come, rather than after the message.
async fn upgrade_with_body(message: &str, cut: usize, early: bool, answer: &str, rest: &str) {
    let (mut client, server) = tokio::io::duplex(1024);
    let mut check = HeadCheck::new(server, BytesMut::new());
    let mut through = vec![0; message.len()];
    let (first, second) = through.split_at_mut(cut);
    client.write_all(&message.as_bytes()[..cut]).await.unwrap();
    check.read_exact(first).await.unwrap();
    check.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    if early {
        check.write_all(answer.as_bytes()).await.unwrap();
    }
    client.write_all(&[&message.as_bytes()[cut..], rest.as_bytes()].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    check.read_exact(second).await.unwrap();
    if !early {
        let waits = tokio::time::timeout(Duration::from_millis(1), check.read(&mut [0; 8])).await;
        assert!(waits.is_err(), "bytes came through before the answer to {message:?}");
        check.write_all(answer.as_bytes()).await.unwrap();
    }
    let mut after = String::new();
    check.read_to_string(&mut after).await.unwrap();
    assert_eq!((through.as_slice(), after.as_str()), (message.as_bytes(), rest), "{answer}");
}
