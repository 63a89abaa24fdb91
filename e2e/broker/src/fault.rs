//! What can go wrong at the far side, each fault a value: a new one is a variant of [`Then`], and the compiler names every
//! place that must say what it means.

use std::num::NonZeroU32;

use http::Method;
use serde::{Deserialize, Serialize};

/// One entry of the script: whether the order is executed, what happens then, to which requests, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The order or refund is executed before anything goes wrong.
    #[serde(default)]
    pub execute: bool,
    /// What goes wrong.
    pub then: Then,
    /// Which requests it befalls; all of them when empty.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub on: Filter,
    /// How often.
    #[serde(default)]
    pub times: Times,
}

/// What goes wrong. On HTTP/2, faults that close or reset do it to the whole connection, except where they say "stream".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Then {
    /// Nothing: the normal answer. With `execute: false` it is a lie: an acceptance of what was not done.
    Answer,
    /// The connection is closed (FIN, without TLS's goodbye) instead of an answer.
    Drop,
    /// The connection is reset (RST) instead of an answer.
    Reset,
    /// Head and half of the body, then the connection ends.
    HalfAnswer {
        /// How it ends.
        end: Ending,
    },
    /// No answer until released or this long has passed; then the connection is closed (HTTP/2: the stream is cancelled).
    Hang {
        /// Milliseconds.
        for_ms: u64,
    },
    /// The normal answer, late.
    Late {
        /// Milliseconds.
        after_ms: u64,
    },
    /// A redirection.
    Redirect {
        /// 302 or 307 as a rule.
        status: u16,
        /// Where to.
        location: String,
    },
    /// An answer with this status and a JSON body that names it.
    Status {
        /// 400 to 599.
        status: u16,
        /// Sent as Retry-After, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    /// HTTP/2: GOAWAY whose last stream lies below this one: a promise that this one was not processed.
    GoawayBelow,
    /// HTTP/2: GOAWAY that includes this stream: no such promise.
    GoawayIncluding {
        /// Whether the answer still comes; else the connection is closed.
        answer: bool,
    },
    /// HTTP/2: the stream is reset with REFUSED_STREAM: a promise that it was not processed.
    RefusedStream,
    /// The listening sockets are really closed, so that the kernel refuses connections (ECONNREFUSED), until released or this
    /// long has passed. Connections that are already there live on. With `on`, that request is answered and its connection
    /// closed as soon as the sockets are; without, they are closed at once.
    RefuseConnection {
        /// Milliseconds.
        for_ms: u64,
    },
    /// The next connection is accepted and reset before a byte of it is read.
    ResetConnection,
    /// The next TLS handshake is answered with the alert `handshake_failure`.
    TlsHandshakeFailure,
    /// A connection that already carried a request is reset as the first bytes of its next one arrive.
    CloseIdle,
}

/// How a connection ends in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// FIN, without TLS's goodbye.
    Close,
    /// RST.
    Reset,
}

/// Which requests a fault befalls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only this path, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.method.is_none() && self.path.is_none()
    }

    pub(crate) fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted == method.as_str()) && self.path.as_deref().is_none_or(|wanted| wanted == path)
    }
}

/// How often a fault befalls: a number, or `"forever"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Times {
    /// So many times.
    Count(NonZeroU32),
    /// Until the script is cleared.
    Forever(Forever),
}

/// The word for "until the script is cleared".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forever {
    /// That word.
    #[serde(rename = "forever")]
    Forever,
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(NonZeroU32::MIN)
    }
}

/// The moment at which a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before anybody connects.
    Listening,
    /// When a connection arrives.
    Connected,
    /// When the first bytes of a further request arrive.
    FirstBytes,
    /// When a request has been read.
    Request,
    /// The same, and only HTTP/2 can say it.
    Http2Request,
}

/// Why a fault cannot be scripted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// It strikes before the order was read, or promises that it was not processed.
    #[error("{0:?} cannot execute: the order is not read, or the fault itself promises that it was not processed")]
    Execute(Then),
    /// It strikes before method and path are known.
    #[error("{0:?} strikes before method and path are known and takes no `on`")]
    Filter(Then),
    /// A status outside 400 to 599.
    #[error("status {0} is not one of an error (400 to 599)")]
    Status(u16),
    /// A redirection whose status is not.
    #[error("status {0} is not one of a redirection (300 to 399)")]
    Redirect(u16),
    /// The location does not fit into a header.
    #[error("the location cannot stand in a header")]
    Location,
}

