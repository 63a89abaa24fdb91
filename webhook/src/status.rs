//! What the annotation `kybernis.io/status` tells about an injected pod, and tells us when we see the pod again.

use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::config::Config;
use crate::names::{INJECTED, STATUS};
use crate::path::FieldPath;
use crate::pod::Pod;
use crate::refusal::{Fault, Findings};
use crate::resources::Grown;

const ANEW: &str = "Make the pod anew from its template; where the template itself has been injected, remove from it what Kybernis added";
/// The same where another release has injected: while replicas change over, one request can meet two of them, and nothing tells whether a
/// mutating webhook is asked again for the same request or for somebody's manifest.
pub(crate) const OF_ANOTHER: &str = "While Kybernis is being upgraded, try again; otherwise make the pod anew from its template, and \
                                     where the template itself has been injected, remove from it what Kybernis added";

/// The annotation's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) version: String,
    /// Which values of the chart show in what is injected, as a digest.
    #[serde(default)]
    pub(crate) settings: String,
    pub(crate) containers: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) capture: Capture,
    /// By how much the pod's own `resources` have grown.
    #[serde(default, skip_serializing_if = "Grown::is_empty")]
    pub(crate) grown: Grown,
}

/// Who has injected a pod.
#[derive(Debug)]
pub(crate) enum Before {
    Nobody,
    /// This release, with these settings.
    Ours(Status),
    /// Another, or this with others.
    Others(Status),
}

impl Before {
    pub(crate) const fn status(&self) -> Option<&Status> {
        match self {
            Self::Nobody => None,
            Self::Ours(status) | Self::Others(status) => Some(status),
        }
    }

    /// What the mutating webhook goes over again must be of its version.
    pub(crate) fn check_version(&self, config: &Config) -> Result<(), Fault> {
        let Some(status) = self.status().filter(|status| status.version != config.version()) else { return Ok(()) };
        let rule = format!("the pod has been injected by Kybernis {:?}, and this is {:?}", status.version, config.version());
        Err(fault(rule, OF_ANOTHER))
    }

    pub(crate) fn check_capture(&self, capture: Capture) -> Result<(), Fault> {
        let Some(status) = self.status().filter(|status| status.capture != capture) else { return Ok(()) };
        let rule = format!("the pod has been injected for {}, and now asks for {capture}", status.capture);
        Err(fault(rule, if matches!(self, Self::Ours(_)) { ANEW } else { OF_ANOTHER }))
    }

    /// What to do where something that was injected is not as we would inject it.
    pub(crate) fn advice(&self, name: &str) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Ours(_) => Some(format!("Let whatever changes it leave {name} alone")),
            Self::Others(_) => Some(OF_ANOTHER.to_owned()),
        }
    }
}

impl Status {
    /// What a pod says of itself.
    pub(crate) fn read(pod: &Pod, config: &Config) -> Result<Before, Fault> {
        let Some(text) = pod.annotations.get(STATUS) else { return Ok(Before::Nobody) };
        let rule = "only Kybernis writes this annotation, and this is none of its own";
        let status: Self = serde_json::from_str(text).map_err(|_| fault(rule, "Remove the annotation"))?;
        let is_ours = status.version == config.version() && status.settings == config.digest();
        Ok(if is_ours { Before::Ours(status) } else { Before::Others(status) })
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

fn fault(rule: impl Into<String>, advice: &str) -> Fault {
    Fault { path: FieldPath::annotation(STATUS), rule: rule.into(), advice: advice.to_owned() }
}
