//! The gRPC service of sidecars: authenticates, parses, asks the engine.

mod boot;
mod control;
mod exchange;
mod spans;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use kybernis_core::ids::{EffectId, RunId, TenantId};
use kybernis_core::machine::{Abandon, EnterRun, Evidence, Fence, Refuse, Renew};
use kybernis_proto::v1;
use kybernis_proto::v1::ledger_server::Ledger;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::control::Control;
pub(crate) use self::spans::spans;

use self::boot::{NamesBoot, own_boot};
use self::exchange::Exchange;
use crate::auth::{Auth, AuthError, Claims, Endpoint, Workload};
use crate::engine::{CallError, EngineError};
use crate::fleet::{Fleet, Sidecar};
use crate::policy::InForce;
use crate::tenants::{Tenant, TenantError, Tenants};

/// Messages that wait for a slow reader of one stream.
const STREAM_QUEUE: usize = 16;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    auth: Auth,
    tenants: Tenants,
    fleet: Fleet,
}

/// A sidecar that was let in.
struct Caller {
    tenant: Arc<Tenant>,
    tenant_name: TenantId,
    workload: Workload,
    /// When its token runs out, in Unix seconds.
    expires: u64,
}

impl Service {
    /// A service whose streams end with their tenant.
    pub(crate) const fn new(auth: Auth, tenants: Tenants, fleet: Fleet) -> Self {
        Self { auth, tenants, fleet }
    }

    async fn admit(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let claims = admit(&self.auth, metadata, Endpoint::Sidecar).await?;
        let workload = claims.workload.ok_or_else(|| Status::permission_denied("the token names no workload"))?;
        let tenant = self.tenants.of(&claims.tenant).await?;
        Ok(Caller { tenant, tenant_name: claims.tenant, workload, expires: claims.expires })
    }

    /// The caller, and its message, whose boot is that agent's own.
    async fn take<M: NamesBoot>(&self, request: Request<M>) -> Result<(Caller, M), Status> {
        let caller = self.admit(request.metadata()).await?;
        let message = request.into_inner().of(&caller.workload.agent)?;
        Ok((caller, message))
    }
}

/// Who calls, if they may.
async fn admit(auth: &Auth, metadata: &MetadataMap, endpoint: Endpoint) -> Result<Claims, Status> {
    let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok());
    Ok(auth.admit(authorization, endpoint).await?)
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Invalid | AuthError::Expired => Self::unauthenticated(error.to_string()),
            AuthError::Forbidden | AuthError::Unknown(_) => Self::permission_denied(error.to_string()),
            AuthError::Unavailable => Self::unavailable(error.to_string()),
        }
    }
}

