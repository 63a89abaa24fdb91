//! What the annotation `kybernis.io/status` tells about an injected pod, and tells us when we see the pod again.

use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::config::Config;
use crate::names::{INJECTED, STATUS};
use crate::path::FieldPath;
use crate::pod::Pod;
use crate::refusal::{Fault, Findings};
use crate::resources::Grown;

/// The annotation's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) containers: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) capture: Capture,
    /// By how much the pod's own `resources` have grown.
    #[serde(default, skip_serializing_if = "Grown::is_empty")]
    pub(crate) grown: Grown,
}

impl Status {
    /// The status that a pod carries, which must then be of this version and mode.
    pub(crate) fn read(pod: &Pod, config: &Config, capture: Capture) -> Result<Option<Self>, Fault> {
        let Some(text) = pod.annotations.get(STATUS) else { return Ok(None) };
        let fault = |rule: String, advice: &str| Fault { path: FieldPath::annotation(STATUS), rule, advice: advice.to_owned() };
        let again = "Make the pod anew from its template; where the template itself has been injected, remove from it what Kybernis added";
        let status: Self = serde_json::from_str(text)
            .map_err(|_| fault("only Kybernis writes this annotation, and this is none of its own".to_owned(), "Remove the annotation"))?;
        if status.version != config.version() {
            let rule = format!("the pod has been injected by Kybernis {:?}, and this is {:?}", status.version, config.version());
            return Err(fault(rule, again));
        }
        if status.capture != capture {
            let rule = format!("the pod has been injected for {}, and now asks for {capture}", status.capture);
            return Err(fault(rule, again));
        }
        Ok(Some(status))
    }

    /// Marks a pod as injected.
    pub(crate) fn write(&self, pod: &mut Pod, before: Option<&Self>, findings: &mut Findings) {
        match pod.labels.get(INJECTED) {
            Some("true") => {}
            Some(_) => findings.fault(FieldPath::label(INJECTED), "only Kybernis writes this label", "Remove the label"),
            None => {
                findings.added(FieldPath::top("metadata").member("labels"), INJECTED);
                pod.labels.set(INJECTED, "true".to_owned());
            }
        }
        if before == Some(self) {
            return;
        }
        match serde_json::to_string(self) {
            Ok(text) => {
                findings.added(FieldPath::top("metadata").member("annotations"), STATUS);
                pod.annotations.set(STATUS, text);
            }
            Err(error) => findings.fault(FieldPath::annotation(STATUS), format!("cannot be written: {error}"), "Report this"),
        }
    }
}
