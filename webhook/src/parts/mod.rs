//! What Kybernis puts into a pod: two containers and their volumes, with every field that the API server would fill in, so
//! that a pod that comes round again is found as it was left.

mod capture;
mod proxy;
pub(crate) mod volumes;

use serde_json::{Value, json};

use crate::annotations::{Asked, SkipPorts};
use crate::capture::Capture;
use crate::config::Config;
use crate::json::Object;
use crate::names::{CAPTURE_CONTAINER, NO_TOKEN_VOLUME, PROXY_CONTAINER};
use crate::refusal::Findings;
use crate::resources::Resources;

/// Where the API server would mount its token, unless something is mounted there already.
const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The program in both images; named, so that an image's entry point has no say.
const PROGRAM: &str = "kybernis";

/// What is put into one pod.
#[derive(Debug)]
pub(crate) struct Plan<'p> {
    pub(crate) config: &'p Config,
    pub(crate) capture: Capture,
    pub(crate) resources: Resources,
    pub(crate) log: &'p str,
    pub(crate) skip_ports: Option<&'p SkipPorts>,
}

impl<'p> Plan<'p> {
    pub(crate) fn new(config: &'p Config, asked: &'p Asked, capture: Capture, findings: &mut Findings) -> Self {
        Self {
            config,
            capture,
            resources: asked.resources(config.resources(), findings),
            log: asked.log.as_ref().unwrap_or(config.log()).as_str(),
            skip_ports: asked.skip_ports.as_ref(),
        }
    }

    /// Our containers, in the order in which they start.
    pub(crate) fn containers(&self) -> Vec<(&'static str, Object)> {
        let proxy = (PROXY_CONTAINER, fields(proxy::container(self)));
        if self.capture.redirects() { vec![(CAPTURE_CONTAINER, fields(capture::container(self))), proxy] } else { vec![proxy] }
    }
}

/// What of a configuration shows in pods, in short: replicas that agree in it and in their version inject the same.
pub(crate) fn digest(config: &Config) -> String {
    let plan = Plan { config, capture: Capture::Strict, resources: config.resources(), log: config.log().as_str(), skip_ports: None };
    let all = json!([plan.containers(), volumes::volumes(&plan), config.settings().default_capture]).to_string();
    ring::digest::digest(&ring::digest::SHA256, all.as_bytes()).as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The object that a literal is.
fn fields(value: Value) -> Object {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Object::new(),
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> Value {
    // The API server leaves `readOnly` out where it is false.
    if read_only { json!({"name": volume, "mountPath": path, "readOnly": true}) } else { json!({"name": volume, "mountPath": path}) }
}

fn no_api_token() -> Value {
    mount(NO_TOKEN_VOLUME, API_TOKEN_FOLDER, true)
}
