//! The sidecar as a process: authority, bundle, spool, stack and listeners, started in that order and drained in the
//! reverse.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kybernis_core::ids::BootId;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::api_server::ApiServer;
use crate::boot_clock::BootClock;
use crate::control::{self, Control, ControlError};
use crate::dns::reach::{MayReach, WithinReach};
use crate::listen::{self, Listeners, Port};
use crate::resolve::{Resolve, SystemResolver};
use crate::spool::{Spool, SpoolError};
use crate::stack::Stack;
use crate::tls::authority::{Authority, AuthorityError};
use crate::tls::bundle;
use crate::tls::client::{ClientTls, Roots, RootsError};
use crate::tls::leaf::Leaves;
use crate::tls::truststore;
use crate::upstream::Upstream;
use crate::{admin, dns};

/// How long exchanges under way may take to finish once the sidecar is asked to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// How long what is cut off then may take to leave its record.
const CUT: Duration = Duration::from_secs(1);
/// How long the spool may take to empty after that; what is left waits on disk for the next life.
const DELIVER: Duration = Duration::from_secs(2);

/// What a sidecar needs to start.
#[derive(Debug)]
pub struct Settings {
    /// The forward proxy's port: absolute-form requests and CONNECT.
    pub proxy: Vec<TcpListener>,
    /// Where redirected connections arrive.
    pub redirect: Vec<TcpListener>,
    /// Where redirected questions about names arrive.
    pub dns_udp: Vec<UdpSocket>,
    /// The same over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// Where an SDK in the pod reaches the ledger's `/infra`.
    pub api: Vec<TcpListener>,
    /// Probes and metrics.
    pub admin: Option<TcpListener>,
    /// A folder of the sidecar's own (0700): the authority's key and the spool.
    pub data: PathBuf,
    /// A folder that the agent reads: [`Sidecar::BUNDLE_FILE`] is put there before the sidecar is ready.
    pub bundle: PathBuf,
    /// PEM files of roots that vouch for far sides beside the public ones.
    pub roots: Vec<PathBuf>,
    /// A folder of the sidecar's own in which it keeps how names were looked up when it first started, where others may change that.
    pub kept_names: Option<PathBuf>,
    /// Where the cluster's API server is, for connections that the kernel leads here.
    pub api_server: Option<SocketAddr>,
    /// The ledger.
    pub control: control::Settings,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder or file.
    #[error("{path}: cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The sidecar's own CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No randomness for its leaves' key.
    #[error("no key could be made")]
    Key(#[from] rcgen::Error),
    /// A file of extra roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A configured root that is no certificate.
    #[error("the bundle of roots cannot be written for Java: {0}")]
    Bundle(rustls::pki_types::pem::Error),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The way to the ledger.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Name resolution.
    #[error("the resolver configuration cannot be read")]
    Resolver(#[source] io::Error),
    /// A listener.
    #[error("a listener cannot be used")]
    Listener(#[source] io::Error),
    /// The boot's name.
    #[error(transparent)]
    Name(#[from] kybernis_core::ids::NameError),
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    control: Control,
    spool: Spool,
    stack: Arc<Stack>,
    listeners: Arc<Listeners<Stack>>,
    api: Api,
    closing: CancellationToken,
}

impl Sidecar {
    /// PEM of every root that the agent's clients should trust: public, configured, and the sidecar's own.
    pub const BUNDLE_FILE: &'static str = "ca-bundle.pem";
    /// PEM of the sidecar's own CA alone, for clients that add to their roots.
    pub const CA_FILE: &'static str = "ca.pem";
    /// [`Self::BUNDLE_FILE`] as Java reads it.
    pub const TRUST_STORE_FILE: &'static str = "truststore.jks";
    /// That store's password: it keeps no secret.
    pub const TRUST_STORE_PASSWORD: &'static str = truststore::PASSWORD;

    /// Opens everything and begins to serve; the ledger need not be there yet.
    ///
    /// # Errors
    /// When a file or a listener cannot be used.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let authority_folder = settings.data.join("ca");
        private_folder(&authority_folder)?;
        let authority = Authority::load_or_create(&authority_folder)?;
        let mut roots = Roots::public();
        for file in &settings.roots {
            roots.add_pem_file(file)?;
        }
        let pem =
            bundle::with_public_roots(&settings.roots, authority.pem()).map_err(|(path, source)| StartError::File { path, source })?;
        let store = truststore::from_pem(pem.as_bytes()).map_err(StartError::Bundle)?;
        publish(&settings.bundle, Self::CA_FILE, authority.pem().as_bytes())?;
        publish(&settings.bundle, Self::BUNDLE_FILE, pem.as_bytes())?;
        publish(&settings.bundle, Self::TRUST_STORE_FILE, &store)?;

        let own = own_addresses(&settings).map_err(StartError::Listener)?;
        let closing = CancellationToken::new();
        let boot = BootId::new(&uuid::Uuid::new_v4().to_string())?;
        let spool = Spool::open(&settings.data.join("spool"), &boot)?;
        let resolver = Arc::new(SystemResolver::new(settings.kept_names.as_deref()).map_err(StartError::Resolver)?);
        let control = Control::start(&settings.control, resolver.clone(), boot)?;
        let clock = BootClock::kernel();
        let upstream = Upstream::new(resolver.clone(), ClientTls::new(roots), clock.clone(), own.clone());
        let api_server = settings.api_server.map(|address| Arc::new(ApiServer::new(address, resolver.search())));
        let stack = Stack::start(control.clone(), spool.clone(), upstream, clock, api_server.clone(), closing.clone());
        let within_reach: Arc<dyn Resolve> = Arc::new(WithinReach::new(resolver, may_reach(control.clone(), api_server)));
        let edge = listen::Settings {
            leaves: Arc::new(Leaves::new(authority)?),
            resolver: Arc::clone(&within_reach),
            original_destination: Arc::new(original_destination),
            own,
        };
        let listeners = Listeners::new(Arc::clone(&stack), edge);
        let ports = settings.proxy.into_iter().map(|listener| (listener, Port::Proxy));
        for (listener, port) in ports.chain(settings.redirect.into_iter().map(|listener| (listener, Port::Redirect))) {
            let serving = Arc::clone(&listeners).serve(listener, port);
            tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, ?port, "a listener stopped");
                }
            });
        }
        let answering = dns::serve(settings.dns_udp, settings.dns_tcp, within_reach, closing.clone());
        tokio::spawn(async move {
            if let Err(error) = answering.await {
                tracing::error!(%error, "names are no longer answered");
            }
        });
        let api = Api::new(control.clone(), closing.clone());
        for listener in settings.api {
            api.listen(listener).map_err(StartError::Listener)?;
        }
        if let Some(listener) = settings.admin {
            admin::spawn(listener, control.clone(), spool.clone(), closing.clone()).map_err(StartError::Listener)?;
        }
        Ok(Self { control, spool, stack, listeners, api, closing })
    }

    /// Waits until the bundle lies there and the first PolicySet is in force.
    pub async fn ready(&self) {
        self.control.ready().await;
    }

    /// Stops accepting, finishes the exchanges under way, and delivers what the spool can.
    pub async fn stop(self) {
        self.stop_within(DRAIN).await;
    }

    pub(crate) async fn stop_within(self, drain: Duration) {
        self.closing.cancel();
        if tokio::time::timeout(drain, self.drained()).await.is_err() {
            tracing::warn!(seconds = drain.as_secs(), "exchanges were still under way and are cut off: effects among them are in doubt");
            self.listeners.cut();
            self.stack.cut();
            // Effects may go on beyond it: farewell names them.
            let _ = tokio::time::timeout(CUT, self.drained()).await;
        }
        if tokio::time::timeout(DELIVER, self.stack.farewell()).await.is_err() {
            tracing::info!("the ledger was not told of the last callers: it will take them for gone");
        }
        if tokio::time::timeout(DELIVER, self.spool.empty()).await.is_err() {
            tracing::info!("what the ledger has not taken yet stays in the spool");
        }
        self.control.end();
    }

    async fn drained(&self) {
        self.listeners.close().await;
        self.stack.drained().await;
        self.api.drained().await;
    }
}

