//! The far side's answer: its head, a body that says at its end whether the framing was complete, and an upgrade.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::framing::Framed;
use crate::body::BodyError;

/// What the far side answered, 1xx skipped and hop-by-hop headers removed.
#[derive(Debug)]
pub struct Answer {
    /// Status, version and headers.
    pub head: http::response::Parts,
    /// The body as it comes.
    pub body: AnswerBody,
    /// The connection itself, after a 101 to a session's Upgrade or a 2xx to its CONNECT.
    pub upgrade: Option<UpstreamIo>,
    /// Whom it came from.
    pub remote: SocketAddr,
    /// Whether the connection had carried requests before.
    pub reused: bool,
}

/// Both directions of an upgraded connection.
pub type UpstreamIo = hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>;

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// Content-Length reached, final chunk, END_STREAM, or close after TLS close_notify.
    Complete,
    /// Before its end.
    Cut(Cut),
}

/// Why an answer's body is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The connection ended within the framing.
    #[error("the answer was cut short: the connection ended inside it")]
    Eof,
    /// The connection or stream was reset.
    #[error("the answer was cut short: reset")]
    Reset,
    /// A body delimited by close, and the close was not authenticated (RFC 9112, 9.8).
    #[error("the answer ends with the connection, and the close was not authenticated")]
    UnauthenticatedClose,
    /// The framing is broken.
    #[error("the answer's framing is broken")]
    Malformed,
    /// Nothing came for too long.
    #[error("the answer stalled")]
    Timeout,
}

/// What a body yields.
pub(crate) type Piece = Option<Result<Frame<Bytes>, BodyError>>;

/// How often who reads a body steps back for the task that reads the far side's connection, which then has bytes that came along
/// with the head: once to be asked for them, once more where it was not at hand.
const STEPS_BACK: usize = 2;

/// The answer's body. `poll_frame` ends with `None` only where the framing was complete; else with [`BodyError::Cut`].
///
/// One exception, for reads alone: a body delimited by a close that nothing authenticates ends with `None`, and
/// [`AnswerBody::end`] tells it apart.
#[derive(Debug)]
pub struct AnswerBody {
    source: Framed,
    end: Option<BodyEnd>,
}

impl AnswerBody {
    pub(crate) const fn new(source: Framed) -> Self {
        Self { source, end: None }
    }

    /// How the body ended; `None` while it has not.
    pub fn end(&self) -> Option<BodyEnd> {
        self.end.or_else(|| self.source.is_end_stream().then_some(BodyEnd::Complete))
    }

    /// The next piece, if it came along with the head: both then go on in one write, which costs less than two. A head whose body
    /// is still to come is not kept for it.
    pub(crate) async fn came_along(&mut self) -> Option<Piece> {
        for _ in 0..STEPS_BACK {
            if let Poll::Ready(piece) = futures::poll!(pin!(self.frame())) {
                return Some(piece);
            }
            tokio::task::yield_now().await;
        }
        match futures::poll!(pin!(self.frame())) {
            Poll::Ready(piece) => Some(piece),
            Poll::Pending => None,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.end {
            Some(BodyEnd::Complete) => return Poll::Ready(None),
            Some(BodyEnd::Cut(cut)) if self.source.ended_unauthenticated() => {
                debug_assert_eq!(cut, Cut::UnauthenticatedClose);
                return Poll::Ready(None);
            }
            Some(BodyEnd::Cut(cut)) => return Poll::Ready(Some(Err(cut.into()))),
            None => {}
        }
        let polled = Pin::new(&mut self.source).poll_frame(cx);
        Poll::Ready(match std::task::ready!(polled) {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(cut)) => {
                self.end = Some(BodyEnd::Cut(cut));
                Some(Err(cut.into()))
            }
            None if self.source.ended_unauthenticated() => {
                self.end = Some(BodyEnd::Cut(Cut::UnauthenticatedClose));
                None
            }
            None => {
                self.end = Some(BodyEnd::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.end == Some(BodyEnd::Complete) || (self.end.is_none() && self.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
