//! A broker that misbehaves: a real server on real sockets that executes orders, keeps books on what it executed, and goes
//! wrong in exactly the way its script says. Tests run it in process, the demo as `kybernis-broker`.
//!
//! A request's way: [`doors`] accepts, [`http1`] or [`http2`] reads it, [`desk`] lets the [`script`] speak and the [`exchange`]
//! execute, and the same protocol module carries out what is to become of the answer.

mod admin;
mod authority;
mod desk;
mod doors;
mod exchange;
mod fault;
mod goaway;
mod http1;
mod http2;
mod journal;
mod message;
mod script;
mod websocket;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub use authority::Authority;
pub use desk::Snapshot;
pub use fault::{Ending, Fault, Filter, Forever, Impossible, Then, Times};
pub use journal::{Executed, Fired, Kind, Protocol, Received};

use desk::Desk;
use doors::Doors;

/// Threads that carry a broker; tests run several side by side.
const THREADS: usize = 2;
/// What still runs at a stop is given this long to end.
const STOP: Duration = Duration::from_secs(2);

/// How a broker is set up. Ports of 0 are chosen by the system.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where all ports are opened.
    pub bind: IpAddr,
    /// TLS.
    pub https_port: u16,
    /// Without TLS: HTTP/1.1, and HTTP/2 by prior knowledge.
    pub http_port: u16,
    /// The script and the journals.
    pub admin_port: u16,
    /// Where the authority's certificate is written, as PEM.
    pub ca_out: PathBuf,
    /// Whether `Idempotency-Key` means anything.
    pub honours_keys: bool,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// Who signs its certificate; a new one unless given.
    pub authority: Option<Arc<Authority>>,
}

impl Settings {
    /// On loopback, every port chosen by the system, idempotency keys ignored, HTTP/2 offered.
    pub fn new(ca_out: impl Into<PathBuf>) -> Self {
        let bind = Ipv4Addr::LOCALHOST.into();
        Self { bind, https_port: 0, http_port: 0, admin_port: 0, ca_out: ca_out.into(), honours_keys: false, http2: true, authority: None }
    }
}

/// Why a broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be opened.
    #[error("{address} cannot be opened")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The authority's certificate could not be written.
    #[error("{path}: cannot be written")]
    CaFile {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
    /// TLS does not accept what was made.
    #[error("the certificate is not usable")]
    Tls(#[from] rustls::Error),
    /// No threads.
    #[error("the broker's threads could not be started")]
    Threads(#[source] io::Error),
}

/// A running broker; it stops when it is dropped. It runs on threads of its own, so that tests may block.
#[derive(Debug)]
pub struct Broker {
    desk: Arc<Desk>,
    https: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    ca: PathBuf,
    runtime: Option<Runtime>,
}

impl Broker {
    /// Opens the ports and serves.
    ///
    /// # Errors
    /// When a port, the authority's file or a thread is not to be had.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let authority = settings.authority.map_or_else(|| Authority::create().map(Arc::new), Ok)?;
        authority.write(&settings.ca_out)?;
        let tls = authority.server_config(settings.http2)?.into();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
        let runtime = runtime.map_err(StartError::Threads)?;
        let _context = runtime.enter();
        let (https, https_at) = listen(settings.bind, settings.https_port)?;
        let (http, http_at) = listen(settings.bind, settings.http_port)?;
        let (admin, admin_at) = listen(settings.bind, settings.admin_port)?;
        let desk = Arc::new(Desk::default());
        desk.honour_keys(settings.honours_keys);
        runtime.spawn(doors::keep(Doors { https, http, tls }, Arc::clone(&desk)));
        let router = admin::router(Arc::clone(&desk), authority.certificate().to_owned());
        runtime.spawn(async move { axum::serve(admin, router).await });
        drop(_context);
        Ok(Self { desk, https: https_at, http: http_at, admin: admin_at, ca: settings.ca_out, runtime: Some(runtime) })
    }

    /// The port with TLS.
    pub const fn https(&self) -> SocketAddr {
        self.https
    }

    /// Its number alone: certificates name `localhost`, and so should URLs.
    pub const fn https_port(&self) -> u16 {
        self.https.port()
    }

    /// The port without.
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// The admin port.
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The authority's certificate.
    pub fn ca_pem_path(&self) -> &Path {
        &self.ca
    }

    /// Adds faults to the script, all or none.
    ///
    /// # Errors
    /// When one of them contradicts itself.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) -> Result<(), Impossible> {
        self.desk.add(faults.into_iter().collect())
    }

    /// Takes what is left of the script back.
    pub fn clear_script(&self) {
        self.desk.clear_script();
    }

    /// What was executed, in order.
    pub fn executed(&self) -> Vec<Executed> {
        self.desk.snapshot().executed
    }

    /// What arrived, in order.
    pub fn requests(&self) -> Vec<Received> {
        self.desk.snapshot().requests
    }

    /// What went wrong, in order.
    pub fn fired(&self) -> Vec<Fired> {
        self.desk.snapshot().fired
    }

    /// Everything at one instant.
    pub fn snapshot(&self) -> Snapshot {
        self.desk.snapshot()
    }

    /// Blocks until the broker's state is as wanted.
    ///
    /// # Errors
    /// With the state as it is, once that has taken too long.
    pub fn wait_until(&self, within: Duration, wanted: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, Snapshot> {
        self.desk.wait_until(within, wanted)
    }

    /// Whether `Idempotency-Key` means anything from now on.
    pub fn honour_keys(&self, honours_keys: bool) {
        self.desk.honour_keys(honours_keys);
    }

    /// Ends every hang, and opens ports that refuse.
    pub fn release(&self) {
        self.desk.release();
    }

    /// Empty books, journals and script. Connections stay.
    pub fn reset(&self) {
        self.desk.reset();
    }

    /// Ends every connection and closes the ports. Blocks until that is done.
    pub fn stop(mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for on another's thread, and a test may run on one.
            let _ = std::thread::spawn(move || runtime.shutdown_timeout(STOP)).join();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(ip: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(ip, port);
    let listener = doors::bind(address).and_then(doors::open);
    let bound = listener.and_then(|listener| listener.local_addr().map(|at| (listener, at)));
    bound.map_err(|source| StartError::Bind { address, source })
}
