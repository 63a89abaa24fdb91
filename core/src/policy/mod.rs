//! Policy: what endpoints mean, what may go, how often it is tried. Free of Kubernetes and of YAML.
//!
//! The way of a question: a [`PolicySet`] (the lowered manifests, named by its digest) is compiled once into a
//! [`CompiledSet`]; [`CompiledSet::for_agent`] picks what selects one agent; then each call is read into a [`CallHead`],
//! [`CompiledSet::resolve`]d to the [`EffectiveTool`] that it means, and [`AgentPolicy::judge`]d.
//!
//! Two levels speak: the release's namespace for the whole cluster, and the agent's own, which can only tighten.

mod call;
mod compile;
mod digest;
mod error;
mod host;
mod implicit;
mod judge;
mod later;
mod llm;
mod model;
mod path;
mod probe;
mod reach;
mod retry;
mod route;
mod schema;
mod selector;
mod settings;
#[cfg(test)]
mod tests;
mod tool;

pub use call::{CallHead, METHOD_OVERRIDE_HEADERS};
pub use compile::CompiledSet;
pub use error::{Kind, PolicyError, ToolError};
pub use host::{HOST_MAX, Host, HostError, HostPattern};
pub use judge::{AgentPolicy, AuditNote, Denial, Judgement, Verdict, Wants};
pub use llm::is_llm_host;
pub use model::*;
pub(crate) use path::decode_unreserved;
pub use path::{CanonicalPath, PATH_PATTERN_MAX, PathError, PathKind, PathPattern};
pub use probe::{CompiledProbe, PROBE_URL_MAX, ProbeWord, RenderedProbe};
pub use schema::{SCHEMA_BYTES_MAX, SchemaMismatch};
pub use selector::{Labels, Operator, Requirement, Selector};
pub use settings::{DEFAULT_BODY_BYTES, DEFAULT_DERIVED_WINDOW, Settings, undelegated};
pub use tool::{DEFAULT_RETENTION, EffectiveTool, OutcomeWord, PrincipalWord};
