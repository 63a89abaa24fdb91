//! An API server's side: TLS against a bundle, HTTP/1.1, reviews.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::memory::Memory;

pub(super) const SERVER_NAME: &str = "kybernis-webhook.kybernis-system.svc";

/// Whom an API server trusts: what the configurations have said so long ago.
#[derive(Clone)]
pub(super) enum Trust {
    Bundle(String),
    Late(Memory, Duration),
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

pub(super) fn verifier(bundle: &str) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|error| error.to_string())
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bundle = match self {
            Self::Bundle(bundle) => bundle.clone(),
            Self::Late(memory, late) => memory.bundle(*late),
        };
        verifier(&bundle).map_err(rustls::Error::General)?.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection for whoever writes HTTP by hand.
pub(super) async fn raw(address: SocketAddr, trust: Trust) -> TlsStream<TcpStream> {
    connect(address, trust).await.unwrap()
}

async fn connect(address: SocketAddr, trust: Trust) -> Result<TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(trust)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| error.to_string())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

/// One connection.
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(super) async fn connect(address: SocketAddr, trust: Trust) -> Result<Self, String> {
        let stream = connect(address, trust).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(u16, http::HeaderMap, Vec<u8>), String> {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let response = self.0.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes().to_vec();
        Ok((head.status.as_u16(), head.headers, body))
    }

    /// A review of a pod that is to be injected.
    pub(super) async fn inject(&mut self) -> Result<(u16, Value), String> {
        let pod = json!({"spec": {"containers": [{"name": "app", "image": "a"}]}});
        let request = json!({
            "uid": "1", "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "trading", "operation": "CREATE", "object": pod,
        });
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, _, body) = self.send(post("/inject?timeout=10s", review.to_string())).await?;
        Ok((status, serde_json::from_slice(&body).map_err(|error| error.to_string())?))
    }

    /// Any other.
    pub(super) async fn review(&mut self, path: &str, review: &Value) -> Result<Value, String> {
        let (_, _, body) = self.send(post(path, review.to_string())).await?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}

pub(super) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", SERVER_NAME).header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}
