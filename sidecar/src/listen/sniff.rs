//! What a connection speaks, by its first bytes, none of which are consumed.

use std::io;
use std::time::Duration;

use super::{AgentStream, Place};
use crate::head_check::is_token_char;

/// The HTTP/2 connection preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line is recognised within this many bytes, or not at all.
pub(crate) const LOOK_AHEAD: usize = 8 * 1024;
/// Some protocols let the server speak first; HTTP and TLS clients never wait for it.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// On the proxy's port nobody waits for us to speak: an unused connection is closed after this.
const IDLE: Duration = Duration::from_secs(120);
/// A TLS record of type handshake, its version's major byte.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http1,
    Http2,
    Tls,
    /// Something else.
    Opaque,
    /// Nothing yet: the far side may be the one to speak first.
    Silent,
    /// Closed without a word.
    Nothing,
}

/// Reads ahead until the protocol is known.
pub(super) async fn sniff(stream: &mut AgentStream, place: &Place) -> io::Result<Speech> {
    let patience = match place {
        Place::Proxy => IDLE,
        Place::Connect(_) | Place::Redirect(_) => SILENCE,
    };
    loop {
        if let Some(speech) = judge(stream.ahead(), place) {
            return Ok(speech);
        }
        match tokio::time::timeout(patience, stream.read_ahead(LOOK_AHEAD)).await {
            Ok(Ok(0)) => return Ok(undecided(stream.ahead(), Speech::Nothing)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let silent = match place {
                    Place::Proxy => Speech::Nothing,
                    Place::Connect(_) | Place::Redirect(_) => Speech::Silent,
                };
                return Ok(undecided(stream.ahead(), silent));
            }
        }
    }
}

/// No more bytes come for now: `otherwise` if there is nothing to go by.
pub(super) fn undecided(bytes: &[u8], otherwise: Speech) -> Speech {
    match after_empty_lines(bytes) {
        [] => otherwise,
        // A ClientHello may come in pieces, and slowly.
        said if TLS_HANDSHAKE.starts_with(said) => Speech::Tls,
        // The head check answers what is not HTTP, and waits for what may be.
        said if seems_request(said) => Speech::Http1,
        // Some protocols send a word without a newline and wait (ZooKeeper's `ruok`).
        _ => Speech::Opaque,
    }
}

/// What the agent says, once the far side has spoken first: HTTP is then only what names it, for other protocols have a CONNECT or a
/// POST of their own (NATS, NNTP).
pub(super) fn judge_answer(bytes: &[u8], place: &Place) -> Option<Speech> {
    let speech = judge(bytes, place)?;
    let said = after_empty_lines(bytes);
    let line = memchr::memchr(b'\n', said).map(|end| &said[..end]);
    let unnamed = speech == Speech::Http1 && line.is_some_and(|line| !names_http(line));
    Some(if unnamed { Speech::Opaque } else { speech })
}

/// Servers skip empty lines before a request line (RFC 9112, 2.2), some of them halves of such lines too.
pub(super) fn after_empty_lines(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    &bytes[begin..]
}

pub(crate) fn judge(bytes: &[u8], place: &Place) -> Option<Speech> {
    let too_long = bytes.len() >= LOOK_AHEAD;
    let bytes = after_empty_lines(bytes);
    if bytes.is_empty() {
        return too_long.then_some(Speech::Http1);
    }
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return (shared == PREFACE.len()).then_some(Speech::Http2);
    }
    if matches!(place, Place::Proxy) {
        return Some(Speech::Http1);
    }
    let shared = bytes.len().min(TLS_HANDSHAKE.len());
    if bytes[..shared] == TLS_HANDSHAKE[..shared] {
        return (shared == TLS_HANDSHAKE.len()).then_some(Speech::Tls);
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) if is_request_line(&bytes[..end]) => Some(Speech::Http1),
        Some(_) => Some(Speech::Opaque),
        None if !may_be_request_line(bytes) => Some(Speech::Opaque),
        None if too_long => Some(undecided(bytes, Speech::Opaque)),
        None => None,
    }
}

/// A line is judged as its beginning was, however it was cut on its way: what no request line begins with is not looked into.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    may_be_request_line(line) && (names_http(line) || method_of(line).is_some_and(is_common))
}

/// Also where the head check will answer 400: there are servers that forgive what it does not.
fn names_http(line: &[u8]) -> bool {
    line.windows(6).any(|w| is_blank(w[0]) && &w[1..] == b"HTTP/") || line.windows(7).any(|w| w.eq_ignore_ascii_case(b"HTTP/1."))
}

/// A line's beginning, up to all of it: a method is a token in any case (RFC 9110, 9.1), and some servers skip blanks before it.
/// Binary protocols and those that open with a bracket or a sign are told apart by their first bytes.
fn may_be_request_line(bytes: &[u8]) -> bool {
    let bytes = after_blanks(bytes);
    method_of(bytes).unwrap_or(bytes).iter().all(|byte| is_token_char(*byte))
}

