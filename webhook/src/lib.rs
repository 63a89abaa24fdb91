//! Injection as a pure function: raw pod JSON, its namespace and the chart's configuration in; a pod with its sidecar, a reason
//! to leave it alone, or a refusal out. That part knows no cluster; [`server`] stands around it, answers the API server's reviews and keeps the certificate that
//! API servers check.
//!
//! [`inject`] is the mutating webhook's, [`patch`] makes its answer, [`validate`] is the validating webhook's; the first and the
//! last are one pass over the pod. A pass never weakens what was asked for: what cannot be had is refused, with its place, the
//! rule and what to do.

mod annotations;
mod capture;
mod config;
mod consent;
mod environment;
mod handover;
mod identity;
mod inject;
mod json;
pub mod names;
mod parts;
mod pass;
mod patch;
mod path;
mod pod;
pub mod ports;
mod presence;
mod quantity;
mod refusal;
mod resources;
mod rules;
pub mod server;
mod settings;
mod status;
mod validate;
pub mod variables;

pub use capture::Capture;
pub use config::{Config, ConfigError};
pub use consent::{Namespace, Why};
pub use inject::{Outcome, inject};
pub use patch::patch;
pub use path::FieldPath;
pub use refusal::{Fault, Refusal};
pub use settings::{Amounts, Images, LedgerSettings, PullPolicy, ResourceSettings, Settings, TokenSettings};
pub use validate::validate;
