//! The control plane: the journal, the engine that drives the rules over it, and the calls of sidecars and people.

pub mod auth;
pub mod engine;
mod files;
mod fleet;
// The fuzz targets reach the parsers that have no public name through here; nobody else does.
#[doc(hidden)]
pub mod fuzz;
mod grpc;
mod http;
pub mod journal;
pub mod policy;
mod serve;
mod tenants;
mod tls;
pub mod vault;
pub mod views;

pub use serve::{Callers, Ledger, Settings, StartError};
