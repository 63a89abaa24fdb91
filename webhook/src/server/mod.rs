//! The server around injection: admission reviews over HTTPS, and the certificate that API servers check. What knows Kubernetes'
//! API stands in `cluster`; the rest is driven by channels and one trait, so that tests drive it too.

mod admin;
mod certificates;
mod cluster;
mod decisions;
mod desk;
mod listen;
mod metrics;
mod namespaces;
mod objects;
mod places;
mod pods;
mod review;
mod status;
mod stored;
mod warnings;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admin::Admin;
use self::certificates::keeper::Keeper;
use self::certificates::moment::Moment;
use self::certificates::provided::Provided;
pub use self::certificates::rotation::Lifetimes;
use self::certificates::serving::Serving;
use self::cluster::ApiServer;
use self::cluster::decisions::DecisionKeys;
use self::decisions::Decisions;
use self::decisions::authority::authority;
use self::decisions::keys::Signing;
use self::decisions::keys::keeper::KeyKeeper;
use self::desk::Desk;
use self::namespaces::{Namespaces, namespaces};
use self::status::Status;
use crate::config::Config;

/// How long a webhook that is told to stop goes on as before, unready: until then the Service may still lead API servers to it.
pub const LINGER: Duration = Duration::from_secs(5);

/// What a webhook needs to start.
#[derive(Debug)]
pub struct Settings {
    /// What is injected.
    pub config: Config,
    /// Where API servers connect: HTTPS.
    pub listener: TcpListener,
    /// Where probes and scrapers connect: plain HTTP.
    pub admin: TcpListener,
    /// The certificate.
    pub certificates: Certificates,
    /// Where the key lies that signs decisions.
    pub decision_key: DecisionKey,
    /// How long it goes on after it is told to stop; [`LINGER`] in a cluster.
    pub linger: Duration,
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Certificates {
    /// The webhook makes and rotates it.
    Own(OwnCertificates),
    /// Somebody else does, cert-manager say, and `caBundle` with it.
    Provided {
        /// The chain, in PEM.
        certificate: PathBuf,
        /// Its key, in PEM.
        key: PathBuf,
    },
}

/// What it takes to make and rotate certificates.
#[derive(Clone, Debug)]
pub struct OwnCertificates {
    /// The name of the Service by which API servers reach us, in the release's namespace.
    pub service: String,
    /// The name of the Secret, there too, that replicas share.
    pub secret: String,
    /// The name of the MutatingWebhookConfiguration.
    pub mutating: String,
    /// The name of the ValidatingWebhookConfiguration.
    pub validating: String,
    /// How long things live.
    pub lifetimes: Lifetimes,
}

/// Where the key lies that signs decisions, in the release's namespace.
#[derive(Clone, Debug)]
pub struct DecisionKey {
    /// The name of the Secret that replicas share.
    pub secret: String,
    /// The name of the ConfigMap by which signatures are believed.
    pub config_map: String,
}

/// Why a webhook did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error("{what}: {source}")]
    Listen {
        /// Which.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificates' lifetimes.
    #[error("certificates: {problem}")]
    Lifetimes {
        /// What is wrong, and what to do.
        problem: &'static str,
    },
}

/// Serves until `shutdown`, then lingers, drains and returns.
///
/// # Errors
/// When it cannot start; once started it mends what fails.
pub async fn run(settings: Settings, client: Client, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    if let Certificates::Own(own) = &settings.certificates
        && let Some(problem) = own.lifetimes.problem()
    {
        return Err(StartError::Lifetimes { problem });
    }
    let (known, questions) = namespaces();
    let release = settings.config.settings().release_namespace.clone();
    let certificates = settings.certificates.clone();
    let (authority, asked) = authority();
    let decisions = Decisions { authority, signing: Signing::default(), clock: Moment::now };
    let keys = DecisionKeys::new(client.clone(), &release, settings.decision_key.clone());
    let server = Server::new(settings, known.clone(), decisions.clone())?;
    let closing = CancellationToken::new();
    let (serving, status) = (server.serving.clone(), server.status.clone());
    let tasks = TaskTracker::new();
    tasks.spawn(cluster::namespaces::watch(client.clone(), known, closing.clone()));
    tasks.spawn(cluster::namespaces::answer(client.clone(), questions, closing.clone()));
    tasks.spawn(cluster::decisions::answer(client.clone(), keys.clone(), asked, closing.clone()));
    tasks.spawn(KeyKeeper { store: keys, signing: decisions.signing }.run(closing.clone()));
    match certificates {
        Certificates::Provided { certificate, key } => {
            tasks.spawn(Provided { certificate, key }.run(serving, status, closing.clone()));
        }
        Certificates::Own(own) => {
            let changed = Arc::new(Notify::new());
            let names = [own.mutating.clone(), own.validating.clone()];
            tasks.spawn(cluster::configurations::watch(client.clone(), names, Arc::clone(&changed), closing.clone()));
            let keeper = Keeper {
                server_name: format!("{}.{release}.svc", own.service),
                lifetimes: own.lifetimes,
                cluster: ApiServer::new(client, &release, own),
                serving,
                status,
                changed,
                clock: Moment::now,
            };
            tasks.spawn(keeper.run(closing.clone()));
        }
    }
    tasks.close();
    server.run(shutdown).await;
    // Only now: the last reviews may still ask for their namespace.
    closing.cancel();
    tasks.wait().await;
    Ok(())
}

/// The listeners, without what fills namespaces and certificates.
struct Server {
    listener: tokio::net::TcpListener,
    admin_listener: tokio::net::TcpListener,
    tls: TlsAcceptor,
    admin: Admin,
    serving: Serving,
    status: Status,
    linger: Duration,
}

impl Server {
    fn new(settings: Settings, known: Namespaces, decisions: Decisions) -> Result<Self, StartError> {
        let (serving, status) = (Serving::default(), Status::default());
        let tls = TlsAcceptor::from(Arc::new(serving.tls()?));
        let desk = Arc::new(Desk::new(settings.config, known.clone(), decisions));
        let admin = Admin { desk, namespaces: known, serving: serving.clone(), status: status.clone() };
        let listener = adopt("the HTTPS listener", settings.listener)?;
        let admin_listener = adopt("the admin listener", settings.admin)?;
        Ok(Self { listener, admin_listener, tls, admin, serving, status, linger: settings.linger })
    }

    /// Serves until `shutdown`, lingers and drains.
    async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, admin_listener, tls, admin, status, linger, .. } = self;
        let closing = CancellationToken::new();
        let reviews = listen::serve(listener, tls, Arc::clone(&admin.desk), status.clone(), closing.clone());
        let probes = admin.serve(admin_listener, closing.clone());
        let stop = async {
            shutdown.await;
            status.close();
            tokio::time::sleep(linger).await;
            closing.cancel();
        };
        tokio::join!(reviews, probes, stop);
    }
}

fn adopt(what: &'static str, listener: TcpListener) -> Result<tokio::net::TcpListener, StartError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(|source| StartError::Listen { what, source })
}
