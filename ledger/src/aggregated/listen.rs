//! The HTTPS listener: who may connect, for how long, and how it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::Aggregated;
use super::routes::router;
use super::status::Failed;
use crate::auth::Stranger;
use crate::tls::TlsError;

/// Connections at a time: each API server keeps a few open.
const CONNECTIONS_MAX: usize = 128;
/// For a handshake: a slow one holds a place.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// For a request's head, and between two requests. API servers drop idle connections after 90 s (`IdleConnTimeout`), and a request must
/// not meet a connection that we close, so ours is longer.
const HEAD_PATIENCE: Duration = Duration::from_secs(120);
/// The same for who will be turned away.
const STRANGER_PATIENCE: Duration = Duration::from_secs(5);
/// A head; API servers send some hundred bytes, and a person's groups.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// For requests under way when the ledger stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// After the system could not accept, out of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// By what an API server names the person whose request it forwards.
const PERSON: &str = "x-remote-user";

/// TLS with the ledger's own certificate, which asks for the client's.
pub(crate) fn tls(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = config.with_client_cert_verifier(Arc::new(Holder(provider))).with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Has the client prove that the certificate which it shows is its own, and no more: whose it may be changes while we run, is judged by
/// [`Front`](crate::auth::Front) for each connection, and who is a stranger is told so in a way that clients of Kubernetes understand.
#[derive(Debug)]
struct Holder(Arc<CryptoProvider>);

impl ClientCertVerifier for Holder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Serves until `closing`, and then what is under way.
pub(crate) async fn serve(listener: TcpListener, aggregated: Aggregated, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let router = router(aggregated.clone());
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = closing.cancelled() => break,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, _))) => {
                let (aggregated, router, closing) = (aggregated.clone(), router.clone(), closing.clone());
                connections.spawn(async move {
                    connection(stream, &aggregated, router, closing).await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Err(_), Ok(_)) => break,
        }
    }
    connections.close();
    if tokio::time::timeout(DRAIN_PATIENCE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut: they did not end in time");
    }
}

async fn connection(stream: TcpStream, aggregated: &Aggregated, router: Router, closing: CancellationToken) {
    // Answers go out whole; waiting for more to send would only add latency.
    drop(stream.set_nodelay(true));
    let tls = TlsAcceptor::from(Arc::clone(&aggregated.tls));
    let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // What an API server says that does not trust us ends here too.
            tracing::warn!(%error, "a handshake failed");
            return;
        }
        Err(_) => return,
    };
    let judged = aggregated.judge(&stream).await;
    let is_known = judged.is_ok();
    if let Err(stranger) = judged {
        tracing::warn!(%stranger, "a caller is turned away");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let router = is_known.then(|| router.clone());
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let mut http = http1::Builder::new();
    let patience = if is_known { HEAD_PATIENCE } else { STRANGER_PATIENCE };
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD_BYTES_MAX);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = closing.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Answers an API server, for the person whom it names; turns away everyone else, for whom there is no router.
async fn answer(router: Option<Router>, request: Request<Incoming>) -> Response {
    let person = request.headers().get(PERSON).and_then(|person| person.to_str().ok()).filter(|person| !person.is_empty());
    match (router, person) {
        (Some(router), Some(person)) => {
            tracing::debug!(person, path = request.uri().path(), "a person reads");
            let request = request.map(Body::new);
            router.oneshot(request).await.unwrap_or_else(|never| match never {})
        }
        (None, _) | (_, None) => {
            let mut response = Failed::unauthorized().into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

impl Aggregated {
    /// Whether an API server is at the other end. One that is not known is looked for once more: their CA changes.
    async fn judge(&self, stream: &TlsStream<TcpStream>) -> Result<(), Stranger> {
        let asked = Instant::now();
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        match self.front.recent().await.judge(chain, UnixTime::now()) {
            Err(stranger) if stranger != Stranger::NoCertificate => match self.front.since(asked).await {
                Ok(front) => front.judge(chain, UnixTime::now()),
                Err(_) => Err(stranger),
            },
            judged => judged,
        }
    }
}
