//! The ledger as a process: opens the data folder, serves gRPC over TLS and HTTP, and stops cleanly.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kybernis_proto::v1::control_server::ControlServer;
use kybernis_proto::v1::ledger_server::LedgerServer;
use kybernis_proto::{MESSAGE_MAX, POLICY_SET_MAX};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::auth::{Auth, Kubernetes, TokenKey};
use crate::engine::{self, Engine, EngineError};
use crate::fleet::Fleet;
use crate::grpc::{Control, Service};
use crate::http;
use crate::policy::InForce;
use crate::tenants::{Folders, Tenant, Tenants};
use crate::tls::{self, TlsError};

/// Between pings on a connection, and how long each may go unanswered.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where a cluster's tenants lie in the data folder.
const TENANTS: &str = "tenants";

/// What a ledger needs to start.
#[derive(Debug)]
pub struct Settings {
    /// The data folder: journals, keys, certificate.
    pub data: PathBuf,
    /// Where sidecars connect: gRPC over TLS.
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
    Cluster(Arc<Kubernetes>),
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
    tasks: JoinSet<Result<(), StartError>>,
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
        let (certificate, key) = tls::leaf(&settings.data)?;
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (auth, tenants) = match settings.callers {
            Callers::Local { policy } => {
                let (tenant, writer) = Tenant::open(&settings.data, settings.engine, closing.child_token()).await?;
                tasks.spawn(async move { writer.await.map_or(Ok(()), |ended| ended.map_err(Into::into)) });
                follow(policy, &tenant, &mut tasks, closing.clone());
                let tokens = TokenKey::open(&settings.data).map_err(EngineError::from)?;
                (Auth::Key(Arc::new(tokens)), Tenants::One(tenant))
            }
            Callers::Cluster(kubernetes) => {
                let path = settings.data.join(TENANTS);
                let folders = Folders::new(path.clone(), settings.engine, closing.child_token());
                folders.open_all().await.map_err(|source| StartError::Folder { path, source })?;
                (Auth::Kubernetes(kubernetes), Tenants::Each(folders))
            }
        };

        let fleet = Fleet::new();
        let service = Service::new(auth.clone(), tenants.clone(), fleet.clone());
        let service = LedgerServer::new(service).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let control = match &tenants {
            Tenants::One(_) => None,
            Tenants::Each(folders) => {
                let control = Control::new(auth.clone(), folders.clone(), fleet, closing.clone());
                Some(ControlServer::new(control).max_decoding_message_size(POLICY_SET_MAX))
            }
        };
        let incoming = TcpListenerStream::new(listener("the gRPC listener", settings.grpc)?).map(|accepted| {
            // Small messages both ways: waiting for more to send would only add latency.
            accepted.inspect(|stream| drop(stream.set_nodelay(true)))
        });
        let identity = Identity::from_pem(certificate, key);
        // A node that dies says nothing: without these its sidecars would seem to be in touch for ever.
        let server = Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE));
        let server = server.tls_config(ServerTlsConfig::new().identity(identity))?.add_service(service).add_optional_service(control);
        let stop = closing.clone().cancelled_owned();
        tasks.spawn(async move { Ok(server.serve_with_incoming_shutdown(incoming, stop).await?) });

        let http_listener = listener("the HTTP listener", settings.http)?;
        let app = http::router(auth, tenants.clone());
        let stop = closing.clone().cancelled_owned();
        tasks.spawn(async move {
            let served = axum::serve(http_listener, app).with_graceful_shutdown(stop).await;
            served.map_err(|source| StartError::Listen { what: "the HTTP server", source })
        });
        Ok(Self { closing, tasks, tenants })
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

fn listener(what: &'static str, listener: TcpListener) -> Result<tokio::net::TcpListener, StartError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(|source| StartError::Listen { what, source })
}

/// Takes every set that the source gives into force.
fn follow(
    mut policy: watch::Receiver<InForce>,
    tenant: &Arc<Tenant>,
    tasks: &mut JoinSet<Result<(), StartError>>,
    closing: CancellationToken,
) {
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

#[cfg(test)]
mod tests {
    use kybernis_core::ids::{AgentId, RunId};
    use kybernis_core::machine::EnterRun;
    use kybernis_core::policy::PolicySet;

    use super::*;

    async fn start(data: &Path) -> Result<Ledger, StartError> {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (_, policy) = watch::channel(InForce::new(&PolicySet::default(), std::collections::BTreeMap::new()).unwrap());
        let callers = Callers::Local { policy };
        Ledger::start(Settings { data: data.to_owned(), grpc: bind(), http: bind(), callers, engine: engine::Settings::default() }).await
    }

    #[tokio::test]
    async fn a_ledger_whose_journal_holds_something_starts_with_its_own_keys_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let ledger = start(data).await.unwrap();
        let entered = EnterRun { run: RunId::new("run-1").unwrap(), agent: AgentId::new("trader").unwrap() };
        ledger.engine().unwrap().enter_run(entered).await.unwrap().unwrap();
        ledger.stop().await.unwrap();
        for name in ["vault.key", "tenant.key"] {
            std::fs::rename(data.join(name), data.join("backup")).unwrap();
            let error = start(data).await.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("restore the file from the backup"), "{error}");
            std::fs::rename(data.join("backup"), data.join(name)).unwrap();
        }
        start(data).await.unwrap().stop().await.unwrap();
    }
}