impl From<TenantError> for Status {
    fn from(error: TenantError) -> Self {
        match error {
            TenantError::Closed(_) | TenantError::TooMany(_) | TenantError::Stopping => Self::unavailable(error.to_string()),
            TenantError::Name(_) => Self::permission_denied(error.to_string()),
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
        let Caller { tenant, tenant_name, workload, .. } = self.admit(request.metadata()).await?;
        let request = request.into_inner();
        let boot = own_boot(&workload.agent, &request.boot)?;
        tenant.succeed(&workload, &boot).await?;
        let through = {
            let boot = boot.clone();
            tenant.engine.read(move |state| state.spans_through(&boot)).await?
        };
        tracing::info!(agent = %workload.agent, run = %workload.run, %boot, capture = request.capture, "a sidecar registered");
        Ok(Response::new(v1::RegisterReply {
            tenant: tenant_name.to_string(),
            agent: workload.agent.to_string(),
            run: workload.run.to_string(),
            labels: workload.labels.into_iter().collect(),
            tenant_secret: tenant.vault.tenant_secret().as_bytes().to_vec(),
            spans_through: through,
            explicit_run: workload.explicit_run,
        }))
    }

    async fn effects(&self, request: Request<Streaming<v1::EffectAsk>>) -> Result<Response<Self::EffectsStream>, Status> {
        let Caller { tenant, workload, expires, .. } = self.admit(request.metadata()).await?;
        let asks = request.into_inner().boxed();
        let exchange = Exchange::new(tenant.engine.clone(), workload.agent, expires, asks, tenant.closing.clone());
        Ok(Response::new(exchange.boxed()))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let (caller, request) = self.take(request).await?;
        let lost = caller.tenant.engine.renew(Renew::try_from(request)?).await?;
        let lost = lost.into_iter().map(|(effect, fence)| v1::Lease { effect: effect.to_string(), fence: fence.get() }).collect();
        Ok(Response::new(v1::RenewReply { lost }))
    }

    async fn abandon(&self, request: Request<v1::AbandonRequest>) -> Result<Response<v1::AbandonReply>, Status> {
        let (caller, request) = self.take(request).await?;
        caller.tenant.engine.abandon(Abandon::try_from(request)?).await?;
        Ok(Response::new(v1::AbandonReply {}))
    }

    async fn enter_run(&self, request: Request<v1::EnterRunRequest>) -> Result<Response<v1::EnterRunReply>, Status> {
        let Caller { tenant, workload, .. } = self.admit(request.metadata()).await?;
        let run = RunId::new(&request.into_inner().run).map_err(|error| Status::invalid_argument(format!("run: {error}")))?;
        let refused = if tenant.is_run_of_another(&run, &workload.agent) {
            Some(Refuse::foreign_run(&run))
        } else {
            tenant.engine.enter_run(EnterRun { run, agent: workload.agent }).await?.err()
        };
        Ok(Response::new(v1::EnterRunReply { refusal: refused.as_ref().map(Into::into) }))
    }

    async fn fetch_body(&self, request: Request<v1::FetchBodyRequest>) -> Result<Response<Self::FetchBodyStream>, Status> {
        let Caller { tenant, workload, .. } = self.admit(request.metadata()).await?;
        let request = request.into_inner();
        let effect = EffectId::new(&request.effect).map_err(|error| Status::invalid_argument(format!("effect: {error}")))?;
        let fence = Fence::new(request.fence).ok_or_else(|| Status::invalid_argument("fence: is at least 1"))?;
        let body = tenant.engine.body(workload.agent, effect, fence).await??;
        let chunks = body.ok_or_else(|| Status::not_found("no body is kept for this effect and fence"))?;
        let chunks = futures::stream::iter(chunks.into_iter().map(|data| Ok(v1::BodyChunk { data })));
        Ok(Response::new(chunks.boxed()))
    }

    async fn stream_spans(&self, request: Request<Streaming<v1::SpanBatch>>) -> Result<Response<Self::StreamSpansStream>, Status> {
        let Caller { tenant, workload, .. } = self.admit(request.metadata()).await?;
        let engine = tenant.engine.clone();
        let batches = request.into_inner().take_until(tenant.closing.clone().cancelled_owned());
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
        let Caller { tenant, tenant_name, workload, .. } = self.admit(request.metadata()).await?;
        let standing = self.fleet.enter((tenant_name, workload.instance.clone()));
        let mut acks = request.into_inner();
        let (updates, receive) = mpsc::channel(STREAM_QUEUE);
        let (engine, mut policy, closing) = (tenant.engine.clone(), tenant.policy(), tenant.closing.clone());
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
                        if let Some(set) = set
                            && updates.send(Ok(update(&set))).await.is_err()
                        {
                            return;
                        }
                    }
                    ack = acks.message() => match ack {
                        Ok(Some(ack)) => {
                            note(&ack, &workload);
                            let (agent, labels) = (workload.agent.clone(), tenant.labels_of(&workload));
                            standing.says(Sidecar { agent, labels, digest: ack.digest, error: ack.error });
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
        let Caller { tenant, workload, .. } = self.admit(request.metadata()).await?;
        let orders = ReceiverStream::new(tenant.engine.probes(workload.agent)).map(|order| {
            Ok(v1::ProbeOrder {
                effect: order.effect.to_string(),
                fence: order.fence.get(),
                request: order.request,
                asked_at_ms: order.asked_at.epoch_ms(),
            })
        });
        Ok(Response::new(orders.take_until(tenant.closing.clone().cancelled_owned()).boxed()))
    }

    async fn report_probe(&self, request: Request<v1::ProbeReport>) -> Result<Response<v1::ProbeReportReply>, Status> {
        let (caller, request) = self.take(request).await?;
        caller.tenant.engine.evidence(caller.workload.agent, Evidence::try_from(request)?).await?;
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
