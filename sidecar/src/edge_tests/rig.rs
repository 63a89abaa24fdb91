//! What every test here stands on: a sidecar with a pass-through handler, and its clients.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::far::far_tls;
use crate::arrival::{Arrival, Handler, Origin, TlsTreatment};
use crate::body::{self, RequestBody, ResponseBody, SendBody};
use crate::boot_clock::{BootClock, BootInstant};
use crate::delivery::Delivery;
use crate::listen::{Listeners, Port, Settings, Tunnel, TunnelEnd, TunnelError};
use crate::permit::{Allowed, EffectTerms, Granted, Permit};
use crate::resolve::{Resolve, ResolveError, Resolved};
use crate::session::Carried;
use crate::target::{Authority, Scheme, Target};
use crate::tls::authority::Authority as Ca;
use crate::tls::leaf::Leaves;
use crate::upstream::{NotSent, SendFailure, Upstream};

/// Names known to these tests alone.
#[derive(Debug, Default)]
pub(super) struct Names(pub(super) HashMap<&'static str, IpAddr>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        async move {
            match self.0.get(name) {
                Some(ip) => Ok(Resolved { canonical: name.into(), addresses: vec![*ip] }),
                None if name == "denied.test" => Err(ResolveError::OutOfReach { name: name.into() }),
                None => Err(ResolveError::NotFound { name: name.into() }),
            }
        }
        .boxed()
    }
}

pub(super) fn names() -> Arc<Names> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));
    Arc::new(Names(HashMap::from([("localhost", here), ("pay.test", here), ("other.test", elsewhere)])))
}

/// Lets everything pass: reads and, where the method is not safe, effects on generous terms.
#[derive(Debug)]
pub(super) struct PassThrough {
    pub(super) upstream: Upstream,
    pub(super) clock: BootClock,
    pub(super) treatment: TlsTreatment,
    pub(super) deliveries: Mutex<Vec<Delivery>>,
    pub(super) failures: Mutex<Vec<String>>,
    /// A tunnel was begun.
    pub(super) tunnelled: Notify,
    pub(super) ends: Mutex<Vec<(Carried, Result<TunnelEnd, TunnelError>)>>,
}

pub(super) fn generous(clock: &BootClock) -> (watch::Sender<BootInstant>, EffectTerms) {
    let now = clock.now();
    let (renew, lease_end) = watch::channel(now.after(Duration::from_secs(30)));
    let terms = EffectTerms { send_by: now.after(Duration::from_secs(10)), lease_end, idempotent: false, fresh_connection: false };
    (renew, terms)
}

impl Handler for PassThrough {
    async fn handle(self: Arc<Self>, arrival: Arrival, request: Request<RequestBody>) -> Response<ResponseBody> {
        self.deliveries.lock().unwrap().push(arrival.delivery);
        let permit = if arrival.upgrade.is_some() {
            Permit::session(Allowed::by_policy())
        } else if request.method().is_safe() {
            Permit::read(Allowed::by_policy())
        } else {
            Permit::effect(Granted::by_ledger(), generous(&self.clock).1)
        };
        let sent = self.upstream.send(permit, request.map(SendBody::from), &arrival.target).await;
        match sent {
            Ok(answer) => {
                if let (Some(agent), Some(far)) = (arrival.upgrade, answer.upgrade) {
                    tokio::spawn(async move { crate::session::join(agent, far, &mut Carried::default()).await });
                }
                Response::from_parts(answer.head, answer.body.boxed_unsync())
            }
            Err(failure) => {
                self.failures.lock().unwrap().push(failure.to_string());
                let mut response = Response::new(body::full(failure.to_string()));
                *response.status_mut() = match failure {
                    SendFailure::NotSent(_) => StatusCode::BAD_GATEWAY,
                    SendFailure::Doubt(_) => StatusCode::LOCKED,
                };
                response
            }
        }
    }

    async fn tunnel(self: Arc<Self>, tunnel: Tunnel) {
        let permit = Permit::session(Allowed::by_policy());
        self.tunnelled.notify_one();
        let mut carried = Carried::default();
        let end = tunnel.run(permit, &self.upstream, &mut carried).await;
        self.ends.lock().unwrap().push((carried, end));
    }

    fn tls_treatment(&self, _: &Origin, _: &Authority) -> TlsTreatment {
        self.treatment
    }
}

