//! HTTP/2 through the `h2` crate, close enough to the frames that REFUSED_STREAM and GOAWAY are exact.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Response, StatusCode, header};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::desk::{Course, Desk, HALF_PAUSE, Turn};
use crate::fault::Ending;
use crate::goaway::{Farewell, Leaving};
use crate::journal::{Protocol, Received, latin1, now_ms};
use crate::message::{Answer, Reply, Request, event};
use crate::wire::{Lever, Wire};

/// A body longer than this is not read on.
const BODY_MAX: usize = 16 << 20;
/// After GOAWAY the peer has this long to finish and close; then the connection is closed.
const FAREWELL: Duration = Duration::from_secs(1);
/// Words from streams to their connection that may wait.
const WORDS: usize = 64;

/// A stream's handle, kept alive so that the library does not reset the stream on its own.
type Kept = Box<dyn Send>;

/// What a stream wants of its connection.
enum Word {
    Goaway { last_stream: u32, keep: Option<Kept>, said: oneshot::Sender<()> },
    End { ending: Ending, keep: Kept },
}

struct Driver {
    // The order matters: the connection is dropped before the handles, so that they can say nothing any more.
    connection: Connection<Leaving, Bytes>,
    kept: Vec<Kept>,
    farewell: Farewell,
    lever: Lever,
    leaves_at: Option<Instant>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(wire: Wire, number: u64, desk: Arc<Desk>) {
    // Whatever fails here, the peer is gone.
    let _ = try_serve(wire, number, desk).await;
}

async fn try_serve(wire: Wire, number: u64, desk: Arc<Desk>) -> io::Result<()> {
    let secure = wire.is_secure();
    let lever = wire.lever()?;
    let (leaving, farewell) = Leaving::new(wire);
    let connection = h2::server::handshake(leaving).await.map_err(io::Error::other)?;
    let mut driver = Driver { connection, kept: Vec::new(), farewell, lever, leaves_at: None };
    let (words, mut heard) = mpsc::channel(WORDS);
    let mut nth = 0;
    loop {
        let leaves_at = driver.leaves_at;
        tokio::select! {
            biased;
            accepted = driver.connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted.map_err(io::Error::other)?;
                if leaves_at.is_some() {
                    // Above the last stream: the peer knows that nobody looks at it.
                    driver.kept.push(Box::new((request, respond)));
                    continue;
                }
                nth += 1;
                if nth > 1 && desk.first_bytes(number) {
                    driver.lever.pull(Ending::Reset);
                    return Ok(());
                }
                let stream = Stream { respond, number, nth, secure, desk: Arc::clone(&desk), words: words.clone() };
                tokio::spawn(stream.run(request));
            }
            Some(word) = heard.recv() => if driver.obey(word).await { return Ok(()) },
            () = until(leaves_at) => {
                driver.end(Ending::Close).await;
                return Ok(());
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Returns whether that was the end.
    async fn obey(&mut self, word: Word) -> bool {
        match word {
            Word::Goaway { last_stream, keep, said } => {
                self.kept.extend(keep);
                self.flush().await;
                self.farewell.say(last_stream);
                self.flush().await;
                self.leaves_at = Some(Instant::now() + FAREWELL);
                // A stream that went away in between needs no answer.
                let _ = said.send(());
                false
            }
            Word::End { ending, keep } => {
                self.kept.push(keep);
                self.flush().await;
                self.end(ending).await;
                true
            }
        }
    }

    /// Hands what streams have queued to the kernel.
    async fn flush(&mut self) {
        let arrived = poll_fn(|cx| match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(arrived))) => Poll::Ready(Some(arrived)),
            Poll::Ready(_) | Poll::Pending => Poll::Ready(None),
        })
        .await;
        if let Some(arrived) = arrived {
            self.kept.push(Box::new(arrived));
        }
    }

    async fn end(&mut self, ending: Ending) {
        self.lever.pull(ending);
        if ending == Ending::Close {
            // What the peer still sends is read, so that closing does not turn into a reset.
            let drained = async {
                while let Some(Ok(arrived)) = self.connection.accept().await {
                    self.kept.push(Box::new(arrived));
                }
            };
            let _ = tokio::time::timeout(FAREWELL, drained).await;
        }
    }
}

struct Stream {
    respond: SendResponse<Bytes>,
    number: u64,
    nth: u32,
    secure: bool,
    desk: Arc<Desk>,
    words: mpsc::Sender<Word>,
}

impl Stream {
    async fn run(self, request: http::Request<RecvStream>) {
        // A stream whose peer is gone has nobody to tell.
        let _ = self.exchange(request).await;
    }

