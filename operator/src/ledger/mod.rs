//! The ledger as the operator sees it: policies and people's words go in, and who runs with them and which gates wait comes out.
//!
//! One task keeps the stream of sidecars open; while it is open the ledger counts as connected, and each time it opens anew after it
//! was lost a new session begins, in which everything is programmed again: a ledger may have started with less than it had. The
//! stream of gates is kept beside it on the same connection; where it fails alone, no gate is known, and policies go on.

#[cfg(test)]
pub(crate) mod fake;
mod fleet;
mod gates;
mod token;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kybernis_core::ids::PolicyDigest;
use kybernis_proto::v1::control_client::ControlClient;
use kybernis_proto::{POLICY_SET_MAX, v1};
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

pub(crate) use self::fleet::{Fleet, Sidecar};
pub(crate) use self::gates::{Gate, Gates, Place, verdict};
use self::token::Token;
use crate::backoff::Backoff;
use crate::lead::{Deposed, Lead};
use crate::metrics::Metrics;
use crate::wake::Wakes;

/// For one try to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which pings go unanswered for this long is gone.
const PING: Duration = Duration::from_secs(10);
/// For one Program: the ledger compiles the set and writes it to disk.
const PROGRAM: Duration = Duration::from_secs(30);
/// For one DecideGate: the ledger writes it to disk.
const DECIDE: Duration = Duration::from_secs(10);
/// For the ledger to say who is live, or which gates there are; beyond it it counts as away.
const SYNC: Duration = Duration::from_secs(30);

/// Where the ledger is and how to be believed there.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// `https://HOST:PORT`.
    pub address: String,
    /// The name in the ledger's certificate.
    pub server_name: String,
    /// PEM of the CA that signed it; read again for each connection, because it rotates and may come later than we do.
    pub ca: PathBuf,
    /// A file with the operator's own token; read again for each connection and when the ledger does not take it.
    pub token: PathBuf,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no token")]
    Token { path: PathBuf },
    #[error("the ledger's address or CA is not usable: {0}")]
    Channel(#[from] tonic::transport::Error),
    #[error("the ledger does not tell who is live: {0}")]
    Stream(Box<Status>),
    #[error("the ledger did not say in time who is live")]
    Late,
}

impl From<Status> for ConnectError {
    fn from(status: Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

/// Why a set is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProgramError {
    /// The ledger cannot be asked now.
    Away(String),
    /// It does not take this set, and will not.
    Refused(String),
}

/// The ledger's answer to a person's word; final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is on record.
    Recorded,
    /// It is not taken, and will not be.
    Refused(String),
}

type Client = ControlClient<InterceptedService<Channel, Token>>;

/// A connection to the ledger.
#[derive(Clone)]
pub(crate) struct Connection {
    client: Client,
    token: Token,
    lead: Lead,
}

impl Connection {
    fn open(settings: &LedgerSettings, lead: Lead) -> Result<Self, ConnectError> {
        let ca = std::fs::read_to_string(&settings.ca).map_err(|source| ConnectError::File { path: settings.ca.clone(), source })?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(settings.server_name.clone());
        let channel = Endpoint::from_shared(settings.address.clone())?
            .tls_config(tls)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .connect_lazy();
        let token = Token::read(&settings.token)?;
        let client = ControlClient::with_interceptor(channel, token.clone()).max_encoding_message_size(POLICY_SET_MAX);
        Ok(Self { client, token, lead })
    }

    /// Programs one tenant; a repeat changes nothing.
    /// Answers with the name of the set in force, which is `digest` unless the ledger keeps a part of its own.
    pub(crate) async fn program(&self, request: v1::ProgramRequest, digest: PolicyDigest) -> Result<PolicyDigest, ProgramError> {
        if !self.lead.holds() {
            return Err(ProgramError::Away(Deposed.to_string()));
        }
        let mut client = self.client.clone();
        let keeps = request.keep_own;
        let answered = tokio::time::timeout(PROGRAM, client.program(request)).await;
        let reply = match answered {
            Err(_) => return Err(ProgramError::Away("no answer in time".to_owned())),
            Ok(Err(status)) => return Err(self.failed(&status)),
            Ok(Ok(reply)) => reply.into_inner(),
        };
        let in_force = <[u8; 32]>::try_from(reply.digest).map(PolicyDigest::from_bytes).ok();
        if let Some(in_force) = in_force.filter(|in_force| keeps || *in_force == digest) {
            return Ok(in_force);
        }
        // Ledger and operator of different releases read the set differently: no sidecar would ever acknowledge our name for it.
        Err(ProgramError::Refused("the ledger reads the set as another one; upgrade ledger and operator to the same release".to_owned()))
    }

