//! HTTP/2 towards the far side, through the `h2` crate itself: only a stream's own response future tells whether the
//! far side refused it, and only the frames tell what was written.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connect::Connected;
use super::failure::{Doubt, NotSent, SendFailure};
use super::tap::Tap;
use super::wire::{Mark, Token, Wire};
use crate::body::SendBody;
use crate::permit::EffectTerms;

/// What one stream may send us unasked: enough for a fast answer, little enough for thousands of streams.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for the whole connection.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Largest header block accepted, as sent by no honest server.
const HEADER_LIST_LIMIT: u32 = 256 * 1024;
/// An effect does not trust a connection that has been silent for longer: a lost one would leave it in doubt.
const EFFECT_IDLE_LIMIT: Duration = Duration::from_secs(10);

/// A shared connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wire: Arc<Wire>,
    remote: SocketAddr,
    streams: AtomicUsize,
    served: AtomicBool,
    last_used: Mutex<Instant>,
    task: AbortHandle,
}

/// One stream's hold on its connection, its deadline and its body.
#[derive(Debug)]
pub(crate) struct StreamHold {
    shared: Arc<Shared>,
    token: Option<Token>,
    pump: Option<AbortHandle>,
}

impl StreamHold {
    /// The answer has ended.
    pub(super) fn finish(&mut self) {
        if let Some(token) = self.token.take() {
            self.shared.wire.disarm(token);
        }
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        self.finish();
        if let Some(pump) = &self.pump {
            pump.abort();
        }
        self.shared.touch();
        self.shared.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    fn touch(&self) {
        let mut last = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Http2 {
    pub(super) async fn open(connected: Connected) -> Result<Self, NotSent> {
        let Connected { transport, wire, remote, http2: _ } = connected;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_LIMIT)
            .enable_push(false)
            .handshake::<_, Bytes>(Tap::http2(transport, Arc::clone(&wire)))
            .await
            .map_err(|e| NotSent::ConnectFailed(io::Error::other(e)))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self {
            sender,
            shared: Arc::new(Shared {
                wire,
                remote,
                streams: AtomicUsize::new(0),
                served: AtomicBool::new(false),
                last_used: Mutex::new(Instant::now()),
                task: task.abort_handle(),
            }),
        })
    }

    /// Whether a new stream may be opened here now. We never queue behind the far side's limit: a queued stream's
    /// deadline would hang on other people's answers.
    pub(super) fn is_usable(&self, for_effect: bool) -> bool {
        let shared = &self.shared;
        !shared.task.is_finished()
            && !shared.wire.is_shut()
            && shared.wire.goaway().is_none()
            && shared.streams.load(Ordering::Acquire) < self.sender.current_max_send_streams()
            && (!for_effect || shared.streams.load(Ordering::Acquire) > 0 || shared.idle() < EFFECT_IDLE_LIMIT)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.shared.task.is_finished() || self.shared.wire.is_shut() || self.shared.wire.goaway().is_some()
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.shared.remote
    }

    /// Whether an earlier request went over it.
    pub(super) fn was_used(&self) -> bool {
        self.shared.served.load(Ordering::Acquire)
    }

    pub(super) fn idle(&self) -> Option<Duration> {
        (self.shared.streams.load(Ordering::Acquire) == 0).then(|| self.shared.idle())
    }

    /// Sends one request on a stream of its own.
    pub(super) async fn send(
        self,
        terms: Option<EffectTerms>,
        request: Request<SendBody>,
    ) -> Result<(Response<RecvStream>, StreamHold), (SendFailure, Option<Request<SendBody>>)> {
        let Self { sender, shared } = self;
        shared.streams.fetch_add(1, Ordering::AcqRel);
        shared.served.store(true, Ordering::Release);
        let mut hold = StreamHold { shared: Arc::clone(&shared), token: None, pump: None };
        let Ok(mut sender) = sender.ready().await else {
            // Never handed over at all.
            return Err((NotSent::ZeroBytesWritten.into(), Some(request)));
        };
        let mark = shared.wire.mark();
        hold.token = terms.map(|terms| shared.wire.arm(terms, true));
        let (parts, body) = request.into_parts();
        let whole = body.is_end_stream();
        let sent = sender.send_request(Request::from_parts(parts, ()), whole);
        let Ok((response, stream)) = sent else {
            return Err((NotSent::Unsendable.into(), None));
        };
        let id = response.stream_id().as_u32();
        if let Some(token) = hold.token {
            shared.wire.name_stream(token, id);
        }
        let cut = Arc::new(AtomicBool::new(false));
        if !whole {
            let flag = Arc::clone(&cut);
            let pump = tokio::spawn(async move {
                if pump(body, stream).await.is_err() {
                    flag.store(true, Ordering::Release);
                }
            });
            hold.pump = Some(pump.abort_handle());
        }
        let exchange = Exchange { shared: &shared, mark, id, cut: &cut };
        match exchange.answer(response, hold.token).await {
            Ok(response) => Ok((response, hold)),
            Err(failure) => Err((failure, None)),
        }
    }
}

/// What one stream's failure is judged by.
struct Exchange<'a> {
    shared: &'a Shared,
    mark: Mark,
    id: u32,
    cut: &'a AtomicBool,
}

