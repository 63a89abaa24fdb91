//! The admin port: is the process alive, is it ready, how does it do. Liveness asks nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::certificates::serving::Serving;
use super::desk::Desk;
use super::namespaces::Namespaces;
use super::status::Status;

/// Connections at a time; probes and scrapers are few.
const CONNECTIONS_MAX: usize = 16;
/// For a request's head, and between two: scrapers come twice a minute and connect again.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// After the system could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What it tells.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) desk: Arc<Desk>,
    pub(crate) namespaces: Namespaces,
    pub(crate) serving: Serving,
    pub(crate) status: Status,
}

impl Admin {
    /// Serves until `closing`.
    pub(crate) async fn serve(self, listener: TcpListener, closing: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
            let (place, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = closing.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = admin.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a connection of the admin port ended");
                }
                drop(place);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match request.uri().path() {
            "/livez" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.missing() {
                None => (StatusCode::OK, "ok\n".to_owned()),
                Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
            },
            "/metrics" => (StatusCode::OK, self.desk.metrics.text(&self.status, self.desk.can_sign())),
            _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    }

    /// What keeps it from being ready.
    fn missing(&self) -> Option<String> {
        let why = || self.status.problem().map_or_else(String::new, |problem| format!(": {problem}"));
        if self.status.is_closing() {
            Some("it is stopping".to_owned())
        } else if !self.serving.is_ready() {
            Some(format!("there is no certificate yet{}", why()))
        } else if !self.status.is_published() {
            Some(format!("the webhook configurations do not have its authority yet{}", why()))
        } else if !self.namespaces.is_listed() {
            Some("the namespaces have not been listed yet".to_owned())
        } else {
            None
        }
    }
}
