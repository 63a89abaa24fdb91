//! The baselines: what a proxy costs that does nothing but what HTTP asks of one. hyper on both sides, connections to the far
//! side kept alive in a pool, hop-by-hop headers taken off, bodies streamed. Nothing is judged and nothing recorded.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::process::{announce, until_orphaned};
use crate::tls;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

type Sender = SendRequest<Incoming>;

/// A forward proxy for absolute-form requests in plain text.
pub(crate) async fn forward() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&[listener.local_addr()?]);
    let out = Arc::new(Out::default());
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(stream, Arc::clone(&out), None));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = until_orphaned() => {}
    }
    Ok(())
}

/// An interceptor: CONNECT, then TLS under its one leaf; and TLS towards the far side, which is verified.
pub(crate) async fn intercept(dir: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&[listener.local_addr()?]);
    let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let acceptor = TlsAcceptor::from(tls::server(dir, &both)?);
    let connector = TlsConnector::from(tls::client(&dir.join(tls::CA), &both)?);
    let out = Arc::new(Out { tls: Some(connector), idle: Mutex::default() });
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(tunnels(stream, acceptor.clone(), Arc::clone(&out)));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = until_orphaned() => {}
    }
    Ok(())
}

/// A connection whose requests are `CONNECT`.
async fn tunnels(stream: TcpStream, acceptor: TlsAcceptor, out: Arc<Out>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        let (acceptor, out) = (acceptor.clone(), Arc::clone(&out));
        let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
        match authority.filter(|_| request.method() == Method::CONNECT) {
            Some(authority) => {
                tokio::spawn(async move {
                    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
                    if let Ok(stream) = acceptor.accept(TokioIo::new(upgraded)).await {
                        connection(stream, out, Some(authority)).await;
                    }
                });
            }
            None => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        }
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// A connection whose requests go on: to `authority`, or to what each names.
async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, out: Arc<Out>, authority: Option<String>) {
    let authority = authority.map(Arc::<str>::from);
    let service = service_fn(move |request| exchange(Arc::clone(&out), authority.clone(), request));
    let mut server = hyper::server::conn::http1::Builder::new();
    // What the client sees of a failure is a closed connection; the bench then fails.
    let _ = server.auto_date_header(false).serve_connection(TokioIo::new(stream), service).await;
}

async fn exchange(out: Arc<Out>, authority: Option<Arc<str>>, mut request: Request<Incoming>) -> Result<Response<Pooled>> {
    let authority = match authority {
        Some(authority) => authority,
        None => request.uri().authority().context("no authority")?.as_str().into(),
    };
    let path = request.uri().path_and_query().cloned().context("no path")?;
    *request.uri_mut() = Uri::from(path);
    strip(request.headers_mut());
    request.headers_mut().insert(HOST, authority.parse()?);
    let mut sender = out.take(&authority).await?;
    let mut response = sender.send_request(request).await?;
    strip(response.headers_mut());
    Ok(response.map(|body| Pooled { body, back: Some((sender, authority, out)) }))
}

/// What belongs to one hop only.
fn strip(headers: &mut HeaderMap) {
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]
    {
        headers.remove(name);
    }
}

/// The way out and its idle connections.
#[derive(Default)]
struct Out {
    tls: Option<TlsConnector>,
    idle: Mutex<HashMap<Arc<str>, Vec<Sender>>>,
}

impl Out {
    async fn take(&self, authority: &str) -> Result<Sender> {
        while let Some(mut sender) = self.idle_one(authority) {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.address(authority).await?).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                handshake(tls.connect(ServerName::try_from(host.to_owned())?, stream).await?).await
            }
        }
    }

    async fn address(&self, authority: &str) -> Result<SocketAddr> {
        let mut found = tokio::net::lookup_host(authority).await?;
        found.find(SocketAddr::is_ipv4).context("the name has no IPv4 address")
    }

    fn idle_one(&self, authority: &str) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(authority)?.pop()
    }

    fn put_back(&self, authority: Arc<str>, sender: Sender) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(authority).or_default().push(sender);
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// An answer's body, whose end gives its connection back.
struct Pooled {
    body: Incoming,
    back: Option<(Sender, Arc<str>, Arc<Out>)>,
}

impl Pooled {
    fn ended(&mut self) {
        if let Some((sender, authority, out)) = self.back.take() {
            out.put_back(authority, sender);
        }
    }
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if matches!(polled, None | Some(Ok(_))) && self.body.is_end_stream() {
            self.ended();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
