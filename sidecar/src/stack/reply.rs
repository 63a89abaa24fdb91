//! The body of an effect's answer on its way to the agent: bytes pass as they come, the end is withheld until the outcome
//! is on record. What ends without a word breaks the message off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::body::BodyError;

/// Room in memory that a piece of an answer takes, while it is kept and while it is on its way.
pub(super) type Room = Arc<OwnedSemaphorePermit>;

/// One piece of an answer.
#[derive(Debug)]
enum Piece {
    /// Bytes, and the room that they take until they are passed on.
    Data(Bytes, Option<Room>),
    /// Trailers; nothing follows.
    Trailers(HeaderMap),
    /// Whole.
    End,
    /// Not to be taken for whole.
    Broken(&'static str),
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Withheld {
    pieces: mpsc::UnboundedReceiver<Piece>,
    /// What the head announced, less what has passed.
    left: Option<u64>,
    ended: bool,
}

/// The exchange's end.
#[derive(Debug)]
pub(super) struct Teller {
    pieces: mpsc::UnboundedSender<Piece>,
    /// The announced length, less what has been told.
    left: Option<u64>,
    /// The last byte of an announced length.
    last: Option<Bytes>,
}

/// A body of `length` bytes where the head announces it.
pub(super) fn channel(length: Option<u64>) -> (Teller, Withheld) {
    let (send, receive) = mpsc::unbounded_channel();
    (Teller { pieces: send, left: length, last: None }, Withheld { pieces: receive, left: length, ended: false })
}

impl Teller {
    /// Passes bytes on, the last of an announced length excepted. `room` is given back when they have passed.
    pub(super) fn data(&mut self, mut data: Bytes, room: Option<Room>) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.len() as u64);
            if *left == 0 && self.last.is_none() && !data.is_empty() && !kybernis_core::mutation::broken("the_end_is_withheld") {
                self.last = Some(data.split_off(data.len() - 1));
            }
        }
        if !data.is_empty() {
            // An agent that has gone needs no bytes; the exchange goes on without it.
            let _ = self.pieces.send(Piece::Data(data, room));
        }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_deserted(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Returns when nobody reads any more.
    pub(super) fn deserted(&self) -> impl Future<Output = ()> + Send + use<> {
        let pieces = self.pieces.clone();
        async move { pieces.closed().await }
    }

    /// The outcome is on record: the agent may have the end.
    pub(super) fn end(mut self, trailers: Option<HeaderMap>) {
        if let Some(last) = self.last.take() {
            let _ = self.pieces.send(Piece::Data(last, None));
        }
        let end = trailers.map_or(Piece::End, Piece::Trailers);
        let _ = self.pieces.send(end);
    }

    /// The message is broken off.
    pub(super) fn breaks_off(self, reason: &'static str) {
        let _ = self.pieces.send(Piece::Broken(reason));
    }
}

impl Body for Withheld {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        Poll::Ready(match piece {
            Some(Piece::Data(data, _room)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Some(Ok(Frame::data(data)))
            }
            Some(Piece::Trailers(trailers)) => {
                self.ended = true;
                Some(Ok(Frame::trailers(trailers)))
            }
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            Some(Piece::Broken(reason)) => {
                self.ended = true;
                Some(Err(BodyError::abort(reason)))
            }
            // The exchange ended without a word: nobody may take this for the end.
            None => {
                self.ended = true;
                Some(Err(BodyError::abort("the exchange was lost")))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn next(body: &mut Withheld) -> Option<Bytes> {
        tokio::select! {
            biased;
            frame = body.frame() => frame.and_then(|frame| frame.ok()?.into_data().ok()),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn the_last_byte_of_an_announced_length_is_withheld_until_the_outcome_is_on_record() {
        let (mut teller, mut body) = channel(Some(6));
        teller.data(Bytes::from_static(b"abc"), None);
        teller.data(Bytes::from_static(b"def"), None);
        assert_eq!(next(&mut body).await.unwrap(), "abc");
        assert_eq!(next(&mut body).await.unwrap(), "de");
        assert!(next(&mut body).await.is_none(), "the end came before the outcome");
        teller.end(None);
        assert_eq!(next(&mut body).await.unwrap(), "f");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn without_an_announced_length_only_the_end_is_withheld() {
        let (mut teller, mut body) = channel(None);
        teller.data(Bytes::from_static(b"abc"), None);
        assert_eq!(next(&mut body).await.unwrap(), "abc");
        assert!(!body.is_end_stream());
        teller.end(None);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_exchange_that_is_lost_breaks_its_message_off() {
        let (mut teller, mut body) = channel(Some(6));
        teller.data(Bytes::from_static(b"abcdef"), None);
        drop(teller);
        assert_eq!(next(&mut body).await.unwrap(), "abcde");
        assert!(body.frame().await.unwrap().is_err());
    }
}
