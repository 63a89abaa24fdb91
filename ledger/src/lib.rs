//! The control plane: the journal, the engine that drives the rules over it, and the calls of sidecars and people.

mod admin;
mod aggregated;
pub mod auth;
mod board;
pub mod engine;
mod files;
#[cfg(test)]
mod fixtures;
mod fleet;
// The fuzz targets reach the parsers that have no public name through here; nobody else does.
#[doc(hidden)]
pub mod fuzz;
mod gates;
mod grpc;
mod http;
pub mod journal;
mod metrics;
pub mod policy;
mod serve;
mod tenants;
mod tls;
pub mod vault;
pub mod views;

pub use serve::{Callers, Cluster, Ledger, Settings, StartError};
