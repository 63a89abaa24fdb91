//! The request's body as far as policy must see it: buffered up to a bound, then streamed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, StreamBody};
use kybernis_core::ids::Fingerprint;
use kybernis_core::json::{Json, Pointer};
use kybernis_core::key::{Fingerprinter, fingerprint};
use kybernis_core::mutation::broken;
use kybernis_core::reason::{Code, Refusal};
use tokio::time::Instant;

use crate::body::{BodyError, RequestBody, SendBody};

/// How long a caller may take over the part that is buffered: a slower one would hold memory for nothing.
const BUFFERED_WITHIN: Duration = Duration::from_secs(60);

/// How long after its first message a gRPC call's end may come and still be a unary call's.
const UNARY_ENDS_WITHIN: Duration = Duration::from_millis(250);
/// How long a gRPC call's first message may take; one that waits longer lets the far side speak first.
const UNARY_BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// The compression flag and the length before each gRPC message.
const GRPC_PREFIX: usize = 5;

/// What was read of the body, and what is still to come.
#[derive(Debug)]
pub(super) struct Intake {
    /// The whole body, or as much as was buffered.
    pub(super) bytes: Bytes,
    /// Trailers after a whole body.
    trailers: Option<HeaderMap>,
    /// What did not fit the bound, or has not come yet.
    rest: Option<RequestBody>,
    /// The rest was handed on, and is gone.
    spent: bool,
    /// A stream of messages whose end does not come with the first.
    stream: bool,
    /// The body as JSON, where it is.
    pub(super) json: Option<Json>,
    /// Why policy cannot see it as it should, for the caller; all of it is still at hand.
    flaw: Option<Refusal>,
}

impl Intake {
    /// Nothing is read; the body passes as it comes.
    pub(super) fn streamed(body: RequestBody) -> Self {
        let rest = (!body.is_end_stream()).then_some(body);
        Self { rest, ..Self::whole(Bytes::new(), None) }
    }

