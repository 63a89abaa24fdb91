//! What the far side answered, and what that says about the effect: by status, by gRPC status, by the tool's own word.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use kybernis_core::cel::{Facts, ResponseFacts};
use kybernis_core::json::Json;
use kybernis_core::machine::status::{StatusWord, by_grpc_status, by_status};
use kybernis_core::mutation::broken;
use kybernis_core::policy::{EffectiveTool, OutcomeWord};

use super::call::pairs;
use super::record::strip;
use crate::body::BodyError;
use crate::upstream::{Answer, AnswerBody, Cut};

/// The tool's own terms for judging an answer.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) tool: &'a EffectiveTool,
    pub(super) facts: &'a Facts,
    pub(super) grpc: bool,
    /// The request carried a key of ours that the far side knows.
    pub(super) far_side_key_sent: bool,
    /// Bytes of an answer that are buffered for `outcome`.
    pub(super) bound: usize,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Executed.
    Completed,
    /// Refused; with `not_executed` the tool promises that nothing was done.
    Rejected { not_executed: bool },
    /// Nobody can tell.
    InDoubt,
    /// The same effect goes on elsewhere.
    GoesOn,
    /// Cut short while it was being judged.
    Cut(Cut),
}

/// An answer with as much of its body as had to be seen.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) head: http::response::Parts,
    pub(super) body: HeardBody,
    /// The tool or the status has said all there is to say; else the end has the last word.
    pub(super) told: bool,
}

/// The rest of it.
#[derive(Debug)]
pub(super) enum HeardBody {
    /// Still to come, after what was seen already.
    Streaming { first: Option<Bytes>, rest: AnswerBody },
    /// All of it.
    Whole { bytes: Bytes, trailers: Option<HeaderMap> },
}

impl Terms<'_> {
    /// Judges an answer before its head goes to the agent.
    pub(super) async fn hear(&self, answer: Answer) -> (Heard, Word) {
        let Answer { head, body, .. } = answer;
        let status = head.status.as_u16();
        if self.tool.is_not_executed(status) {
            return (Heard::streaming(head, body), Word::Rejected { not_executed: true });
        }
        match self.tool.outcome_expression() {
            Some(outcome) if outcome.reads_response_body() => self.hear_body(head, body).await,
            outcome => match outcome.and_then(|_| self.by_tool(&head, None)) {
                Some(word) => (Heard::streaming(head, body), word),
                None if self.is_grpc_answer(&head) => self.hear_grpc(head, body).await,
                None => (Heard::streaming(head, body), self.by_status(status)),
            },
        }
    }

    /// Whether gRPC's own status counts (gRPC over HTTP/2): the transport's is 200 whatever became of the call.
    fn is_grpc_answer(&self, head: &http::response::Parts) -> bool {
        self.grpc && head.status.is_success()
    }

    fn by_status(&self, status: u16) -> Word {
        by_status(status, self.far_side_key_sent).into()
    }

    /// The tool's own word; `None` where it leaves the answer to its status.
    fn by_tool(&self, head: &http::response::Parts, body: Option<&Json>) -> Option<Word> {
        let headers = pairs(&head.headers);
        let response = ResponseFacts { status: head.status.as_u16(), headers: &headers, body };
        match self.tool.outcome(&self.facts.clone().with_response(&response)) {
            Ok(OutcomeWord::Default) => None,
            Ok(OutcomeWord::Completed) => Some(Word::Completed),
            Ok(OutcomeWord::Rejected) if broken("the_tool_knows_better") => None,
            Ok(OutcomeWord::Rejected) => Some(Word::Rejected { not_executed: false }),
            Ok(OutcomeWord::NotSent) => Some(Word::Rejected { not_executed: true }),
            Ok(OutcomeWord::InDoubt) => Some(Word::InDoubt),
            Err(_) if broken("an_outcome_that_errs_is_doubt") => None,
            Err(error) => {
                tracing::warn!(%error, "a tool's outcome expression failed: the effect is in doubt");
                Some(Word::InDoubt)
            }
        }
    }

    async fn hear_body(&self, head: http::response::Parts, mut body: AnswerBody) -> (Heard, Word) {
        let mut bytes = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => bytes.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                Err(error) => return (Heard::whole(head, bytes.freeze(), trailers), Word::Cut(cut_of(&error))),
            }
            if bytes.len() > self.bound {
                tracing::warn!(bound = self.bound, "an answer is longer than `outcome` may read: the effect is in doubt");
                let body = HeardBody::Streaming { first: Some(bytes.freeze()), rest: body };
                return (Heard { head, body, told: true }, Word::InDoubt);
            }
        }
        let bytes = bytes.freeze();
        let word = self.word_of(&head, Some(&bytes), trailers.as_ref());
        (Heard::whole(head, bytes, trailers), word)
    }

    /// What a whole answer says; its body is `None` where it is longer than `outcome` may read.
    pub(super) fn word_of(&self, head: &http::response::Parts, body: Option<&[u8]>, trailers: Option<&HeaderMap>) -> Word {
        let status = head.status.as_u16();
        if self.tool.is_not_executed(status) {
            return Word::Rejected { not_executed: true };
        }
        if let Some(outcome) = self.tool.outcome_expression() {
            let json = match body {
                _ if !outcome.reads_response_body() => None,
                Some(bytes) => Json::parse(bytes).ok(),
                None => return Word::InDoubt,
            };
            if let Some(word) = self.by_tool(head, json.as_ref()) {
                return word;
            }
        }
        if !self.is_grpc_answer(head) {
            return self.by_status(status);
        }
        match trailers.and_then(grpc_word).or_else(|| grpc_word(&head.headers)) {
            Some(word) if !broken("a_grpc_status_counts_where_the_tool_is_silent") => word,
            Some(_) => Word::Completed,
            None => Word::InDoubt,
        }
    }

    /// A call that fails says so in its head or right behind it; one that succeeds, behind its message.
    async fn hear_grpc(&self, head: http::response::Parts, mut body: AnswerBody) -> (Heard, Word) {
        if let Some(word) = grpc_word(&head.headers) {
            return (Heard::whole(head, Bytes::new(), None), word);
        }
        match body.frame().await {
            None => (Heard::whole(head, Bytes::new(), None), Word::InDoubt),
            Some(Err(error)) => (Heard::whole(head, Bytes::new(), None), Word::Cut(cut_of(&error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let body = HeardBody::Streaming { first: Some(data), rest: body };
                    (Heard { head, body, told: false }, Word::Completed)
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let word = grpc_word(&trailers).unwrap_or(Word::InDoubt);
                    (Heard::whole(head, Bytes::new(), Some(trailers)), word)
                }
            },
        }
    }
}