    /// Passes a person's word on; a repeat changes nothing. `Err` says why the ledger cannot be asked now.
    pub(crate) async fn decide(&self, request: v1::DecideGateRequest) -> Result<Answer, String> {
        if !self.lead.holds() {
            return Err(Deposed.to_string());
        }
        let mut client = self.client.clone();
        let reply = match tokio::time::timeout(DECIDE, client.decide_gate(request)).await {
            Err(_) => return Err("no answer in time".to_owned()),
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                return match self.failed(&status) {
                    ProgramError::Refused(why) => Ok(Answer::Refused(why)),
                    ProgramError::Away(why) => Err(why),
                };
            }
        };
        let v1::DecideGateReply { code, detail } = reply;
        Ok(if code.is_empty() { Answer::Recorded } else { Answer::Refused(format!("{detail} ({code})")) })
    }

    fn failed(&self, status: &Status) -> ProgramError {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => ProgramError::Refused(text),
            Code::Unauthenticated => {
                self.token.read_again();
                ProgramError::Away(text)
            }
            _ => ProgramError::Away(text),
        }
    }
}

/// What is known of the ledger at one moment.
#[derive(Clone, Default)]
pub(crate) struct Link {
    /// Grows each time a lost connection is there again.
    pub(crate) session: u64,
    /// Since when it has been there.
    pub(crate) since: Option<Instant>,
    /// While there is one.
    pub(crate) connection: Option<Connection>,
    /// Who is live; `None` while nobody can know.
    pub(crate) fleet: Option<Arc<Fleet>>,
    /// All gates; `None` while nobody can know.
    pub(crate) gates: Option<Arc<Gates>>,
}

/// The ledger. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    state: Arc<Mutex<State>>,
    wakes: Wakes,
    lead: Lead,
}

#[derive(Default)]
struct State {
    session: u64,
    since: Option<Instant>,
    connection: Option<Connection>,
    fleet: Option<Fleet>,
    /// The last view that was handed out, while it is the present one.
    view: Option<Arc<Fleet>>,
    gates: Option<Arc<Gates>>,
}

