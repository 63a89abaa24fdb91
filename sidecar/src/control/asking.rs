//! Decisions and outcomes on their way: every question goes out on one stream, and each answer finds who asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::{MESSAGE_MAX, v1};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{CallError, Client, Token};

/// Longer questions, outcomes with large answers, take a stream of their own: the others do not wait until they are through.
const LONG: usize = 64 * 1024;

/// What is asked, on two streams that open with their first question and again after they broke.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    client: Client,
    token: Token,
    short: Lane,
    long: Lane,
}

type Lane = Arc<Mutex<State>>;

#[derive(Debug, Default)]
struct State {
    /// The way out; absent while there is no stream.
    asks: Option<mpsc::UnboundedSender<v1::EffectAsk>>,
    /// Who waits on the stream, by number.
    waiting: HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
    /// Numbers are not given twice, not even on another stream.
    last: u64,
}

impl Asking {
    pub(super) fn new(client: Client, token: Token) -> Self {
        Self { client, token, short: Lane::default(), long: Lane::default() }
    }

    /// The answer to a question; given up if the future is dropped.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, CallError> {
        let length = match &ask {
            Ask::Decide(decide) => decide.encoded_len(),
            Ask::Settle(settle) => settle.encoded_len(),
            Ask::GiveUp(_) => 0,
        };
        // With the number and the tags around it.
        if length > MESSAGE_MAX - LONG {
            return Err(CallError::Refused(format!("the question has {length} bytes; at most {} are allowed", MESSAGE_MAX - LONG)));
        }
        let lane = if length > LONG { &self.long } else { &self.short };
        let (_given_up_if_dropped, answer) = self.put(lane, ask)?;
        answer.await.unwrap_or_else(|_| Err(broken_off()))
    }

    fn put(&self, lane: &Lane, ask: Ask) -> Result<(Asked, oneshot::Receiver<Result<Answer, CallError>>), CallError> {
        let mut state = locked(lane);
        state.last += 1;
        let number = state.last;
        let (tell, answer) = oneshot::channel();
        state.waiting.insert(number, tell);
        let asks = state.asks.get_or_insert_with(|| {
            let (asks, queue) = mpsc::unbounded_channel();
            tokio::spawn(carry(Arc::downgrade(lane), self.client.clone(), self.token.clone(), queue));
            asks
        });
        if asks.send(v1::EffectAsk { number, ask: Some(ask) }).is_err() {
            // The stream is just coming to its end.
            state.waiting.remove(&number);
            return Err(broken_off());
        }
        Ok((Asked { lane: Arc::clone(lane), number }, answer))
    }
}

fn locked(lane: &Mutex<State>) -> MutexGuard<'_, State> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One question; whoever answers it strikes it off.
struct Asked {
    lane: Lane,
    number: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = locked(&self.lane);
        if state.waiting.remove(&self.number).is_some()
            && let Some(asks) = &state.asks
        {
            // On a stream that has just ended there is nothing to give up.
            let _ = asks.send(v1::EffectAsk { number: self.number, ask: Some(Ask::GiveUp(v1::GiveUp {})) });
        }
    }
}

/// One stream, until it ends; whoever still waits on it then learns that.
async fn carry(lane: Weak<Mutex<State>>, client: Client, token: Token, asks: mpsc::UnboundedReceiver<v1::EffectAsk>) {
    let ended = match exchange(&lane, client, &token, asks).await {
        Ok(()) => broken_off(),
        Err(error) => error,
    };
    let Some(lane) = lane.upgrade() else { return };
    let waiting = {
        let mut state = locked(&lane);
        state.asks = None;
        std::mem::take(&mut state.waiting)
    };
    for tell in waiting.into_values() {
        let _ = tell.send(Err(ended.clone()));
    }
}

async fn exchange(
    lane: &Weak<Mutex<State>>,
    mut client: Client,
    token: &Token,
    asks: mpsc::UnboundedReceiver<v1::EffectAsk>,
) -> Result<(), CallError> {
    let mut answers = token.heard(client.effects(UnboundedReceiverStream::new(asks)).await)?;
    while let Some(v1::EffectAnswer { number, answer }) = answers.message().await.map_err(|status| token.failed(status))? {
        let Some(lane) = lane.upgrade() else { return Ok(()) };
        let tell = locked(&lane).waiting.remove(&number);
        let answer = match answer {
            Some(Answer::Failure(failure)) => Err(Status::new(failure.code.into(), failure.message).into()),
            Some(answer) => Ok(answer),
            None => Err(CallError::Refused("the ledger's answer is not one that this version knows".to_owned())),
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
