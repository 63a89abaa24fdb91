//! The ledger as a process: opens the data folder, serves gRPC over TLS and HTTP on loopback, and stops cleanly.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use kybernis_proto::MESSAGE_MAX;
use kybernis_proto::v1::ledger_server::LedgerServer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::auth::TokenKey;
use crate::engine::{self, Engine, EngineError};
use crate::grpc::Service;
use crate::http;
use crate::journal::{Journal as _, SqliteJournal};
use crate::policy::InForce;
use crate::tls::{self, TlsError};
use crate::vault::Vault;

/// What a ledger needs to start.
#[derive(Debug)]
pub struct Settings {
    /// The data folder: journal, keys, certificate.
    pub data: PathBuf,
    /// Where sidecars connect: gRPC over TLS.
    pub grpc: TcpListener,
    /// Where people and programs connect: HTTP on loopback.
    pub http: TcpListener,
    /// The PolicySet in force, now and whenever it changes.
    pub policy: watch::Receiver<InForce>,
    /// Lengths that the engine goes by.
    pub engine: engine::Settings,
}

/// Why a ledger did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal, the vault or the fold.
    #[error(transparent)]
    Engine(#[from] EngineError),
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
    engine: Engine,
}

impl Ledger {
    /// Where the CA lies that sidecars check this ledger's certificate against.
    pub fn ca_file(data: &Path) -> PathBuf {
        data.join(tls::CA_FILE)
    }

    /// The name in this ledger's certificate.
    pub const SERVER_NAME: &'static str = tls::SERVER_NAME;

    /// Opens the data folder, folds the journal, and serves.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let journal = SqliteJournal::open(&settings.data).map_err(EngineError::from)?;
        let vault = Arc::new(vault(&settings.data, &journal).await?);
        let tokens = Arc::new(TokenKey::open(&settings.data).map_err(EngineError::from)?);
        let (certificate, key) = tls::leaf(&settings.data)?;
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let digests = digests(settings.policy.clone(), &mut tasks, closing.clone());
        let (engine, writer) = Engine::open(Arc::new(journal), Arc::clone(&vault), digests, settings.engine).await?;
        tasks.spawn(async move { writer.await.map_or(Ok(()), |ended| ended.map_err(Into::into)) });

        let service = Service::new(engine.clone(), vault, Arc::clone(&tokens), settings.policy, closing.clone());
        let service = LedgerServer::new(service).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let incoming = TcpListenerStream::new(listener("the gRPC listener", settings.grpc)?).map(|accepted| {
            // Small messages both ways: waiting for more to send would only add latency.
            accepted.inspect(|stream| drop(stream.set_nodelay(true)))
        });
        let identity = Identity::from_pem(certificate, key);
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?.add_service(service);
        let stop = closing.clone().cancelled_owned();
        tasks.spawn(async move { Ok(server.serve_with_incoming_shutdown(incoming, stop).await?) });

        let http_listener = listener("the HTTP listener", settings.http)?;
        let app = http::router(engine.clone(), tokens);
        let stop = closing.clone().cancelled_owned();
        tasks.spawn(async move {
            let served = axum::serve(http_listener, app).with_graceful_shutdown(stop).await;
            served.map_err(|source| StartError::Listen { what: "the HTTP server", source })
        });
        Ok(Self { closing, tasks, engine })
    }

    /// The engine, for callers in this process.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns when something this ledger cannot do without has stopped.
    pub async fn failed(&mut self) -> Result<(), StartError> {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// Stops taking calls, finishes those under way, and closes the journal.
    pub async fn stop(self) -> Result<(), StartError> {
        let Self { closing, mut tasks, engine } = self;
        closing.cancel();
        drop(engine);
        let mut first = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if let (Ok(()), Ok(Err(error))) = (&first, ended) {
                first = Err(error);
            }
        }
        first
    }
}

/// Keys are made for an empty journal and for no other: what it holds was written under those that it had.
async fn vault(data: &Path, journal: &SqliteJournal) -> Result<Vault, EngineError> {
    let is_empty = journal.read(0, 1).await?.is_empty();
    Ok(if is_empty { Vault::open(data)? } else { Vault::reopen(data)? })
}

fn listener(what: &'static str, listener: TcpListener) -> Result<tokio::net::TcpListener, StartError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(|source| StartError::Listen { what, source })
}

/// The digests alone, for the engine, which compares them.
fn digests(
    mut policy: watch::Receiver<InForce>,
    tasks: &mut JoinSet<Result<(), StartError>>,
    closing: CancellationToken,
) -> watch::Receiver<kybernis_core::ids::PolicyDigest> {
    let (send, receive) = watch::channel(policy.borrow_and_update().digest);
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
                    Ok(()) => {
                        let digest = policy.borrow_and_update().digest;
                        send.send_replace(digest);
                    }
                },
            }
        }
    });
    receive
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
        Ledger::start(Settings { data: data.to_owned(), grpc: bind(), http: bind(), policy, engine: engine::Settings::default() }).await
    }

    #[tokio::test]
    async fn a_ledger_whose_journal_holds_something_starts_with_its_own_keys_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let ledger = start(data).await.unwrap();
        let entered = EnterRun { run: RunId::new("run-1").unwrap(), agent: AgentId::new("trader").unwrap() };
        ledger.engine().enter_run(entered).await.unwrap().unwrap();
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
