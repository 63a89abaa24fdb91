//! The HTTPS listener: who may connect, for how long, and how it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::Desk;
use super::places::{Place, Places};
use super::status::Status;

/// Connections at a time: each API server keeps a few open, and opens more in a burst.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// From the connection to the end of the first request's head, the handshake between them: API servers connect when they have something
/// to ask.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// For a later request's head, and between two requests. API servers drop idle connections after 90 s (`IdleConnTimeout`), and a request
/// must not meet a connection that we close, so ours is longer.
const HEAD_PATIENCE: Duration = Duration::from_secs(120);
/// A head; API servers send some hundred bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// For requests under way when the webhook stops: longer than the body's and the namespace's patience would keep a pod terminating.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// After the system could not accept, out of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `closing`, and then what is under way.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>, status: Status, closing: CancellationToken) {
    let places = Places::new(CONNECTIONS_MAX);
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, std::io::Error>((stream, places.take().await))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, place)) => {
                let (tls, desk, status, closing) = (tls.clone(), Arc::clone(&desk), status.clone(), closing.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, tls, desk, status, &place, closing) => {}
                        () = place.must_leave() => tracing::warn!("a connection that asks nothing is closed: another needs its place"),
                        () = overstay(&place) => tracing::debug!("a connection is closed: it has asked nothing"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(DRAIN_PATIENCE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut: they did not end in time");
    }
}

/// Until somebody has been here too long without a request.
async fn overstay(place: &Place) {
    if tokio::time::timeout(FIRST_PATIENCE, place.has_asked()).await.is_ok() {
        std::future::pending().await
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, desk: Arc<Desk>, status: Status, place: &Place, closing: CancellationToken) {
    // Answers are small; waiting for more to send would only add latency.
    drop(stream.set_nodelay(true));
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            // What an API server says that does not trust us ends here too.
            tracing::warn!(%error, "a handshake failed");
            return;
        }
    };
    let service = service_fn(move |request| {
        let (desk, status) = (Arc::clone(&desk), status.clone());
        async move {
            place.asked();
            let mut response = desk.answer(request).await;
            place.answered();
            if status.is_closing() {
                // An API server keeps its connections whatever becomes of the Service's endpoints.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_BYTES_MAX);
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
