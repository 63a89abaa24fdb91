//! A response's body on its way to the agent: notes its end for the delivery, and breaks the connection where it breaks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use crate::body::{BodyError, ResponseBody};
use crate::delivery::EndMark;

#[derive(Debug)]
pub(crate) struct Marked {
    body: ResponseBody,
    mark: EndMark,
    /// HTTP/1: a message is broken off by a reset, since a FIN may be taken for its end.
    resets: bool,
}

impl Marked {
    pub(super) const fn new(body: ResponseBody, mark: EndMark, resets: bool) -> Self {
        Self { body, mark, resets }
    }
}

/// How many body bytes the head promises, where it does.
pub(super) fn announced_length(head: &http::response::Parts, body: &ResponseBody, head_only: bool) -> Option<u64> {
    if head_only || head.status == StatusCode::NO_CONTENT || head.status == StatusCode::NOT_MODIFIED {
        return None;
    }
    body.size_hint().exact().or_else(|| {
        let value = head.headers.get(CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    })
}

impl Body for Marked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &polled {
            None => this.mark.passed(0, true),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                let last = frame.is_trailers() || this.body.is_end_stream();
                this.mark.passed(len, last);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "answer broken off");
                this.mark.abort(this.resets);
            }
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

impl Drop for Marked {
    fn drop(&mut self) {
        // Without a body nobody asks for a frame: the head's end is the answer's.
        if self.body.is_end_stream() {
            self.mark.passed(0, true);
        }
    }
}
