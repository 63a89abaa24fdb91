//! A far side that speaks HTTP/2 over TLS, under a CA of its own, and does with each stream what its script says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The name in the certificate.
const NAME: &str = "localhost";
/// A run outlives no day.
const VALID: time::Duration = time::Duration::days(2);

/// What is done with one stream.
#[derive(Clone, Debug)]
pub enum Stream {
    /// Executes and answers with this body and a trailer.
    Answer(&'static str),
    /// Executes, announces an empty body, and resets the stream before its end.
    EmptyThenReset,
    /// Does not execute: the stream ends in `REFUSED_STREAM`.
    Refused,
}

/// The far side. Without a script it answers.
#[derive(Clone, Debug)]
pub struct FarTls {
    address: SocketAddr,
    ca: PathBuf,
    executed: Arc<AtomicUsize>,
    script: Arc<Mutex<VecDeque<Stream>>>,
    _folder: Arc<TempDir>,
}

impl FarTls {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When no certificate or no socket is to be had.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let ca = folder.path().join("ca.pem");
        let acceptor = TlsAcceptor::from(Arc::new(certified(&ca)?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let far = Self { address: listener.local_addr()?, ca, executed: Arc::default(), script: Arc::default(), _folder: Arc::new(folder) };
        let serving = far.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (far, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(stream).await else { return };
                    let Ok(mut connection) = h2::server::handshake(tls).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let far = far.clone();
                        tokio::spawn(async move {
                            let mut body = request.into_body();
                            while let Some(Ok(data)) = body.data().await {
                                let _ = body.flow_control().release_capacity(data.len());
                            }
                            // A caller that breaks off is part of the tests.
                            let _ = far.stream(respond);
                        });
                    }
                });
            }
        });
        Ok(far)
    }

    /// Its CA's certificate.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// A URL of its.
    pub fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.address.port())
    }

    /// What the next streams meet, in order.
    pub fn script(&self, then: impl IntoIterator<Item = Stream>) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).extend(then);
    }

    /// Requests that were executed.
    pub fn executed(&self) -> usize {
        self.executed.load(Ordering::SeqCst)
    }

    fn stream(&self, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let then = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match then.unwrap_or(Stream::Answer("{}")) {
            Stream::Answer(body) => {
                self.executed.fetch_add(1, Ordering::SeqCst);
                let mut head = Response::new(());
                head.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
                let mut send = respond.send_response(head, false)?;
                send.send_data(Bytes::from_static(body.as_bytes()), false)?;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", HeaderValue::from_static("7"));
                send.send_trailers(trailers)
            }
            Stream::EmptyThenReset => {
                self.executed.fetch_add(1, Ordering::SeqCst);
                let mut head = Response::new(());
                head.headers_mut().insert("content-length", HeaderValue::from_static("0"));
                let mut send = respond.send_response(head, false)?;
                // The head must be on its way before the stream ends.
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    send.send_reset(Reason::INTERNAL_ERROR);
                });
                Ok(())
            }
            Stream::Refused => {
                respond.send_reset(Reason::REFUSED_STREAM);
                Ok(())
            }
        }
    }
}

fn certified(ca: &Path) -> anyhow::Result<ServerConfig> {
    let now = time::OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "far side's CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    let ca_key = KeyPair::generate()?;
    std::fs::write(ca, params.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(params, ca_key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?.der().clone();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
