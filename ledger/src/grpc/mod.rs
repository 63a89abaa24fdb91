//! The gRPC service of sidecars: authenticates, parses, asks the engine.

mod boot;
mod exchange;
mod spans;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt as _};
use kybernis_core::ids::{AgentId, BootId, EffectId, RunId};
use kybernis_core::machine::{Abandon, EnterRun, Evidence, Fence, Renew};
use kybernis_proto::v1;
use kybernis_proto::v1::ledger_server::Ledger;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::spans::spans;

use self::boot::{NamesBoot, own_boot};
use self::exchange::Exchange;
use crate::auth::{AuthError, Claims, Endpoint, TokenKey, Workload};
use crate::engine::{CallError, Engine, EngineError};
use crate::policy::InForce;
use crate::vault::Vault;

/// Messages that wait for a slow reader of one stream.
const STREAM_QUEUE: usize = 16;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Engine,
    vault: Arc<Vault>,
    tokens: Arc<TokenKey>,
    policy: watch::Receiver<InForce>,
    /// The last boot of each instance: a new one says that its predecessor's process is over.
    living: Mutex<std::collections::HashMap<String, BootId>>,
    closing: CancellationToken,
}

impl Service {
    /// A service over `engine` that ends its streams when `closing` is cancelled.
    pub(crate) fn new(
        engine: Engine,
        vault: Arc<Vault>,
        tokens: Arc<TokenKey>,
        policy: watch::Receiver<InForce>,
        closing: CancellationToken,
    ) -> Self {
        Self { engine, vault, tokens, policy, living: Mutex::default(), closing }
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(Claims, Workload), Status> {
        let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let claims = self.tokens.admit(authorization, Endpoint::Sidecar)?;
        let workload = claims.workload.clone().ok_or_else(|| Status::permission_denied("the token names no workload"))?;
        Ok((claims, workload))
    }

    /// The caller's agent, and its message, whose boot is that agent's own.
    fn take<M: NamesBoot>(&self, request: Request<M>) -> Result<(AgentId, M), Status> {
        let (_, Workload { agent, .. }) = self.admit(request.metadata())?;
        let message = request.into_inner().of(&agent)?;
        Ok((agent, message))
    }

    /// The boot that `workload` had before, whose process is over now.
    fn succeed(&self, workload: &Workload, boot: &BootId) -> Option<BootId> {
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.insert(workload.instance.clone(), boot.clone()).filter(|before| before != boot)
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Invalid | AuthError::Expired => Self::unauthenticated(error.to_string()),
            AuthError::Forbidden => Self::permission_denied(error.to_string()),
        }
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        tracing::error!(%error, "a stored value cannot be read");
        Self::internal(error.to_string())
    }
}

#[tonic::async_trait]
impl Ledger for Service {
    type EffectsStream = Messages<v1::EffectAnswer>;
    type FetchBodyStream = Messages<v1::BodyChunk>;
    type StreamSpansStream = Messages<v1::SpanAck>;
    type WatchPolicyStream = Messages<v1::PolicyUpdate>;
    type WatchProbesStream = Messages<v1::ProbeOrder>;

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterReply>, Status> {
        let (claims, workload) = self.admit(request.metadata())?;
        let request = request.into_inner();
        let boot = own_boot(&workload.agent, &request.boot)?;
        if let Some(before) = self.succeed(&workload, &boot) {
            self.engine.boot_gone(before).await?;
        }
        let through = {
            let boot = boot.clone();
            self.engine.read(move |state| state.spans_through(&boot)).await?
        };
        tracing::info!(agent = %workload.agent, run = %workload.run, %boot, capture = request.capture, "a sidecar registered");
        Ok(Response::new(v1::RegisterReply {
            tenant: claims.tenant.to_string(),
            agent: workload.agent.to_string(),
            run: workload.run.to_string(),
            labels: workload.labels.into_iter().collect(),
            tenant_secret: self.vault.tenant_secret().as_bytes().to_vec(),
            spans_through: through,
            explicit_run: workload.explicit_run,
        }))
    }

    async fn effects(&self, request: Request<Streaming<v1::EffectAsk>>) -> Result<Response<Self::EffectsStream>, Status> {
        let (claims, workload) = self.admit(request.metadata())?;
        let asks = request.into_inner().boxed();
        let exchange = Exchange::new(self.engine.clone(), workload.agent, claims.expires, asks, self.closing.clone());
        Ok(Response::new(exchange.boxed()))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let (_, request) = self.take(request)?;
        let lost = self.engine.renew(Renew::try_from(request)?).await?;
        let lost = lost.into_iter().map(|(effect, fence)| v1::Lease { effect: effect.to_string(), fence: fence.get() }).collect();
        Ok(Response::new(v1::RenewReply { lost }))
    }

    async fn abandon(&self, request: Request<v1::AbandonRequest>) -> Result<Response<v1::AbandonReply>, Status> {
        let (_, request) = self.take(request)?;
        self.engine.abandon(Abandon::try_from(request)?).await?;
        Ok(Response::new(v1::AbandonReply {}))
    }

