//! Faults on HTTP/2, frame by frame.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Error, Reason};
use http::{Request, Response, StatusCode};
use kybernis_broker::{Ending, Fault, Protocol, Then};

use crate::peer::{ORDER, Rig, curl};

struct Peer {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), Error>>,
}

/// By prior knowledge, on the port without TLS.
async fn connect(rig: &Rig) -> Peer {
    let stream = tokio::net::TcpStream::connect(rig.broker.http()).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    Peer { send, connection: tokio::spawn(connection) }
}

impl Peer {
    async fn order(&mut self) -> Result<Response<h2::RecvStream>, Error> {
        let request = Request::post("http://broker/v1/orders").header("authorization", "t").body(()).unwrap();
        let (answer, mut body) = self.send.send_request(request, false)?;
        body.send_data(Bytes::from_static(ORDER.as_bytes()), true)?;
        answer.await
    }

    /// The answer's body, and what ended it early.
    async fn body(&mut self) -> (u64, usize, Option<Error>) {
        let mut answer = self.order().await.unwrap();
        let expected = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let mut read = 0;
        while let Some(data) = answer.body_mut().data().await {
            match data {
                Ok(data) => read += data.len(),
                Err(error) => return (expected, read, Some(error)),
            }
        }
        (expected, read, None)
    }
}

#[tokio::test]
async fn an_order_is_executed_and_answered() {
    let rig = Rig::start();
    let mut peer = connect(&rig).await;
    for _ in 0..2 {
        let (expected, read, cut) = peer.body().await;
        assert!(cut.is_none() && expected as usize == read);
    }
    assert_eq!(rig.executed(), ["c-1", "c-1"]);
    let request = &rig.broker.requests()[1];
    assert_eq!((request.protocol, request.connection, request.nth), (Protocol::Http2, 1, 2));
    assert!(request.head.starts_with(":method: POST\n:authority: broker\n:path: /v1/orders\n"), "{}", request.head);
}

#[tokio::test]
async fn a_refused_stream_is_refused_and_nothing_else_is() {
    let rig = Rig::with([Fault::new(Then::RefusedStream)]);
    let mut peer = connect(&rig).await;
    let refused = peer.order().await.unwrap_err();
    assert!(refused.is_reset() && refused.is_remote() && refused.reason() == Some(Reason::REFUSED_STREAM), "{refused:?}");
    assert!(rig.executed().is_empty());
    assert_eq!(peer.order().await.unwrap().status(), StatusCode::CREATED);
    assert_eq!((rig.executed().len(), rig.fired()), (1, 1));
}

#[tokio::test]
async fn goaway_below_a_stream_promises_that_it_was_not_processed() {
    let rig = Rig::with([Fault::new(Then::GoawayBelow).on("POST", "/v1/orders")]);
    let mut peer = connect(&rig).await;
    let first = Request::get("http://broker/healthz").body(()).unwrap();
    assert!(peer.send.send_request(first, true).unwrap().0.await.is_ok());
    let failed = peer.order().await.unwrap_err();
    assert!(failed.is_go_away() && failed.is_remote() && failed.reason() == Some(Reason::NO_ERROR), "{failed:?}");
    assert_eq!((rig.executed().len(), rig.fired()), (0, 1));
    peer.connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn goaway_that_includes_a_stream_may_still_bring_its_answer() {
    let rig = Rig::with([Fault::new(Then::GoawayIncluding { answer: true }).executing()]);
    let mut peer = connect(&rig).await;
    assert_eq!(peer.body().await.2.map(|error| error.to_string()), None);
    let again = peer.order().await.unwrap_err();
    assert!(again.is_go_away(), "{again:?}");
    assert_eq!((rig.executed().len(), rig.fired()), (1, 1));
}

#[tokio::test]
async fn goaway_that_includes_a_stream_may_be_the_last_word() {
    let rig = Rig::with([Fault::new(Then::GoawayIncluding { answer: false }).executing()]);
    let mut peer = connect(&rig).await;
    let failed = peer.order().await.unwrap_err();
    assert!(!failed.is_go_away() && !failed.is_reset(), "no promise about the stream: {failed:?}");
    assert_eq!((rig.executed().len(), rig.fired()), (1, 1));
}

#[tokio::test]
async fn what_breaks_instead_of_an_answer_breaks_the_connection() {
    for then in [Then::Drop, Then::Reset] {
        for execute in [true, false] {
            let rig = Rig::with([Fault { execute, ..Fault::new(then.clone()) }]);
            let mut peer = connect(&rig).await;
            let failed = peer.order().await.unwrap_err();
            assert!(failed.is_io(), "{then:?}: {failed:?}");
            assert_eq!((rig.executed().len(), rig.fired()), (usize::from(execute), 1), "{then:?}");
        }
    }
}

#[tokio::test]
async fn half_an_answer_is_its_head_and_half_of_its_body() {
    for end in [Ending::Close, Ending::Reset] {
        let rig = Rig::with([Fault::new(Then::HalfAnswer { end }).executing()]);
        let (expected, read, cut) = connect(&rig).await.body().await;
        assert_eq!(read as u64, expected / 2, "{end:?}");
        assert!(cut.is_some(), "{end:?}");
        assert_eq!((rig.executed().len(), rig.fired()), (1, 1), "{end:?}");
    }
}

#[tokio::test]
async fn a_hang_is_cancelled_when_its_time_has_passed() {
    let rig = Rig::with([Fault::new(Then::Hang { for_ms: 50 })]);
    let mut peer = connect(&rig).await;
    assert_eq!(peer.order().await.unwrap_err().reason(), Some(Reason::CANCEL));
    assert_eq!(peer.order().await.unwrap().status(), StatusCode::CREATED, "the connection lives on");
}

#[tokio::test]
async fn an_idle_connection_is_reset_as_its_next_request_arrives() {
    let rig = Rig::with([Fault::new(Then::CloseIdle)]);
    let mut peer = connect(&rig).await;
    assert_eq!(peer.order().await.unwrap().status(), StatusCode::CREATED);
    let failed = peer.order().await.unwrap_err();
    assert!(failed.is_io(), "{failed:?}");
    assert_eq!((rig.executed().len(), rig.fired()), (1, 1));
}

#[test]
fn a_real_client_sees_the_same_over_tls() {
    // curl's own exit statuses: 18 partial, 56 receive error, 92 stream error. A refused stream it asks for again by itself.
    for (then, exits, requests) in [
        (Then::RefusedStream, &[0][..], 2),
        (Then::GoawayIncluding { answer: true }, &[0], 1),
        (Then::Drop, &[18, 56, 92], 1),
        (Then::Answer, &[0], 1),
    ] {
        let rig = Rig::with([Fault { execute: then != Then::RefusedStream, ..Fault::new(then.clone()) }]);
        let out = curl(&rig.broker, "/v1/orders", &["--http2", "--data", ORDER]);
        assert!(exits.contains(&out.status.code().unwrap()), "{then:?}: {out:?}");
        let now = rig.broker.snapshot();
        assert_eq!((now.executed.len(), now.fired.len(), now.requests.len()), (1, 1, requests), "{then:?}");
        assert!(now.requests.iter().all(|request| request.protocol == Protocol::Http2 && request.secure));
    }
}
