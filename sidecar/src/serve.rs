//! The sidecar as a process: spool, authority, bundle, listeners and the stack, started in that order and drained in the
//! reverse.

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;

use crate::control;

/// What a sidecar needs to start.
#[derive(Debug)]
pub struct Settings {
    /// The forward proxy's port: absolute-form requests and CONNECT.
    pub proxy: Vec<TcpListener>,
    /// Where redirected connections arrive.
    pub redirect: Vec<TcpListener>,
    /// Where redirected questions about names arrive.
    pub dns_udp: Vec<UdpSocket>,
    /// The same over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// Probes and metrics.
    pub admin: Option<TcpListener>,
    /// A folder of the sidecar's own (0700): the authority's key and the spool.
    pub data: PathBuf,
    /// A folder that the agent reads: [`Sidecar::BUNDLE_FILE`] is put there before the sidecar is ready.
    pub bundle: PathBuf,
    /// PEM files of roots that vouch for far sides beside the public ones.
    pub roots: Vec<PathBuf>,
    /// The ledger.
    pub control: control::Settings,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {}

impl Sidecar {
    /// PEM of every root that the agent's clients should trust: public, configured, and the sidecar's own.
    pub const BUNDLE_FILE: &'static str = "ca-bundle.pem";

    /// Opens everything and begins to serve; the ledger need not be there yet.
    ///
    /// # Errors
    /// When a file or a listener cannot be used.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Waits until the bundle lies there and the first PolicySet is in force.
    pub async fn ready(&self) {}

    /// Stops accepting, finishes the exchanges under way, and delivers what the spool can.
    pub async fn stop(self) {}
}
