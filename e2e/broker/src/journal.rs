//! What the broker saw and did, for tests to judge by: executions, requests with the very bytes of their heads, faults fired.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::Fault;

/// What a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An order was placed.
    Order,
    /// A payment was refunded.
    Refund,
}

/// One execution: the number that must not be two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executed {
    /// From 1.
    pub seq: u64,
    /// What was done.
    pub kind: Kind,
    /// The broker's id of it.
    pub id: String,
    /// The client's id of an order, or the payment of a refund.
    pub subject: String,
    /// The request's Idempotency-Key.
    pub idempotency_key: Option<String>,
    /// The request's body.
    pub body: Value,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The connection it came by.
    pub connection: u64,
    /// And its protocol.
    pub protocol: Protocol,
}

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// From 1.
    pub seq: u64,
    /// Connections count from 1.
    pub connection: u64,
    /// Which request of its connection, from 1.
    pub nth: u32,
    /// By what it came.
    pub protocol: Protocol,
    /// Over TLS.
    pub secure: bool,
    /// HTTP/1: every byte up to the empty line's end, each byte a character (ISO 8859-1). HTTP/2: a line for each header.
    pub head: String,
    /// The body, decoded from its framing, up to what was read; each byte a character.
    pub body: String,
    /// The body was read to its end.
    pub complete: bool,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// One fault that struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// From 1.
    pub seq: u64,
    /// Which.
    pub fault: Fault,
    /// Whom; none where there is no connection yet.
    pub connection: Option<u64>,
    /// The request's method and path, once they are known.
    pub request: Option<String>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// Bytes as text, none lost: each byte a character.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
