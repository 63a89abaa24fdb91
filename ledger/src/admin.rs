//! The admin port: is the process alive, is it ready, how does it do. A ledger that reads its journals is alive and not yet ready.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::gates::Gates;
use crate::metrics::{Metrics, Now};

const TEXT: [(&str, &str); 1] = [("content-type", "text/plain; version=0.0.4")];

/// What it tells of.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gates: Gates,
    pub(crate) fleet: Fleet,
    /// Whether all tenants are open and every listener serves.
    pub(crate) ready: watch::Receiver<bool>,
}

impl Admin {
    pub(crate) fn router(self) -> Router {
        let Self { metrics, gates, fleet, ready } = self;
        let readyz = move || {
            let answer = if *ready.borrow() {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the tenants' journals are being read\n")
            };
            std::future::ready(answer)
        };
        let text = move || {
            let now = Now { open_gates: gates.open(), sidecars: fleet.live() };
            std::future::ready((TEXT, metrics.text(now)))
        };
        Router::new()
            .route("/livez", get(|| std::future::ready("ok\n")))
            .route("/readyz", get(readyz))
            .route("/metrics", get(text))
            .fallback(async || (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_ledger_that_reads_its_journals_is_alive_and_not_ready() {
        let (opened, ready) = watch::channel(false);
        let router = Admin { metrics: Arc::default(), gates: Gates::new(), fleet: Fleet::new(), ready }.router();
        let ask = async |path: &str| {
            let answer = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            (answer.status().as_u16(), String::from_utf8(to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap())
        };
        assert_eq!((ask("/livez").await.0, ask("/readyz").await.0), (200, 503));
        opened.send_replace(true);
        assert_eq!((ask("/livez").await.0, ask("/readyz").await.0, ask("/").await.0), (200, 200, 404));
        let (status, text) = ask("/metrics").await;
        assert!(status == 200 && text.contains("\nkyb_ledger_gates_open 0\n"), "{text}");
    }
}
