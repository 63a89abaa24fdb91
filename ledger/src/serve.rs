//! The ledger as a process: opens the data folder, serves gRPC over TLS and HTTP, and stops cleanly.

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::StreamExt as _;
use kybernis_proto::v1::control_server::ControlServer;
use kybernis_proto::v1::ledger_server::LedgerServer;
use kybernis_proto::{MESSAGE_MAX, POLICY_SET_MAX};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::admin::Admin;
use crate::aggregated::{self, Aggregated};
use crate::auth::{Auth, DecisionKeys, Kubernetes, TokenKey};
use crate::engine::{self, Engine, EngineError, Observers};
use crate::fleet::Fleet;
use crate::grpc::{Control, Service};
use crate::http;
use crate::policy::InForce;
use crate::tenants::{Folders, Tenant, Tenants};
use crate::tls::{self, TlsError};

/// Between pings on a connection, and how long each may go unanswered.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The Service by whose name API servers connect.
const SERVICE: &str = "kybernis-ledger";

/// Where a cluster's tenants lie in the data folder.
const TENANTS: &str = "tenants";

/// What a ledger needs to start.
#[derive(Debug)]
pub struct Settings {
    /// The data folder: journals, keys, certificate.
    pub data: PathBuf,
    /// Where sidecars connect: gRPC over TLS, and `/infra` for their agents.
    pub grpc: TcpListener,
    /// Where people and programs connect: HTTP on loopback.
    pub http: TcpListener,
    /// Whose calls it takes.
    pub callers: Callers,
    /// Lengths that the engine goes by.
    pub engine: engine::Settings,
}

/// Whose calls a ledger takes.
#[derive(Debug)]
pub enum Callers {
    /// This machine's: whoever has a token that the data folder's key signed. They are one tenant's.
    Local {
        /// The PolicySet in force, now and whenever it changes.
        policy: watch::Receiver<InForce>,
    },
    /// A cluster's: whom Kubernetes vouches for. Each namespace is a tenant, whose policy the operator brings.
    Cluster(Cluster),
}

/// What it takes to serve a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Who vouches for callers.
    pub kubernetes: Arc<Kubernetes>,
    /// Where probes and scrapers connect: HTTP. It serves while journals are read, before every other listener.
    pub admin: Option<TcpListener>,
    /// Where the cluster's API servers connect, with what people ask them to read: HTTPS.
    pub api: Option<TcpListener>,
}

/// Why a ledger did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal, the vault or the fold.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tenants' folder.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener.
    #[error("{what}: {source}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// gRPC.
    #[error("the gRPC server: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// A running ledger.
#[derive(Debug)]
pub struct Ledger {
    closing: CancellationToken,
    tasks: Tasks,
    tenants: Tenants,
}

impl Ledger {
    /// Where the CA lies that sidecars check this ledger's certificate against.
    pub fn ca_file(data: &Path) -> PathBuf {
        data.join(tls::CA_FILE)
    }

    /// The name in this ledger's certificate.
    pub const SERVER_NAME: &'static str = tls::SERVER_NAME;

