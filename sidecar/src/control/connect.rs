//! The connection to the ledger, by the sidecar's own look-up: the system's reads files that the agent may have changed.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::resolve::Resolve;

/// Where HTTPS is, unless the address says.
const HTTPS: u16 = 443;

/// For one address: of a Service with two families one may be silent, and the other must have its turn.
const ADDRESS: Duration = Duration::from_millis(700);

/// The first of a name's addresses that answers.
pub(super) async fn connect(resolver: Arc<dyn Resolve>, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => resolver.resolve(host).await.map_err(io::Error::other)?.addresses,
    };
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        let connecting = TcpStream::connect((address, uri.port_u16().unwrap_or(HTTPS)));
        match tokio::time::timeout(ADDRESS, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                // Calls are small; waiting for more to send would only add latency.
                stream.set_nodelay(true)?;
                return Ok(TokioIo::new(stream));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
