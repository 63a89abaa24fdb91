//! HTTP towards the agent: serves HTTP/1.1 and HTTP/2 on a stream, finds out what each request is for, and calls the
//! handler.

mod marked;
mod route;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use self::marked::Marked;
use crate::arrival::{Arrival, Handler, Origin};
use crate::body::{self, RequestBody, ResponseBody};
use crate::delivery::{EndMark, Facts, Line, Watched};
use crate::head_check::HeadCheck;
use crate::listen::{AgentStream, Listeners, Place};
use crate::target::{Authority, Scheme};
use crate::upstream::{strip_hop_by_hop, wants_upgrade};

/// Header fields in one head; the head check counts the same.
const FIELDS: usize = 256;
/// Largest decoded header list on HTTP/2, as much as a head may have on HTTP/1.
const HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Concurrent requests on one HTTP/2 connection of the agent.
const STREAMS: u32 = 256;
/// What an agent may send on one stream before we read it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole HTTP/2 connection: bounds what one agent makes us hold.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// An HTTP/2 connection that answers no ping for this long is gone.
const PING_EVERY: Duration = Duration::from_secs(60);

/// One HTTP connection of the agent, and what is agreed about it.
pub(crate) struct Served<H> {
    listeners: Arc<Listeners<H>>,
    place: Place,
    origin: Arc<Origin>,
    scheme: Scheme,
    /// The server name that TLS was terminated for.
    tls_name: Option<Authority>,
    facts: Option<Arc<Facts>>,
    /// The last name found to agree: names are compared once per connection, not once per request.
    agreed: Mutex<Option<Authority>>,
}

impl<H: Handler> Served<H> {
    pub(crate) fn plain(listeners: Arc<Listeners<H>>, place: Place, mut origin: Origin) -> Self {
        if let Place::Connect(authority) = &place {
            origin.connect = Some(authority.clone());
        }
        Self { listeners, place, origin: Arc::new(origin), scheme: Scheme::Http, tls_name: None, facts: None, agreed: Mutex::new(None) }
    }

    pub(crate) fn tls(listeners: Arc<Listeners<H>>, place: Place, origin: Origin, named: Authority, facts: Arc<Facts>) -> Self {
        Self {
            listeners,
            place,
            origin: Arc::new(origin),
            scheme: Scheme::Https,
            tls_name: Some(named),
            facts: Some(facts),
            agreed: Mutex::new(None),
        }
    }

