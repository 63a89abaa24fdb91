//! The first call's answer for a repeat: the stored status, headers and every byte, and a mark that it is one.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use kybernis_core::ids::BodyDigest;
use kybernis_core::machine::{Replay, StoredAnswer};
use kybernis_core::mutation::broken;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Millis;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::decide::{HOLD, ledger_away};
use super::effect::Effect;
use super::record::{Span, Stamp, span_type};
use super::reply::{self, Room};
use crate::body::{self, ResponseBody};
use crate::control::{Backoff, CallError};

/// What a repeat is told to wait for room.
const ROOM_RETRY: Millis = Millis::from_secs(1);

impl Effect {
    /// Answers with what the first call was answered, and records that it did.
    pub(super) async fn replay(&self, replay: Replay) -> Response<ResponseBody> {
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        match self.body_of(&replay).await {
            Ok((bytes, room)) => {
                self.stack.record(&span.deduped(&replay.span));
                self.stack.callers.watch(replay.effect.clone(), replay.fence, self.delivery.clone());
                self.again(&replay, bytes, room)
            }
            Err(mut refusal) => {
                refusal.dedupe_of = Some(replay.span.clone());
                refusal.run = Some(self.call.run.clone());
                refusal.span = Some(self.span.clone());
                refusal.policy_id = self.judged.policy_id();
                self.stack.record(&span.refused(&refusal));
                self.to_response(&refusal)
            }
        }
    }

    async fn body_of(&self, replay: &Replay) -> Result<(Bytes, Option<Room>), Refusal> {
        let answer = &replay.answer;
        if !answer.stored {
            return Err(unavailable(answer, "Its answer was not kept for replay"));
        }
        if answer.len == 0 {
            return Ok((Bytes::new(), None));
        }
        let until = Instant::now() + HOLD;
        let wanted = u32::try_from(answer.len).unwrap_or(u32::MAX);
        let room = tokio::time::timeout_at(until, Arc::clone(&self.stack.room).acquire_many_owned(wanted)).await;
        let Ok(Ok(room)) = room else { return Err(no_room()) };
        let mut backoff = Backoff::new();
        loop {
            let fetched = tokio::time::timeout_at(until, self.fetch(replay)).await;
            match fetched.unwrap_or_else(|_| Err(CallError::Away("it does not answer".to_owned()))) {
                Ok(bytes) if BodyDigest::from_bytes(Sha256::digest(&bytes).into()) == answer.digest => {
                    return Ok((bytes.into(), Some(Arc::new(room))));
                }
                Ok(_) => return Err(unavailable(answer, "Its kept answer is damaged")),
                Err(CallError::Refused(_)) => return Err(unavailable(answer, "Its answer is no longer kept")),
                Err(CallError::Away(_)) if Instant::now() < until => backoff.wait().await,
                Err(CallError::Away(_)) => return Err(ledger_away()),
            }
        }
    }

    async fn fetch(&self, replay: &Replay) -> Result<Vec<u8>, CallError> {
        let mut chunks = self.stack.control.fetch_body(&replay.effect, replay.fence).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend_from_slice(&chunk.data);
        }
        Ok(bytes)
    }

    fn again(&self, replay: &Replay, bytes: Bytes, room: Option<Room>) -> Response<ResponseBody> {
        let answer = &replay.answer;
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        *response.headers_mut() = map_of(&answer.headers);
        let mut stamp = Stamp::allowed(&self.judged, &self.span, self.attempt);
        stamp.reason = "answered with the first call's answer";
        stamp.dedupe_of = Some(&replay.span);
        stamp.put_on(&self.call, response.headers_mut());
        let bytes = if broken("every_byte_is_replayed") && bytes.len() > 64 * 1024 { bytes.slice(..bytes.len() / 2) } else { bytes };
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
        if !answer.trailers.is_empty() {
            // Over HTTP/1.1 only trailers that are announced are sent.
            let names: Vec<_> = answer.trailers.iter().map(|(name, _)| name.as_str()).collect();
            if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
                response.headers_mut().insert(http::header::TRAILER, names);
            }
        }
        if !bytes.is_empty() || !answer.trailers.is_empty() {
            let announced = response.headers().contains_key(http::header::CONTENT_LENGTH).then_some(bytes.len() as u64);
            let (mut teller, withheld) = reply::channel(announced);
            teller.data(bytes, room);
            teller.end((!answer.trailers.is_empty()).then(|| map_of(&answer.trailers)));
            *response.body_mut() = withheld.boxed_unsync();
        }
        response
    }
}

/// 409: other callers leave their answers unread.
fn no_room() -> Refusal {
    let detail = "The sidecar holds as many unread answers as it may. The effect was executed; ask again for its answer.";
    Refusal { retry_after: Some(ROOM_RETRY), ..Refusal::new(Code::EffectInFlight, detail) }
}

/// 410, with the first answer's status and digest.
fn unavailable(answer: &StoredAnswer, why: &str) -> Refusal {
    let detail = format!("It was executed, with status {} and a body of {} bytes, {}. {why}.", answer.status, answer.len, answer.digest);
    Refusal { upstream_status: Some(answer.status), ..Refusal::new(Code::ReplayUnavailable, detail) }
}

fn map_of(pairs: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.append(name, value);
        }
    }
    map
}
