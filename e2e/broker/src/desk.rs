//! What all connections share: the books, the script and the journals, behind one lock.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode, header};
use tokio::sync::{Notify, watch};

use crate::exchange::Exchange;
use crate::fault::{Ending, Fault, Impossible, Then};
use crate::journal::{Executed, Fired, Protocol, Received, now_ms};
use crate::message::{Answer, Reply, Request};
use crate::script::{Draw, Script};

/// The broker's state at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What was executed.
    pub executed: Vec<Executed>,
    /// What arrived.
    pub requests: Vec<Received>,
    /// What went wrong.
    pub fired: Vec<Fired>,
    /// What is still to go wrong.
    pub pending: Vec<Fault>,
}

/// Between half an answer and its end. A reset takes with it what the peer has not read: without time to read it, there would be no
/// half that anybody saw.
pub(crate) const HALF_PAUSE: Duration = Duration::from_millis(300);

/// What becomes of a request's answer, once the script has spoken; both protocols carry it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Answer,
    Late(Duration),
    Half(Ending),
    End(Ending),
    Hang(Duration),
    GoawayBelow,
    GoawayIncluding {
        answer: bool,
    },
    RefusedStream,
    /// The answer, once the listening sockets are closed; then the connection is.
    Closing,
}

/// A request's turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) course: Course,
    pub(crate) reply: Reply,
    /// Changes when whoever hangs is to be released.
    pub(crate) released: watch::Receiver<u64>,
    /// Changes when the listening sockets have been closed.
    pub(crate) refused: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct State {
    exchange: Exchange,
    script: Script,
    requests: Vec<Received>,
    fired: Vec<Fired>,
    connections: u64,
    /// A refusal of connections that a request called for.
    refusal: Option<Fault>,
}