impl Then {
    /// Whether the far side may have executed the order and still be telling no lie.
    const fn can_execute(&self) -> bool {
        match self {
            Self::GoawayBelow
            | Self::RefusedStream
            | Self::RefuseConnection { .. }
            | Self::ResetConnection
            | Self::TlsHandshakeFailure
            | Self::CloseIdle => false,
            Self::Answer
            | Self::Drop
            | Self::Reset
            | Self::HalfAnswer { .. }
            | Self::Hang { .. }
            | Self::Late { .. }
            | Self::Redirect { .. }
            | Self::Status { .. }
            | Self::GoawayIncluding { .. } => true,
        }
    }
}

impl Fault {
    pub(crate) fn moment(&self) -> Moment {
        match self.then {
            Then::Answer
            | Then::Drop
            | Then::Reset
            | Then::HalfAnswer { .. }
            | Then::Hang { .. }
            | Then::Late { .. }
            | Then::Redirect { .. }
            | Then::Status { .. } => Moment::Request,
            Then::GoawayBelow | Then::GoawayIncluding { .. } | Then::RefusedStream => Moment::Http2Request,
            Then::RefuseConnection { .. } if self.on.is_empty() => Moment::Listening,
            Then::RefuseConnection { .. } => Moment::Request,
            Then::ResetConnection | Then::TlsHandshakeFailure => Moment::Connected,
            Then::CloseIdle => Moment::FirstBytes,
        }
    }

    /// Befalls the next request, once, and executes nothing.
    pub fn new(then: Then) -> Self {
        Self { execute: false, then, on: Filter::default(), times: Times::default() }
    }

    /// Executes first.
    #[must_use]
    pub fn executing(mut self) -> Self {
        self.execute = true;
        self
    }

    /// Befalls only requests with this method and path.
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.on = Filter { method: Some(method.into()), path: Some(path.into()) };
        self
    }

    /// Befalls so many.
    #[must_use]
    pub fn times(mut self, count: NonZeroU32) -> Self {
        self.times = Times::Count(count);
        self
    }

    /// Befalls all of them until the script is cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.times = Times::Forever(Forever::Forever);
        self
    }

    /// Whether such a fault can be.
    ///
    /// # Errors
    /// When its parts contradict one another.
    pub fn check(&self) -> Result<(), Impossible> {
        if self.execute && !self.then.can_execute() {
            return Err(Impossible::Execute(self.then.clone()));
        }
        let early = !matches!(self.moment(), Moment::Request | Moment::Http2Request);
        if early && !self.on.is_empty() {
            return Err(Impossible::Filter(self.then.clone()));
        }
        match &self.then {
            Then::Status { status, .. } if !(400..600).contains(status) => Err(Impossible::Status(*status)),
            Then::Redirect { status, .. } if !(300..400).contains(status) => Err(Impossible::Redirect(*status)),
            Then::Redirect { location, .. } if http::HeaderValue::from_str(location).is_err() => Err(Impossible::Location),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_json() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).unwrap();
        assert_eq!(read(r#"{"then": "drop", "execute": true}"#), Fault::new(Then::Drop).executing());
        assert_eq!(
            read(r#"{"then": {"half_answer": {"end": "reset"}}, "times": 3}"#),
            Fault::new(Then::HalfAnswer { end: Ending::Reset }).times(NonZeroU32::new(3).unwrap())
        );
        assert_eq!(
            read(r#"{"then": {"status": {"status": 503}}, "times": "forever", "on": {"method": "POST", "path": "/v1/orders"}}"#),
            Fault::new(Then::Status { status: 503, retry_after_s: None }).forever().on("POST", "/v1/orders")
        );
        for wrong in [r#"{"then": "explode"}"#, r#"{"then": "drop", "when": 1}"#, r#"{"then": "drop", "times": 0}"#, "{}"] {
            assert!(serde_json::from_str::<Fault>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fault_that_contradicts_itself_is_refused() {
        let moved = |status, location: &str| Then::Redirect { status, location: location.into() };
        for then in [Then::CloseIdle, Then::RefusedStream, Then::GoawayBelow, Then::ResetConnection, Then::TlsHandshakeFailure] {
            assert_eq!(Fault::new(then.clone()).executing().check(), Err(Impossible::Execute(then)));
        }
        assert_eq!(Fault::new(Then::CloseIdle).on("POST", "/").check(), Err(Impossible::Filter(Then::CloseIdle)));
        assert_eq!(Fault::new(Then::Status { status: 200, retry_after_s: None }).check(), Err(Impossible::Status(200)));
        assert_eq!(Fault::new(moved(200, "/")).check(), Err(Impossible::Redirect(200)));
        assert_eq!(Fault::new(moved(302, "a\r\nb")).check(), Err(Impossible::Location));
        assert_eq!(Fault::new(Then::Drop).executing().on("POST", "/v1/orders").forever().check(), Ok(()));
    }
}