    async fn call(self: &Arc<Self>, line: &Arc<Line>, mut request: Request<Incoming>) -> Response<Marked> {
        let version = request.version();
        let http2 = version == Version::HTTP_2;
        let delivery = line.arrival(!http2);
        let head_only = request.method() == Method::HEAD;
        let response = if request.method() == Method::CONNECT {
            self.connect(line, &mut request)
        } else {
            match self.route(&request).await {
                Err(refusal) => refusal.to_response(),
                Ok(target) => {
                    let upgrade = (!http2 && wants_upgrade(request.headers())).then(|| hyper::upgrade::on(&mut request));
                    let arrival = Arrival { origin: Arc::clone(&self.origin), target, version, upgrade, delivery: delivery.clone() };
                    let request = request.map(RequestBody::new);
                    let handler = Arc::clone(&self.listeners.handler);
                    handler.handle(arrival, request).await
                }
            }
        };
        let (mut head, body) = response.into_parts();
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            strip_hop_by_hop(&mut head.headers);
        }
        let length = marked::announced_length(&head, &body, head_only);
        let mark = EndMark::new(delivery, Arc::clone(line), length);
        Response::from_parts(head, Marked::new(body, mark, !http2))
    }

    /// Accepts a CONNECT on the proxy's port; what follows on the stream is served as one more connection.
    fn connect(self: &Arc<Self>, line: &Arc<Line>, request: &mut Request<Incoming>) -> Response<ResponseBody> {
        let authority = match self.connect_authority(request) {
            Ok(authority) => authority,
            Err(refusal) => return refusal.to_response(),
        };
        let upgrade = hyper::upgrade::on(&mut *request);
        let http2 = request.version() == Version::HTTP_2;
        let listeners = Arc::clone(&self.listeners);
        let origin = Origin::clone(&self.origin);
        let facts = Arc::clone(line.facts());
        self.listeners.spawn(async move {
            let upgraded = match upgrade.await {
                Ok(upgraded) => upgraded,
                Err(error) => {
                    tracing::debug!(%error, "CONNECT did not come about");
                    return;
                }
            };
            let stream = if http2 {
                // A stream lives beside its connection's others, so it counts as one more connection.
                let Some(slot) = listeners.slot() else {
                    tracing::warn!("a CONNECT stream was refused: there are as many connections as there may be");
                    return;
                };
                AgentStream::upgraded(upgraded, facts, Some(slot))
            } else {
                match upgraded.downcast::<TokioIo<HeadCheck<Watched<AgentStream>>>>() {
                    Ok(parts) => {
                        let (watched, held) = parts.io.into_inner().into_parts();
                        let mut ahead = BytesMut::from(&parts.read_buf[..]);
                        ahead.extend_from_slice(&held);
                        let mut stream = watched.into_inner();
                        stream.put_back(ahead);
                        stream
                    }
                    Err(upgraded) => AgentStream::upgraded(upgraded, facts, None),
                }
            };
            listeners.stream(stream, Place::Connect(authority), origin).await;
        });
        Response::new(body::empty())
    }
}

/// Serves HTTP/1.1 until the connection ends.
pub(crate) async fn http1<H, S>(served: Served<H>, stream: S)
where
    H: Handler,
    S: AgentBytes,
{
    let line = Line::new(served.facts.clone().unwrap_or_else(|| stream.facts()));
    let closing = served.listeners.closing.clone();
    let served = Arc::new(served);
    let io = HeadCheck::new(Watched::new(stream, Arc::clone(&line)), BytesMut::new());
    let service = service_fn(|request| {
        let (served, line) = (Arc::clone(&served), Arc::clone(&line));
        async move { Ok::<_, Infallible>(served.call(&line, request).await) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .auto_date_header(false)
        .max_headers(FIELDS)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = closing.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "agent's HTTP/1 connection ended");
    }
    // A refused head leaves hyper with an end of input, which it may take for an error: the answer is ours to send.
    if let Some(parts) = connection.into_parts() {
        let mut io = parts.io.into_inner();
        if io.refuses() {
            let _ = io.shutdown().await;
        }
    }
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn http2<H, S>(served: Served<H>, stream: S)
where
    H: Handler,
    S: AgentBytes,
{
    let line = Line::new(served.facts.clone().unwrap_or_else(|| stream.facts()));
    let closing = served.listeners.closing.clone();
    let served = Arc::new(served);
    let io = Watched::new(stream, Arc::clone(&line));
    let service = service_fn(|request| {
        let (served, line) = (Arc::clone(&served), Arc::clone(&line));
        async move { Ok::<_, Infallible>(served.call(&line, request).await) }
    });
    let mut connection = pin!(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_LIST_BYTES)
            .serve_connection(TokioIo::new(io), service)
    );
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "agent's HTTP/2 connection ended");
    }
}

/// A stream to serve HTTP on: the agent's own, or TLS over it.
pub(crate) trait AgentBytes: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The TCP connection below.
    fn facts(&self) -> Arc<Facts>;
}

impl AgentBytes for AgentStream {
    fn facts(&self) -> Arc<Facts> {
        Arc::clone(Self::facts(self))
    }
}

impl AgentBytes for tokio_rustls::server::TlsStream<AgentStream> {
    fn facts(&self) -> Arc<Facts> {
        Arc::clone(self.get_ref().0.facts())
    }
}