    async fn enter_run(&self, request: Request<v1::EnterRunRequest>) -> Result<Response<v1::EnterRunReply>, Status> {
        let (_, workload) = self.admit(request.metadata())?;
        let run = RunId::new(&request.into_inner().run).map_err(|error| Status::invalid_argument(format!("run: {error}")))?;
        let refused = self.engine.enter_run(EnterRun { run, agent: workload.agent }).await?.err();
        Ok(Response::new(v1::EnterRunReply { refusal: refused.as_ref().map(Into::into) }))
    }

    async fn fetch_body(&self, request: Request<v1::FetchBodyRequest>) -> Result<Response<Self::FetchBodyStream>, Status> {
        let (_, workload) = self.admit(request.metadata())?;
        let request = request.into_inner();
        let effect = EffectId::new(&request.effect).map_err(|error| Status::invalid_argument(format!("effect: {error}")))?;
        let fence = Fence::new(request.fence).ok_or_else(|| Status::invalid_argument("fence: is at least 1"))?;
        let body = self.engine.body(workload.agent, effect, fence).await??;
        let chunks = body.ok_or_else(|| Status::not_found("no body is kept for this effect and fence"))?;
        let chunks = futures::stream::iter(chunks.into_iter().map(|data| Ok(v1::BodyChunk { data })));
        Ok(Response::new(chunks.boxed()))
    }

    async fn stream_spans(&self, request: Request<Streaming<v1::SpanBatch>>) -> Result<Response<Self::StreamSpansStream>, Status> {
        let (_, workload) = self.admit(request.metadata())?;
        let engine = self.engine.clone();
        let batches = request.into_inner().take_until(self.closing.clone().cancelled_owned());
        let acks = batches.then(move |batch| {
            let (engine, agent) = (engine.clone(), workload.agent.clone());
            async move {
                let spans = spans(batch?, agent)?;
                Ok(v1::SpanAck { through: engine.spans(spans).await? })
            }
        });
        Ok(Response::new(acks.boxed()))
    }

    async fn watch_policy(&self, request: Request<Streaming<v1::PolicyAck>>) -> Result<Response<Self::WatchPolicyStream>, Status> {
        let (_, workload) = self.admit(request.metadata())?;
        let mut acks = request.into_inner();
        let (updates, receive) = mpsc::channel(STREAM_QUEUE);
        let (engine, mut policy, closing) = (self.engine.clone(), self.policy.clone(), self.closing.clone());
        policy.mark_changed();
        tokio::spawn(async move {
            let mut presence = None;
            loop {
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = updates.closed() => return,
                    changed = policy.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let set = policy.borrow_and_update().clone();
                        if updates.send(Ok(update(&set))).await.is_err() {
                            return;
                        }
                    }
                    ack = acks.message() => match ack {
                        Ok(Some(ack)) => {
                            note(&ack, &workload);
                            if let (None, Ok(boot)) = (&presence, own_boot(&workload.agent, &ack.boot)) {
                                presence = Some(engine.presence(boot));
                            }
                        }
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    async fn watch_probes(&self, request: Request<v1::WatchProbesRequest>) -> Result<Response<Self::WatchProbesStream>, Status> {
        let (_, workload) = self.admit(request.metadata())?;
        let orders = ReceiverStream::new(self.engine.probes(workload.agent)).map(|order| {
            Ok(v1::ProbeOrder {
                effect: order.effect.to_string(),
                fence: order.fence.get(),
                request: order.request,
                asked_at_ms: order.asked_at.epoch_ms(),
            })
        });
        Ok(Response::new(orders.take_until(self.closing.clone().cancelled_owned()).boxed()))
    }

    async fn report_probe(&self, request: Request<v1::ProbeReport>) -> Result<Response<v1::ProbeReportReply>, Status> {
        let (agent, request) = self.take(request)?;
        self.engine.evidence(agent, Evidence::try_from(request)?).await?;
        Ok(Response::new(v1::ProbeReportReply {}))
    }
}

fn update(set: &InForce) -> v1::PolicyUpdate {
    let secrets = set.secrets.iter().map(|(named, value)| v1::Secret {
        namespace: named.namespace.clone(),
        name: named.name.clone(),
        key: named.key.clone(),
        value: value.to_vec(),
    });
    v1::PolicyUpdate { digest: set.digest.as_bytes().to_vec(), policy_set: set.json.to_vec(), secrets: secrets.collect() }
}

fn note(ack: &v1::PolicyAck, workload: &Workload) {
    if ack.error.is_empty() {
        tracing::debug!(agent = %workload.agent, digest = hex::encode(&ack.digest), "a sidecar runs with this policy");
    } else {
        tracing::error!(agent = %workload.agent, error = ack.error, "a sidecar could not take the policy into force");
    }
}
