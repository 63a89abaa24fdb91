//! Bytes to the ledger's gRPC port as no client library would send them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

/// One message as gRPC frames it: no compression, the length, the bytes.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), &bytes].concat()
}

/// Calls `method` over a connection of its own: sends `pieces` one after the other, each once the ledger has answered the one
/// before with a message, then drops the connection in mid-stream.
///
/// # Errors
/// When no connection comes about, or the ledger ends the call early.
pub async fn send_and_break(
    ledger: SocketAddr,
    name: &str,
    ca: &Path,
    token: &str,
    method: &str,
    pieces: &[Vec<u8>],
) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from(name.to_owned())?, TcpStream::connect(ledger).await?).await?;
    let (sender, mut connection) = h2::client::handshake(stream).await?;
    let mut pings = connection.ping_pong().ok_or_else(|| anyhow::anyhow!("no pings"))?;
    let driving = tokio::spawn(connection);
    let request = http::Request::post(format!("https://{name}/kybernis.v1.Ledger/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(())?;
    let (response, mut body) = sender.ready().await?.send_request(request, false)?;
    let mut answers = None;
    let mut response = Some(response);
    for (at, piece) in pieces.iter().enumerate() {
        body.send_data(Bytes::copy_from_slice(piece), false)?;
        if at + 1 == pieces.len() {
            break;
        }
        if let Some(response) = response.take() {
            answers = Some(response.await?.into_body());
        }
        let answer = answers.as_mut().ok_or_else(|| anyhow::anyhow!("no answer"))?.data().await;
        anyhow::ensure!(answer.is_some(), "the ledger ended the call");
    }
    // What was handed down has arrived once the ledger has answered a ping behind it.
    pings.ping(h2::Ping::opaque()).await?;
    driving.abort();
    Ok(())
}
