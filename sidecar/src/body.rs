//! The three bodies that pass through: what the agent sends, what goes upstream, what the agent is answered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

/// Why a body ended before its end, on its way in or by our own decision on its way out.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The agent's connection or stream broke, or its framing did.
    #[error("the caller's request body was cut short")]
    Agent(#[source] hyper::Error),
    /// The far side's answer was cut short.
    #[error(transparent)]
    Cut(#[from] crate::upstream::Cut),
    /// We break the message off on purpose, so that nobody takes it for whole.
    #[error("message aborted: {reason}")]
    Abort {
        /// A constant that names the rule behind it.
        reason: &'static str,
    },
}

impl BodyError {
    /// Yield this from a [`ResponseBody`] to break the message off: HTTP/2 resets the stream, HTTP/1 the connection.
    pub const fn abort(reason: &'static str) -> Self {
        Self::Abort { reason }
    }
}

/// Bytes that are read off a body that nobody wants: the answer that was given early then reaches the agent before a reset
/// does. Longer ones are cut.
const DRAINED_MAX: usize = 256 * 1024;
/// How long that may take.
const DRAINED_WITHIN: Duration = Duration::from_secs(2);

/// The body that the agent sends: streams with backpressure, trailers included. What is left of it when it is dropped is read
/// off, within bounds.
#[derive(Debug)]
pub struct RequestBody(Option<Incoming>);

impl RequestBody {
    pub(crate) const fn new(incoming: Incoming) -> Self {
        Self(Some(incoming))
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(rest) = self.0.take().filter(|rest| !rest.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DRAINED_WITHIN, drain(rest)));
        }
    }
}

async fn drain(mut rest: Incoming) {
    let mut drained = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len);
        if drained > DRAINED_MAX {
            return;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.0 else { return Poll::Ready(None) };
        Pin::new(incoming).poll_frame(cx).map_ok(without_controls).map_err(BodyError::Agent)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Takes off the fields whose names, in lower case, are unwanted.
pub(crate) fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// A frame of the agent's as it may leave. What the caller tells us alone, it may also say behind the body, where nobody heeds it:
/// it stays here all the same, and a key is a secret.
fn without_controls(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_where(&mut trailers, |name| name.starts_with("x-kyb-") || name == "idempotency-key");
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// The body that the agent is answered with. Its producer may withhold the last frame, or yield an error to break off.
pub type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// A response body that holds exactly `bytes`.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response body with nothing in it.
pub fn empty() -> ResponseBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The body of a request that goes upstream. Its exact length, where known, becomes the `Content-Length`.
#[derive(Debug)]
pub struct SendBody(Source);

#[derive(Debug)]
enum Source {
    Empty,
    Whole(Option<Bytes>),
    Agent(RequestBody),
    Prefixed { prefix: VecDeque<Bytes>, rest: RequestBody },
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

impl SendBody {
    /// Nothing.
    pub const fn empty() -> Self {
        Self(Source::Empty)
    }

    /// Exactly `bytes`, no trailers. Can be sent again, see [`SendBody::copy`].
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Self(Source::Whole(Some(bytes))) }
    }

    /// First what was buffered for policy, then the rest as it comes.
    pub fn prefixed(prefix: VecDeque<Bytes>, rest: RequestBody) -> Self {
        Self(Source::Prefixed { prefix, rest })
    }

    /// Any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self(Source::Boxed(body.boxed_unsync()))
    }

    /// The same body once more, if all of it is at hand and none of it was taken.
    pub fn copy(&self) -> Option<Self> {
        match &self.0 {
            Source::Empty => Some(Self::empty()),
            Source::Whole(Some(bytes)) => Some(Self(Source::Whole(Some(bytes.clone())))),
            Source::Whole(None) | Source::Agent(_) | Source::Prefixed { .. } | Source::Boxed(_) => None,
        }
    }
}

impl From<RequestBody> for SendBody {
    fn from(body: RequestBody) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self(Source::Agent(body)) }
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Source::Agent(body) => Pin::new(body).poll_frame(cx),
            Source::Prefixed { prefix, rest } => match prefix.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(rest).poll_frame(cx),
            },
            Source::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty | Source::Whole(None) => true,
            Source::Whole(Some(_)) => false,
            Source::Agent(body) => body.is_end_stream(),
            Source::Prefixed { prefix, rest } => prefix.is_empty() && rest.is_end_stream(),
            Source::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty | Source::Whole(None) => SizeHint::with_exact(0),
            Source::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Source::Agent(body) => body.size_hint(),
            Source::Prefixed { prefix, rest } => {
                let held: u64 = prefix.iter().map(|b| b.len() as u64).sum();
                let mut hint = rest.size_hint();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper.saturating_add(held));
                }
                hint.set_lower(hint.lower().saturating_add(held));
                hint
            }
            Source::Boxed(body) => body.size_hint(),
        }
    }
}
