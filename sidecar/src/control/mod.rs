//! The ledger as the sidecar sees it: who we are, what policy says, and one question for each step of an effect.

mod asking;
mod connect;
#[cfg(test)]
pub(crate) mod fake;
mod infra;
mod policy;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use kybernis_core::ids::{AgentId, BootId, EffectId, RunId, TenantId};
use kybernis_core::key::TenantSecret;
use kybernis_core::machine::{Fence, Refuse};
use kybernis_core::policy::Labels;
use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::v1::ledger_client::LedgerClient;
use kybernis_proto::{DecideAnswer, MESSAGE_MAX, decide_answer, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::asking::Asking;
use self::connect::Connector;
pub(crate) use self::infra::{Answer as InfraAnswer, Unanswered};
pub use self::policy::{SNAPSHOT_TTL, Snapshot};
use self::token::Token;
use crate::resolve::Resolve;
use crate::tls::client::RootsError;

/// The first wait between tries to reach the ledger; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait between tries.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// For one try to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection on which pings go unanswered for this long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the ledger is and how to be believed there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://HOST:PORT`.
    pub address: String,
    /// The name in the ledger's certificate.
    pub server_name: String,
    /// PEM of the CAs that may have signed it; read again for each connection.
    pub ca: PathBuf,
    /// A file with the token; read again when the ledger does not take it.
    pub token: PathBuf,
    /// How agents' connections are caught; stands on receipts.
    pub capture: String,
}

/// Why the ledger cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token is no header value.
    #[error("{path} holds no token")]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// The CA is not usable.
    #[error("the ledger's CA")]
    Ca(#[from] RootsError),
    /// The name in its certificate is none.
    #[error("{0:?} is no name that a certificate could have")]
    Name(String),
    /// The address is not one.
    #[error("{0:?} is not where a ledger is: https://HOST:PORT")]
    Address(String),
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The ledger cannot be reached now; whether the call got there is not known.
    #[error("the ledger cannot be reached: {0}")]
    Away(String),
    /// The ledger answered that this call is not valid. Asking again changes nothing.
    #[error("the ledger refused the call: {0}")]
    Refused(String),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::FailedPrecondition => Self::Refused(text),
            _ => Self::Away(text),
        }
    }
}

impl From<kybernis_proto::Invalid> for CallError {
    fn from(invalid: kybernis_proto::Invalid) -> Self {
        Self::Refused(invalid.to_string())
    }
}

/// Who the ledger says we are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The isolation unit.
    pub tenant: TenantId,
    /// Who acts.
    pub agent: AgentId,
    /// The workload's own run.
    pub run: RunId,
    /// Somebody named it; else it is implicit.
    pub explicit_run: bool,
    /// What selectors look at.
    pub labels: Labels,
    /// Under which keys are derived.
    pub secret: TenantSecret,
}

/// What is sent with the pod's token.
type Bearer = InterceptedService<Channel, Token>;
type Client = LedgerClient<Bearer>;

/// A handle on the ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
    bearer: Bearer,
    asking: Asking,
    boot: BootId,
    capture: Arc<str>,
    token: Token,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    policy: watch::Receiver<Option<Arc<Snapshot>>>,
    /// To the ledger, open now.
    connections: watch::Receiver<usize>,
    /// Ends the stream by which the ledger knows that this sidecar lives.
    in_touch: CancellationToken,
}

