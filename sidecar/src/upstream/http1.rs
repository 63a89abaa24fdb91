//! HTTP/1.1 towards the far side: one request at a time on a connection, which an effect therefore has to itself.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answer::Answer;
use super::connect::Connected;
use super::failure::{Doubt, NotSent, SendFailure};
use super::tap::Tap;
use super::wire::{Mark, Shut, Token, Wire};
use crate::body::{BodyError, SendBody};
use crate::permit::EffectTerms;

/// How long a connection taken from the pool may take to become ready again after its last answer.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// One connection. Whoever holds it has it alone.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: SendRequest<Outgoing>,
    pub(super) wire: Arc<Wire>,
    pub(super) remote: SocketAddr,
    pub(super) over_tls: bool,
    pub(super) idle_since: Instant,
    pub(super) reused: bool,
    task: AbortHandle,
}

/// A request that got no answer; the request comes back where none of it was used.
pub(super) struct Failed {
    pub(super) failure: SendFailure,
    pub(super) request: Option<Request<SendBody>>,
}

impl Http1 {
    pub(super) async fn open(connected: Connected, over_tls: bool) -> Result<Self, NotSent> {
        let Connected { transport, wire, remote, http2: _ } = connected;
        let io = TokioIo::new(Tap::http1(transport, Arc::clone(&wire)));
        let (sender, connection) =
            hyper::client::conn::http1::Builder::new().handshake(io).await.map_err(|e| NotSent::ConnectFailed(io::Error::other(e)))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self { sender, wire, remote, over_tls, idle_since: Instant::now(), reused: false, task: task.abort_handle() })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.wire.is_shut()
    }

    /// Waits until the previous exchange is out of the way; false if the connection is of no more use.
    pub(super) async fn ready(&mut self) -> bool {
        if self.sender.is_ready() {
            return true;
        }
        let ready = tokio::time::timeout(READY_WITHIN, self.sender.ready()).await;
        matches!(ready, Ok(Ok(())))
    }

    /// Sends one request; its answer's head, and what governs the connection until the answer ends.
    pub(super) async fn send(
        &mut self,
        terms: Option<EffectTerms>,
        request: Request<SendBody>,
    ) -> Result<(http::Response<Incoming>, Option<Token>), Failed> {
        let mark = self.wire.mark();
        let token = terms.map(|terms| self.wire.arm(terms, false));
        let request = request.map(|body| Outgoing::new(body, Arc::clone(&self.wire)));
        let sent = self.sender.try_send_request(request);
        let outcome = match token {
            None => Some(sent.await),
            Some(token) => tokio::select! {
                biased;
                outcome = sent => Some(outcome),
                () = self.wire.until_overdue(token) => None,
            },
        };
        match outcome {
            Some(Ok(response)) => Ok((response, token)),
            Some(Err(mut failed)) => {
                let request = failed.take_message();
                let failure = self.failure(mark, Some(failed.error()));
                Err(Failed { failure, request: request.map(|r| r.map(|mut outgoing| outgoing.take())) })
            }
            None => Err(Failed { failure: self.failure(mark, None), request: None }),
        }
    }

    /// Shuts the connection and reads off its final figures what can be proved.
    fn failure(&self, mark: Mark, error: Option<&hyper::Error>) -> SendFailure {
        let why = self.wire.shut(Shut::Settled);
        self.task.abort();
        if why == Shut::Deadline {
            return if self.wire.zero_below(mark) { NotSent::DeadlineBeforeFirstByte.into() } else { Doubt::LeaseLost.into() };
        }
        if self.wire.zero_above(mark) {
            return if error.is_some_and(hyper::Error::is_user) { NotSent::Unsendable.into() } else { NotSent::ZeroBytesWritten.into() };
        }
        error.map_or(Doubt::Reset, doubt_of).into()
    }

    /// Breaks the connection off: nothing more is written, nothing more is read.
    pub(super) fn abort(&self) {
        self.wire.shut(Shut::Settled);
        self.task.abort();
    }
}

impl Answer {
    /// Whether the body lasts until the connection closes: neither a length nor a final chunk delimits it.
    pub(super) fn is_close_delimited(head: &http::response::Parts, ended: bool) -> bool {
        let headers = &head.headers;
        let chunked = headers
            .get_all(http::header::TRANSFER_ENCODING)
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.trim_end().to_ascii_lowercase().ends_with("chunked"));
        !ended && !chunked && !headers.contains_key(http::header::CONTENT_LENGTH)
    }
}

fn doubt_of(error: &hyper::Error) -> Doubt {
    if error.is_incomplete_message() {
        return Doubt::Eof;
    }
    if error.is_parse() {
        return Doubt::BadAnswer;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::UnexpectedEof => Doubt::Eof,
                io::ErrorKind::TimedOut => Doubt::Timeout,
                _ => Doubt::Reset,
            };
        }
        if cause.is::<BodyError>() {
            return Doubt::RequestCut;
        }
        source = cause.source();
    }
    Doubt::Reset
}

/// The request body as hyper takes it; tells the wire when its end has been taken.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: SendBody,
    wire: Arc<Wire>,
    /// What the announced length still lacks: hyper stops asking once it is reached.
    left: Option<u64>,
}

impl Outgoing {
    fn new(body: SendBody, wire: Arc<Wire>) -> Self {
        wire.set_request_ended(body.is_end_stream());
        let left = body.size_hint().exact();
        Self { body, wire, left }
    }

    fn take(&mut self) -> SendBody {
        std::mem::replace(&mut self.body, SendBody::empty())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &polled {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                frame.is_trailers() || self.left == Some(0) || self.body.is_end_stream()
            }
        };
        if ended {
            self.wire.set_request_ended(true);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