impl Ledger {
    /// A ledger that is not connected yet; `wakes` are told of every change that concerns them, and it is given nothing but while `lead`
    /// holds.
    pub(crate) fn new(wakes: Wakes, lead: Lead) -> Self {
        Self { state: Arc::default(), wakes, lead }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    pub(crate) fn link(&self) -> Link {
        let mut state = self.state();
        let State { fleet, view, .. } = &mut *state;
        let fleet = fleet.as_ref().map(|fleet| Arc::clone(view.get_or_insert_with(|| Arc::new(fleet.clone()))));
        let State { session, since, .. } = *state;
        Link { session, since, connection: state.connection.clone(), fleet, gates: state.gates.clone() }
    }

    /// Drops gates that ended before.
    pub(crate) fn forget_gates(&self, before: Timestamp) {
        let mut state = self.state();
        if let Some(gates) = state.gates.as_mut().filter(|gates| gates.any_ended(before)) {
            Arc::make_mut(gates).forget(before);
        }
    }

    /// Stays connected; returns never.
    pub(crate) async fn follow(self, settings: LedgerSettings, metrics: Arc<Metrics>) {
        let mut backoff = Backoff::new();
        loop {
            match self.session(&settings, &metrics, &mut backoff).await {
                Ok(()) => tracing::info!("the ledger ended the stream of sidecars"),
                Err(error) => tracing::warn!(%error, "the ledger is not connected"),
            }
            metrics.ledger_connected.set(0);
            {
                let mut state = self.state();
                (state.connection, state.fleet, state.view, state.gates) = (None, None, None, None);
            }
            self.wakes.all();
            backoff.wait().await;
        }
    }

    /// One connection, from its beginning to its end.
    async fn session(&self, settings: &LedgerSettings, metrics: &Metrics, backoff: &mut Backoff) -> Result<(), ConnectError> {
        let connection = Connection::open(settings, self.lead.clone())?;
        tokio::select! {
            ended = self.sidecars(&connection, metrics, backoff) => ended,
            never = self.gates(&connection, metrics) => match never {},
        }
    }

    /// Follows the sidecars.
    async fn sidecars(&self, connection: &Connection, metrics: &Metrics, backoff: &mut Backoff) -> Result<(), ConnectError> {
        let mut begun = false;
        loop {
            let mut client = connection.client.clone();
            let opened = async {
                let mut stream = client.watch_sidecars(v1::WatchSidecarsRequest {}).await?.into_inner();
                let fleet = fleet::synced(&mut stream).await?;
                Ok::<_, Status>((stream, fleet))
            };
            let (mut stream, fleet) = tokio::time::timeout(SYNC, opened).await.map_err(|_| ConnectError::Late)??;
            {
                let mut state = self.state();
                (state.fleet, state.view) = (Some(fleet), None);
                if !begun {
                    state.session += 1;
                    state.since = Some(Instant::now());
                    state.connection = Some(connection.clone());
                }
            }
            if !begun {
                begun = true;
                tracing::info!("the ledger is connected");
                metrics.ledger_connected.set(1);
                backoff.reset();
                self.wakes.decisions.notify_one();
            }
            self.wakes.policies.notify_one();
            loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        let mut state = self.state();
                        let changed = state.fleet.as_mut().is_some_and(|fleet| fleet.apply(message, Instant::now()));
                        if changed {
                            state.view = None;
                            drop(state);
                            self.wakes.policies.notify_one();
                        }
                    }
                    Ok(None) => return Ok(()),
                    // The connection is well; only a change went past us. What is known stands until all of it is told anew.
                    Err(status) if status.code() == Code::Aborted => {
                        metrics.fleet_restarts.add(1);
                        tracing::info!("changes of sidecars were lost on the way; starting over");
                        backoff.wait().await;
                        break;
                    }
                    Err(status) => return Err(status.into()),
                }
            }
        }
    }

    /// Follows the gates for as long as there is the connection.
    async fn gates(&self, connection: &Connection, metrics: &Metrics) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let Err(status) = self.gates_once(connection, &mut backoff).await;
            // What is known may be less than there is: nothing is done by it, least of all anything deleted.
            self.state().gates = None;
            match status.code() {
                Code::Aborted => {
                    metrics.gate_restarts.add(1);
                    tracing::info!("changes of gates were lost on the way; starting over");
                }
                Code::Unauthenticated => connection.token.read_again(),
                _ => tracing::warn!(error = status.message(), "the ledger does not tell its gates"),
            }
            backoff.wait().await;
        }
    }

    async fn gates_once(&self, connection: &Connection, backoff: &mut Backoff) -> Result<Infallible, Status> {
        let mut client = connection.client.clone();
        let opened = async {
            let mut stream = client.watch_gates(v1::WatchGatesRequest {}).await?.into_inner();
            let gates = gates::synced(&mut stream).await?;
            Ok::<_, Status>((stream, gates))
        };
        let late = |_| Status::deadline_exceeded("the ledger did not say in time which gates there are");
        let (mut stream, gates) = tokio::time::timeout(SYNC, opened).await.map_err(late)??;
        self.state().gates = Some(Arc::new(gates));
        backoff.reset();
        self.wakes.gates();
        while let Some(message) = stream.message().await? {
            // Whoever looks at them keeps them as they were.
            let changed = self.state().gates.as_mut().is_some_and(|gates| Arc::make_mut(gates).apply(message));
            if changed {
                self.wakes.gates();
            }
        }
        Err(Status::unavailable("the ledger ended the stream"))
    }
}

#[cfg(test)]
mod tests;
