//! TLS of the agent: read the ClientHello, see that its server name agrees, then terminate it with a leaf of our own or
//! pass it on unread.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{Accepted, Acceptor};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::{AgentStream, Listeners, Place};
use crate::arrival::{Handler, Origin, TlsTreatment};
use crate::server::{self, Served};
use crate::target::{Authority, Host, Scheme};

/// A handshake takes a few round trips within one machine.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// A ClientHello: post-quantum shares and tickets make some KiB.
const HELLO_BYTES: usize = 64 * 1024;
/// TLS alert `unrecognized_name` (RFC 6066, 3), fatal, in a TLS 1.2 record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

impl<H: Handler> Listeners<H> {
    pub(super) async fn tls(self: Arc<Self>, mut stream: AgentStream, place: Place, mut origin: Origin) {
        let hello = tokio::time::timeout(HANDSHAKE_WITHIN, client_hello(&mut stream)).await;
        let accepted = match hello.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "TLS ClientHello not understood");
                return;
            }
        };
        let server_name = accepted.client_hello().server_name().map(str::to_owned);
        let opened = match &place {
            Place::Proxy => return,
            Place::Connect(authority) => authority.clone(),
            Place::Redirect(address) => Authority::from(*address),
        };
        let named = match server_name.as_deref().map(Host::parse) {
            None => opened.clone(),
            Some(Ok(host)) => Authority { host, port: opened.port },
            Some(Err(_)) => return refuse_name(stream).await,
        };
        origin.sni = server_name.map(Into::into);
        if let Place::Connect(authority) = &place {
            origin.connect = Some(authority.clone());
        }
        match self.handler.tls_treatment(&origin, &named) {
            TlsTreatment::PassThrough => {
                // Matched by name, so the name must be the connection's: nothing later can say 421.
                if place.agrees(&named, &*self.settings.resolver).await.is_err() {
                    return refuse_name(stream).await;
                }
                let tunnel_place = place.clone();
                let target = tunnel_place.target(Scheme::Https, named);
                let tunnel = super::Tunnel::new(stream, origin, target, None);
                Arc::clone(&self.handler).tunnel(tunnel).await;
            }
            TlsTreatment::Intercept => self.intercept(accepted, stream, place, origin, named).await,
        }
    }

    async fn intercept(self: Arc<Self>, accepted: Accepted, mut stream: AgentStream, place: Place, origin: Origin, named: Authority) {
        let config = match self.settings.leaves.server_config(&named.host) {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(%error, "no certificate for an intercepted host");
                return;
            }
        };
        // The acceptor holds these bytes already.
        drop(stream.take_ahead());
        let facts = Arc::clone(stream.facts());
        let handshake = StartHandshake::from_parts(accepted, stream).into_stream(config);
        let done = tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await;
        let tls = match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tls) => tls,
            Err(error) => {
                tracing::warn!(
                    host = %named.host, %error,
                    "TLS with the agent failed: does this client trust the sidecar's CA?"
                );
                return;
            }
        };
        let http2 = speaks_http2(&tls);
        let served = Served::tls(self, place, origin, named, facts);
        if http2 {
            server::http2(served, tls).await;
        } else {
            server::http1(served, tls).await;
        }
    }
}

fn speaks_http2(tls: &TlsStream<AgentStream>) -> bool {
    tls.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// Reads ahead until the ClientHello is whole. Its bytes stay in front of the stream.
async fn client_hello(stream: &mut AgentStream) -> io::Result<Accepted> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let mut fresh = Cursor::new(&stream.ahead()[fed..]);
        while (fresh.position() as usize) < fresh.get_ref().len() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    stream.write_all(&bytes).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        fed = stream.ahead().len();
        if fed > HELLO_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "ClientHello too long"));
        }
        if stream.read_ahead(HELLO_BYTES).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn refuse_name(mut stream: AgentStream) {
    tracing::warn!("a TLS server name does not agree with its connection's destination");
    let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
    let _ = stream.shutdown().await;
}
