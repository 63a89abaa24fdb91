//! The mutating webhook: a pod in, a pod with its sidecar out, or the reason why not.

use serde_json::Value;

use crate::config::Config;
use crate::consent::{Namespace, Why};
use crate::pass::{Passage, Turn, pass};
use crate::refusal::Refusal;

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is left as it is.
    Untouched {
        /// Why.
        why: Why,
        /// What whoever made it should know.
        warnings: Vec<String>,
    },
    /// It has its sidecar, now or from before.
    Injected {
        /// The whole of it.
        pod: Value,
        /// What whoever made it should know.
        warnings: Vec<String>,
    },
}

/// Injects a pod that is opted in. What comes out goes in again unchanged, after the API server has filled in its defaults too.
///
/// # Errors
/// Everything that is wrong with it, each with its place, the rule and what to do.
pub fn inject(pod: &Value, namespace: &Namespace, config: &Config) -> Result<Outcome, Refusal> {
    let passed = pass(pod, namespace, config, Turn::Mutating)?;
    let warnings = passed.findings.settle()?.warnings;
    Ok(match passed.outcome {
        Passage::Untouched { why, .. } => Outcome::Untouched { why, warnings },
        Passage::Injected { pod, .. } => Outcome::Injected { pod: pod.put(), warnings },
    })
}
