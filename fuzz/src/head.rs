//! The check before hyper's HTTP/1 server: what it hands on can be framed in one way only, and it hands on the same however
//! the bytes were cut on their way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use httparse::Status;
use kybernis_sidecar::fuzz::head_check;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::input::{choice, cut, runtime};

/// Fields that the check lets through in one head.
const FIELDS: usize = 256;

/// `m` or `u`, the lengths of the pieces, 0xff, and the agent's bytes. An Upgrade is answered with 200, or by `u` with 101.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let answer: &[u8] = match kind {
        b'm' => b"HTTP/1.1 200 OK\r\n",
        b'u' => b"HTTP/1.1 101 Switching Protocols\r\n",
        _ => return,
    };
    let mut halves = rest.splitn(2, |byte| *byte == 0xff);
    let (Some(sizes), Some(bytes)) = (halves.next(), halves.next()) else { return };
    for ends in [true, false] {
        let whole = pass(vec![bytes], ends, answer);
        let pieces = pass(cut(bytes, sizes), ends, answer);
        assert_eq!(pieces.handed_on, whole.handed_on, "what is handed on hangs on how it is cut (ends: {ends})");
        assert_eq!(pieces.farewell, whole.farewell, "what is answered hangs on how it is cut (ends: {ends})");
        assert!(whole.farewell.is_empty() || whole.farewell.starts_with(b"HTTP/1.1 "));
        if ends {
            Walk { rest: &whole.handed_on, upgrades: kind == b'u' }.messages();
        }
    }
}

/// An agent that sends these pieces, one for each read, and then ends or is silent.
struct Agent<'b> {
    pieces: VecDeque<&'b [u8]>,
    ends: bool,
    heard: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for Agent<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(piece) = self.pieces.pop_front() else {
            return if self.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let (now, later) = piece.split_at(piece.len().min(buf.remaining()));
        buf.put_slice(now);
        if !later.is_empty() {
            self.pieces.push_front(later);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Agent<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Passed {
    handed_on: Vec<u8>,
    farewell: Vec<u8>,
}

fn pass(pieces: Vec<&[u8]>, ends: bool, answer: &[u8]) -> Passed {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let mut checked = head_check(Agent { pieces: pieces.into(), ends, heard: Rc::clone(&heard) });
    let mut handed_on = Vec::new();
    runtime().block_on(poll_fn(|cx| {
        let mut answered = 0;
        loop {
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut checked).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => handed_on.extend_from_slice(buf.filled()),
                Poll::Ready(result) => {
                    result.expect("the agent's stream does not fail");
                    break;
                }
                // It waits for the answer to an Upgrade, or for bytes that do not come.
                Poll::Pending if answered < handed_on.len() => {
                    answered = handed_on.len();
                    let _ = Pin::new(&mut checked).poll_write(cx, answer);
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
        heard.borrow_mut().clear();
        let _ = Pin::new(&mut checked).poll_shutdown(cx);
        Poll::Ready(())
    }));
    drop(checked);
    let farewell = if ends { heard.take() } else { Vec::new() };
    Passed { handed_on, farewell }
}

/// Reads what was handed on with another parser's eyes.
struct Walk<'b> {
    rest: &'b [u8],
    upgrades: bool,
}

enum Follows {
    Length(u64),
    Chunks,
    /// No more HTTP.
    Anything,
}

impl Walk<'_> {
    fn messages(&mut self) {
        while !self.rest.is_empty() {
            match self.head() {
                None | Some(Follows::Anything) => return,
                Some(Follows::Length(length)) => self.skip(length),
                Some(Follows::Chunks) => self.chunks(),
            }
        }
    }

    fn skip(&mut self, length: u64) {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.rest.len());
        self.rest = &self.rest[length..];
    }

    /// `None` where hyper's parser refuses the head: it goes no further.
    fn head(&mut self) -> Option<Follows> {
        let mut space = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut space);
        let length = match request.parse(self.rest) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => panic!("half a head was handed on: {:?}", self.rest.escape_ascii().to_string()),
            Err(_) => return None,
        };
        lines_end_alike(&self.rest[..length]);
        let values = |name: &str| {
            request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect::<Vec<_>>()
        };
        let (lengths, codings, hosts) = (values("content-length"), values("transfer-encoding"), values("host"));
        assert!(hosts.len() == 1 || (hosts.is_empty() && request.version == Some(0)), "{} Host fields", hosts.len());
        assert!(lengths.len() + codings.len() <= 1, "two framings");
        let connect = request.method == Some("CONNECT");
        let upgrade = self.upgrades && !values("upgrade").is_empty();
        self.rest = &self.rest[length..];
        Some(match (lengths.first(), codings.first()) {
            (None, Some(coding)) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"), "a coding that hides the length");
                Follows::Chunks
            }
            (length, _) => match length.map_or(0, |digits| number(digits)) {
                0 if connect || upgrade => Follows::Anything,
                length => Follows::Length(length),
            },
        })
    }

    fn chunks(&mut self) {
        while !self.rest.is_empty() {
            let Ok(parsed) = httparse::parse_chunk_size(self.rest) else { return self.rest = &[] };
            let Status::Complete((start, size)) = parsed else { panic!("half a chunk-size line was handed on") };
            lines_end_alike(&self.rest[..start]);
            self.skip(start as u64);
            if size == 0 {
                return self.trailers();
            }
            self.skip(size);
            assert!(self.rest.is_empty() || self.rest.starts_with(b"\r\n"), "a chunk does not end where its size says");
            self.skip(2);
        }
    }

    fn trailers(&mut self) {
        if self.rest.is_empty() {
            return;
        }
        let mut space = [httparse::EMPTY_HEADER; FIELDS];
        let Ok(parsed) = httparse::parse_headers(self.rest, &mut space) else { return self.rest = &[] };
        let Status::Complete((length, fields)) = parsed else { panic!("half a trailer section was handed on") };
        let framing = |name: &str| ["content-length", "transfer-encoding", "host"].iter().any(|known| name.eq_ignore_ascii_case(known));
        assert!(!fields.iter().any(|field| framing(field.name)), "a trailer that belongs to the head");
        lines_end_alike(&self.rest[..length]);
        self.rest = &self.rest[length..];
    }
}

fn number(digits: &[u8]) -> u64 {
    assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit), "a length that is no plain number");
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).expect("a length that no number holds")
}

/// CRLF, and no other CR or LF; no line continues the one before.
fn lines_end_alike(head: &[u8]) {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("a bare LF");
        assert!(!text.contains(&b'\r'), "a bare CR");
        assert!(!matches!(text.first(), Some(b' ' | b'\t')), "a field continues");
    }
}
