//! Requests and answers, free of the protocol that carries them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use crate::journal::Protocol;

/// A request whose body has been read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) protocol: Protocol,
    pub(crate) connection: u64,
}

impl Request {
    /// The value of a query parameter; what clients of a test broker send needs no percent-decoding.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The caller's idempotency key, quoted (as the IETF draft has it) or bare.
    pub(crate) fn idempotency_key(&self) -> Option<String> {
        self.header("idempotency-key").map(|key| key.trim().trim_matches('"').to_owned())
    }
}

/// An answer that is known whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status, headers, body: body.to_string().into() }
    }

    pub(crate) fn error(status: StatusCode, error: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": error, "status": status.as_u16() }))
    }

    pub(crate) fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Whole(Answer),
    /// Server-sent events, so many, this far apart.
    Events {
        count: u32,
        interval_ms: u64,
    },
    /// HTTP/1: the connection becomes a WebSocket that echoes; the value proves that the handshake was understood.
    WebSocket {
        accept: String,
    },
}

/// The data of the event with this number.
pub(crate) fn event(number: u32) -> Bytes {
    format!("id: {number}\ndata: {{\"tick\":{number}}}\n\n").into()
}
