//! The rules of Kybernis, pure: ids, canonical JSON and keys, policy evaluation, and the state machines of effect, gate,
//! retry and run. Time and entropy are arguments; nothing here reads a clock, a socket or a disk.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test that is wrong may say so"))]

pub mod cel;
pub mod ids;
pub mod json;
pub mod key;
pub mod ksp;
pub mod machine;
pub mod mutation;
pub mod policy;
pub mod reason;
pub mod text;
pub mod time;
pub mod word;