    /// Opens the data folder, folds what its journals hold, and serves.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let Settings { data, grpc, http, callers, engine } = settings;
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        match callers {
            Callers::Local { policy } => {
                let leaf = tls::leaf(&data, &[])?;
                let (tenant, writer) = Tenant::open(&data, Observers::default(), engine, closing.child_token()).await?;
                tasks.spawn(async move { writer.await.map_or(Ok(()), |ended| ended.map_err(Into::into)) });
                follow(policy, &tenant, &mut tasks, closing.clone());
                let tokens = TokenKey::open(&data).map_err(EngineError::from)?;
                let (auth, tenants) = (Auth::Key(Arc::new(tokens)), Tenants::One(tenant));
                let service = Service::new(auth.clone(), tenants.clone(), Fleet::new());
                let infra = http::router(auth, tenants.clone());
                serve_grpc(grpc, leaf, Served { service, control: None, infra: infra.clone() }, &mut tasks, &closing)?;
                serve_http("the HTTP server", http, infra, &mut tasks, &closing)?;
                Ok(Self { closing, tasks, tenants })
            }
            Callers::Cluster(Cluster { kubernetes, admin, api }) => {
                let leaf = tls::leaf(&data, &[format!("{SERVICE}.{}.svc", kubernetes.release_namespace())])?;
                let path = data.join(TENANTS);
                let (folders, fleet) = (Folders::new(path.clone(), engine, closing.child_token()), Fleet::new());
                let (opened, ready) = watch::channel(false);
                if let Some(admin) = admin {
                    let (metrics, gates) = (Arc::clone(folders.metrics()), folders.gates().clone());
                    let router = Admin { metrics, gates, fleet: fleet.clone(), ready }.router();
                    serve_http("the admin port", admin, router, &mut tasks, &closing)?;
                }
                folders.open_all().await.map_err(|source| StartError::Folder { path, source })?;
                let (auth, tenants) = (Auth::Kubernetes(Arc::clone(&kubernetes)), Tenants::Each(folders.clone()));
                let service = Service::new(auth.clone(), tenants.clone(), fleet.clone());
                if let Some(api) = api {
                    let tls = aggregated::tls(&leaf.0, &leaf.1)?;
                    let (api, aggregated) = (listener("the API listener", api)?, Aggregated::of(&kubernetes, folders.clone(), tls));
                    let closing = closing.clone();
                    tasks.spawn(async move {
                        aggregated::serve(api, aggregated, closing).await;
                        Ok(())
                    });
                }
                let keys = DecisionKeys::new(move || {
                    let kubernetes = Arc::clone(&kubernetes);
                    async move { kubernetes.decision_keys().await.map_err(|error| error.to_string()) }
                });
                let control = Control::new(auth.clone(), folders, fleet, keys, closing.clone());
                let infra = http::router(auth, tenants.clone());
                serve_grpc(grpc, leaf, Served { service, control: Some(control), infra: infra.clone() }, &mut tasks, &closing)?;
                serve_http("the HTTP server", http, infra, &mut tasks, &closing)?;
                opened.send_replace(true);
                Ok(Self { closing, tasks, tenants })
            }
        }
    }

    /// The engine of a ledger with one tenant, for callers in this process.
    pub fn engine(&self) -> Option<&Engine> {
        match &self.tenants {
            Tenants::One(tenant) => Some(&tenant.engine),
            Tenants::Each(_) => None,
        }
    }

    /// Returns when something this ledger cannot do without has stopped.
    pub async fn failed(&mut self) -> Result<(), StartError> {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// Stops taking calls, finishes those under way, and closes the journals.
    pub async fn stop(self) -> Result<(), StartError> {
        let Self { closing, mut tasks, tenants } = self;
        closing.cancel();
        let folders = match tenants {
            Tenants::One(tenant) => {
                drop(tenant);
                None
            }
            Tenants::Each(folders) => Some(folders),
        };
        let mut first = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if let (Ok(()), Ok(Err(error))) = (&first, ended) {
                first = Err(error);
            }
        }
        if let Some(folders) = folders {
            folders.close().await;
        }
        first
    }
}

/// What keeps a ledger running.
type Tasks = JoinSet<Result<(), StartError>>;

/// What there is behind the one port that others in a cluster reach.
struct Served {
    service: Service,
    /// Where there is an operator.
    control: Option<Control>,
    /// For agents, whose sidecars pass on what comes to their local port.
    infra: Router,
}

/// gRPC and HTTP/2 over TLS: sidecars and their agents, and the operator where there is one.
fn serve_grpc(
    grpc: TcpListener,
    (certificate, key): (String, String),
    Served { service, control, infra }: Served,
    tasks: &mut Tasks,
    closing: &CancellationToken,
) -> Result<(), StartError> {
    let service = LedgerServer::new(service).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
    let control = control.map(|control| ControlServer::new(control).max_decoding_message_size(POLICY_SET_MAX));
    let incoming = TcpListenerStream::new(listener("the gRPC listener", grpc)?).map(|accepted| {
        // Small messages both ways: waiting for more to send would only add latency.
        accepted.inspect(|stream| drop(stream.set_nodelay(true)))
    });
    let identity = Identity::from_pem(certificate, key);
    // A node that dies says nothing: without these its sidecars would seem to be in touch for ever.
    let server = Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE));
    let mut routes = Routes::from(infra).add_service(service);
    if let Some(control) = control {
        routes = routes.add_service(control);
    }
    let server = server.tls_config(ServerTlsConfig::new().identity(identity))?.add_routes(routes);
    let stop = closing.clone().cancelled_owned();
    tasks.spawn(async move { Ok(server.serve_with_incoming_shutdown(incoming, stop).await?) });
    Ok(())
}

fn serve_http(
    what: &'static str,
    http: TcpListener,
    router: Router,
    tasks: &mut Tasks,
    closing: &CancellationToken,
) -> Result<(), StartError> {
    let http = listener(what, http)?;
    let stop = closing.clone().cancelled_owned();
    tasks.spawn(async move {
        let served = axum::serve(http, router).with_graceful_shutdown(stop).await;
        served.map_err(|source| StartError::Listen { what, source })
    });
    Ok(())
}

fn listener(what: &'static str, listener: TcpListener) -> Result<tokio::net::TcpListener, StartError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(|source| StartError::Listen { what, source })
}

/// Takes every set that the source gives into force.
fn follow(mut policy: watch::Receiver<InForce>, tenant: &Arc<Tenant>, tasks: &mut Tasks, closing: CancellationToken) {
    tenant.program(policy.borrow_and_update().clone());
    let tenant = Arc::clone(tenant);
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = closing.cancelled() => return Ok(()),
                changed = policy.changed() => match changed {
                    // A source that is gone leaves the last set in force.
                    Err(_) => {
                        closing.cancelled().await;
                        return Ok(());
                    }
                    Ok(()) => tenant.program(policy.borrow_and_update().clone()),
                },
            }
        }
    });
}