impl Exchange<'_> {
    async fn answer(&self, response: ResponseFuture, token: Option<Token>) -> Result<Response<RecvStream>, SendFailure> {
        let outcome = match token {
            None => Some(response.await),
            Some(token) => tokio::select! {
                biased;
                outcome = response => Some(outcome),
                () = self.shared.wire.until_overdue(token) => None,
            },
        };
        match outcome {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(self.failure(&error)),
            None => Err(self.overdue()),
        }
    }

    /// The deadline governs the connection, which fails past it, with all that is on it.
    fn overdue(&self) -> SendFailure {
        self.shared.task.abort();
        if self.shared.wire.zero_below(self.mark) { NotSent::DeadlineBeforeFirstByte.into() } else { Doubt::LeaseLost.into() }
    }

    fn failure(&self, error: &h2::Error) -> SendFailure {
        let wire = &self.shared.wire;
        if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
            return NotSent::RefusedStream.into();
        }
        // h2 also reports a GOAWAY to streams that it does not exclude, once the connection ends: the frame decides.
        if error.is_reset() && kybernis_core::mutation::broken("only_refused_stream_proves") {
            return NotSent::RefusedStream.into();
        }
        if let Some(last_stream) = wire.goaway() {
            return if last_stream < self.id {
                NotSent::GoawayBelow { last_stream, stream: self.id }.into()
            } else {
                Doubt::GoawayAmbiguous.into()
            };
        }
        if wire.is_shut() {
            return self.overdue();
        }
        if self.cut.load(Ordering::Acquire) {
            return Doubt::RequestCut.into();
        }
        if error.is_io() {
            return match error.get_io().map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionReset) => Doubt::Reset.into(),
                _ => Doubt::Eof.into(),
            };
        }
        if error.is_library() {
            return Doubt::BadAnswer.into();
        }
        Doubt::Reset.into()
    }
}

/// The body broke off, on the caller's side or the far side's.
struct PumpBroken;

/// Moves the request's body into the stream, no faster than the far side takes it.
async fn pump(mut body: SendBody, mut stream: SendStream<Bytes>) -> Result<(), PumpBroken> {
    while !body.is_end_stream() {
        let frame = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return std::task::Poll::Ready(Err(PumpBroken));
            }
            Pin::new(&mut body).poll_frame(cx).map(Ok)
        })
        .await;
        match frame {
            // The far side wants no more: its answer, or its reset, speaks for itself.
            Err(PumpBroken) => return Ok(()),
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                stream.send_reset(Reason::CANCEL);
                return Err(PumpBroken);
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if push(&mut stream, data, last).await.is_err() || last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                    let _ = stream.send_trailers(trailers);
                    return Ok(());
                }
            },
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
    Ok(())
}

async fn push(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            if poll_fn(|cx| stream.poll_capacity(cx)).await.is_none() {
                return Err(Reason::CANCEL.into());
            }
        }
        let part = data.split_to(stream.capacity().min(data.len()));
        let end = last && data.is_empty();
        stream.send_data(part, end)?;
    }
    Ok(())
}
