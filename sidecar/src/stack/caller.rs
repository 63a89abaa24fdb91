//! The caller of an effect, seen from the task that owns the exchange: it can be answered once, and it can go away.

use http::Response;
use tokio::sync::oneshot;

use crate::body::ResponseBody;

/// Whoever waits for the answer's head.
#[derive(Debug)]
pub(super) struct Caller(Option<oneshot::Sender<Response<ResponseBody>>>);

impl Caller {
    pub(super) fn new() -> (Self, oneshot::Receiver<Response<ResponseBody>>) {
        let (tell, told) = oneshot::channel();
        (Self(Some(tell)), told)
    }

    /// Returns when the caller has gone without an answer.
    pub(super) async fn gone(&mut self) {
        match &mut self.0 {
            Some(tell) => tell.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Hands the answer over; whether somebody took it.
    pub(super) fn answer(&mut self, response: Response<ResponseBody>) -> bool {
        self.0.take().is_some_and(|tell| tell.send(response).is_ok())
    }
}
