//! One message of a client to its answer.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable as _;

use crate::resolve::{Resolve, ResolveError};
use crate::target::Host;

/// Addresses are looked up afresh for each connection; clients should not hold on to theirs for longer than that matters.
const TTL_SECONDS: u32 = 5;
/// What fits an Ethernet frame over IPv6, as resolvers have agreed on (DNS flag day 2020).
const UDP_BYTES: u16 = 1232;
/// Stub resolvers give up on one server after 5 s; by then an answer must have come.
const LOOKUP_WITHIN: Duration = Duration::from_millis(4500);
/// Fixed by RFC 1035, 4.1.1.
const HEADER_BYTES: usize = 12;
/// More addresses than any client tries; bounds the answer.
const ADDRESSES: usize = 64;

/// How the question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Answers that do not fit are cut, and the client asks over TCP.
    Udp,
    /// 64 KiB fit.
    Tcp,
}

/// The answer to `query`; none to what is no query, so that two responders never keep answering each other.
pub(crate) async fn answer(query: &[u8], resolver: &dyn Resolve, transport: Transport) -> Option<Vec<u8>> {
    let header = query.first_chunk::<HEADER_BYTES>()?;
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = OpCode::from_u8((header[2] >> 3) & 0x0f);
    if op_code != OpCode::Query {
        return Message::error_msg(id, op_code, ResponseCode::NotImp).to_vec().ok();
    }
    // Counted before it is parsed: nobody asks two questions at once, and 65,535 of them would cost memory.
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let parsed = (questions == 1).then(|| Message::from_bytes(query).ok()).flatten();
    let Some((message, question)) = parsed.and_then(|message| message.queries.first().cloned().map(|question| (message, question))) else {
        return Message::error_msg(id, op_code, ResponseCode::FormErr).to_vec().ok();
    };
    let mut reply = respond(&message, question, resolver).await;
    if let Some(theirs) = &message.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES).set_version(0);
        if theirs.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            reply.answers.clear();
        }
        reply.set_edns(edns);
    }
    let bytes = reply.to_vec().ok()?;
    let fits = match transport {
        Transport::Tcp => bytes.len() <= usize::from(u16::MAX),
        Transport::Udp => bytes.len() <= usize::from(message.max_payload().min(UDP_BYTES)),
    };
    if fits { Some(bytes) } else { reply.truncate().to_vec().ok() }
}

async fn respond(message: &Message, question: Query, resolver: &dyn Resolve) -> Message {
    let mut reply = Message::new(message.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&message.metadata);
    reply.metadata.recursion_available = true;
    match records(&question, resolver).await {
        Ok(records) => reply.insert_answers(records),
        Err(code) => reply.metadata.response_code = code,
    }
    reply.add_query(question);
    reply
}

async fn records(question: &Query, resolver: &dyn Resolve) -> Result<Vec<Record>, ResponseCode> {
    if question.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    let wanted = question.query_type();
    if !matches!(wanted, RecordType::A | RecordType::AAAA) {
        // The name may well have such records; what clients do without them is to ask for addresses.
        return Ok(Vec::new());
    }
    let Ok(Host::Name(name)) = Host::parse(&question.name().to_ascii()) else {
        return Err(ResponseCode::NXDomain);
    };
    let found = match tokio::time::timeout(LOOKUP_WITHIN, resolver.resolve(&name)).await {
        Ok(Ok(found)) => found,
        // No such name, rather than a refusal: a client goes on to its next search domain.
        Ok(Err(ResolveError::NotFound { .. } | ResolveError::OutOfReach { .. })) => return Err(ResponseCode::NXDomain),
        Ok(Err(error @ ResolveError::Failed { .. })) => {
            tracing::warn!(%error, "a name could not be looked up");
            return Err(ResponseCode::ServFail);
        }
        Err(_) => {
            tracing::warn!(name = &*name, "looking a name up took too long");
            return Err(ResponseCode::ServFail);
        }
    };
    let record = |ip: &IpAddr| {
        let data = match ip {
            IpAddr::V4(ip) if wanted == RecordType::A => RData::A(A(*ip)),
            IpAddr::V6(ip) if wanted == RecordType::AAAA => RData::AAAA(AAAA(*ip)),
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Record::from_rdata(question.name().clone(), TTL_SECONDS, data))
    };
    Ok(found.addresses.iter().filter_map(record).take(ADDRESSES).collect())
}