fn own_addresses(settings: &Settings) -> io::Result<Vec<SocketAddr>> {
    let listeners = settings.proxy.iter().chain(&settings.redirect).chain(&settings.dns_tcp).chain(&settings.api).chain(&settings.admin);
    listeners.map(TcpListener::local_addr).collect()
}

/// `SO_ORIGINAL_DST`: where the kernel's redirection took the connection from.
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let address = if stream.local_addr()?.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn private_folder(path: &Path) -> Result<(), StartError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::File { path: path.into(), source })
}

/// Puts a file where the agent reads it, whole or not at all.
fn publish(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StartError> {
    let path = folder.join(name);
    let partial = folder.join(format!(".{name}.partial"));
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        fs::write(&partial, bytes)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
        fs::rename(&partial, &path)
    };
    write().map_err(|source| StartError::File { path: path.clone(), source })
}

/// Names are looked up for the agent only where policy could let it call.
fn may_reach(control: Control, api_server: Option<Arc<ApiServer>>) -> MayReach {
    Arc::new(move |host| {
        let (control, api_server) = (control.clone(), api_server.clone());
        Box::pin(async move {
            if api_server.is_some_and(|api| api.is_named(&host)) {
                return true;
            }
            control.ready().await;
            control.policy().is_some_and(|snapshot| snapshot.policy().may_reach(&host))
        })
    })
}
