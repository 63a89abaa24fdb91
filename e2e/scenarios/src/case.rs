//! The faults of the matrix, each with what it looks like to whoever sent the order.

use kybernis_broker::{Ending, Fault, Then};

/// How long a client waits for one answer: no healthy call takes so long, however busy the machine is.
pub const CLIENT_TIMEOUT_S: f64 = 4.0;
/// How often a client tries in all.
pub const CLIENT_TRIES: u32 = 4;
/// A far side that hangs does so for longer than any client waits, and for less than a repeat is held for the first (5 s).
const HANG_MS: u64 = 6_500;
/// A late answer comes after the client's time-out, and within the time that its second try waits.
const LATE_MS: u64 = 5_500;
/// Ports stay closed for less than a client goes on trying (0.2 + 0.4 + 0.8 s).
const REFUSED_MS: u64 = 600;

/// Where orders go.
pub const ORDERS: &str = "/v1/orders";
/// What is read first where a fault needs a connection that has been used, or a client that is under way.
pub const QUOTE: &str = "/v1/quotes/AAPL";

/// What the far side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speaks {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2, to those who can.
    Http2,
}

/// What the fault looks like from the sender's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer with this status.
    Status(u16),
    /// The connection ends without one.
    NoAnswer,
    /// Silence, beyond everybody's patience.
    Silence,
    /// The normal answer, after the client's patience.
    Late,
    /// HTTP/2: a GOAWAY that includes the stream, and then the normal answer.
    GoawayThenAnswer,
    /// 201, and half of the body.
    HalfAnswer,
    /// Proof that nothing was processed: no connection, no handshake, a promise of HTTP/2's.
    NotSent,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As tables and filters name it.
    pub name: &'static str,
    /// What the far side speaks.
    pub speaks: Speaks,
    /// The far side executes the order before anything goes wrong.
    pub executes: bool,
    /// What it looks like.
    pub seen: Seen,
    /// The client reads a quote first.
    pub reads_first: bool,
    then: fn(&str) -> Then,
}

const fn http1(name: &'static str, executes: bool, seen: Seen, then: fn(&str) -> Then) -> Case {
    Case { name, speaks: Speaks::Http1, executes, seen, reads_first: false, then }
}

const fn http2(name: &'static str, executes: bool, seen: Seen, then: fn(&str) -> Then) -> Case {
    Case { speaks: Speaks::Http2, ..http1(name, executes, seen, then) }
}

const fn after_a_read(case: Case) -> Case {
    Case { reads_first: true, ..case }
}

const fn status(status: u16) -> Then {
    Then::Status { status, retry_after_s: None }
}

/// Every fault. Two kinds are left out because no client and no proxy could do right by them: a far side that executes and
/// answers 4xx, or 503 against its own promise, lies, and what it says is believed.
pub const CASES: &[Case] = &[
    http1("drop, executed", true, Seen::NoAnswer, |_| Then::Drop),
    http1("drop", false, Seen::NoAnswer, |_| Then::Drop),
    http1("reset, executed", true, Seen::NoAnswer, |_| Then::Reset),
    http1("reset", false, Seen::NoAnswer, |_| Then::Reset),
    http1("half an answer, closed", true, Seen::HalfAnswer, |_| Then::HalfAnswer { end: Ending::Close }),
    http1("half an answer, reset", true, Seen::HalfAnswer, |_| Then::HalfAnswer { end: Ending::Reset }),
    http1("hang, executed", true, Seen::Silence, |_| Then::Hang { for_ms: HANG_MS }),
    http1("hang", false, Seen::Silence, |_| Then::Hang { for_ms: HANG_MS }),
    http1("late", true, Seen::Late, |_| Then::Late { after_ms: LATE_MS }),
    http1("302, executed", true, Seen::Status(302), |order| Then::Redirect {
        status: 302,
        location: format!("{ORDERS}?client_order_id={order}"),
    }),
    http1("307", false, Seen::Status(307), |_| Then::Redirect { status: 307, location: ORDERS.into() }),
    http1("400", false, Seen::Status(400), |_| status(400)),
    http1("401", false, Seen::Status(401), |_| status(401)),
    http1("409", false, Seen::Status(409), |_| status(409)),
    http1("429", false, Seen::Status(429), |_| Then::Status { status: 429, retry_after_s: Some(1) }),
    http1("500, executed", true, Seen::Status(500), |_| status(500)),
    http1("500", false, Seen::Status(500), |_| status(500)),
    http1("503", false, Seen::Status(503), |_| status(503)),
    after_a_read(http1("connection refused", false, Seen::NotSent, |_| Then::RefuseConnection { for_ms: REFUSED_MS })),
    http1("connection reset", false, Seen::NotSent, |_| Then::ResetConnection),
    http1("TLS handshake fails", false, Seen::NotSent, |_| Then::TlsHandshakeFailure),
    after_a_read(http1("idle connection closed", false, Seen::NoAnswer, |_| Then::CloseIdle)),
    http2("h2 drop, executed", true, Seen::NoAnswer, |_| Then::Drop),
    http2("h2 reset, executed", true, Seen::NoAnswer, |_| Then::Reset),
    http2("h2 half an answer", true, Seen::HalfAnswer, |_| Then::HalfAnswer { end: Ending::Reset }),
    http2("h2 GOAWAY below", false, Seen::NotSent, |_| Then::GoawayBelow),
    http2("h2 GOAWAY, answered", true, Seen::GoawayThenAnswer, |_| Then::GoawayIncluding { answer: true }),
    http2("h2 GOAWAY, executed", true, Seen::NoAnswer, |_| Then::GoawayIncluding { answer: false }),
    http2("h2 REFUSED_STREAM", false, Seen::NotSent, |_| Then::RefusedStream),
    after_a_read(http2("h2 idle connection closed", false, Seen::NoAnswer, |_| Then::CloseIdle)),
];

impl Case {
    /// The broker's script for one order.
    pub fn fault(&self, order: &str) -> Fault {
        let fault = Fault { execute: self.executes, ..Fault::new((self.then)(order)) };
        match fault.then {
            Then::ResetConnection | Then::TlsHandshakeFailure | Then::CloseIdle => fault,
            Then::RefuseConnection { .. } => fault.on("GET", QUOTE),
            _ => fault.on("POST", ORDERS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_can_be_scripted_and_has_a_name_of_its_own() {
        for (at, case) in CASES.iter().enumerate() {
            assert_eq!(case.fault("o-1").check(), Ok(()), "{}", case.name);
            assert!(CASES[..at].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
