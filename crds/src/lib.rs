//! The kinds that people write, as CustomResourceDefinitions, and the way from a folder of manifests to core's `PolicySet`.
//!
//! [`load`] reads a folder strictly and tells every error with file, line, field, rule and what to do; [`load_objects`] holds objects
//! from an API server to the same rules; [`lower`] gives one
//! agent's [`kybernis_core::policy::PolicySet`]; [`check`] reports; [`crds`] generates the CRDs. Nothing here talks to a cluster.

mod check;
mod decode;
mod error;
mod folder;
pub mod kinds;
mod later;
mod load;
mod loader;
mod locate;
mod lowering;
mod path;
mod published;
mod secret;
pub mod values;
mod yaml;

pub use check::{Report, check};
pub use error::{Fault, ManifestError};
pub use folder::FILES_MAX;
pub use kinds::crds;
pub use load::{
    AgentScope, DEFAULT_NAMESPACE, Loaded, Object, SYSTEM_NAMESPACE, Source, load, load_objects, load_sources, lower, lower_namespace,
};
pub use secret::SecretValue;
pub use yaml::{DEPTH_MAX, DOCUMENTS_MAX, FILE_BYTES_MAX, NODES_MAX, Position};