/// Whether a line that has not come to its end is more likely a request's than not.
fn seems_request(bytes: &[u8]) -> bool {
    if bytes.contains(&b'\n') {
        // The rest of an HTTP/2 preface.
        return true;
    }
    let bytes = after_blanks(bytes);
    let Some(method) = method_of(bytes) else {
        return in_upper_case(bytes)
            || COMMON.iter().any(|one| one.get(..bytes.len()).is_some_and(|part| part.eq_ignore_ascii_case(bytes)));
    };
    let target = after_blanks(&bytes[method.len()..]);
    let absolute = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    in_upper_case(method)
        || COMMON.iter().any(|one| one.eq_ignore_ascii_case(method))
        || target.starts_with(b"/")
        || absolute(b"http://")
        || absolute(b"https://")
}

/// As all registered methods are.
fn in_upper_case(word: &[u8]) -> bool {
    (1..=20).contains(&word.len()) && word.iter().all(|b| b.is_ascii_uppercase() || *b == b'-' || *b == b'_')
}

fn after_blanks(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|byte| !is_blank(*byte)).unwrap_or(bytes.len());
    &bytes[begin..]
}

/// What servers take for the space in a request line (RFC 9112, 3).
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c)
}

fn method_of(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|byte| is_blank(*byte)).map(|blank| &bytes[..blank])
}

/// Their misspelt request lines are answered as HTTP rather than tunnelled.
const COMMON: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

/// In this case only: `get key` is memcached's.
fn is_common(method: &[u8]) -> bool {
    COMMON.contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Authority;

    #[test]
    fn first_bytes_say_what_a_connection_speaks() {
        let inside = Place::Redirect(([10, 0, 0, 1], 80).into());
        for (bytes, expect) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Speech::Http1)),
            (b"PROPFIND /x HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"GET /", None),
            (b"GET nonsense\n", Some(Speech::Http1)),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Speech::Http2)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Speech::Tls)),
            (b"EHLO example.com\r\n", Some(Speech::Opaque)),
            (b"SSH-2.0-OpenSSH\r\n", Some(Speech::Opaque)),
            (b"\x00\x00\x00\x08", Some(Speech::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Speech::Opaque)),
            (b"post /charge HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"Patch /x HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"x.very-long_method~of+one's-own!that-goes-on /x HTTP/1.1\r\n", Some(Speech::Http1)),
            (b" POST /x HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"POST\t/x HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"post\t/x\tHTTP/1.1\n", Some(Speech::Http1)),
            (b"\x0cpost\x0b/x\x0chttp/1.1\n", Some(Speech::Http1)),
            (b"post /x", None),
            (b"po", None),
            (b" ", None),
            (b"ruok", None),
            (b"get key\r\n", Some(Speech::Opaque)),
            (b"ehlo example.com\r\n", Some(Speech::Opaque)),
            (b"{\"line\":\"GET / HTTP/1.1\"}\n", Some(Speech::Opaque)),
            (b"{", Some(Speech::Opaque)),
            (b"<13>", Some(Speech::Opaque)),
            (b"A\0\0\0", Some(Speech::Opaque)),
            (b"AMQP\0\0\x09\x01", Some(Speech::Opaque)),
            (b"\xff", Some(Speech::Opaque)),
            (b"\r\n", None),
            (b"\r\n\r\nPOST /charge HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"\n\r\rPOST /charge HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"\r\n\r\n\0\r\nQUIT\n", Some(Speech::Opaque)),
            (&[b'\n'; LOOK_AHEAD], Some(Speech::Http1)),
        ] {
            assert_eq!(judge(bytes, &inside), expect, "{bytes:?}");
        }
        assert_eq!(judge(b"\x16\x03", &Place::Proxy), Some(Speech::Http1));
        let connect = Authority::parse("a:1", None).map(Place::Connect);
        assert!(connect.is_ok_and(|place| judge(b"\0", &place) == Some(Speech::Opaque)));
    }

    #[test]
    fn after_silence_half_a_beginning_is_still_read() {
        for (bytes, expect) in [
            (&b""[..], Speech::Silent),
            (b"\r\n", Speech::Silent),
            (b"\x16", Speech::Tls),
            (b"POST /cha", Speech::Http1),
            (b"PRI * HTTP/2.0\r\n", Speech::Http1),
            (b"post /cha", Speech::Http1),
            (b"Po", Speech::Http1),
            (b" po", Speech::Http1),
            (b"purge /x", Speech::Http1),
            (b"purge http://a", Speech::Http1),
            (b"ruok", Speech::Opaque),
            (b"hello world", Speech::Opaque),
            (b" ", Speech::Http1),
        ] {
            assert_eq!(undecided(bytes, Speech::Silent), expect, "{bytes:?}");
        }
    }

    #[test]
    fn in_answer_to_the_far_side_only_what_names_http_is_http() {
        let inside = Place::Redirect(([10, 0, 0, 1], 4222).into());
        for (bytes, expect) in [
            (&b"EHLO example.com\r\n"[..], Some(Speech::Opaque)),
            (b"CONNECT {\"verbose\":false}\r\n", Some(Speech::Opaque)),
            (b"CONNECT {\"verb", None),
            (b"POST /charge HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"post /charge HTTP/1.1\r\n", Some(Speech::Http1)),
            (b"\x16\x03\x01", Some(Speech::Tls)),
        ] {
            assert_eq!(judge_answer(bytes, &inside), expect, "{bytes:?}");
        }
    }
}
