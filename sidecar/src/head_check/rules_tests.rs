//! The rules by table.

use super::*;

fn whole(head_lines: &str) -> Result<Head, Refusal> {
    head(head_lines.replace('\n', "\r\n").as_bytes())
}

fn framing(head_lines: &str) -> Result<Framing, Refusal> {
    whole(head_lines).map(|head| head.framing)
}

#[test]
fn sound_heads_and_what_follows_them() {
    let check = |text: &str, expect: Framing| assert_eq!(framing(text), Ok(expect), "{text}");
    check("GET / HTTP/1.1\nHost: a\n\n", Framing::Length(0));
    check("GET http://a/b HTTP/1.1\nHost: a\n\n", Framing::Length(0));
    check("GET / HTTP/1.0\n\n", Framing::Length(0));
    check("POST / HTTP/1.1\nHost: a\ncontent-LENGTH:  5 \n\n", Framing::Length(5));
    check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n", Framing::Chunked);
    check("CONNECT a:1 HTTP/1.1\nHost: a:1\n\n", Framing::Connect);
    check("GET / HTTP/1.1\nHost: a\nX-Empty:\nX: caf\u{e9}\n\n", Framing::Length(0));
}

#[test]
fn an_upgrade_is_noted_whatever_the_body() {
    let check = |more: &str, framing: Framing| {
        let text = format!("GET / HTTP/1.1\nHost: a\nUpgrade: websocket\nConnection: upgrade\n{more}\n");
        assert_eq!(whole(&text), Ok(Head { framing, upgrade: true }), "{text}");
    };
    check("", Framing::Length(0));
    check("Content-Length: 5\n", Framing::Length(5));
    check("Transfer-Encoding: chunked\n", Framing::Chunked);
}

#[test]
fn ambiguous_heads_are_refused() {
    let check = |text: &str, expect: Refusal| assert_eq!(framing(text), Err(expect), "{text}");
    check("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", LENGTH_AND_CODING);
    check("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5\n\n", TWO_LENGTHS);
    check("POST / HTTP/1.1\nHost: a\nContent-Length: 5, 5\n\n", LENGTH);
    check("POST / HTTP/1.1\nHost: a\nContent-Length: +5\n\n", LENGTH);
    check("POST / HTTP/1.1\nHost: a\nContent-Length: 0x5\n\n", LENGTH);
    check("POST / HTTP/1.1\nHost: a\nContent-Length:\n\n", LENGTH);
    check("POST / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999\n\n", LENGTH);
    check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n", CODING);
    check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n", CODING);
    check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n", CODING);
    check("POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n", CODING_IN_10);
    check("GET / HTTP/1.1\nHost: a\nHost: b\n\n", TWO_HOSTS);
    check("GET / HTTP/1.1\nAccept: x\n\n", NO_HOST);
    check("GET / HTTP/1.1\nHost: a\nX: 1\n folded\n\n", FOLDED);
    check("GET / HTTP/1.1\n Host: a\n\n", FOLDED);
    check("GET / HTTP/1.1\nHost : a\n\n", FIELD_NAME);
    check("GET / HTTP/1.1\nHost: a\nno colon\n\n", FIELD_NAME);
    check("GET / HTTP/1.1\nHost: a\n: empty\n\n", FIELD_NAME);
    check("GET / HTTP/1.1\nHost: a\nX: a\0b\n\n", FIELD_VALUE);
    check("GET / HTTP/1.1\nHost: a\nX: a\rb\n\n", BARE_CR);
    check("GET  / HTTP/1.1\nHost: a\n\n", REQUEST_LINE);
    check("GET / HTTP/1.1 x\nHost: a\n\n", VERSION);
    check("GET / HTTP/2.0\nHost: a\n\n", VERSION);
    check("GET /\nHost: a\n\n", REQUEST_LINE);
    check("GET /caf\u{e9} HTTP/1.1\nHost: a\n\n", REQUEST_LINE);
    assert_eq!(head(b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n"), Err(BARE_LF));
    assert_eq!(head(b"GET / HTTP/1.1\nHost: a\n\n"), Err(BARE_LF));
}

#[test]
fn fields_are_counted() {
    let with = |count: usize| {
        let mut text = String::from("GET / HTTP/1.1\nHost: a\n");
        for i in 1..count {
            text.push_str(&format!("X-{i}: v\n"));
        }
        framing(&format!("{text}\n"))
    };
    assert_eq!(with(FIELDS), Ok(Framing::Length(0)));
    assert_eq!(with(FIELDS + 1), Err(MANY_FIELDS));
    assert_eq!(with(10_000), Err(MANY_FIELDS));
}

#[test]
fn chunk_lines() {
    for (line, expect) in [
        ("0\r\n", Ok(0)),
        ("1aF\r\n", Ok(0x1af)),
        ("5;name=value\r\n", Ok(5)),
        ("5 ;x\r\n", Ok(5)),
        ("\r\n", Err(CHUNK_SIZE)),
        ("0x5\r\n", Err(CHUNK_SIZE)),
        ("5 \r\n", Err(CHUNK_SIZE)),
        ("-5\r\n", Err(CHUNK_SIZE)),
        ("5;a\rb\r\n", Err(CHUNK_SIZE)),
        ("5\n", Err(BARE_LF)),
        ("1000000000000000\r\n", Err(CHUNK_SIZE)),
    ] {
        assert_eq!(chunk_size(line.as_bytes()), expect, "{line:?}");
    }
}

#[test]
fn trailers_cannot_smuggle_framing() {
    assert_eq!(trailers(b"\r\n"), Ok(()));
    assert_eq!(trailers(b"Grpc-Status: 0\r\n\r\n"), Ok(()));
    assert_eq!(trailers(b"Content-Length: 3\r\n\r\n"), Err(TRAILER_NAME));
    assert_eq!(trailers(b"X: 1\n\r\n"), Err(BARE_LF));
    assert_eq!(trailers(b"X: 1\r\n fold\r\n\r\n"), Err(FOLDED));
}

#[test]
fn the_end_of_a_head_is_found_however_far_the_search_had_come() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    for seen in 0..bytes.len() - 4 {
        assert_eq!(head_end(bytes, seen.min(26)), Some(27), "{seen}");
    }
    assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0), None);
    assert_eq!(head_end(b"GET / HTTP/1.1\nHost", 0), Some(15));
}
