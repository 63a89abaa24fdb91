//! From an HTTP request to an HTTP answer: which endpoint, how large, whose review, and then the judgement. An answer to a review is
//! always 200 with the review's uid; whatever is no review gets a status of HTTP's and a line of text.

use std::time::Duration;

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::decisions::Decisions;
use super::metrics::{Ended, Endpoint, Metrics};
use super::namespaces::Namespaces;
use super::review::{Allowed, Reason, Refused, Review, response};
use super::{objects, pods};
use crate::config::Config;

/// Largest body. etcd takes objects up to 1.5 MiB, the API server requests up to 3 MiB; a review holds an object, on an update the
/// old one too, and both may grow by their encoding.
pub(crate) const BODY_MAX: usize = 8 * 1024 * 1024;
/// Bodies that are being read, all together: whoever reaches the port may send them, and memory is the pod's. Eight of the largest;
/// of usual ones, of some kilobytes, thousands.
const BODIES_MAX: usize = 64 * 1024 * 1024;
/// What a body takes of them, at least and in steps.
const BODY_UNIT: usize = 4096;
/// From the first to the last byte of a body: the API server sends it at once, and gives up on us after ten seconds anyway.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// Reviews that are judged at a time; each holds its object as a tree, several times as large as its text.
const REVIEWS_MAX: usize = 32;

/// Answers reviews.
#[derive(Debug)]
pub(crate) struct Desk {
    config: Config,
    namespaces: Namespaces,
    decisions: Decisions,
    pub(crate) metrics: Metrics,
    bodies: Semaphore,
    reviews: Semaphore,
}

/// What is answered where no review can be.
struct Wrong {
    status: StatusCode,
    text: String,
}

impl Wrong {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl Desk {
    pub(crate) fn new(config: Config, namespaces: Namespaces, decisions: Decisions) -> Self {
        let (bodies, reviews) = (Semaphore::new(BODIES_MAX / BODY_UNIT), Semaphore::new(REVIEWS_MAX));
        Self { config, namespaces, decisions, metrics: Metrics::default(), bodies, reviews }
    }

    /// Whether decisions can be signed. Nothing else waits for it.
    pub(crate) fn can_sign(&self) -> bool {
        self.decisions.signing.is_ready()
    }

    /// Answers one request.
    pub(crate) async fn answer<B: Body<Data = Bytes, Error: std::fmt::Display>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            return refuse(Wrong::new(
                StatusCode::NOT_FOUND,
                format!("there is no such endpoint, only {}", Endpoint::ALL.map(Endpoint::path).join(", ")),
            ));
        };
        if request.method() != Method::POST {
            let mut response = refuse(Wrong::new(StatusCode::METHOD_NOT_ALLOWED, "reviews are sent with POST"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let begun = Instant::now();
        match self.review(endpoint, request).await {
            Ok((ended, answer)) => {
                self.metrics.count(endpoint, ended, begun.elapsed());
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(wrong) => {
                self.metrics.count(endpoint, Ended::Failed, begun.elapsed());
                tracing::warn!(http.path = endpoint.path(), http.status = wrong.status.as_u16(), reason = %wrong.text, "no review could be read");
                refuse(wrong)
            }
        }
    }

    async fn review<B: Body<Data = Bytes, Error: std::fmt::Display>>(
        &self,
        endpoint: Endpoint,
        request: Request<B>,
    ) -> Result<(Ended, Value), Wrong> {
        let late = |_| Wrong::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", BODY_PATIENCE.as_secs()));
        let (body, _room) = tokio::time::timeout(BODY_PATIENCE, self.body(request)).await.map_err(late)??;
        let stopping = |_| Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "the webhook is stopping");
        let _place = self.reviews.acquire().await.map_err(stopping)?;
        let review = Review::read(&body).map_err(|error| Wrong::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        Ok(self.judged(endpoint, review).await)
    }

    async fn judged(&self, endpoint: Endpoint, review: Review) -> (Ended, Value) {
        let Review { uid, request } = review;
        let verdict = match &request {
            Err(refused) => Err(refused.clone()),
            Ok(request) => match endpoint {
                Endpoint::Inject => pods::mutate(request, &self.namespaces, &self.config).await,
                Endpoint::ValidatePods => pods::check(request, &self.namespaces, &self.config).await,
                Endpoint::ValidateObjects => objects::check(request, &self.config.settings().release_namespace),
                Endpoint::StampDecisions => self.decisions.stamp(request).await,
                Endpoint::ValidateDecisions => self.decisions.check(request).await,
            },
        };
        let ended = ended(&verdict);
        if let Ok(request) = &request {
            let namespace = request.namespace.as_deref().unwrap_or_default();
            let name = request.name.as_deref().unwrap_or_default();
            match &verdict {
                Ok(_) => {
                    tracing::debug!(review.uid = uid, http.path = endpoint.path(), k8s.namespace = namespace, k8s.name = name, outcome = ?ended, "reviewed")
                }
                Err(refused) => {
                    tracing::info!(review.uid = uid, http.path = endpoint.path(), k8s.namespace = namespace, k8s.name = name, reason = %refused.message, "refused");
                }
            }
        }
        (ended, response(&uid, verdict))
    }

    /// The whole body, and the room that it takes.
    async fn body<B: Body<Data = Bytes, Error: std::fmt::Display>>(
        &self,
        request: Request<B>,
    ) -> Result<(Vec<u8>, Vec<tokio::sync::SemaphorePermit<'_>>), Wrong> {
        let too_large = || Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_MAX} bytes"));
        let told = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if told.is_some_and(|length| length > BODY_MAX) {
            return Err(too_large());
        }
        let mut body = std::pin::pin!(request.into_body());
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        let mut taken = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Wrong::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
            // Trailers say nothing to us.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > BODY_MAX {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
            let wanted = bytes.len().div_ceil(BODY_UNIT);
            if let Some(more) = u32::try_from(wanted - taken).ok().filter(|more| *more > 0) {
                let full = |_| Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "too many bodies are being read. Try again");
                room.push(self.bodies.try_acquire_many(more).map_err(full)?);
                taken = wanted;
            }
        }
        Ok((bytes, room))
    }
}

fn ended(verdict: &Result<Allowed, Refused>) -> Ended {
    match verdict {
        Ok(Allowed { patch: Some(patch), .. }) if !patch.0.is_empty() => Ended::Patched,
        Ok(_) => Ended::Allowed,
        Err(refused) => match refused.reason {
            Reason::Forbidden | Reason::Invalid => Ended::Refused,
            Reason::BadRequest | Reason::Unavailable => Ended::Failed,
        },
    }
}

/// What is left of the body is not read: the connection ends.
fn refuse(wrong: Wrong) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(wrong.text + "\n")));
    *response.status_mut() = wrong.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