impl State {
    fn fire(&mut self, fault: Fault, connection: Option<u64>, request: Option<String>) {
        let seq = self.fired.len() as u64 + 1;
        self.fired.push(Fired { seq, fault, connection, request, at_ms: now_ms() });
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            executed: self.exchange.executed.clone(),
            requests: self.requests.clone(),
            fired: self.fired.clone(),
            pending: self.script.pending(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    /// Something was journalled.
    journalled: Condvar,
    /// The script's head may be another.
    scripted: Notify,
    releases: watch::Sender<u64>,
    refusals: watch::Sender<u64>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells those who wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.journalled.notify_all();
        self.scripted.notify_one();
        result
    }

    pub(crate) fn add(&self, faults: Vec<Fault>) -> Result<(), Impossible> {
        faults.iter().try_for_each(Fault::check)?;
        self.change(|state| state.script.add(faults));
        Ok(())
    }

    pub(crate) fn clear_script(&self) {
        self.change(|state| state.script.clear());
    }

    pub(crate) fn honour_keys(&self, honours_keys: bool) {
        self.change(|state| state.exchange.honours_keys = honours_keys);
    }

    /// Ends every hang and every refusal of connections.
    pub(crate) fn release(&self) {
        self.releases.send_modify(|count| *count += 1);
    }

    /// Empty books, journals and script; connections stay, and whoever hangs is released.
    pub(crate) fn reset(&self) {
        self.change(|state| {
            state.exchange.clear();
            state.script.clear();
            state.requests.clear();
            state.fired.clear();
            state.refusal = None;
        });
        self.release();
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// Blocks until the state is as wanted.
    pub(crate) fn wait_until(&self, within: Duration, wanted: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, Snapshot> {
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        loop {
            let snapshot = state.snapshot();
            if wanted(&snapshot) {
                return Ok(snapshot);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Err(snapshot);
            };
            state = self.journalled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Resolves when the script's head may be another than at the last call.
    pub(crate) async fn scripted(&self) {
        self.scripted.notified().await;
    }

    pub(crate) fn releases(&self) -> watch::Receiver<u64> {
        self.releases.subscribe()
    }

    /// Takes the refusal of connections that is due, if one is.
    pub(crate) fn refusal(&self) -> Option<(Fault, Duration)> {
        let mut state = self.lock();
        let called_for = state.refusal.take();
        let fault = called_for.or_else(|| state.script.for_listening())?;
        let Then::RefuseConnection { for_ms } = fault.then else { return None };
        Some((fault, Duration::from_millis(for_ms)))
    }

    pub(crate) fn refused(&self, fault: Fault) {
        self.change(|state| state.fire(fault, None, None));
        self.refusals.send_modify(|count| *count += 1);
    }

    /// Numbers a connection, and says what goes wrong with it at once.
    pub(crate) fn connected(&self, secure: bool) -> (u64, Option<Then>) {
        self.change(|state| {
            state.connections += 1;
            let number = state.connections;
            let fault = state.script.for_connection(secure);
            if let Some(fault) = &fault {
                state.fire(fault.clone(), Some(number), None);
            }
            (number, fault.map(|fault| fault.then))
        })
    }

    /// The first bytes of a further request arrived: whether the connection is to be reset for it.
    pub(crate) fn first_bytes(&self, connection: u64) -> bool {
        self.change(|state| {
            let fault = state.script.for_first_bytes();
            let strikes = fault.is_some();
            if let Some(fault) = fault {
                state.fire(fault, Some(connection), None);
            }
            strikes
        })
    }

    /// Journals a request's head; its body follows under the number returned.
    pub(crate) fn received(&self, mut request: Received) -> u64 {
        self.change(|state| {
            request.seq = state.requests.len() as u64 + 1;
            let seq = request.seq;
            state.requests.push(request);
            seq
        })
    }

    pub(crate) fn body(&self, seq: u64, body: String, complete: bool) {
        self.change(|state| {
            // A reset in between leaves nothing to complete.
            if let Some(request) = state.requests.iter_mut().find(|request| request.seq == seq) {
                request.body = body;
                request.complete = complete;
            }
        });
    }

    /// Executes what is to be executed, and says what becomes of the answer.
    pub(crate) fn judge(&self, request: &Request) -> Turn {
        let (released, refused) = (self.releases(), self.refusals.subscribe());
        let named = format!("{} {}", request.method, request.path);
        let (course, reply) = self.change(|state| {
            // What is refused for want of credentials takes no fault: it is not the request that the script is about.
            let draw = match request.header("authorization") {
                Some(_) => state.script.for_request(&request.method, &request.path, request.protocol),
                None => Draw::Nothing,
            };
            match draw {
                Draw::Nothing => (Course::Answer, state.exchange.answer(request, true)),
                Draw::NeedsHttp2(then) => (Course::Answer, Reply::Whole(needs_http2(&then, request.protocol))),
                Draw::Fault(fault) if matches!(fault.then, Then::RefuseConnection { .. }) => {
                    state.refusal = Some(fault);
                    (Course::Closing, state.exchange.answer(request, true))
                }
                Draw::Fault(fault) => {
                    let reply = state.exchange.answer(request, fault.execute);
                    state.fire(fault.clone(), Some(request.connection), Some(named));
                    course(fault.then, reply)
                }
            }
        });
        Turn { course, reply, released, refused }
    }
}

/// What a fault makes of the answer that would have been given.
fn course(then: Then, reply: Reply) -> (Course, Reply) {
    match then {
        Then::Answer => (Course::Answer, reply),
        Then::Drop => (Course::End(Ending::Close), reply),
        Then::Reset => (Course::End(Ending::Reset), reply),
        Then::HalfAnswer { end } => (Course::Half(end), reply),
        Then::Hang { for_ms } => (Course::Hang(Duration::from_millis(for_ms)), reply),
        Then::Late { after_ms } => (Course::Late(Duration::from_millis(after_ms)), reply),
        Then::Redirect { status, location } => (Course::Answer, Reply::Whole(redirect(status, &location))),
        Then::Status { status, retry_after_s } => (Course::Answer, Reply::Whole(status_of(status, retry_after_s))),
        Then::GoawayBelow => (Course::GoawayBelow, reply),
        Then::GoawayIncluding { answer } => (Course::GoawayIncluding { answer }, reply),
        Then::RefusedStream => (Course::RefusedStream, reply),
        // They strike at another moment, and never make an answer.
        Then::RefuseConnection { .. } | Then::ResetConnection | Then::TlsHandshakeFailure | Then::CloseIdle => (Course::Answer, reply),
    }
}

fn redirect(status: u16, location: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    Answer::error(status, "it is elsewhere").with(header::LOCATION, location)
}

fn status_of(status: u16, retry_after_s: Option<u32>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = Answer::error(status, status.canonical_reason().unwrap_or("an error"));
    if status == StatusCode::UNAUTHORIZED {
        // Without it some clients take the answer for a broken one (RFC 9110, 15.5.2).
        answer.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after_s {
        answer.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn needs_http2(then: &Then, protocol: Protocol) -> Answer {
    let detail = format!("the script says {then:?}, which only HTTP/2 can say; this request came by {protocol:?}");
    Answer::error(StatusCode::NOT_IMPLEMENTED, &detail)
}
