//! The responder for names: what it answers is DNS, belongs to its question, and fits its transport.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures::future::{BoxFuture, FutureExt as _};
use hickory_proto::op::{Message, MessageType};
use hickory_proto::serialize::binary::BinDecodable as _;
use kybernis_sidecar::fuzz::dns_answer;
use kybernis_sidecar::resolve::{Resolve, ResolveError, Resolved};
use kybernis_sidecar::target::Host;

use crate::input::{choice, runtime};

/// The longest answer over UDP.
const UDP_BYTES: usize = 1232;
/// QR of RFC 1035, 4.1.1: a response.
const RESPONSE: u8 = 0x80;

/// `u` a query over UDP, `t` over TCP.
pub fn check(data: &[u8]) {
    let (kind, query) = choice(data);
    let tcp = match kind {
        b'u' => false,
        b't' => true,
        _ => return,
    };
    let Some(reply) = runtime().block_on(dns_answer(query, &Names, tcp)) else {
        assert!(query.len() < 12 || query[2] & RESPONSE != 0, "a query is left without an answer");
        return;
    };
    assert!(reply.len() <= if tcp { usize::from(u16::MAX) } else { UDP_BYTES }, "{} bytes", reply.len());
    let message = Message::from_bytes(&reply).expect("an answer is DNS");
    assert_eq!(reply[..2], query[..2], "an answer to another question");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    if let (Ok(question), false) = (Message::from_bytes(query), message.queries.is_empty()) {
        assert_eq!(message.queries, question.queries);
    }
    assert_eq!(runtime().block_on(dns_answer(&reply, &Names, tcp)), None, "an answer is answered");
}

/// Names that exist by their first letter.
struct Names;

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        assert_eq!(Host::parse(name).map(|host| host.to_string()).as_deref(), Ok(name), "a name that is not canonical is looked up");
        let count = match name.as_bytes().first() {
            Some(b'n') => 0,
            Some(b'm') => 200,
            _ => 1,
        };
        let found = (0..count).flat_map(|_| [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect::<Vec<_>>();
        let answer = match found.is_empty() {
            true => Err(ResolveError::NotFound { name: name.to_owned() }),
            false => Ok(Resolved { canonical: name.into(), addresses: found }),
        };
        std::future::ready(answer).boxed()
    }
}
