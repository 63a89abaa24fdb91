//! The fault matrix: every fault of the far side × real clients, unchanged × what the manifests say × how the client was
//! captured. What each cell must come to is declared before it runs, by one function of exactly these ([`declared`]); the far
//! side's own books and the ledger's are then held against it.
//!
//! A new fault is a line of [`case::CASES`]; a new client is a line of [`client::Client`] and its program under `clients/`.

pub mod case;
pub mod client;
pub mod declared;
pub mod kit;
pub mod manifests;
pub mod matrix;
mod process;
pub mod run;
pub mod table;
