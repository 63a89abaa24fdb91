//! Decisions and outcomes on their way: every question goes out on one stream, and each answer finds who asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::{MESSAGE_MAX, v1};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{CallError, Client, Token};

/// Longer outcomes, those with large answers, take a stream of their own: the others do not wait until they are through.
const LONG: usize = 64 * 1024;

/// Questions that wait for a stream's pace; more wait with those who ask them, who may still think better of it.
const QUEUE: usize = 64;
/// The same on the stream for long ones: each may have [`MESSAGE_MAX`] bytes.
const LONG_QUEUE: usize = 1;

/// What is asked, on two streams that open with their first question and again after they broke.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    client: Client,
    token: Token,
    short: Arc<Lane>,
    long: Arc<Lane>,
}

/// A way to the ledger, over one stream after another.
#[derive(Debug)]
struct Lane {
    queue: usize,
    stream: Mutex<Option<Stream>>,
}

/// One stream; it ends when nobody holds it any more.
#[derive(Clone, Debug)]
struct Stream {
    asks: mpsc::Sender<v1::EffectAsk>,
    waiting: Arc<Mutex<Waiting>>,
    /// No answer comes any more. Whether questions could still go out is another matter.
    over: CancellationToken,
}

/// Who waits on a stream.
#[derive(Debug, Default)]
struct Waiting {
    /// By the number of their question.
    askers: HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
    last: u64,
}

impl Asking {
    pub(super) fn new(client: Client, token: Token) -> Self {
        let lane = |queue| Arc::new(Lane { queue, stream: Mutex::default() });
        Self { client, token, short: lane(QUEUE), long: lane(LONG_QUEUE) }
    }

    /// The answer to a question; given up if the future is dropped.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, CallError> {
        let mut ask = v1::EffectAsk { number: u64::MAX, ask: Some(ask) };
        let length = ask.encoded_len();
        if length > MESSAGE_MAX {
            return Err(CallError::Refused(format!("the question has {length} bytes; at most {MESSAGE_MAX} are allowed")));
        }
        let is_long = length > LONG && matches!(ask.ask, Some(Ask::Settle(_)));
        let stream = self.stream(if is_long { &self.long } else { &self.short });
        let place = tokio::select! {
            biased;
            place = stream.asks.reserve() => place.map_err(|_| broken_off())?,
            () = stream.over.cancelled() => return Err(broken_off()),
        };
        let (asked, answer) = stream.enter().ok_or_else(broken_off)?;
        ask.number = asked.number;
        place.send(ask);
        answer.await.unwrap_or_else(|_| Err(broken_off()))
    }

    fn stream(&self, lane: &Lane) -> Stream {
        let mut stream = locked(&lane.stream);
        if let Some(stream) = stream.as_ref().filter(|stream| !stream.over.is_cancelled() && !stream.asks.is_closed()) {
            return stream.clone();
        }
        let (asks, queue) = mpsc::channel(lane.queue);
        let opened = Stream { asks, waiting: Arc::default(), over: CancellationToken::new() };
        tokio::spawn(carry(self.client.clone(), self.token.clone(), queue, Arc::clone(&opened.waiting), opened.over.clone()));
        stream.insert(opened).clone()
    }
}

impl Stream {
    /// A number for one more question; none once the stream is over.
    fn enter(&self) -> Option<(Asked<'_>, oneshot::Receiver<Result<Answer, CallError>>)> {
        let mut waiting = locked(&self.waiting);
        if self.over.is_cancelled() {
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        let (tell, answer) = oneshot::channel();
        waiting.askers.insert(number, tell);
        Some((Asked { stream: self, number }, answer))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One question; whoever answers it strikes it off.
struct Asked<'s> {
    stream: &'s Stream,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if locked(&self.stream.waiting).askers.remove(&self.number).is_some() {
            // Spares the ledger an answer that nobody reads; where there is no room for the word, it is read by nobody.
            let _ = self.stream.asks.try_send(v1::EffectAsk { number: self.number, ask: Some(Ask::GiveUp(v1::GiveUp {})) });
        }
    }
}

