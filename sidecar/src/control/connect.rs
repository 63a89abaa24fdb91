//! The connection to the ledger, by the sidecar's own look-up: the system's reads files that the agent may have changed. The CA is
//! read for each: it is replaced while the sidecar lives.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::io::InspectReader;

use super::{ControlError, Settings};
use crate::resolve::Resolve;
use crate::target::Protocol;
use crate::tls::client::{ClientTls, Roots, RootsError};

/// Where HTTPS is, unless the address says.
const HTTPS: u16 = 443;

/// For one address: of a Service with two families one may be silent, and the other must have its turn.
const ADDRESS: Duration = Duration::from_millis(700);

/// How to get to the ledger and how to know that it is the ledger.
pub(super) struct Connector {
    resolver: Arc<dyn Resolve>,
    name: ServerName<'static>,
    ca: PathBuf,
    connections: watch::Sender<usize>,
}

/// Counted for as long as it is there.
struct Connection(watch::Sender<usize>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.send_modify(|connections| *connections -= 1);
    }
}

impl Connector {
    /// Refuses what could never become a connection.
    pub(super) fn new(settings: &Settings, resolver: Arc<dyn Resolve>) -> Result<Self, ControlError> {
        let name = ServerName::try_from(settings.server_name.clone()).map_err(|_| ControlError::Name(settings.server_name.clone()))?;
        let connector = Self { resolver, name, ca: settings.ca.clone(), connections: watch::Sender::new(0) };
        connector.tls()?;
        Ok(connector)
    }

    /// How many connections there are now.
    pub(super) fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }

    /// Trusts whom the file names now.
    fn tls(&self) -> Result<Arc<ClientConfig>, RootsError> {
        let mut roots = Roots::none();
        roots.add_pem_file(&self.ca)?;
        Ok(Arc::clone(ClientTls::new(roots).config(Protocol::Http2)))
    }

    /// To the first of the name's addresses that answers.
    pub(super) async fn connect(
        &self,
        uri: Uri,
    ) -> io::Result<TokioIo<InspectReader<TlsStream<TcpStream>, impl FnMut(&[u8]) + Send + use<>>>> {
        let tls = self.tls().map_err(|error| {
            tracing::warn!(%error, "the ledger's CA cannot be read again");
            io::Error::other(error)
        })?;
        let stream = self.reach(&uri).await?;
        // Calls are small; waiting for more to send would only add latency.
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(tls).connect(self.name.clone(), stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("what answers there does not agree to speak HTTP/2"));
        }
        self.connections.send_modify(|connections| *connections += 1);
        let connection = Connection(self.connections.clone());
        // Nothing is inspected: it takes the count along, and ends it when the stream goes.
        let counted = move |_: &[u8]| {
            let _ = &connection;
        };
        Ok(TokioIo::new(InspectReader::new(stream, counted)))
    }

    async fn reach(&self, uri: &Uri) -> io::Result<TcpStream> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self.resolver.resolve(host).await.map_err(io::Error::other)?.addresses,
        };
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let connecting = TcpStream::connect((address, uri.port_u16().unwrap_or(HTTPS)));
            match tokio::time::timeout(ADDRESS, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}
