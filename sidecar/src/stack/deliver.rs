//! A completed effect's answer on its way to the caller: hashed and kept as it passes, its end withheld until the outcome
//! is on record.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use kybernis_core::ids::BodyDigest;
use kybernis_core::machine::{DoubtCause, Settle, SettleOutcome, StoredAnswer};
use kybernis_core::mutation::broken;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Millis;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::attempt::{cause_of_cut, is_empty};
use super::caller::Caller;
use super::effect::{EFFECT_MAX, Effect, Granted};
use super::heard::{Heard, HeardBody, Word, at_end, cut_of};
use super::record::{Stamp, strip, stripped};
use super::reply::{self, Room, Teller};
use super::settle::Recorded;
use super::{call, never_stored};
use crate::body::{self, ResponseBody};
use crate::upstream::{AnswerBody, Cut};

/// Longest body that is kept for replay.
const KEPT_MAX: u64 = 8 * 1024 * 1024;
/// Longest body that is taken in before its head is handed over.
const AT_HAND_MAX: u64 = 64 * 1024;
/// The same in pieces: a far side can send empty ones without end.
const PIECES_AT_HAND: usize = 64;
/// Bytes on their way to a slow caller once the answer is no longer kept.
const UNREAD_MAX: usize = 256 * 1024;

/// An answer's body as it passes: its digest, and its bytes while they are few enough to be kept.
pub(super) struct Passing {
    hash: Sha256,
    pub(super) len: u64,
    kept: Option<Vec<Bytes>>,
    room: Vec<Room>,
    shared_room: Arc<Semaphore>,
}

impl Passing {
    pub(super) fn new(shared_room: Arc<Semaphore>) -> Self {
        Self { hash: Sha256::new(), len: 0, kept: Some(Vec::new()), room: Vec::new(), shared_room }
    }

    /// Takes a piece in; the room that it takes while it is kept, or on its way to the caller.
    fn take(&mut self, data: &Bytes) -> Option<Room> {
        self.hash.update(data);
        self.len += data.len() as u64;
        let kept = self.kept.as_mut()?;
        let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match Arc::clone(&self.shared_room).try_acquire_many_owned(wanted) {
            Ok(room) if self.len <= KEPT_MAX => {
                let room = Arc::new(room);
                self.room.push(Arc::clone(&room));
                kept.push(data.clone());
                Some(room)
            }
            // Too long, or too many at once: a repeat is told its digest instead.
            Ok(_) | Err(_) => {
                self.kept = None;
                self.room.clear();
                None
            }
        }
    }

    /// The body, where all of it is kept and it has at most `bound` bytes.
    pub(super) fn whole(&self, bound: u64) -> Option<Vec<u8>> {
        self.kept.as_ref().filter(|_| self.len <= bound).map(|kept| kept.concat())
    }

    /// The answer for the record, its body, and the room that the body takes until it is there.
    pub(super) fn stored(self, head: &http::response::Parts, trailers: Option<&HeaderMap>) -> (StoredAnswer, Vec<u8>, Vec<Room>) {
        let stored = self.kept.is_some();
        let body = self.kept.map(|kept| kept.concat()).unwrap_or_default();
        let end_to_end = |headers: &HeaderMap| call::pairs(headers).into_iter().filter(|(name, _)| !never_stored(name)).collect();
        let answer = StoredAnswer {
            status: head.status.as_u16(),
            headers: end_to_end(&head.headers),
            trailers: trailers.map(end_to_end).unwrap_or_default(),
            digest: BodyDigest::from_bytes(self.hash.finalize().into()),
            len: self.len,
            stored,
        };
        (answer, body, self.room)
    }
}

/// What there is of a body without waiting for the far side.
enum AtHand {
    Whole { bytes: Bytes, trailers: Option<HeaderMap> },
    Part(Option<Bytes>),
    Cut(Cut),
}

/// How a streamed body ended.
pub(super) enum Streamed {
    Whole(Option<HeaderMap>),
    Cut(Cut),
}

