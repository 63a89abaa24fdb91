//! Every parser of bytes from outside, as plain functions over bytes that check what must hold of its result.
//!
//! `cargo xtask fuzz` feeds them from libFuzzer (`fuzz_targets/`); an ordinary `cargo test` replays `corpus/`. A function
//! panics where a rule is broken and returns otherwise. The first byte of an input mostly chooses among related parsers,
//! and 0xff parts its fields, so that seeds stay readable.

pub mod api;
pub mod cel;
pub mod destination;
pub mod dns;
pub mod events;
pub mod head;
pub mod headers;
mod input;
pub mod json;
pub mod manifests;
pub mod messages;
pub mod policy;
pub mod spool;
pub mod wire;

/// A target's name, and its check.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("api", api::check),
    ("cel", cel::check),
    ("destination", destination::check),
    ("dns", dns::check),
    ("events", events::check),
    ("head", head::check),
    ("headers", headers::check),
    ("json", json::check),
    ("manifests", manifests::check),
    ("messages", messages::check),
    ("policy", policy::check),
    ("spool", spool::check),
    ("wire", wire::check),
];
