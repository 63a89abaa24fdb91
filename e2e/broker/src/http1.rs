//! HTTP/1.1 by hand, on the socket itself: what goes out is exactly what a fault says, and what came in is on record.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::desk::{Course, Desk, HALF_PAUSE, Turn};
use crate::fault::Ending;
use crate::journal::{Protocol, Received, latin1, now_ms};
use crate::message::{Answer, Reply, Request, event};
use crate::websocket;
use crate::wire::Wire;

/// Headers of one request.
const HEADERS_MAX: usize = 1024;
/// A head longer than this is not read on.
const HEAD_MAX: usize = 1 << 20;
/// Nor a body.
const BODY_MAX: usize = 16 << 20;
/// A connection without a request is closed after this.
const IDLE: Duration = Duration::from_secs(120);

/// Serves one connection to its end.
pub(crate) async fn serve(wire: Wire, number: u64, desk: Arc<Desk>) {
    let mut connection = Connection { wire, buffer: BytesMut::new(), number, nth: 0, desk };
    let after = loop {
        match connection.exchange().await {
            Ok(After::GoOn) => {}
            Ok(after) => break after,
            // The peer is gone, or was never one.
            Err(_) => return,
        }
    };
    match after {
        After::GoOn | After::Close => connection.wire.close().await,
        After::End(ending) => connection.wire.end(ending).await,
    }
}

/// What becomes of the connection after an exchange.
enum After {
    GoOn,
    Close,
    End(Ending),
}

struct Connection {
    wire: Wire,
    /// Read and not used yet.
    buffer: BytesMut,
    number: u64,
    nth: u32,
    desk: Arc<Desk>,
}

/// A request's head, parsed.
struct Head {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    keep_alive: bool,
    length: usize,
}

/// Why a head is none.
enum Malformed {
    /// Not yet.
    Partial,
    /// Never.
    Wrong(StatusCode, String),
}

/// How a body is delimited.
enum Framing {
    Length(usize),
    Chunked,
}

impl Connection {
    async fn exchange(&mut self) -> io::Result<After> {
        if self.buffer.is_empty() && !matches!(tokio::time::timeout(IDLE, self.read_more()).await, Ok(Ok(read)) if read > 0) {
            return Ok(After::Close);
        }
        self.nth += 1;
        if self.nth > 1 && self.desk.first_bytes(self.number) {
            self.journal(&self.buffer);
            return Ok(After::End(Ending::Reset));
        }
        let head = loop {
            match parse(&self.buffer) {
                Ok(head) => break head,
                Err(Malformed::Partial) if self.buffer.len() <= HEAD_MAX => {
                    if self.read_more().await? == 0 {
                        self.journal(&self.buffer);
                        return Ok(After::Close);
                    }
                }
                Err(Malformed::Partial) => return self.refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long").await,
                Err(Malformed::Wrong(status, why)) => return self.refuse(status, &why).await,
            }
        };
        let seq = self.journal(&self.buffer[..head.length]);
        self.buffer.advance(head.length);
        let framing = match framing(&head.headers) {
            Ok(framing) => framing,
            Err(why) => {
                self.write(&Answer::error(StatusCode::BAD_REQUEST, why), false, Method::POST == head.method, None).await?;
                return Ok(After::Close);
            }
        };
        let mut body = BytesMut::new();
        let read = self.read_body(&head, framing, &mut body).await;
        self.desk.body(seq, latin1(&body), read.is_ok());
        if let Err(error) = read {
            let status = match error.kind() {
                io::ErrorKind::InvalidData => StatusCode::BAD_REQUEST,
                io::ErrorKind::FileTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                _ => return Err(error),
            };
            self.write(&Answer::error(status, &error.to_string()), false, true, None).await?;
            return Ok(After::Close);
        }
        let Head { method, path, query, headers, keep_alive, .. } = head;
        let shows_body = method != Method::HEAD;
        let body = body.freeze();
        let request = Request { method, path, query, headers, body, protocol: Protocol::Http1, connection: self.number };
        let turn = self.desk.judge(&request);
        self.carry_out(turn, keep_alive, shows_body).await
    }

    async fn carry_out(&mut self, turn: Turn, keep_alive: bool, shows_body: bool) -> io::Result<After> {
        match turn.course {
            Course::Answer => self.reply(&turn.reply, keep_alive, shows_body, None).await,
            Course::Late(after) => {
                tokio::time::sleep(after).await;
                self.reply(&turn.reply, keep_alive, shows_body, None).await
            }
            Course::Half(ending) => self.reply(&turn.reply, keep_alive, shows_body, Some(ending)).await,
            Course::End(ending) => Ok(After::End(ending)),
            Course::Hang(for_) => {
                let mut released = turn.released;
                tokio::select! {
                    () = tokio::time::sleep(for_) => {}
                    _ = released.changed() => {}
                    () = self.gone() => {}
                }
                Ok(After::End(Ending::Close))
            }
            Course::Closing => {
                let mut refused = turn.refused;
                // The broker that closes its doors for good answers nobody.
                refused.changed().await.map_err(io::Error::other)?;
                self.reply(&turn.reply, false, shows_body, None).await
            }
            // The script gives these to HTTP/2 alone.
            Course::GoawayBelow | Course::GoawayIncluding { .. } | Course::RefusedStream => Ok(After::End(Ending::Reset)),
        }
    }