/// One stream, until it ends; whoever still waits on it then learns that.
async fn carry(client: Client, token: Token, asks: mpsc::Receiver<v1::EffectAsk>, waiting: Arc<Mutex<Waiting>>, over: CancellationToken) {
    let ended = match exchange(client, &token, asks, &waiting).await {
        Ok(()) => broken_off(),
        // What becomes of a stream says nothing of the questions on it.
        Err(CallError::Away(reason)) => CallError::Away(reason),
        Err(CallError::Refused(reason)) => {
            tracing::error!(reason, "the ledger does not take the stream of decisions");
            CallError::Away(reason)
        }
    };
    let askers = {
        let mut waiting = locked(&waiting);
        // Under the lock: whoever enters after it is told, whoever entered before is among these.
        over.cancel();
        std::mem::take(&mut waiting.askers)
    };
    for tell in askers.into_values() {
        let _ = tell.send(Err(ended.clone()));
    }
}

async fn exchange(
    mut client: Client,
    token: &Token,
    asks: mpsc::Receiver<v1::EffectAsk>,
    waiting: &Mutex<Waiting>,
) -> Result<(), CallError> {
    let mut answers = token.heard(client.effects(ReceiverStream::new(asks)).await)?;
    while let Some(v1::EffectAnswer { number, answer }) = answers.message().await.map_err(|status| token.failed(status))? {
        let tell = locked(waiting).askers.remove(&number);
        let answer = match answer {
            Some(Answer::Failure(failure)) => Err(Status::new(failure.code.into(), failure.message).into()),
            Some(answer) => Ok(answer),
            None => Err(CallError::Away("the ledger's answer is not one that this version knows".to_owned())),
        };
        if let Some(tell) = tell {
            // Who gave it up in this moment does not read it.
            let _ = tell.send(answer);
        }
    }
    Ok(())
}

fn broken_off() -> CallError {
    CallError::Away("the stream of decisions ended".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::combinators::BoxBody;
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use kybernis_proto::v1::ledger_client::LedgerClient;
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;

    /// What a ledger makes of one stream.
    #[derive(Clone, Copy)]
    enum Then {
        /// It ends with this status.
        End(&'static str),
        /// This message comes, and the stream stays open.
        Say(&'static [u8]),
    }

    impl Then {
        fn response(self) -> Response<BoxBody<Bytes, Infallible>> {
            let head = Response::builder().header("content-type", "application/grpc");
            match self {
                Self::End(status) => head.header("grpc-status", status).body(Empty::new().boxed()),
                Self::Say(message) => {
                    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                    let said = Bytes::from([&[0], &length[..], message].concat());
                    let said = stream::iter([Ok(Frame::data(said))]).chain(stream::pending());
                    head.body(BoxBody::new(StreamBody::new(said)))
                }
            }
            .unwrap()
        }
    }

    /// Asks a ledger that makes this of one stream after another, and the last of all that follow.
    async fn asking(then: &'static [Then]) -> Asking {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let streams = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let streams = Arc::clone(&streams);
                let kept = Arc::new(Mutex::new(Vec::new()));
                let answers = service_fn(move |request: Request<Incoming>| {
                    // Its other direction stays open.
                    locked(&kept).push(request);
                    let nth = streams.fetch_add(1, Ordering::Relaxed).min(then.len() - 1);
                    async move { Ok::<_, Infallible>(then[nth].response()) }
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answers));
            }
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token").unwrap();
        let token = Token::read(file.path()).unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Asking::new(LedgerClient::with_interceptor(channel, token.clone()), token)
    }

    #[tokio::test]
    async fn what_becomes_of_a_stream_says_nothing_of_the_questions_on_it() {
        // INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAVAILABLE, and an end in good order.
        const STATUSES: [Then; 7] =
            [Then::End("3"), Then::End("5"), Then::End("7"), Then::End("9"), Then::End("12"), Then::End("14"), Then::End("0")];
        let asking = asking(&STATUSES).await;
        for nth in 0..STATUSES.len() {
            let ended = asking.ask(Ask::Settle(v1::SettleRequest::default())).await;
            assert!(matches!(ended, Err(CallError::Away(_))), "{nth}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn after_an_answer_that_cannot_be_read_the_next_question_has_a_stream_of_its_own() {
        // No protobuf; then: the answer to question 1 is an empty SettleReply.
        let asking = asking(&[Then::Say(&[0xff; 8]), Then::Say(&[8, 1, 26, 0])]).await;
        let unread = asking.ask(Ask::Settle(v1::SettleRequest::default())).await;
        assert!(matches!(unread, Err(CallError::Away(_))), "{unread:?}");
        let answer = asking.ask(Ask::Settle(v1::SettleRequest::default())).await;
        assert!(matches!(answer, Ok(Answer::Settle(_))), "{answer:?}");
    }
}
