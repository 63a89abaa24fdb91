//! The admin port: is the process alive, is it ready, how does it do. Liveness never asks the ledger.

use std::convert::Infallible;
use std::io;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::spool::Spool;

/// Connections that are served at a time; probes and scrapers are few.
const CONNECTIONS: usize = 16;

/// Serves until `closing`.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub(crate) fn spawn(listener: std::net::TcpListener, control: Control, spool: Spool, closing: CancellationToken) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
            };
            let (Ok((stream, _)), Ok(place)) = (accepted, std::sync::Arc::clone(&places).acquire_owned().await) else { continue };
            let (control, spool) = (control.clone(), spool.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&request, &control, &spool);
                    async move { Ok::<_, Infallible>(answer) }
                });
                if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a connection of the admin port ended");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

fn answer(request: &Request<Incoming>, control: &Control, spool: &Spool) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match (control.identity(), control.policy()) {
            (Some(_), Some(_)) => (StatusCode::OK, "ok\n".to_owned()),
            (None, _) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger has not said who this sidecar is\n".to_owned()),
            (_, None) => (StatusCode::SERVICE_UNAVAILABLE, "no policy is in force yet\n".to_owned()),
        },
        "/metrics" => (StatusCode::OK, metrics(spool)),
        _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// In the Prometheus text format.
fn metrics(spool: &Spool) -> String {
    format!(
        "# HELP kyb_spool_spans_dropped_total Spans of reads that were dropped because the spool was full.\n\
         # TYPE kyb_spool_spans_dropped_total counter\n\
         kyb_spool_spans_dropped_total {}\n\
         # HELP kyb_spool_empty Whether the ledger has taken everything.\n\
         # TYPE kyb_spool_empty gauge\n\
         kyb_spool_empty {}\n",
        spool.spans.dropped(),
        u8::from(spool.is_empty()),
    )
}
