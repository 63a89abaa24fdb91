//! The gRPC services of the ledger: of sidecars, and of the operator; and the conversions between its messages and `core`'s types.
//!
//! Messages are parsed once, here: what comes out are core's types, which cannot be wrong, or an [`Invalid`] that names the
//! field and the rule.

mod decide;
mod gate;
mod parse;
mod reply;
mod settle;

pub use decide::{DecideParts, NOTE_MAX, NOTE_NAME_MAX, NOTES_MAX, decide_request};
pub use gate::{SignedWord, gate_state};
pub use parse::Invalid;
pub use reply::{DecideAnswer, decide_answer};
pub use settle::settle_request;

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("kybernis.v1");
}

/// Largest message on this service: a Settle with 8 MiB of body and its answer's head.
pub const MESSAGE_MAX: usize = 9 * 1024 * 1024;

/// Largest message that brings a PolicySet: 1,000 objects of the size that people write, some times over.
pub const POLICY_SET_MAX: usize = 64 * 1024 * 1024;

/// Spans in one batch.
pub const SPANS_MAX: usize = 1024;
