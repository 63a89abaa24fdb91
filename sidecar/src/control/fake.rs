//! A ledger for tests: TLS and HTTP/2 as the real one has them, and just so much behind them that a sidecar can live.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kybernis_core::ksp::KspEvent;
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Settings;

/// The name in its certificate.
pub(crate) const NAME: &str = "ledger.test";

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Who signs a ledger's certificate.
pub(crate) struct Ca {
    pub(crate) pem: String,
    server: Arc<ServerConfig>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ledger CA");
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        Self { pem, server: Arc::new(server) }
    }
}

/// What it takes and what it was told.
pub(crate) struct Told {
    /// The token that it takes under `/infra`.
    pub(crate) token: Mutex<String>,
    pub(crate) spans: Mutex<Vec<KspEvent>>,
    policy: PolicySet,
}

/// A running ledger; it ends, and its connections with it, when it is dropped.
pub(crate) struct FakeLedger {
    pub(crate) told: Arc<Told>,
    _serving: JoinSet<()>,
}

/// A place for one ledger after another.
pub(crate) struct Place {
    listener: TcpListener,
    folder: tempfile::TempDir,
    /// What its ledgers say.
    pub(crate) policy: PolicySet,
}

impl Place {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, folder: tempfile::tempdir().unwrap(), policy: PolicySet::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// For a sidecar that trusts these.
    pub(crate) fn settings(&self, trusted: &str) -> Settings {
        let (ca, token) = (self.path().join("ca.pem"), self.path().join("token"));
        std::fs::write(&ca, trusted).unwrap();
        std::fs::write(&token, "token\n").unwrap();
        let address = format!("https://{}", self.address());
        Settings { address, server_name: NAME.to_owned(), ca, token, capture: "cooperative".to_owned() }
    }

    pub(crate) fn ledger(&self, ca: &Ca) -> FakeLedger {
        let listener = tokio::net::TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::clone(&ca.server));
        let told = Arc::new(Told { token: Mutex::new("token".to_owned()), spans: Mutex::default(), policy: self.policy.clone() });
        let mut serving = JoinSet::new();
        let hearing = Arc::clone(&told);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&hearing));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answers = service_fn(move |request| {
                        let told = Arc::clone(&told);
                        async move { Ok::<_, Infallible>(answer(&told, request).await) }
                    });
                    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answers).await;
                });
            }
        });
        FakeLedger { told, _serving: serving }
    }
}

async fn answer(told: &Arc<Told>, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/kybernis.v1.Ledger/Register" => says(&v1::RegisterReply {
            tenant: "tenant".to_owned(),
            agent: "agent".to_owned(),
            run: "run".to_owned(),
            tenant_secret: vec![7; 32],
            ..v1::RegisterReply::default()
        }),
        "/kybernis.v1.Ledger/EnterRun" => says(&v1::EnterRunReply::default()),
        "/kybernis.v1.Ledger/WatchPolicy" => {
            let update = v1::PolicyUpdate {
                digest: told.policy.digest().as_bytes().to_vec(),
                policy_set: serde_json::to_vec(&told.policy).unwrap(),
                secrets: Vec::new(),
            };
            streams(stream::iter([framed(&update)]).chain(stream::pending()))
        }
        "/kybernis.v1.Ledger/StreamSpans" => {
            let told = Arc::clone(told);
            streams(stream::unfold((request.into_body(), BytesMut::new()), move |(mut body, mut buffer)| {
                let told = Arc::clone(&told);
                async move {
                    let batch = v1::SpanBatch::decode(message(&mut body, &mut buffer).await.ok()?).unwrap();
                    let through = batch.first_seq + batch.spans.len() as u64 - 1;
                    told.spans.lock().unwrap().extend(batch.spans.iter().map(|span| serde_json::from_slice(span).unwrap()));
                    Some((framed(&v1::SpanAck { through }), (body, buffer)))
                }
            }))
        }
        path if path.starts_with("/infra/") => infra(told, request).await,
        _ => Response::builder().header("content-type", "application/grpc").header("grpc-status", "12").body(Empty::new().boxed()).unwrap(),
    }
}

/// Says back what it was asked, in a head with more than its caller is to see.
async fn infra(told: &Told, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let bearer = format!("Bearer {}", told.token.lock().unwrap());
    let known = head.headers.get("authorization").is_some_and(|token| token.as_bytes() == bearer.as_bytes());
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    let echo = serde_json::json!({
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "body": String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    });
    let status = match head.uri.path() {
        _ if !known => 401,
        "/infra/later" => 429,
        _ => 200,
    };
    let answer = Response::builder().status(status).header("content-type", "application/json").header("retry-after", "7");
    answer.header("set-cookie", "a=b").header("x-kyb-run-id", "run").body(Full::new(Bytes::from(echo.to_string())).boxed()).unwrap()
}

fn says(message: &impl Message) -> Answer {
    streams(stream::iter([framed(message)]))
}

/// A stream that ends in good order.
fn streams(messages: impl stream::Stream<Item = Bytes> + Send + Sync + 'static) -> Answer {
    let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
    let frames = messages.map(Frame::data).chain(stream::iter([Frame::trailers(trailers)])).map(Ok);
    Response::builder().header("content-type", "application/grpc").body(BoxBody::new(StreamBody::new(frames))).unwrap()
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    Bytes::from([&[0], &length[..], &message].concat())
}

/// The next message of a stream.
async fn message(body: &mut Incoming, buffer: &mut BytesMut) -> io::Result<Bytes> {
    let mut length = None;
    loop {
        if length.is_none() && buffer.len() >= 5 {
            buffer.advance(1);
            length = Some(buffer.get_u32() as usize);
        }
        if let Some(length) = length.filter(|length| buffer.len() >= *length) {
            return Ok(buffer.split_to(length).freeze());
        }
        let frame = body.frame().await.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
}
