//! `kybernis-capture`: an init container that tells the kernel to redirect, and ends. Root in name, with one capability.

use serde_json::{Value, json};

use super::{PROGRAM, Plan, no_api_token};
use crate::names::CAPTURE_CONTAINER;
use crate::ports;

pub(super) fn container(plan: &Plan<'_>) -> Value {
    let settings = plan.config.settings();
    let mut args = vec![
        "capture".to_owned(),
        format!("--proxy-uid={}", plan.config.uid()),
        format!("--redirect-port={}", ports::REDIRECT),
        format!("--dns-port={}", ports::DNS),
    ];
    args.extend(plan.skip_ports.map(|skipped| format!("--skip-outbound-ports={skipped}")));
    json!({
        "name": CAPTURE_CONTAINER,
        "image": settings.images.capture,
        "imagePullPolicy": settings.images.pull_policy,
        "command": [PROGRAM],
        "args": args,
        "resources": plan.resources.render(),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            // A pod may say that nobody is root.
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [no_api_token()],
    })
}