impl Control {
    /// Prepares the connection, and starts to register and to follow the policy in the background until it succeeds.
    ///
    /// # Errors
    /// When the files cannot be read or the address is not one. A ledger that is away is no error.
    pub fn start(settings: &Settings, resolver: Arc<dyn Resolve>, boot: BootId) -> Result<Self, ControlError> {
        let connector = Arc::new(Connector::new(settings, resolver)?);
        let connections = connector.connections();
        let connect = move |uri| {
            let connector = Arc::clone(&connector);
            async move { connector.connect(uri).await }
        };
        let channel = endpoint(&settings.address)
            .ok_or_else(|| ControlError::Address(settings.address.clone()))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_TIMEOUT)
            .keep_alive_timeout(PING_TIMEOUT)
            .connect_with_connector_lazy(tower::service_fn(connect));
        let token = Token::read(&settings.token)?;
        let bearer = InterceptedService::new(channel, token.clone());
        let client = LedgerClient::new(bearer.clone()).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let (tell_identity, identity) = watch::channel(None);
        let (tell_policy, policy) = watch::channel(None);
        let (asking, in_touch) = (Asking::new(client.clone(), token.clone()), CancellationToken::new());
        let control = Self {
            client,
            bearer,
            asking,
            boot,
            capture: settings.capture.as_str().into(),
            token,
            identity,
            policy,
            connections,
            in_touch,
        };
        let this = control.clone();
        let in_touch = control.in_touch.clone();
        tokio::spawn(in_touch.run_until_cancelled_owned(async move {
            let registered = this.register().await;
            let labels = registered.labels.clone();
            tell_identity.send_replace(Some(registered));
            policy::follow(this, labels, tell_policy).await;
        }));
        Ok(control)
    }

    /// This life is over: the ledger takes the sidecar's callers for gone.
    pub fn end(&self) {
        self.in_touch.cancel();
    }

    /// This life of this process.
    pub const fn boot(&self) -> &BootId {
        &self.boot
    }

    /// Who we are, once the ledger has said so.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Snapshot>> {
        self.policy.borrow().clone()
    }

    /// Waits until the ledger has said who we are and what policy says.
    pub async fn ready(&self) {
        let (mut identity, mut policy) = (self.identity.clone(), self.policy.clone());
        // The senders live as long as the process' own tasks.
        let _ = identity.wait_for(Option::is_some).await;
        let _ = policy.wait_for(Option::is_some).await;
    }

    /// Waits until the policy in force is another than `digest`.
    pub async fn newer_than(&self, digest: kybernis_core::ids::PolicyDigest) {
        let _ = self.policy.clone().wait_for(|now| now.as_ref().is_some_and(|now| now.digest() != digest)).await;
    }

    async fn register(&self) -> Arc<Identity> {
        let mut wait = RETRY_MIN;
        loop {
            let request = v1::RegisterRequest { boot: self.boot.to_string(), capture: self.capture.to_string() };
            let answered = self.client.clone().register(request).await;
            match self.token.heard(answered).and_then(identity) {
                Ok(identity) => return Arc::new(identity),
                Err(CallError::Away(reason)) => tracing::debug!(reason, "the ledger is not there yet"),
                Err(CallError::Refused(reason)) => tracing::error!(reason, "the ledger does not take this sidecar"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// May this side effect go?
    ///
    /// # Errors
    /// [`CallError::Away`]: a repeat with the same ids gets the same answer.
    pub async fn decide(&self, request: v1::DecideRequest) -> Result<DecideAnswer, CallError> {
        match self.asking.ask(Ask::Decide(request)).await? {
            // One that cannot be read may be a grant: it is asked for again, or given up.
            Answer::Decide(reply) => decide_answer(reply).map_err(|invalid| CallError::Away(invalid.to_string())),
            other => Err(out_of_place(&other)),
        }
    }

    /// What became of an effect.
    ///
    /// # Errors
    /// [`CallError::Away`]: to be repeated until it is acknowledged.
    pub async fn settle(&self, request: v1::SettleRequest) -> Result<v1::SettleReply, CallError> {
        match self.asking.ask(Ask::Settle(request)).await? {
            Answer::Settle(reply) => Ok(reply),
            other => Err(out_of_place(&other)),
        }
    }

    /// Keeps leases; returns the lost ones.
    ///
    /// # Errors
    /// [`CallError::Away`]: the leases go on only as far as the last answer said.
    pub async fn renew(&self, request: v1::RenewRequest) -> Result<Vec<(EffectId, Fence)>, CallError> {
        let reply = self.token.heard(self.client.clone().renew(request).await)?;
        Ok(reply.lost.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// A decision that will not be used.
    ///
    /// # Errors
    /// [`CallError::Away`]: to be repeated until it is acknowledged.
    pub async fn abandon(&self, request: v1::AbandonRequest) -> Result<(), CallError> {
        self.token.heard(self.client.clone().abandon(request).await)?;
        Ok(())
    }

    /// Whether a run that a caller names is this agent's; it is from now on, if nobody used it before.
    ///
    /// # Errors
    /// [`CallError::Away`]: nothing is known.
    pub async fn enter_run(&self, run: &RunId) -> Result<Option<Refuse>, CallError> {
        let reply = self.token.heard(self.client.clone().enter_run(v1::EnterRunRequest { run: run.to_string() }).await)?;
        Ok(reply.refusal.map(TryInto::try_into).transpose()?)
    }

    /// The stored body of a completed effect, in chunks as they come.
    ///
    /// # Errors
    /// [`CallError::Refused`] when none is kept.
    pub async fn fetch_body(&self, effect: &EffectId, fence: Fence) -> Result<tonic::Streaming<v1::BodyChunk>, CallError> {
        let request = v1::FetchBodyRequest { effect: effect.to_string(), fence: fence.get() };
        self.token.heard(self.client.clone().fetch_body(request).await)
    }

    /// Sends span batches and receives acknowledgements until either side ends.
    ///
    /// # Errors
    /// [`CallError::Away`]: to be resumed after the last acknowledged number.
    pub async fn stream_spans(
        &self,
        batches: impl futures::Stream<Item = v1::SpanBatch> + Send + 'static,
    ) -> Result<tonic::Streaming<v1::SpanAck>, CallError> {
        self.token.heard(self.client.clone().stream_spans(batches).await)
    }

    /// Probe orders for this agent's effects in doubt.
    ///
    /// # Errors
    /// [`CallError::Away`]: to be asked for again.
    pub async fn watch_probes(&self) -> Result<tonic::Streaming<v1::ProbeOrder>, CallError> {
        let request = v1::WatchProbesRequest { boot: self.boot.to_string() };
        self.token.heard(self.client.clone().watch_probes(request).await)
    }

    /// What a probe found.
    ///
    /// # Errors
    /// [`CallError::Away`]: the ledger orders the probe again.
    pub async fn report_probe(&self, report: v1::ProbeReport) -> Result<(), CallError> {
        self.token.heard(self.client.clone().report_probe(report).await)?;
        Ok(())
    }
}

/// The connector does the TLS. To tonic the address is a plain one, lest it add its own; what the ledger is told is the origin.
fn endpoint(address: &str) -> Option<Endpoint> {
    let origin: Uri = address.parse().ok()?;
    let mut plain = origin.clone().into_parts();
    if plain.scheme.replace(Scheme::HTTP) != Some(Scheme::HTTPS) {
        return None;
    }
    Some(Endpoint::from(Uri::from_parts(plain).ok()?).origin(origin))
}

/// An answer of another kind: a mistake of the ledger's, no word on the question.
fn out_of_place(answer: &Answer) -> CallError {
    let kind = match answer {
        Answer::Decide(_) => "a decision",
        Answer::Settle(_) => "where an outcome stands",
        Answer::Failure(_) => "a failure",
    };
    CallError::Away(format!("the ledger answers another question, with {kind}"))
}

fn identity(reply: v1::RegisterReply) -> Result<Identity, CallError> {
    let bad = |field: &str| CallError::Refused(format!("the ledger's {field} is not valid"));
    let secret: [u8; 32] = reply.tenant_secret.as_slice().try_into().map_err(|_| bad("tenant_secret"))?;
    Ok(Identity {
        tenant: TenantId::new(&reply.tenant).map_err(|_| bad("tenant"))?,
        agent: AgentId::new(&reply.agent).map_err(|_| bad("agent"))?,
        run: RunId::new(&reply.run).map_err(|_| bad("run"))?,
        explicit_run: reply.explicit_run,
        labels: reply.labels.into_iter().collect(),
        secret: TenantSecret::new(secret),
    })
}

/// Waits longer after each try, for loops that must not give up.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(RETRY_MIN)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }

    pub(crate) const fn reset(&mut self) {
        self.0 = RETRY_MIN;
    }
}