    const fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { bytes, trailers, rest: None, spent: false, stream: false, json: None, flaw: None }
    }

    /// Reads up to `bound` bytes.
    pub(super) async fn read(headers: &HeaderMap, body: RequestBody, bound: u64) -> Result<Self, Refusal> {
        let mut intake = Self::buffer(body, bound).await?;
        if intake.rest.is_none() {
            match parse(headers, &intake.bytes) {
                Ok(json) => intake.json = json,
                Err(refusal) => intake.flaw = Some(refusal),
            }
        }
        Ok(intake)
    }

    async fn buffer(mut body: RequestBody, bound: u64) -> Result<Self, Refusal> {
        let bound = usize::try_from(bound).unwrap_or(usize::MAX);
        let mut first = Bytes::new();
        let mut more: Option<BytesMut> = None;
        let mut trailers = None;
        let until = Instant::now() + BUFFERED_WITHIN;
        loop {
            let frame = match tokio::time::timeout_at(until, body.frame()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(Self::whole(more.map_or(first, BytesMut::freeze), trailers)),
                Err(_) => {
                    let bytes = more.map_or(first, BytesMut::freeze);
                    return Ok(Self { rest: Some(body), flaw: Some(too_slow()), ..Self::whole(bytes, None) });
                }
            };
            let frame = frame.map_err(|_| Refusal::new(Code::BadRequest, "The request body was cut short."))?;
            match frame.into_data() {
                Ok(data) => match &mut more {
                    // The usual body is one frame, and is not copied.
                    None if first.is_empty() => first = data,
                    None => {
                        let mut joined = BytesMut::with_capacity(first.len() + data.len());
                        joined.extend_from_slice(&first);
                        joined.extend_from_slice(&data);
                        more = Some(joined);
                    }
                    Some(joined) => joined.extend_from_slice(&data),
                },
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            if more.as_ref().map_or(first.len(), BytesMut::len) > bound {
                let bytes = more.map_or(first, BytesMut::freeze);
                return Ok(Self { rest: Some(body), ..Self::whole(bytes, None) });
            }
        }
    }

    #[cfg(test)]
    pub(super) fn of_json(text: &str) -> Self {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let json = Json::parse(&bytes).ok();
        Self { json, ..Self::whole(bytes, None) }
    }

    /// The first message of a gRPC call, and its end where that comes with it. A unary client sends both at once; one that
    /// keeps its side open streams. A call that is `named` by a key is one effect, however slowly it comes.
    pub(super) async fn read_grpc(mut body: RequestBody, bound: u64, named: bool) -> Result<Self, Refusal> {
        let bound = usize::try_from(bound).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::new();
        loop {
            if body.is_end_stream() {
                return Ok(Self::whole(bytes.freeze(), None));
            }
            let patience = match bytes.len() {
                _ if named && !broken("a_named_call_is_no_session") => BUFFERED_WITHIN,
                0 => UNARY_BEGINS_WITHIN,
                _ if has_message(&bytes) => UNARY_ENDS_WITHIN,
                _ => BUFFERED_WITHIN,
            };
            let stream = match tokio::time::timeout(patience, body.frame()).await {
                Err(_) if patience == BUFFERED_WITHIN => {
                    return Ok(Self { rest: Some(body), flaw: Some(too_slow()), ..Self::whole(bytes.freeze(), None) });
                }
                Err(_) => true,
                Ok(None) => return Ok(Self::whole(bytes.freeze(), None)),
                Ok(Some(Err(_))) => return Err(Refusal::new(Code::BadRequest, "The request body was cut short.")),
                Ok(Some(Ok(frame))) => {
                    bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
                    false
                }
            };
            if stream || bytes.len() > bound {
                return Ok(Self { rest: Some(body), stream, ..Self::whole(bytes.freeze(), None) });
            }
        }
    }

    /// Takes the flaw, for whoever answers it.
    pub(super) const fn flaw(&mut self) -> Option<Refusal> {
        self.flaw.take()
    }

    /// Whether the caller keeps its side open.
    pub(super) const fn is_stream(&self) -> bool {
        self.stream
    }

    /// Whether all of it is at hand, so that it can be sent again.
    pub(super) const fn is_whole(&self) -> bool {
        self.rest.is_none() && !self.spent
    }

    /// The canonical body's digest; `None` while part of the body is still to come.
    pub(super) fn fingerprint(&self, volatile: &[Pointer]) -> Option<Fingerprint> {
        if !self.is_whole() {
            return None;
        }
        Some(match &self.json {
            Some(json) if !broken("a_canonical_body_counts") => fingerprint(&json.canonical(volatile)),
            Some(_) | None => fingerprint(&self.bytes),
        })
    }

    /// Reads the rest off without keeping it: a call that is not sent is known by its digest all the same.
    pub(super) async fn hash_rest(&mut self) -> Result<Fingerprint, Refusal> {
        let mut print = Fingerprinter::default();
        print.update(&self.bytes);
        if let Some(mut rest) = self.rest.take() {
            self.spent = true;
            while let Some(frame) = rest.frame().await {
                let frame = frame.map_err(|_| Refusal::new(Code::BadRequest, "The request body was cut short."))?;
                if let Some(data) = frame.data_ref() {
                    print.update(data);
                }
            }
        }
        Ok(print.finish())
    }

    /// The body to send, for an attempt that may be followed by another. `None` once a streamed body has gone.
    pub(super) fn sendable(&mut self, hash: &HashOfStream) -> Option<SendBody> {
        if let Some(rest) = self.rest.take() {
            self.spent = true;
            hash.begin();
            let prefix = VecDeque::from([std::mem::take(&mut self.bytes)]);
            return Some(hash.watch(SendBody::prefixed(prefix, rest)));
        }
        match &self.trailers {
            _ if self.spent => None,
            None => Some(SendBody::whole(self.bytes.clone())),
            Some(trailers) => {
                let frames = [Ok(Frame::data(self.bytes.clone())), Ok(Frame::trailers(trailers.clone()))];
                Some(SendBody::boxed(StreamBody::new(futures::stream::iter(frames))))
            }
        }
    }
}

/// The digest of a body that is hashed as it passes.
#[derive(Clone, Debug, Default)]
pub(super) struct HashOfStream(std::sync::Arc<std::sync::Mutex<Passing>>);