impl Heard {
    const fn streaming(head: http::response::Parts, rest: AnswerBody) -> Self {
        Self { head, body: HeardBody::Streaming { first: None, rest }, told: true }
    }

    const fn whole(head: http::response::Parts, bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { head, body: HeardBody::Whole { bytes, trailers }, told: true }
    }
}

impl HeardBody {
    /// Takes off what only we may say, where the end is at hand already.
    pub(super) fn strip(&mut self) {
        if let Self::Whole { trailers: Some(trailers), .. } = self {
            strip(trailers);
        }
    }
}

impl From<StatusWord> for Word {
    fn from(word: StatusWord) -> Self {
        match word {
            StatusWord::Completed => Self::Completed,
            StatusWord::Rejected => Self::Rejected { not_executed: false },
            StatusWord::GoesOn => Self::GoesOn,
            StatusWord::InDoubt => Self::InDoubt,
        }
    }
}

/// The last word on an answer that looked completed and has been streamed whole: gRPC's status stands behind it, unless all
/// was [`Heard::told`] before.
pub(super) fn at_end(told: bool, trailers: Option<&HeaderMap>) -> Word {
    if told { Word::Completed } else { trailers.and_then(grpc_word).unwrap_or(Word::InDoubt) }
}

pub(crate) fn grpc_word(headers: &HeaderMap) -> Option<Word> {
    let digits = headers.get("grpc-status")?.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let code = digits.and_then(|text| text.parse().ok());
    Some(code.map_or(Word::InDoubt, |code| by_grpc_status(code).into()))
}

/// Why an answer is not whole.
pub(super) fn cut_of(error: &BodyError) -> Cut {
    match error {
        BodyError::Cut(cut) => *cut,
        BodyError::Agent(_) | BodyError::Abort { .. } => Cut::Reset,
    }
}
