//! An answer's body in either HTTP version, with one word on how it ended; at its end an HTTP/1 connection goes back
//! to the pool.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::answer::Cut;
use super::http1::Http1;
use super::http2::StreamHold;
use super::pool::{Key, Pool};
use super::wire::Token;

/// Where an answer's body comes from.
#[derive(Debug)]
pub(crate) enum Framed {
    Http1(Http1Body),
    Http2(Http2Body),
}

/// A connection that is busy with one exchange.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) connection: Http1,
    pub(super) token: Option<Token>,
    pub(super) pool: Arc<Pool>,
    pub(super) key: Arc<Key>,
}

#[derive(Debug)]
pub(crate) struct Http1Body {
    incoming: Incoming,
    busy: Option<Busy>,
    /// Delimited by close: whole only if the close was authenticated.
    close_delimited: bool,
    unauthenticated: bool,
    /// Of an effect: an unauthenticated close is an error, not only a remark.
    strict: bool,
}

#[derive(Debug)]
pub(crate) struct Http2Body {
    stream: RecvStream,
    hold: StreamHold,
    data_done: bool,
}

impl Http1Body {
    pub(super) fn new(incoming: Incoming, busy: Busy, close_delimited: bool) -> Self {
        let strict = busy.token.is_some();
        let mut body = Self { incoming, busy: Some(busy), close_delimited, unauthenticated: false, strict };
        body.release_if_ended();
        body
    }

    fn release_if_ended(&mut self) {
        if !self.incoming.is_end_stream() {
            return;
        }
        if let Some(busy) = self.busy.take() {
            busy.release();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let polled = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                self.release_if_ended();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                if let Some(busy) = self.busy.take() {
                    busy.connection.abort();
                }
                Some(Err(cut_of_http1(&error, self.close_delimited)))
            }
            None => self.at_end(),
        })
    }

    fn at_end(&mut self) -> Option<Result<Frame<Bytes>, Cut>> {
        let busy = self.busy.take()?;
        if !self.close_delimited {
            busy.release();
            return None;
        }
        let authenticated = busy.connection.over_tls && busy.connection.wire.closed_cleanly();
        busy.connection.abort();
        self.unauthenticated = !authenticated && !kybernis_core::mutation::broken("an_unauthenticated_close_ends_nothing");
        (self.unauthenticated && self.strict).then_some(Err(Cut::UnauthenticatedClose))
    }
}

impl Busy {
    /// Gives the connection back, unless its request is still being written: then it closes.
    fn release(self) {
        let Self { connection, token, pool, key } = self;
        let written = connection.wire.request_ended();
        if let Some(token) = token {
            connection.wire.disarm(token);
        }
        if written {
            pool.put_http1(&key, connection);
        }
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        // Given up before its end: only breaking the connection stops the far side.
        if let Some(busy) = self.busy.take() {
            busy.connection.abort();
        }
    }
}

impl Http2Body {
    pub(super) const fn new(stream: RecvStream, hold: StreamHold) -> Self {
        Self { stream, hold, data_done: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let released = self.stream.flow_control().release_capacity(data.len());
                    let frame = released.map(|()| Frame::data(data));
                    return Poll::Ready(Some(frame.map_err(|e| cut_of_http2(&e))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(cut_of_http2(&error)))),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => {
                self.hold.finish();
                None
            }
            Err(error) => Some(Err(cut_of_http2(&error))),
        })
    }
}

impl Framed {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self {
            Self::Http1(body) => body.poll(cx),
            Self::Http2(body) => body.poll(cx),
        }
    }

    /// The body ended with the connection, and nothing vouches for the close.
    pub(super) const fn ended_unauthenticated(&self) -> bool {
        match self {
            Self::Http1(body) => body.unauthenticated,
            Self::Http2(_) => false,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.incoming.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.incoming.size_hint(),
            Self::Http2(body) if body.stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(_) => SizeHint::default(),
        }
    }
}

fn cut_of_http1(error: &hyper::Error, close_delimited: bool) -> Cut {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::UnexpectedEof if close_delimited => Cut::UnauthenticatedClose,
                io::ErrorKind::UnexpectedEof => Cut::Eof,
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Cut::Malformed,
                io::ErrorKind::TimedOut => Cut::Timeout,
                _ => Cut::Reset,
            };
        }
        source = cause.source();
    }
    if error.is_parse() { Cut::Malformed } else { Cut::Eof }
}

fn cut_of_http2(error: &h2::Error) -> Cut {
    if error.is_io() {
        Cut::Eof
    } else if error.is_remote() {
        Cut::Reset
    } else {
        Cut::Malformed
    }
}