/// A running sidecar edge.
pub(super) struct Rig {
    pub(super) proxy: SocketAddr,
    pub(super) redirect: SocketAddr,
    pub(super) original: Arc<Mutex<SocketAddr>>,
    pub(super) handler: Arc<PassThrough>,
    pub(super) listeners: Arc<Listeners<PassThrough>>,
    pub(super) folder: Folder,
}

/// A folder that goes when the test does.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("kybernis-edge-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(TlsTreatment::Intercept).await
    }

    pub(super) async fn with(treatment: TlsTreatment) -> Self {
        let folder = Folder::new();
        let leaves = Leaves::new(Ca::load_or_create(&folder.0).unwrap()).unwrap();
        let clock = BootClock::kernel();
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (proxy_socket, redirect_socket) = (bind(), bind());
        let proxy = proxy_socket.local_addr().unwrap();
        let redirect = redirect_socket.local_addr().unwrap();
        let own = vec![proxy, redirect];
        let upstream = Upstream::new(names(), far_tls(), clock.clone(), own.clone());
        let handler = Arc::new(PassThrough {
            upstream,
            clock,
            treatment,
            deliveries: Mutex::default(),
            failures: Mutex::default(),
            tunnelled: Notify::new(),
            ends: Mutex::default(),
        });
        let original = Arc::new(Mutex::new(proxy));
        let meant = Arc::clone(&original);
        let settings = Settings {
            leaves: Arc::new(leaves),
            resolver: names(),
            original_destination: Arc::new(move |_| Ok(*meant.lock().unwrap())),
            own,
        };
        let listeners = Listeners::new(Arc::clone(&handler), settings);
        tokio::spawn(Arc::clone(&listeners).serve(proxy_socket, Port::Proxy));
        tokio::spawn(Arc::clone(&listeners).serve(redirect_socket, Port::Redirect));
        Self { proxy, redirect, original, handler, listeners, folder }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// Redirected, on its way to `original`.
    pub(super) async fn redirected(&self, original: SocketAddr) -> TcpStream {
        *self.original.lock().unwrap() = original;
        TcpStream::connect(self.redirect).await.unwrap()
    }

    /// Lets a stream's silence become so long that it is tunnelled.
    pub(super) async fn silence(&self) {
        tokio::time::pause();
        self.handler.tunnelled.notified().await;
        tokio::time::resume();
    }

    /// Waits until that many connections are taken, and the one that each port is ready to take.
    pub(super) async fn until_busy(&self, connections: usize) {
        let settled = async {
            while self.listeners.busy() != connections + 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.0.join("ca.crt")
    }
}

pub(super) fn target(address: SocketAddr, scheme: Scheme) -> Target {
    let authority = Authority::parse(&format!("localhost:{}", address.port()), None).unwrap();
    Target::new(scheme, authority)
}

/// Sends raw bytes and reads until `until` is in the answer, or the end.
pub(super) async fn exchange(stream: &mut TcpStream, bytes: &str, until: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        if (!until.is_empty() && text.contains(until)) || matches!(read, Ok(0) | Err(_)) {
            return text;
        }
    }
}

pub(super) fn proof(failure: &SendFailure) -> &NotSent {
    match failure {
        SendFailure::NotSent(proof) => proof,
        SendFailure::Doubt(doubt) => panic!("in doubt: {doubt}"),
    }
}

/// Runs curl; its exit status and what it printed.
pub(super) async fn curl(arguments: &[&str]) -> (i32, String) {
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(arguments)
        .env_clear()
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// The agent's TLS, trusting the sidecar's CA.
pub(super) async fn agent_tls(
    rig: &Rig,
    stream: TcpStream,
    name: &str,
    alpn: &[&[u8]],
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rig.listeners.settings.leaves.authority().der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Opens a CONNECT through the proxy.
pub(super) async fn connected(rig: &Rig, authority: &str) -> TcpStream {
    let mut stream = rig.connect().await;
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let opened = exchange(&mut stream, &connect, "\r\n\r\n").await;
    assert!(opened.starts_with("HTTP/1.1 200 "), "{opened}");
    stream
}

/// An upstream client on its own, without an edge before it.
pub(super) fn client(clock: &BootClock) -> Upstream {
    Upstream::new(names(), far_tls(), clock.clone(), Vec::new())
}

pub(super) fn effect(clock: &BootClock) -> Permit {
    Permit::effect(Granted::by_ledger(), generous(clock).1)
}

pub(super) fn post(body: SendBody) -> Request<SendBody> {
    Request::post("/orders").body(body).unwrap()
}
