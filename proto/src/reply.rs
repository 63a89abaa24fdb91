//! What the ledger answers to a Decide.

use kybernis_core::ids::{BodyDigest, EffectId, GateId, PolicyDigest, SpanId};
use kybernis_core::machine::{Fence, Grant, Refuse, Replay, StoredAnswer};
use kybernis_core::reason::Code;
use kybernis_core::time::Millis;

use crate::parse::{Invalid, bytes32, name, present, some_name};
use crate::v1;

/// A DecideReply as the sidecar uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecideAnswer {
    /// It may go.
    Grant(Grant),
    /// It went already.
    Replay(Replay),
    /// It may not go.
    Refuse(Refuse),
    /// Another PolicySet is in force.
    PolicyStale(PolicyDigest),
}

/// Reads a DecideReply.
pub fn decide_answer(reply: v1::DecideReply) -> Result<DecideAnswer, Invalid> {
    match present("answer", reply.answer)? {
        v1::decide_reply::Answer::Grant(grant) => Ok(DecideAnswer::Grant(Grant {
            effect: name("grant.effect", &grant.effect, EffectId::new)?,
            fence: present("grant.fence", Fence::new(grant.fence))?,
            generation: grant.generation,
            approval: some_name("grant.approval", &grant.approval, GateId::new)?,
        })),
        v1::decide_reply::Answer::Replay(replay) => Ok(DecideAnswer::Replay(Replay {
            effect: name("replay.effect", &replay.effect, EffectId::new)?,
            fence: present("replay.fence", Fence::new(replay.fence))?,
            span: name("replay.span", &replay.span, SpanId::new)?,
            answer: present("replay.answer", replay.answer)?.try_into()?,
        })),
        v1::decide_reply::Answer::Refusal(refusal) => refusal.try_into().map(DecideAnswer::Refuse),
        v1::decide_reply::Answer::PolicyStale(stale) => {
            Ok(DecideAnswer::PolicyStale(PolicyDigest::from_bytes(bytes32("policy_stale.digest", &stale.digest)?)))
        }
    }
}

impl From<&DecideAnswer> for v1::DecideReply {
    fn from(answer: &DecideAnswer) -> Self {
        let answer = match answer {
            DecideAnswer::Grant(grant) => v1::decide_reply::Answer::Grant(grant.into()),
            DecideAnswer::Replay(replay) => v1::decide_reply::Answer::Replay(replay.into()),
            DecideAnswer::Refuse(refuse) => v1::decide_reply::Answer::Refusal(refuse.into()),
            DecideAnswer::PolicyStale(digest) => {
                v1::decide_reply::Answer::PolicyStale(v1::PolicyStale { digest: digest.as_bytes().to_vec() })
            }
        };
        Self { answer: Some(answer) }
    }
}

impl From<&Grant> for v1::Grant {
    fn from(grant: &Grant) -> Self {
        Self {
            effect: grant.effect.to_string(),
            fence: grant.fence.get(),
            generation: grant.generation,
            approval: grant.approval.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl From<&Replay> for v1::Replay {
    fn from(replay: &Replay) -> Self {
        Self {
            effect: replay.effect.to_string(),
            fence: replay.fence.get(),
            span: replay.span.to_string(),
            answer: Some((&replay.answer).into()),
        }
    }
}

impl From<&Refuse> for v1::Refusal {
    fn from(refuse: &Refuse) -> Self {
        Self {
            code: refuse.code.as_str().to_owned(),
            detail: refuse.detail.clone(),
            gate: refuse.gate.as_ref().map(ToString::to_string).unwrap_or_default(),
            upstream_status: refuse.upstream_status.map(u32::from).unwrap_or_default(),
            dedupe_of: refuse.dedupe_of.as_ref().map(ToString::to_string).unwrap_or_default(),
            retry_after_ms: refuse.retry_after.map(Millis::get).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Refusal> for Refuse {
    type Error = Invalid;

    fn try_from(refusal: v1::Refusal) -> Result<Self, Invalid> {
        let code =
            Code::parse(&refusal.code).ok_or_else(|| Invalid::new("refusal.code", format!("{:?} is no known code", refusal.code)))?;
        Ok(Self {
            code,
            detail: refusal.detail,
            gate: some_name("refusal.gate", &refusal.gate, GateId::new)?,
            upstream_status: status("refusal.upstream_status", refusal.upstream_status)?,
            dedupe_of: some_name("refusal.dedupe_of", &refusal.dedupe_of, SpanId::new)?,
            retry_after: Some(refusal.retry_after_ms).filter(|ms| *ms > 0).map(Millis::new),
        })
    }
}

/// An HTTP status where zero means "none".
pub(crate) fn status(field: &'static str, status: u32) -> Result<Option<u16>, Invalid> {
    match u16::try_from(status) {
        Ok(0) => Ok(None),
        Ok(status) if (100..=999).contains(&status) => Ok(Some(status)),
        Ok(_) | Err(_) => Err(Invalid::new(field, "is an HTTP status, 100 to 999")),
    }
}

impl From<&StoredAnswer> for v1::Answer {
    fn from(answer: &StoredAnswer) -> Self {
        Self {
            status: answer.status.into(),
            headers: answer.headers.iter().map(header).collect(),
            trailers: answer.trailers.iter().map(header).collect(),
            digest: answer.digest.as_bytes().to_vec(),
            len: answer.len,
            stored: answer.stored,
        }
    }
}

fn header((name, value): &(String, String)) -> v1::Header {
    v1::Header { name: name.clone(), value: value.clone().into_bytes() }
}

impl TryFrom<v1::Answer> for StoredAnswer {
    type Error = Invalid;

    fn try_from(answer: v1::Answer) -> Result<Self, Invalid> {
        let pairs = |field, headers: Vec<v1::Header>| -> Result<Vec<_>, Invalid> {
            let pair = |header: v1::Header| {
                let value = String::from_utf8(header.value).map_err(|_| Invalid::new(field, format!("{} is not UTF-8", header.name)))?;
                Ok((header.name, value))
            };
            headers.into_iter().map(pair).collect()
        };
        Ok(Self {
            status: present("answer.status", status("answer.status", answer.status)?)?,
            headers: pairs("answer.headers", answer.headers)?,
            trailers: pairs("answer.trailers", answer.trailers)?,
            digest: BodyDigest::from_bytes(bytes32("answer.digest", &answer.digest)?),
            len: answer.len,
            stored: answer.stored,
        })
    }
}
