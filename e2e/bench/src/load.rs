//! A closed loop of clients, each on a connection of its own that it keeps alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::Repeated;
use crate::tls;

/// A CONNECT's answer is shorter.
const CONNECT_ANSWER: usize = 1024;

/// How the far side is reached.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Straight.
    Direct,
    /// Absolute-form requests to a proxy.
    Proxy(SocketAddr),
    /// Straight, over TLS.
    Tls(Arc<ClientConfig>),
    /// CONNECT to a proxy, then TLS with whoever answers.
    Tunnel(SocketAddr, Arc<ClientConfig>),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Repeated,
}

impl Call {
    pub(crate) const fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Repeated::nothing() }
    }

    pub(crate) fn post(path: &str, json: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, path: path.to_owned(), body: Repeated::once(json.into()) }
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Repeated>,
    host: HeaderValue,
    /// What stands before the path.
    prefix: String,
}

impl Client {
    pub(crate) async fn open(way: &Way, far: SocketAddr) -> Result<Self> {
        let host = match way {
            Way::Direct | Way::Proxy(_) => far.to_string(),
            Way::Tls(_) | Way::Tunnel(..) => format!("{}:{}", tls::NAME, far.port()),
        };
        let prefix = if matches!(way, Way::Proxy(_)) { format!("http://{host}") } else { String::new() };
        let sender = match way {
            Way::Direct => handshake(connect(far).await?).await?,
            Way::Proxy(proxy) => handshake(connect(*proxy).await?).await?,
            Way::Tls(config) => secured(config, connect(far).await?).await?,
            Way::Tunnel(proxy, config) => secured(config, tunnel(connect(*proxy).await?, &host).await?).await?,
        };
        Ok(Self { sender, host: host.parse()?, prefix })
    }

    /// One exchange, its answer read to the end; the length of the answer.
    pub(crate) async fn call(&mut self, call: Call) -> Result<u64> {
        self.exchange(call, |_| {}).await
    }

    /// One exchange, for its answer.
    pub(crate) async fn ask(&mut self, call: Call) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.exchange(call, |data| answer.extend_from_slice(data)).await?;
        Ok(answer)
    }

    async fn exchange(&mut self, call: Call, mut keep: impl FnMut(&[u8])) -> Result<u64> {
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.uri_mut() = format!("{}{}", self.prefix, call.path).parse()?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("python-requests/2.32.5"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer 0123456789abcdef0123456789abcdef"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut length = 0;
        let mut said = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len() as u64;
            keep(&data);
            if !status.is_success() {
                said.extend_from_slice(&data);
            }
        }
        ensure!(status.is_success(), "{}: {status}: {}", call.path, String::from_utf8_lossy(&said));
        Ok(length)
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens on {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn tunnel(mut stream: TcpStream, host: &str) -> Result<TcpStream> {
    stream.write_all(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < CONNECT_ANSWER, "CONNECT is answered at too great a length");
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("CONNECT: {}", String::from_utf8_lossy(&head));
    }
    Ok(stream)
}

async fn secured(
    config: &Arc<ClientConfig>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Repeated>> {
    handshake(TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(tls::NAME)?, stream).await?).await
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Repeated>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What a number of calls took.
#[derive(Debug)]
pub(crate) struct Took {
    pub(crate) calls: usize,
    pub(crate) elapsed: Duration,
    /// Each call's own.
    pub(crate) each: Vec<Duration>,
}

impl Took {
    /// The latency that half of the calls stayed below.
    pub(crate) fn p50(&self) -> Duration {
        median(self.each.clone()).unwrap_or_default()
    }

    /// Calls in a second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.calls) / self.elapsed.as_secs_f64()
    }
}

/// Clients with open connections.
#[derive(Debug)]
pub(crate) struct Crowd(Vec<Client>);

impl Crowd {
    pub(crate) async fn open(way: &Way, far: SocketAddr, clients: usize) -> Result<Self> {
        let mut crowd = Vec::with_capacity(clients);
        for _ in 0..clients {
            crowd.push(Client::open(way, far).await?);
        }
        Ok(Self(crowd))
    }

    /// Each client makes `each` calls, one after the other.
    pub(crate) async fn run(&mut self, each: usize, make: impl Fn() -> Call + Clone + Send + 'static) -> Result<Took> {
        let began = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for mut client in self.0.drain(..) {
            let make = make.clone();
            running.spawn(async move {
                let mut took = Vec::with_capacity(each);
                for _ in 0..each {
                    let call = make();
                    let at = Instant::now();
                    client.call(call).await?;
                    took.push(at.elapsed());
                }
                Ok::<_, anyhow::Error>((client, took))
            });
        }
        let mut all = Vec::new();
        while let Some(done) = running.join_next().await {
            let (client, took) = done??;
            self.0.push(client);
            all.extend(took);
        }
        Ok(Took { calls: all.len(), elapsed: began.elapsed(), each: all })
    }
}

/// The middle one.
pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// The one that `percent` of a hundred values are not above.
pub(crate) fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    values.get((values.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

/// Counts here stay far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) const fn count(n: usize) -> f64 {
    n as f64
}