impl Effect {
    /// Records an outcome that keeps no body.
    pub(super) async fn on_record(&self, granted: &Granted, outcome: SettleOutcome) -> Recorded {
        self.put_on_record(granted, outcome, Vec::new(), 0).await
    }

    pub(super) async fn put_on_record(&self, granted: &Granted, outcome: SettleOutcome, body: Vec<u8>, bytes_in: u64) -> Recorded {
        let latency = u64::try_from(granted.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let settle = Settle {
            boot: self.stack.control.boot().clone(),
            effect: granted.grant.effect.clone(),
            fence: granted.grant.fence,
            outcome,
            fingerprint: if self.named.fingerprint.is_none() { self.hash.finish() } else { None },
            latency: Millis::new(latency),
            bytes_out: (self.intake.bytes.len() as u64).max(self.hash.bytes()),
            bytes_in,
        };
        if matches!(settle.outcome, SettleOutcome::Rejected { .. } | SettleOutcome::NotSent(_)) {
            self.stack.sent.freed(&settle.effect);
        }
        match granted.claim {
            None => self.stack.settle(&settle, body).await,
            Some(claim) => self.stack.settle_claim(claim, &settle, body).await,
        }
    }

    /// Delivers an answer that says "executed".
    pub(super) async fn deliver(&self, mut heard: Heard, granted: &Granted, caller: &mut Caller) {
        // What is kept is what the far side said, less what a repeat must not see; what is shown carries our stamp.
        strip(&mut heard.head.headers);
        heard.body.strip();
        let withheld_head = is_empty(&heard) || self.call.method == Method::HEAD || heard.head.status == StatusCode::NO_CONTENT;
        let told = heard.told;
        match heard.body {
            HeardBody::Whole { bytes, trailers } => self.deliver_whole(heard.head, bytes, trailers, granted, caller).await,
            HeardBody::Streaming { first, .. } if withheld_head => {
                self.deliver_whole(heard.head, first.unwrap_or_default(), None, granted, caller).await;
            }
            // Nothing could be withheld behind this head but the end of the message itself.
            HeardBody::Streaming { first: None, rest } if announced(&heard.head) == Some(0) => {
                let (mut unheard, _) = reply::channel(None);
                let mut passing = Passing::new(Arc::clone(&self.stack.room));
                match stream(None, rest, &mut passing, &mut unheard, granted.at + EFFECT_MAX).await {
                    Streamed::Whole(trailers) => self.deliver_whole(heard.head, Bytes::new(), trailers, granted, caller).await,
                    Streamed::Cut(cut) => self.cut_short(&heard.head, cut, granted, caller).await,
                }
            }
            HeardBody::Streaming { first, mut rest } => match at_hand(first, &heard.head, told, &mut rest).await {
                AtHand::Whole { bytes, trailers } => self.deliver_whole(heard.head, bytes, trailers, granted, caller).await,
                AtHand::Part(first) => self.deliver_stream(heard.head, first, rest, told, granted, caller).await,
                AtHand::Cut(cut) => self.cut_short(&heard.head, cut, granted, caller).await,
            },
        }
    }

    /// A body that is cut before its head was handed over: the caller is told of the doubt instead.
    async fn cut_short(&self, head: &http::response::Parts, cut: Cut, granted: &Granted, caller: &mut Caller) {
        let status = Some(head.status.as_u16());
        self.in_doubt(granted, SettleOutcome::InDoubt { cause: cause_of_cut(cut), status }, caller).await;
    }

    async fn deliver_whole(
        &self,
        head: http::response::Parts,
        bytes: Bytes,
        trailers: Option<HeaderMap>,
        granted: &Granted,
        caller: &mut Caller,
    ) {
        let mut passing = Passing::new(Arc::clone(&self.stack.room));
        let on_its_way = passing.take(&bytes);
        let (answer, body, room) = passing.stored(&head, trailers.as_ref());
        let (status, bytes_in) = (answer.status, answer.len);
        let recorded = self.put_on_record(granted, SettleOutcome::Completed(answer), body, bytes_in).await;
        drop(room);
        if recorded == Recorded::Unknown {
            return self.not_on_record(status, granted, caller);
        }
        // A length of our own would leave trailers no place on HTTP/1.1.
        let length = if trailers.is_some() { announced(&head) } else { Some(bytes.len() as u64) };
        let (mut teller, withheld) = reply::channel(length.filter(|length| *length > 0));
        teller.data(bytes.clone(), on_its_way);
        let body = if bytes.is_empty() && trailers.is_none() { body::empty() } else { withheld.boxed_unsync() };
        teller.end(trailers);
        self.hand_over(head, body, granted, caller);
    }

    async fn deliver_stream(
        &self,
        head: http::response::Parts,
        first: Option<Bytes>,
        rest: AnswerBody,
        told: bool,
        granted: &Granted,
        caller: &mut Caller,
    ) {
        let (mut teller, withheld) = reply::channel(announced(&head));
        let mut passing = Passing::new(Arc::clone(&self.stack.room));
        let (status, kept_head) = (head.status.as_u16(), clone_of(&head));
        self.hand_over(head, withheld.boxed_unsync(), granted, caller);
        let streamed = stream(first, rest, &mut passing, &mut teller, granted.at + EFFECT_MAX).await;
        let outcome = match streamed {
            Streamed::Cut(cut) => Err(SettleOutcome::InDoubt { cause: cause_of_cut(cut), status: Some(status) }),
            Streamed::Whole(trailers) => match at_end(told, trailers.as_ref()) {
                Word::Rejected { not_executed } => Ok((SettleOutcome::Rejected { status, not_executed }, trailers)),
                Word::Completed | Word::GoesOn => {
                    let (answer, body, room) = passing.stored(&kept_head, trailers.as_ref());
                    let bytes_in = answer.len;
                    let recorded = self.put_on_record(granted, SettleOutcome::Completed(answer), body, bytes_in).await;
                    drop(room);
                    return finish(teller, trailers, &recorded);
                }
                Word::InDoubt | Word::Cut(_) => Err(SettleOutcome::InDoubt { cause: DoubtCause::Status, status: Some(status) }),
            },
        };
        match outcome {
            Ok((rejected, trailers)) => {
                let recorded = self.on_record(granted, rejected).await;
                finish(teller, trailers, &recorded);
            }
            Err(doubt) => {
                self.on_record(granted, doubt).await;
                teller.breaks_off("effect_in_doubt");
            }
        }
    }

    /// The far side answered and the ledger does not take it: nobody may build on that answer.
    pub(super) fn not_on_record(&self, status: u16, granted: &Granted, caller: &mut Caller) {
        self.stack.callers.forget(&granted.grant.effect, granted.grant.fence);
        let detail = format!(
            "The far side answered {status}, and the ledger does not take that outcome. It is kept beside the sidecar; look at the far side."
        );
        let refusal = Refusal { upstream_status: Some(status), ..Refusal::new(Code::EffectInDoubt, detail) };
        self.answer_refusal(&refusal, caller);
    }

    /// Gives the far side's refusal to the caller as it is, less what only we may say.
    pub(super) fn pass_on(&self, mut heard: Heard, granted: &Granted, caller: &mut Caller) {
        heard.body.strip();
        let body = match heard.body {
            HeardBody::Whole { bytes, trailers: None } => body::full(bytes),
            HeardBody::Whole { bytes, trailers } => {
                let (mut teller, withheld) = reply::channel(None);
                teller.data(bytes, None);
                teller.end(trailers);
                withheld.boxed_unsync()
            }
            HeardBody::Streaming { first: None, rest } => rest.map_frame(stripped).boxed_unsync(),
            HeardBody::Streaming { first: Some(first), rest } => {
                let frames = futures::stream::iter([Ok(http_body::Frame::data(first))]);
                let rest = http_body_util::BodyStream::new(rest.map_frame(stripped));
                http_body_util::StreamBody::new(futures::StreamExt::chain(frames, rest)).boxed_unsync()
            }
        };
        self.hand_over(heard.head, body, granted, caller);
    }

    fn hand_over(&self, mut head: http::response::Parts, body: ResponseBody, granted: &Granted, caller: &mut Caller) {
        let mut stamp = Stamp::allowed(&self.judged, &self.span, self.attempt);
        stamp.gate = granted.grant.approval.as_ref();
        stamp.put_on(&self.call, &mut head.headers);
        if !caller.answer(Response::from_parts(head, body)) {
            self.stack.callers.gone(&granted.grant.effect, granted.grant.fence);
        }
    }
}

/// Takes what came along with the head. Where that is all, the outcome goes on record first and the answer to the caller in one
/// piece: a head alone would only make it wait for the rest. Where the end has the last word, all is streamed.
async fn at_hand(first: Option<Bytes>, head: &http::response::Parts, told: bool, rest: &mut AnswerBody) -> AtHand {
    if !told || announced(head).is_some_and(|length| length > AT_HAND_MAX) {
        return AtHand::Part(first);
    }
    let mut bytes = BytesMut::from(first.unwrap_or_default());
    let mut trailers = None;
    for _ in 0..PIECES_AT_HAND {
        let Some(piece) = rest.came_along().await else { break };
        match piece.map(|frame| frame.map(http_body::Frame::into_data)) {
            None => return AtHand::Whole { bytes: bytes.freeze(), trailers },
            Some(Err(_)) if broken("a_body_cut_short_is_doubt") => return AtHand::Whole { bytes: bytes.freeze(), trailers },
            Some(Err(error)) => return AtHand::Cut(cut_of(&error)),
            Some(Ok(Ok(data))) => bytes.extend_from_slice(&data),
            Some(Ok(Err(frame))) => trailers = stripped(frame).into_trailers().ok(),
        }
        if bytes.len() as u64 > AT_HAND_MAX {
            break;
        }
    }
    match trailers {
        // They end the message, whatever the stream has still to say.
        Some(trailers) => AtHand::Whole { bytes: bytes.freeze(), trailers: Some(trailers) },
        None => AtHand::Part(Some(bytes.freeze()).filter(|bytes| !bytes.is_empty())),
    }
}

/// Moves the body on, at the far side's pace while it is kept, at the caller's beyond.
pub(super) async fn stream(
    first: Option<Bytes>,
    mut rest: AnswerBody,
    passing: &mut Passing,
    teller: &mut Teller,
    deadline: Instant,
) -> Streamed {
    let unread = Arc::new(Semaphore::new(UNREAD_MAX));
    let mut trailers = None;
    let mut next = first;
    loop {
        if let Some(data) = next.take() {
            let room = match passing.take(&data) {
                None if !teller.is_deserted() => room_for(&unread, data.len(), deadline).await,
                kept => kept,
            };
            teller.data(data, room);
        }
        match tokio::time::timeout_at(deadline, rest.frame()).await {
            Err(_) => return Streamed::Cut(Cut::Timeout),
            Ok(None) => return Streamed::Whole(trailers),
            Ok(Some(Err(_))) if broken("a_body_cut_short_is_doubt") => return Streamed::Whole(trailers),
            Ok(Some(Err(error))) => return Streamed::Cut(cut_of(&error)),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => next = Some(data),
                Err(frame) => trailers = stripped(frame).into_trailers().ok(),
            },
        }
    }
}

fn finish(teller: Teller, trailers: Option<HeaderMap>, recorded: &Recorded) {
    match recorded {
        Recorded::Acknowledged(_) | Recorded::Spooled => teller.end(trailers),
        Recorded::Unknown => teller.breaks_off("the outcome is not on record"),
    }
}

async fn room_for(unread: &Arc<Semaphore>, bytes: usize, deadline: Instant) -> Option<Room> {
    let wanted = u32::try_from(bytes.min(UNREAD_MAX)).unwrap_or(u32::MAX);
    tokio::time::timeout_at(deadline, Arc::clone(unread).acquire_many_owned(wanted)).await.ok()?.ok().map(Arc::new)
}

/// The length that the head announces.
pub(super) fn announced(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

pub(super) fn clone_of(head: &http::response::Parts) -> http::response::Parts {
    let mut copy = Response::new(()).into_parts().0;
    copy.status = head.status;
    copy.headers = head.headers.clone();
    copy
}
