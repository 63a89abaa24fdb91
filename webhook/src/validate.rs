//! The validating webhook: after every mutating one has had its turn, is all that Kybernis injects still there?

use serde_json::Value;

use crate::config::Config;
use crate::consent::{Namespace, Why};
use crate::names::{INJECT, STATUS};
use crate::pass::{Passage, Turn, pass};
use crate::path::FieldPath;
use crate::refusal::Refusal;
use crate::rules;

/// Checks a pod as it is about to be stored; gives what whoever made it should know.
///
/// # Errors
/// All that injection would still add or refuse, and, where connections are redirected, all that would run before that.
pub fn validate(pod: &Value, namespace: &Namespace, config: &Config) -> Result<Vec<String>, Refusal> {
    let passed = pass(pod, namespace, config, Turn::Validating)?;
    let mut findings = passed.findings;
    match passed.outcome {
        Passage::Untouched { why, carries_ours } => {
            // A webhook may have taken the annotation away. Elsewhere nobody waits for us.
            let is_opted_out = matches!(why, Why::NotAsked | Why::OptedOut | Why::HostNetwork);
            if carries_ours && is_opted_out {
                let rule = format!("the pod carries a sidecar of Kybernis, and {why}");
                // Under its node's network it would not be injected whatever it asks for.
                let (path, advice) = if why == Why::HostNetwork {
                    (FieldPath::top("spec").member("hostNetwork"), "Remove it")
                } else {
                    (FieldPath::annotation(INJECT), "Set it to \"true\"")
                };
                findings.fault(path, rule, format!("{advice}, or remove from the pod what Kybernis added"));
            }
        }
        Passage::Injected { is_again: false, .. } => {
            let rule = "the pod is opted in, and Kybernis has not injected it";
            let advice = "Let Kybernis' mutating webhook see the pod, and no other take away what it adds";
            findings.fault(FieldPath::annotation(STATUS), rule, advice);
        }
        Passage::Injected { pod, capture, is_again: true } => {
            for addition in std::mem::take(&mut findings.additions) {
                let advice = "Let no webhook that runs after Kybernis' take it away, or add containers";
                findings.fault(addition.path, format!("lacks {}, which Kybernis injects", addition.what), advice);
            }
            rules::check_order(&pod, capture, &mut findings);
        }
    }
    Ok(findings.settle()?.warnings)
}
