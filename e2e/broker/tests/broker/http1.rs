//! Faults on HTTP/1.1, byte by byte.

use std::io::Write as _;
use std::time::{Duration, Instant};

use kybernis_broker::{Ending, Fault, Then};

use crate::peer::{End, ORDER, PATIENCE, Rig, answer, connect, curl, exchange, get, length, post, rest};

fn order() -> String {
    post("/v1/orders", ORDER, "")
}

#[test]
fn an_order_is_executed_and_answered() {
    let rig = Rig::start();
    let mut stream = connect(rig.broker.http());
    for id in ["ord-1", "ord-2"] {
        stream.write_all(order().as_bytes()).unwrap();
        let (head, body) = answer(&mut stream);
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
        assert!(body.contains(&format!(r#""order_id":"{id}""#)) && body.contains(r#""status":"accepted""#), "{body}");
    }
    assert_eq!(rig.executed(), ["c-1", "c-1"], "asking twice buys twice");
    let requests = rig.broker.requests();
    assert_eq!(requests.iter().map(|r| (r.connection, r.nth, r.complete)).collect::<Vec<_>>(), [(1, 1, true), (1, 2, true)]);
    assert_eq!(format!("{}{}", requests[0].head, requests[0].body), order());
}

#[test]
fn what_breaks_instead_of_an_answer_sends_not_a_byte() {
    for (then, end) in [(Then::Drop, End::Closed), (Then::Reset, End::Reset)] {
        for execute in [true, false] {
            let fault = Fault { execute, ..Fault::new(then.clone()) };
            let rig = Rig::with([fault.clone()]);
            let (bytes, ended) = exchange(rig.broker.http(), &order());
            assert_eq!((bytes.as_str(), &ended), ("", &end), "{fault:?}");
            assert_eq!(rig.executed().len(), usize::from(execute), "{fault:?}");
            assert_eq!(rig.broker.fired()[0].fault, fault);
            assert_eq!(rig.broker.fired()[0].request.as_deref(), Some("POST /v1/orders"));
        }
    }
}

#[test]
fn half_an_answer_is_its_head_and_half_of_its_body() {
    for (ending, end) in [(Ending::Close, End::Closed), (Ending::Reset, End::Reset)] {
        let rig = Rig::with([Fault::new(Then::HalfAnswer { end: ending }).executing()]);
        let (bytes, ended) = exchange(rig.broker.http(), &order());
        let (head, body) = bytes.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"));
        assert_eq!(body.len(), length(head) / 2);
        assert_eq!(ended, end);
        assert_eq!(rig.executed(), ["c-1"]);
    }
}

#[test]
fn answers_by_status_say_what_the_script_says() {
    for status in [400, 401, 409, 429, 500, 503] {
        let rig = Rig::with([Fault::new(Then::Status { status, retry_after_s: (status == 429).then_some(7) }).executing()]);
        let mut stream = connect(rig.broker.http());
        stream.write_all(order().as_bytes()).unwrap();
        let (head, body) = answer(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("\r\nretry-after: 7\r\n"), status == 429, "{head}");
        assert!(body.contains(&format!(r#""status":{status}"#)), "{body}");
        assert_eq!(rig.executed(), ["c-1"]);
    }
}

#[test]
fn redirections_carry_their_location() {
    for status in [302, 307] {
        let rig = Rig::with([Fault::new(Then::Redirect { status, location: "/v1/orders?moved=1".into() })]);
        let mut stream = connect(rig.broker.http());
        stream.write_all(order().as_bytes()).unwrap();
        let (head, _) = answer(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains("\r\nlocation: /v1/orders?moved=1\r\n"), "{head}");
        assert!(rig.executed().is_empty());
    }
}

#[test]
fn a_hang_answers_nothing_until_it_is_released() {
    let rig = Rig::with([Fault::new(Then::Hang { for_ms: 60_000 }).executing()]);
    let mut stream = connect(rig.broker.http());
    stream.write_all(order().as_bytes()).unwrap();
    rig.broker.wait_until(PATIENCE, |now| !now.fired.is_empty()).unwrap();
    rig.broker.release();
    assert_eq!(rest(&mut stream), (String::new(), End::Closed));
    assert_eq!(rig.executed(), ["c-1"]);
}

#[test]
fn a_hang_ends_when_its_time_has_passed() {
    let rig = Rig::with([Fault::new(Then::Hang { for_ms: 50 })]);
    let start = Instant::now();
    assert_eq!(exchange(rig.broker.http(), &order()), (String::new(), End::Closed));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(rig.executed().is_empty());
}

#[test]
fn a_late_answer_comes_late_and_its_order_at_once() {
    let rig = Rig::with([Fault::new(Then::Late { after_ms: 300 }).executing()]);
    let start = Instant::now();
    let mut stream = connect(rig.broker.http());
    stream.write_all(order().as_bytes()).unwrap();
    rig.broker.wait_until(PATIENCE, |now| now.executed.len() == 1).unwrap();
    assert!(answer(&mut stream).0.starts_with("HTTP/1.1 201 "));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn an_answer_may_be_a_lie() {
    let rig = Rig::with([Fault::new(Then::Answer)]);
    let mut stream = connect(rig.broker.http());
    stream.write_all(order().as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("HTTP/1.1 201 "));
    assert!(rig.executed().is_empty());
    assert_eq!(rig.fired(), 1);
}

#[test]
fn an_idle_connection_is_reset_as_its_next_request_arrives() {
    let rig = Rig::with([Fault::new(Then::CloseIdle)]);
    let mut stream = connect(rig.broker.http());
    stream.write_all(get("/v1/quotes/AAPL").as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("HTTP/1.1 200 "), "a new connection is not idle");
    stream.write_all(&order().as_bytes()[..10]).unwrap();
    assert_eq!(rest(&mut stream), (String::new(), End::Reset));
    assert!(rig.executed().is_empty());
    assert_eq!(rig.fired(), 1);
    assert_eq!(rig.broker.requests()[1].head, &order()[..10]);
}

#[test]
fn what_only_http2_can_say_is_said_so_and_kept() {
    let rig = Rig::with([Fault::new(Then::GoawayBelow)]);
    let mut stream = connect(rig.broker.http());
    stream.write_all(order().as_bytes()).unwrap();
    let (head, body) = answer(&mut stream);
    assert!(head.starts_with("HTTP/1.1 501 ") && body.contains("only HTTP/2 can say"), "{head}{body}");
    assert!(rig.executed().is_empty() && rig.broker.fired().is_empty());
    assert_eq!(rig.broker.snapshot().pending.len(), 1);
}

#[test]
fn faults_strike_over_tls_too() {
    let dropping = [Fault::new(Then::Drop).executing(), Fault::new(Then::Reset).executing()];
    let halves = [Ending::Close, Ending::Reset].map(|end| Fault::new(Then::HalfAnswer { end }).executing());
    for (fault, exits) in dropping.into_iter().map(|f| (f, [52, 56])).chain(halves.into_iter().map(|f| (f, [18, 56]))) {
        let rig = Rig::with([fault.clone()]);
        let out = curl(&rig.broker, "/v1/orders", &["--http1.1", "--data", ORDER]);
        assert!(exits.contains(&out.status.code().unwrap()), "{fault:?}: {out:?}");
        assert_eq!((rig.executed().len(), rig.fired()), (1, 1), "{fault:?}");
    }
}

#[test]
fn the_journal_holds_the_bytes_that_came() {
    let rig = Rig::start();
    let smuggled = "POST /v1/echo HTTP/1.1\r\nHost: a\r\nhOsT: b\r\nAuthorization: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut stream = connect(rig.broker.http());
    stream.write_all(smuggled.as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("HTTP/1.1 200 "));
    let (bytes, _) = exchange(rig.broker.http(), "GET / HTTP/1.1\r\nBad Name: x\r\n\r\n");
    assert!(bytes.starts_with("HTTP/1.1 400 "), "{bytes}");
    let heads: Vec<String> = rig.broker.requests().into_iter().map(|request| request.head).collect();
    assert_eq!(heads, [smuggled.trim_end_matches("0\r\n\r\n"), "GET / HTTP/1.1\r\nBad Name: x\r\n\r\n"]);
}