    /// Sends the reply, or half of it.
    async fn reply(&mut self, reply: &Reply, keep_alive: bool, shows_body: bool, half: Option<Ending>) -> io::Result<After> {
        match reply {
            Reply::Whole(answer) => self.write(answer, keep_alive, shows_body, half).await?,
            Reply::Events { count, interval_ms } => {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n";
                self.send(head.as_bytes()).await?;
                let count = if half.is_some() { count / 2 } else { *count };
                for number in 1..=count {
                    let event = event(number);
                    let chunk = [format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat();
                    self.send(&chunk).await?;
                    tokio::time::sleep(Duration::from_millis(*interval_ms)).await;
                }
                if half.is_none() {
                    self.send(b"0\r\n\r\n").await?;
                }
            }
            Reply::WebSocket { accept } => {
                if half.is_none() {
                    let head = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
                    );
                    self.send(head.as_bytes()).await?;
                    websocket::echo(&mut self.wire).await?;
                }
                return Ok(half.map_or(After::Close, After::End));
            }
        }
        Ok(match half {
            Some(ending) => {
                tokio::time::sleep(HALF_PAUSE).await;
                After::End(ending)
            }
            None if keep_alive => After::GoOn,
            None => After::Close,
        })
    }

    async fn write(&mut self, answer: &Answer, keep_alive: bool, shows_body: bool, half: Option<Ending>) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {}\r\n", answer.status).into_bytes();
        for (name, value) in &answer.headers {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        head.extend(format!("content-length: {}\r\n", answer.body.len()).as_bytes());
        if !keep_alive {
            head.extend(b"connection: close\r\n");
        }
        head.extend(b"\r\n");
        let body = match half {
            _ if !shows_body => &[],
            Some(_) => &answer.body[..answer.body.len() / 2],
            None => &answer.body[..],
        };
        self.send(&[&head, body].concat()).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    async fn refuse(&mut self, status: StatusCode, why: &str) -> io::Result<After> {
        self.journal(&self.buffer);
        self.write(&Answer::error(status, why), false, true, None).await?;
        Ok(After::Close)
    }

    fn journal(&self, head: &[u8]) -> u64 {
        self.desk.received(Received {
            seq: 0,
            connection: self.number,
            nth: self.nth,
            protocol: Protocol::Http1,
            secure: self.wire.is_secure(),
            head: latin1(head),
            body: String::new(),
            complete: false,
            at_ms: now_ms(),
        })
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.wire.read_buf(&mut self.buffer).await
    }

    /// Resolves when the peer has closed its side.
    async fn gone(&mut self) {
        while self.buffer.len() <= BODY_MAX && matches!(self.read_more().await, Ok(read) if read > 0) {}
    }

    async fn read_body(&mut self, head: &Head, framing: Framing, body: &mut BytesMut) -> io::Result<()> {
        let waits = head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if waits && self.buffer.is_empty() && !matches!(framing, Framing::Length(0)) {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match framing {
            Framing::Length(length) => self.take(length, body).await,
            Framing::Chunked => {
                loop {
                    let (at, size) = loop {
                        match httparse::parse_chunk_size(&self.buffer) {
                            Ok(httparse::Status::Complete(found)) => break found,
                            Ok(httparse::Status::Partial) => self.need_more().await?,
                            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk's size is none")),
                        }
                    };
                    self.buffer.advance(at);
                    if size == 0 {
                        break;
                    }
                    self.take(usize::try_from(size).unwrap_or(usize::MAX), body).await?;
                    if self.line().await? != b""[..] {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than its size"));
                    }
                }
                while self.line().await? != b""[..] {}
                Ok(())
            }
        }
    }

    /// Moves `count` bytes into `body`.
    async fn take(&mut self, count: usize, body: &mut BytesMut) -> io::Result<()> {
        if count > BODY_MAX - body.len().min(BODY_MAX) {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the body is too long"));
        }
        let mut left = count;
        loop {
            let part = left.min(self.buffer.len());
            body.extend_from_slice(&self.buffer.split_to(part));
            left -= part;
            if left == 0 {
                return Ok(());
            }
            self.need_more().await?;
        }
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line does not end"));
            }
            self.need_more().await?;
        }
    }

    async fn need_more(&mut self) -> io::Result<()> {
        if self.read_more().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn parse(bytes: &[u8]) -> Result<Head, Malformed> {
    let wrong = |why: &str| Malformed::Wrong(StatusCode::BAD_REQUEST, why.to_owned());
    let mut fields = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Malformed::Partial),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed::Wrong(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers".into()));
        }
        Err(error) => return Err(wrong(&format!("the head is malformed: {error}"))),
    };
    let method = parsed.method.and_then(|m| Method::from_bytes(m.as_bytes()).ok()).ok_or_else(|| wrong("no method"))?;
    let target: Uri = parsed.path.and_then(|target| target.parse().ok()).ok_or_else(|| wrong("no target"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = HeaderMap::new();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong("a header's name is none"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| wrong("a header's value is none"))?;
        headers.append(name, value);
    }
    let says = |word: &str| {
        let lists = headers.get_all(header::CONNECTION);
        lists.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    let keep_alive = if version == Version::HTTP_10 { says("keep-alive") } else { !says("close") };
    let (path, query) = (target.path().to_owned(), target.query().unwrap_or_default().to_owned());
    Ok(Head { method, path, query, headers, keep_alive, length })
}

fn framing(headers: &HeaderMap) -> Result<Framing, &'static str> {
    if let Some(coding) = headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
        let is_chunked =
            coding.to_str().is_ok_and(|c| c.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked")));
        return if is_chunked { Ok(Framing::Chunked) } else { Err("only chunked is understood as a transfer coding") };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(Framing::Length(0)) };
    if lengths.any(|other| other != first) {
        return Err("two lengths disagree");
    }
    let digits = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Framing::Length).ok_or("the length is none")
}
