//! The admin port: is the process alive, is it ready, how does it do. Neither asks the ledger or the API server: an operator that
//! waits for them is well.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

const TEXT: [(&str, &str); 1] = [("content-type", "text/plain; version=0.0.4")];

/// Serves; returns when the socket fails for good.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: watch::Receiver<bool>) {
    let readyz = move || {
        let answer = if *ready.borrow() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the API server has not told yet what there is\n")
        };
        std::future::ready(answer)
    };
    let router = Router::new()
        .route("/livez", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || std::future::ready((TEXT, metrics.text()))));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin port ended");
    }
}
