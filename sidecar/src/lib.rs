//! The egress proxy: how an agent's bytes come in, how permitted bytes go out, and the decision stack between the two.

mod admin;
mod api;
mod api_server;
pub mod arrival;
pub mod body;
pub mod boot_clock;
pub mod control;
pub mod delivery;
pub mod dns;
// The fuzz targets reach the parsers that have no public name through here; nobody else does.
#[doc(hidden)]
pub mod fuzz;
mod head_check;
pub mod listen;
pub mod permit;
pub mod resolve;
pub mod serve;
pub mod server;
pub mod session;
pub mod spool;
pub mod stack;
pub mod target;
mod tcp_info;
pub mod tls;
pub mod upstream;

#[cfg(test)]
mod edge_tests;