    async fn exchange(mut self, request: http::Request<RecvStream>) -> Result<(), h2::Error> {
        let (head, mut stream) = request.into_parts();
        let seq = self.desk.received(Received {
            seq: 0,
            connection: self.number,
            nth: self.nth,
            protocol: Protocol::Http2,
            secure: self.secure,
            head: lines(&head),
            body: String::new(),
            complete: false,
            at_ms: now_ms(),
        });
        let mut body = BytesMut::new();
        let read = read_body(&mut stream, &mut body).await;
        self.desk.body(seq, latin1(&body), matches!(read, Ok(true)));
        if !read? {
            return self.write(&Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"), true).map(drop);
        }
        let shows_body = head.method != http::Method::HEAD;
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let request = Request {
            method: head.method,
            path,
            query,
            headers: head.headers,
            body: body.freeze(),
            protocol: Protocol::Http2,
            connection: self.number,
        };
        let turn = self.desk.judge(&request);
        self.carry_out(turn, shows_body).await
    }

    async fn carry_out(mut self, turn: Turn, shows_body: bool) -> Result<(), h2::Error> {
        let id = self.respond.stream_id().as_u32();
        match turn.course {
            Course::Answer => self.reply(&turn.reply, shows_body).await,
            Course::Late(after) => {
                tokio::time::sleep(after).await;
                self.reply(&turn.reply, shows_body).await
            }
            Course::Half(ending) => self.half(&turn.reply, ending).await,
            Course::End(ending) => {
                end(&self.words, ending, Box::new(self.respond)).await;
                Ok(())
            }
            Course::Hang(for_) => {
                let mut released = turn.released;
                tokio::select! {
                    () = tokio::time::sleep(for_) => {}
                    _ = released.changed() => {}
                    _ = poll_fn(|cx| self.respond.poll_reset(cx)) => {}
                }
                self.respond.send_reset(Reason::CANCEL);
                Ok(())
            }
            Course::GoawayBelow => {
                goaway(&self.words, id.saturating_sub(2), Some(Box::new(self.respond))).await;
                Ok(())
            }
            Course::GoawayIncluding { answer: true } => {
                goaway(&self.words, id, None).await;
                self.reply(&turn.reply, shows_body).await
            }
            Course::GoawayIncluding { answer: false } => {
                goaway(&self.words, id, None).await;
                end(&self.words, Ending::Close, Box::new(self.respond)).await;
                Ok(())
            }
            Course::Closing => {
                let mut refused = turn.refused;
                if refused.changed().await.is_ok() {
                    goaway(&self.words, id, None).await;
                }
                self.reply(&turn.reply, shows_body).await
            }
            Course::RefusedStream => {
                self.respond.send_reset(Reason::REFUSED_STREAM);
                Ok(())
            }
        }
    }

    async fn reply(&mut self, reply: &Reply, shows_body: bool) -> Result<(), h2::Error> {
        match reply {
            Reply::Whole(answer) => self.write(answer, shows_body),
            Reply::Events { count, interval_ms } => {
                let mut stream = self.respond.send_response(events_head(), false)?;
                for number in 1..=*count {
                    stream.send_data(event(number), false)?;
                    tokio::time::sleep(Duration::from_millis(*interval_ms)).await;
                }
                stream.send_data(Bytes::new(), true)
            }
            Reply::WebSocket { .. } => self.write(&Answer::error(StatusCode::NOT_IMPLEMENTED, "HTTP/1.1 only"), shows_body),
        }
    }

    fn write(&mut self, answer: &Answer, shows_body: bool) -> Result<(), h2::Error> {
        let body = if shows_body { answer.body.clone() } else { Bytes::new() };
        let mut stream = self.respond.send_response(head_of(answer), body.is_empty())?;
        if body.is_empty() { Ok(()) } else { stream.send_data(body, true) }
    }

    /// Head and half of the body, then the connection ends.
    async fn half(mut self, reply: &Reply, ending: Ending) -> Result<(), h2::Error> {
        let (head, parts) = match reply {
            Reply::Whole(answer) => (head_of(answer), vec![answer.body.slice(..answer.body.len() / 2)]),
            Reply::Events { count, .. } => (events_head(), (1..=count / 2).map(event).collect()),
            Reply::WebSocket { .. } => (Response::new(()), Vec::new()),
        };
        let mut stream = self.respond.send_response(head, false)?;
        for part in parts {
            stream.send_data(part, false)?;
        }
        tokio::time::sleep(HALF_PAUSE).await;
        end(&self.words, ending, Box::new((stream, self.respond))).await;
        Ok(())
    }
}

/// Says it, and returns once it is with the kernel.
async fn goaway(words: &mpsc::Sender<Word>, last_stream: u32, keep: Option<Kept>) {
    let (said, hears) = oneshot::channel();
    if words.send(Word::Goaway { last_stream, keep, said }).await.is_ok() {
        // Unsaid only where the connection is gone.
        let _ = hears.await;
    }
}

async fn end(words: &mpsc::Sender<Word>, ending: Ending, keep: Kept) {
    // A connection that is gone has ended already.
    let _ = words.send(Word::End { ending, keep }).await;
}

fn head_of(answer: &Answer) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = answer.status;
    *head.headers_mut() = answer.headers.clone();
    head.headers_mut().insert(header::CONTENT_LENGTH, answer.body.len().into());
    head
}

fn events_head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
    head.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    head
}

/// The head as lines; HTTP/2 has no bytes of it that would be worth keeping.
fn lines(head: &http::request::Parts) -> String {
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let mut lines = format!(":method: {}\n:authority: {authority}\n:path: {target}\n", head.method);
    for (name, value) in &head.headers {
        lines.push_str(&format!("{name}: {}\n", latin1(value.as_bytes())));
    }
    lines
}

/// Whether it was read whole; false where it is too long.
async fn read_body(stream: &mut RecvStream, body: &mut BytesMut) -> Result<bool, h2::Error> {
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        if body.len() + data.len() > BODY_MAX {
            return Ok(false);
        }
        body.extend_from_slice(&data);
    }
    Ok(true)
}
