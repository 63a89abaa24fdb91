//! The gRPC service's messages: decoded, read into the rules' types, and written again as they came.

use kybernis_core::ids::AgentId;
use kybernis_core::machine::{Abandon, Evidence, Renew, Settle, Spans};
use kybernis_proto::{NOTES_MAX, decide_answer, decide_request, settle_request, v1};
use prost::Message;

use crate::input::choice;

/// `d` DecideRequest, `r` DecideReply, `s` SettleRequest, `n` RenewRequest, `a` AbandonRequest, `p` ProbeReport, `b` SpanBatch.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    match kind {
        b'd' => decide(rest),
        b'r' => reply(rest),
        b's' => settle(rest),
        b'n' => renew(rest),
        b'a' => _ = v1::AbandonRequest::decode(rest).ok().and_then(|message| Abandon::try_from(message).ok()),
        b'p' => _ = v1::ProbeReport::decode(rest).ok().and_then(|message| Evidence::try_from(message).ok()),
        b'b' => spans(rest),
        _ => {}
    }
}

fn agent() -> AgentId {
    AgentId::new("trader").expect("it is a name")
}

fn decide(bytes: &[u8]) {
    let Ok(message) = v1::DecideRequest::decode(bytes) else { return };
    let Ok(parts) = decide_request(message.clone(), agent()) else { return };
    assert_eq!(parts.to_message(), message);
    assert!(parts.decide.notes.len() <= NOTES_MAX);
    assert_eq!(parts.decide.probe.is_some(), parts.probe_request.is_some());
}

fn reply(bytes: &[u8]) {
    let Ok(message) = v1::DecideReply::decode(bytes) else { return };
    let Ok(answer) = decide_answer(message) else { return };
    assert_eq!(decide_answer(v1::DecideReply::from(&answer)).ok(), Some(answer), "an answer is not read as it is written");
}

fn settle(bytes: &[u8]) {
    let Ok(message) = v1::SettleRequest::decode(bytes) else { return };
    let Ok((settle, body)) = <(Settle, Option<Vec<u8>>)>::try_from(message) else { return };
    let written = settle_request(&settle, body.clone().unwrap_or_default());
    let (again, kept) = <(Settle, Option<Vec<u8>>)>::try_from(written).expect("an outcome is read as it is written");
    assert_eq!((format!("{again:?}"), kept), (format!("{settle:?}"), body));
}

fn renew(bytes: &[u8]) {
    let Ok(message) = v1::RenewRequest::decode(bytes) else { return };
    let Ok(renew) = Renew::try_from(message.clone()) else { return };
    assert_eq!(v1::RenewRequest::from(&renew), message);
}

fn spans(bytes: &[u8]) {
    let Ok(message) = v1::SpanBatch::decode(bytes) else { return };
    let (count, first) = (message.spans.len(), message.first_seq);
    let Some(Spans { spans, first_seq, .. }) = kybernis_ledger::fuzz::spans(message, agent()) else { return };
    assert_eq!((spans.len(), first_seq), (count, first));
}
