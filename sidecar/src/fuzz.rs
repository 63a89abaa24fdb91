//! The parsers of outside bytes that have no public name, for the targets in `fuzz/` and for nobody else.

use std::io;
use std::path::Path;

use bytes::BytesMut;
use http::{HeaderMap, Uri};
use kybernis_core::ids::{BootId, RunId};
use kybernis_core::json::Json;
use kybernis_core::key::IdempotencyKey;
use kybernis_core::reason::Refusal;
use kybernis_core::time::Millis;
use kybernis_proto::v1;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::dns::answer::{Transport, answer};
use crate::head_check::HeadCheck;
use crate::listen::{Place, sniff};
use crate::resolve::Resolve;
use crate::spool::spans;
use crate::stack::{attempt, controls, heard, intake};
use crate::target::{Authority, Scheme, Target};
use crate::upstream::tap::{FrameScan, Seen};

/// How many first bytes the verdict on a connection's protocol may need.
pub const LOOK_AHEAD: usize = sniff::LOOK_AHEAD;

/// The agent's HTTP/1 bytes as hyper gets to see them.
pub fn head_check<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> impl AsyncRead + AsyncWrite + Unpin {
    HeadCheck::new(stream, BytesMut::new())
}

/// What a connection speaks by its first bytes, by name; `inside` a CONNECT or redirected, else on the proxy's port.
pub fn speech(bytes: &[u8], inside: bool) -> Option<String> {
    let place = if inside { Place::Redirect(([10, 0, 0, 1], 443).into()) } else { Place::Proxy };
    sniff::judge(bytes, &place).map(|speech| format!("{speech:?}"))
}

/// What an HTTP/2 connection's bytes say of its streams, in order: `h` a head, `e` an end, `g` a GOAWAY.
pub fn frames<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Vec<(char, u32)> {
    let (mut scan, mut seen) = (FrameScan::default(), Vec::new());
    for piece in pieces {
        scan.feed(piece, |one| {
            seen.push(match one {
                Seen::HeadStarted(stream) => ('h', stream),
                Seen::StreamEnded(stream) => ('e', stream),
                Seen::Goaway(last) => ('g', last),
            });
        });
    }
    seen
}

/// The DNS responder's answer.
pub async fn dns_answer(query: &[u8], resolver: &dyn Resolve, tcp: bool) -> Option<Vec<u8>> {
    answer(query, resolver, if tcp { Transport::Tcp } else { Transport::Udp }).await
}

/// Takes the control headers off; what they name.
///
/// # Errors
/// The refusal that the caller gets.
pub fn controls(headers: &mut HeaderMap) -> Result<(Option<RunId>, Option<IdempotencyKey>), Refusal> {
    controls::take(headers).map(|taken| (taken.run, taken.key))
}

/// A request's body as policy sees it.
///
/// # Errors
/// The refusal of a body that can be read in two ways.
pub fn json_body(headers: &HeaderMap, bytes: &[u8]) -> Result<Option<Json>, Refusal> {
    intake::parse(headers, bytes)
}

/// Whether a whole gRPC message has come.
pub fn has_message(bytes: &[u8]) -> bool {
    intake::has_message(bytes)
}

/// The word of a `grpc-status`, by name.
pub fn grpc_word(headers: &HeaderMap) -> Option<String> {
    heard::grpc_word(headers).map(|word| format!("{word:?}"))
}

/// `Retry-After`.
pub fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    attempt::retry_after(headers)
}

/// Removes what belongs to one hop.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    crate::upstream::strip_hop_by_hop(headers);
}

/// Where a `Location` leads.
pub fn location(route: &Target, uri: &Uri, location: &str) -> Option<(Scheme, Authority, Uri)> {
    attempt::destination(route, uri, location)
}

/// The spans of an earlier life, numbered.
///
/// # Errors
/// When the file cannot be read.
pub fn span_log(path: &Path) -> io::Result<Vec<(u64, bytes::Bytes)>> {
    spans::read_log(path)
}

/// The same in batches for the ledger.
pub fn span_batches(boot: &BootId, spans: &[(u64, bytes::Bytes)]) -> Vec<v1::SpanBatch> {
    spans::batches(boot, spans)
}
