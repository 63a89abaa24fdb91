//! Decisions and outcomes on their way: every question goes out on one stream, and each answer finds who asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::{MESSAGE_MAX, v1};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
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
}

/// Who waits on a stream.
#[derive(Debug, Default)]
struct Waiting {
    /// By the number of their question.
    askers: HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
    last: u64,
    /// No answer comes any more.
    over: bool,
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
        let place = stream.asks.reserve().await.map_err(|_| broken_off())?;
        let (asked, answer) = stream.enter().ok_or_else(broken_off)?;
        ask.number = asked.number;
        place.send(ask);
        answer.await.unwrap_or_else(|_| Err(broken_off()))
    }

    fn stream(&self, lane: &Lane) -> Stream {
        let mut stream = locked(&lane.stream);
        if let Some(stream) = stream.as_ref().filter(|stream| !stream.asks.is_closed()) {
            return stream.clone();
        }
        let (asks, queue) = mpsc::channel(lane.queue);
        let waiting = Arc::<Mutex<Waiting>>::default();
        tokio::spawn(carry(self.client.clone(), self.token.clone(), queue, Arc::clone(&waiting)));
        stream.insert(Stream { asks, waiting }).clone()
    }
}

impl Stream {
    /// A number for one more question; none once the stream is over.
    fn enter(&self) -> Option<(Asked<'_>, oneshot::Receiver<Result<Answer, CallError>>)> {
        let mut waiting = locked(&self.waiting);
        if waiting.over {
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
async fn carry(client: Client, token: Token, asks: mpsc::Receiver<v1::EffectAsk>, waiting: Arc<Mutex<Waiting>>) {
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
        waiting.over = true;
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

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Empty;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use kybernis_proto::v1::ledger_client::LedgerClient;
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;

    /// Asks a ledger that ends every stream with this status.
    async fn asking(status: &'static str) -> Asking {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let ends = service_fn(move |_| async move {
                    let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
                    Ok::<_, Infallible>(head.body(Empty::<Bytes>::new()).unwrap())
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), ends));
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
        for status in ["3", "5", "7", "9", "12", "14", "0"] {
            let asking = asking(status).await;
            for _ in 0..2 {
                let ended = asking.ask(Ask::Settle(v1::SettleRequest::default())).await;
                assert!(matches!(ended, Err(CallError::Away(_))), "{status}: {ended:?}");
            }
        }
    }
}
