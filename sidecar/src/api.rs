//! The local API port: through it an SDK in the pod reaches what the ledger serves under `/infra`, as an agent and as nobody else.
//! What a caller says of who it is stays here.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, ORIGIN, RETRY_AFTER};
use http::uri::Authority;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kybernis_core::reason::{Code, Refusal};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{BodyError, RequestBody, ResponseBody};
use crate::control::{Backoff, Control, InfraAnswer, Unanswered};
use crate::stack::{HOLD, refuse};

/// Connections at a time, each with one question: an SDK keeps a few. The kernel's backlog holds more.
const CONNECTIONS: usize = 64;
/// The largest question; each connection may make us hold one.
const BODY_MAX: usize = 64 * 1024;
/// The largest head.
const HEAD_MAX: usize = 16 * 1024;
/// How long a connection may keep its place without a question.
const IDLE: Duration = Duration::from_secs(60);
/// How long a question may take to arrive.
const ARRIVE: Duration = Duration::from_secs(10);
/// After an accept failed for want of descriptors: let some be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where everything lies that is passed on.
const INFRA: &str = "/infra/";
/// What the ledger hears of a caller's head.
const ASKED: [HeaderName; 2] = [CONTENT_TYPE, ACCEPT];
/// What a caller hears of the ledger's.
const ANSWERED: [HeaderName; 2] = [CONTENT_TYPE, RETRY_AFTER];

/// What its connections share.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    control: Control,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Api {
    pub(crate) fn new(control: Control, closing: CancellationToken) -> Self {
        Self { control, places: Arc::new(Semaphore::new(CONNECTIONS)), tasks: TaskTracker::new(), closing }
    }

    /// Accepts until `closing`.
    pub(crate) fn listen(&self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let this = self.clone();
        self.tasks.spawn(self.closing.clone().run_until_cancelled_owned(async move {
            while let Ok(place) = Arc::clone(&this.places).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let serving = this.clone().serve(stream);
                        this.tasks.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }));
        Ok(())
    }

    /// Waits until every question that came has its answer.
    pub(crate) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn serve(self, stream: TcpStream) {
        let service = service_fn(|request| {
            let control = self.control.clone();
            async move {
                let answered = answer(&control, request).await;
                Ok::<_, Infallible>(answered.unwrap_or_else(|refusal| refuse::to_response(&refusal, false)))
            }
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of the local API ended");
        }
    }
}

async fn answer(control: &Control, request: Request<Incoming>) -> Result<Response<ResponseBody>, Refusal> {
    let (head, body) = request.into_parts();
    let body = RequestBody::new(body);
    if !is_infra(&head.uri) {
        let detail = "This port passes on what lies under /infra/, the ledger's API; it is no proxy, and there is nothing else here.";
        return Err(Refusal::new(Code::NotFound, detail));
    }
    // A page that the agent's browser shows must not speak for the agent: neither from elsewhere nor by a name of its own for this port.
    if head.headers.contains_key(ORIGIN) || !head.headers.get(HOST).is_some_and(|host| is_loopback(host.as_bytes())) {
        let detail = "This port is for programs in the pod, which reach it as 127.0.0.1, [::1] or localhost; no web page may use it.";
        return Err(Refusal::new(Code::Forbidden, detail));
    }
    let mut asked = Request::new(whole(body).await?);
    (*asked.method_mut(), *asked.uri_mut()) = (head.method, head.uri);
    *asked.headers_mut() = only(&ASKED, &head.headers);
    let (head, body) = ask(control, &asked).await?.into_parts();
    let body = body.map_err(|error| {
        tracing::debug!(%error, "the ledger broke off an answer");
        BodyError::abort("the ledger broke off")
    });
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = only(&ANSWERED, &head.headers);
    Ok(answer)
}

/// In origin form, and not on its way out again by dots, however they are written.
fn is_infra(uri: &Uri) -> bool {
    let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    uri.authority().is_none() && uri.path().starts_with(INFRA) && !uri.path().split('/').any(dots)
}

fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn only(names: &[HeaderName], of: &HeaderMap) -> HeaderMap {
    names.iter().flat_map(|name| of.get_all(name).iter().map(move |value| (name.clone(), value.clone()))).collect()
}

async fn whole(body: RequestBody) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(ARRIVE, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("What is asked of the ledger has at most {BODY_MAX} bytes of body; send less, or a digest of it.");
            Err(Refusal::new(Code::BodyTooLargeForPolicy, detail))
        }
        Ok(Err(_)) => Err(Refusal::new(Code::BadRequest, "The body was cut short.")),
        Err(_) => Err(Refusal::new(Code::BadRequest, format!("The body was not there within {} s.", ARRIVE.as_secs()))),
    }
}

/// Held a while for a ledger that is not there. A question that it may have heard is asked again only by who knows what it means.
async fn ask(control: &Control, asked: &Request<Bytes>) -> Result<InfraAnswer, Refusal> {
    let until = Instant::now() + HOLD;
    let away = |detail| Refusal::new(Code::LedgerUnavailable, detail);
    let mut backoff = Backoff::new();
    loop {
        if tokio::time::timeout_at(until, control.reached()).await.is_err() {
            return Err(away("The ledger cannot be reached, and was not asked."));
        }
        let (reason, detail) = match control.infra(asked).await {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Unheard(reason)) => (reason, "The ledger does not hear this sidecar, and did nothing."),
            Err(Unanswered::Unknown(reason)) if asked.method().is_safe() => (reason, "The ledger gave no answer."),
            Err(Unanswered::Unknown(reason)) => {
                tracing::info!(reason, "the ledger gave the local API no answer");
                return Err(away("The ledger gave no answer, and may have done what it was asked: ask again in the very same words."));
            }
        };
        if Instant::now() >= until {
            tracing::info!(reason, "the ledger is not there for the local API");
            return Err(away(detail));
        }
        backoff.wait().await;
    }
}

#[cfg(test)]
mod tests;