#[derive(Debug, Default)]
struct Passing {
    print: Option<Fingerprinter>,
    bytes: u64,
    ended: bool,
}

impl HashOfStream {
    fn lock(&self) -> std::sync::MutexGuard<'_, Passing> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self) {
        self.lock().print = Some(Fingerprinter::default());
    }

    fn watch(&self, body: SendBody) -> SendBody {
        SendBody::boxed(Hashed { body, passing: self.clone() })
    }

    /// Bytes that have passed.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The digest of a body that has passed to its end.
    pub(super) fn finish(&self) -> Option<Fingerprint> {
        let mut passing = self.lock();
        if passing.ended { passing.print.take().map(Fingerprinter::finish) } else { None }
    }
}

fn too_slow() -> Refusal {
    Refusal::new(Code::BadRequest, format!("The request body did not arrive within {} s.", BUFFERED_WITHIN.as_secs()))
}

/// Whether a whole length-prefixed message has come (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) fn has_message(bytes: &[u8]) -> bool {
    let Some((prefix, rest)) = bytes.split_first_chunk::<GRPC_PREFIX>() else { return false };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    usize::try_from(length).is_ok_and(|length| rest.len() >= length)
}

/// Takes the bytes in as they pass; everything else, the length above all, is the body's own.
#[derive(Debug)]
struct Hashed {
    body: SendBody,
    passing: HashOfStream,
}

impl Body for Hashed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut passing = self.passing.lock();
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    passing.bytes += data.len() as u64;
                    if let Some(print) = &mut passing.print {
                        print.update(data);
                    }
                }
                passing.ended = frame.is_trailers() || self.body.is_end_stream();
            }
            Some(Err(_)) => {}
            None => passing.ended = true,
        }
        drop(passing);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(crate) fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Option<Json>, Refusal> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(media_type);
    let is_json = declared.as_deref().is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"));
    // Clients that name no type, or curl's `-d`, which names the wrong one, mean JSON where it looks like JSON.
    let looks_like_json = || matches!(bytes.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'['));
    let undeclared = matches!(declared.as_deref(), None | Some("application/x-www-form-urlencoded" | "text/plain"));
    if bytes.is_empty() || headers.contains_key(http::header::CONTENT_ENCODING) || !(is_json || undeclared && looks_like_json()) {
        return Ok(None);
    }
    match Json::parse(bytes) {
        Ok(json) => Ok(Some(json)),
        Err(error) if error.ambiguous && is_json => {
            let detail = format!("The body is ambiguous JSON: {} (at byte {}). Send each member once.", error.rule, error.at);
            Err(Refusal::new(Code::AmbiguousJson, detail))
        }
        Err(_) => Ok(None),
    }
}

fn media_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_where_it_is_declared_or_looks_like_it() {
        let check = |kind: Option<&'static str>, body: &str, expect: bool| {
            let headers = kind.map(|kind| (CONTENT_TYPE, http::HeaderValue::from_static(kind))).into_iter().collect();
            assert_eq!(parse(&headers, body.as_bytes()).unwrap().is_some(), expect, "{kind:?} {body}");
        };
        check(Some("application/json; charset=utf-8"), "1", true);
        check(Some("application/vnd.api+json"), "{}", true);
        check(Some("application/json"), "", false);
        check(Some("application/json"), "{torn", false);
        check(Some("application/x-www-form-urlencoded"), " {\"a\":1}", true);
        check(Some("application/x-www-form-urlencoded"), "a=1", false);
        check(None, "[1]", true);
        check(None, "1", false);
        check(Some("text/html"), "{}", false);
    }

    #[test]
    fn a_member_that_occurs_twice_is_refused_where_json_is_declared() {
        let headers = std::iter::once((CONTENT_TYPE, http::HeaderValue::from_static("application/json"))).collect();
        let refusal = parse(&headers, br#"{"qty":1,"qty":2}"#).unwrap_err();
        assert_eq!(refusal.code, Code::AmbiguousJson);
        assert!(refusal.detail.contains("/qty"), "{}", refusal.detail);
        assert_eq!(parse(&HeaderMap::new(), br#"{"qty":1,"qty":2}"#), Ok(None));
    }
}
