//! The ledger's HTTP API, over the connection that its gRPC has.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use tonic::body::Body;
use tonic::service::interceptor::ResponseBody;
use tower::ServiceExt as _;

use super::Control;

pub(crate) type Answer = Response<ResponseBody<Body>>;

/// Why the ledger gave no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It was not asked, or did not listen: nothing was done.
    Unheard(String),
    /// It may have done what it was asked.
    Unknown(String),
}

impl Control {
    /// Waits until there is a connection to the ledger. Whoever follows the policy sees to that.
    pub(crate) async fn reached(&self) {
        // The sender lives as long as the channel.
        let _ = self.connections.clone().wait_for(|connections| *connections > 0).await;
    }

    /// Asks once, with the pod's token. What is asked through it is an agent's: the ledger takes it for no more.
    pub(crate) async fn infra(&self, request: &Request<Bytes>) -> Result<Answer, Unanswered> {
        let mut asked = Request::new(Body::new(Full::new(request.body().clone())));
        *asked.method_mut() = request.method().clone();
        *asked.uri_mut() = request.uri().clone();
        *asked.headers_mut() = request.headers().clone();
        *asked.version_mut() = Version::HTTP_2;
        match self.bearer.clone().oneshot(asked).await {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                self.token.read_again();
                Err(Unanswered::Unheard("the ledger does not take this sidecar's token".to_owned()))
            }
            Ok(answer) => Ok(answer),
            Err(error) => Err(unanswered(&error)),
        }
    }
}

/// What never became a connection was never sent. Of one that was there nobody knows how far it came.
fn unanswered(error: &tonic::transport::Error) -> Unanswered {
    let causes: Vec<&(dyn Error + 'static)> = std::iter::successors(error.source(), |cause| (*cause).source()).collect();
    let text = causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if causes.iter().any(|cause| cause.is::<hyper::Error>()) { Unanswered::Unknown(text) } else { Unanswered::Unheard(text) }
}
