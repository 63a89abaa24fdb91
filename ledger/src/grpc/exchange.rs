//! One sidecar's decisions and outcomes: questions come in on a stream, are put to the engine as they come, and are answered
//! as they are known.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::{self, AbortHandle, BoxFuture};
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, Stream, StreamExt as _, TryFutureExt as _};
use kybernis_core::ids::AgentId;
use kybernis_core::machine::Settle;
use kybernis_core::reason::Code;
use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::{decide_request, v1};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::boot::NamesBoot as _;
use crate::auth::{self, AuthError};
use crate::engine::Engine;

/// Questions of one sidecar without an answer. Beyond it a decision is refused for now rather than left in the way of the outcomes
/// behind it, on which it may itself be waiting.
pub(super) const UNANSWERED_MAX: usize = 4096;

/// Bytes of outcomes on their way into the journal. The stream is not read further while there are more: unlike decisions, none of
/// them waits for what comes behind it.
const SETTLING_MAX: usize = 16 * 1024 * 1024;

/// The stream's two ends.
pub(super) struct Exchange {
    engine: Engine,
    agent: AgentId,
    /// When the token by which it was opened runs out, in Unix seconds.
    expires: u64,
    /// `None` once there are no more.
    asks: Option<BoxStream<'static, Result<v1::EffectAsk, Status>>>,
    /// Until the ledger stops; `None` once it does.
    closing: Option<BoxFuture<'static, ()>>,
    under_way: FuturesUnordered<BoxFuture<'static, (u64, Option<Answer>)>>,
    unanswered: HashMap<u64, Unanswered>,
    /// Bytes of the outcomes among them.
    settling: usize,
}

struct Unanswered {
    given_up: AbortHandle,
    /// Of an outcome; `None` for a decision.
    settles: Option<usize>,
}

impl Unanswered {
    const fn is_decision(&self) -> bool {
        self.settles.is_none()
    }
}

impl Exchange {
    pub(super) fn new(
        engine: Engine,
        agent: AgentId,
        expires: u64,
        asks: BoxStream<'static, Result<v1::EffectAsk, Status>>,
        closing: CancellationToken,
    ) -> Self {
        let closing = Some(closing.cancelled_owned().boxed());
        let (under_way, unanswered) = (FuturesUnordered::new(), HashMap::new());
        Self { engine, agent, expires, asks: Some(asks), closing, under_way, unanswered, settling: 0 }
    }

    /// Puts a question to the engine, unless it answers itself.
    fn take(&mut self, number: u64, ask: Ask) -> Option<Answer> {
        let (engine, agent) = (self.engine.clone(), self.agent.clone());
        match ask {
            Ask::GiveUp(_) => {
                if self.unanswered.get(&number).is_some_and(Unanswered::is_decision)
                    && let Some(decision) = self.unanswered.remove(&number)
                {
                    decision.given_up.abort();
                }
            }
            _ if self.unanswered.contains_key(&number) => {
                let rule = "number: that question has no answer yet; give each one a number of its own";
                return Some(failure(Status::invalid_argument(rule)));
            }
            Ask::Decide(_) if self.unanswered.len() >= UNANSWERED_MAX => {
                let detail = format!("{UNANSWERED_MAX} questions of this sidecar have no answer yet");
                return Some(failure(Status::unavailable(detail)));
            }
            Ask::Decide(request) => self.put(number, None, answer_decide(engine, agent, request).map_ok_or_else(failure, Answer::Decide)),
            Ask::Settle(request) => {
                let bytes = request.encoded_len();
                self.settling += bytes;
                self.put(number, Some(bytes), answer_settle(engine, agent, request).map_ok_or_else(failure, Answer::Settle));
            }
        }
        None
    }

    fn put(&mut self, number: u64, settles: Option<usize>, answering: impl Future<Output = Answer> + Send + 'static) {
        let (answering, given_up) = future::abortable(answering);
        self.unanswered.insert(number, Unanswered { given_up, settles });
        self.under_way.push(answering.map(move |answer| (number, answer.ok())).boxed());
    }

    fn strike_off(&mut self, number: u64) {
        let asked = self.unanswered.remove(&number);
        self.settling -= asked.and_then(|asked| asked.settles).unwrap_or_default();
    }

    /// Takes nothing more. Outcomes that came are still answered; a decision that waits is asked for again elsewhere, and gets there
    /// what it would have got here.
    fn close(&mut self) {
        (self.asks, self.closing) = (None, None);
        for (_, decision) in self.unanswered.extract_if(|_, asked| asked.is_decision()) {
            decision.given_up.abort();
        }
    }
}

impl Stream for Exchange {
    type Item = Result<v1::EffectAnswer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.closing.as_mut().is_some_and(|closing| closing.poll_unpin(cx).is_ready()) {
            this.close();
        }
        loop {
            match this.under_way.poll_next_unpin(cx) {
                // Given up: its number may be in use again.
                Poll::Ready(Some((_, None))) => continue,
                Poll::Ready(Some((number, Some(answer)))) => {
                    this.strike_off(number);
                    return Poll::Ready(Some(Ok(v1::EffectAnswer { number, answer: Some(answer) })));
                }
                Poll::Ready(None) if this.asks.is_none() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let Some(asks) = this.asks.as_mut().filter(|_| this.settling <= SETTLING_MAX) else { return Poll::Pending };
            match asks.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => this.asks = None,
                Poll::Ready(Some(Err(status))) => {
                    this.asks = None;
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(Ok(_))) if auth::now() >= this.expires => {
                    this.asks = None;
                    return Poll::Ready(Some(Err(AuthError::Expired.into())));
                }
                Poll::Ready(Some(Ok(v1::EffectAsk { number, ask }))) => {
                    let answer = match ask {
                        Some(ask) => this.take(number, ask),
                        None => Some(failure(Status::invalid_argument("ask: is missing"))),
                    };
                    if let Some(answer) = answer {
                        return Poll::Ready(Some(Ok(v1::EffectAnswer { number, answer: Some(answer) })));
                    }
                }
            }
        }
    }
}

async fn answer_decide(engine: Engine, agent: AgentId, request: v1::DecideRequest) -> Result<v1::DecideReply, Status> {
    let request = request.of(&agent)?;
    let answer = engine.decide(decide_request(request, agent)?).await?;
    Ok((&answer).into())
}

async fn answer_settle(engine: Engine, agent: AgentId, request: v1::SettleRequest) -> Result<v1::SettleReply, Status> {
    let (settle, body) = <(Settle, Option<Vec<u8>>)>::try_from(request.of(&agent)?)?;
    match engine.settle(agent, settle, body).await? {
        Ok(standing) => {
            let gate = standing.gate.map(|gate| gate.to_string()).unwrap_or_default();
            Ok(v1::SettleReply { stands: standing.stands, gate })
        }
        Err(refuse) if refuse.code == Code::NotFound => Err(Status::not_found(refuse.detail)),
        Err(refuse) => Err(Status::unavailable(refuse.detail)),
    }
}

fn failure(status: Status) -> Answer {
    Answer::Failure(v1::Failure { code: status.code().into(), message: status.message().to_owned() })
}
