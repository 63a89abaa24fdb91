//! `kybernis-proxy`: the sidecar. A native one, so that it is ready before any other container starts, and outlives them.

use serde_json::{Value, json};

use super::volumes::{TOKEN_FILE, TOKEN_FOLDER, TRUST_FOLDER};
use super::{PROGRAM, Plan, mount, no_api_token};
use crate::identity::Source;
use crate::json::Object;
use crate::names::{
    BUNDLE_FOLDER, BUNDLE_VOLUME, PROXY_CONTAINER, ROOTS_FILE, SPOOL_VOLUME, STATE_VOLUME, TOKEN_VOLUME, TRUST_FILE, TRUST_VOLUME,
};
use crate::ports;

/// The sidecar's own folder. Nothing lies in it but two mounts: the CA in memory, the spool on disk.
const DATA_FOLDER: &str = "/var/lib/kybernis";
/// In memory, for as long as the pod lives: the CA's key, and how names were looked up at first.
const STATE_FOLDER: &str = "/var/lib/kybernis/ca";
/// For so long the pod may wait for the ledger and the first PolicySet before the sidecar is started anew.
const STARTUP_SECONDS: u32 = 120;

pub(super) fn container(plan: &Plan<'_>) -> Value {
    let settings = plan.config.settings();
    json!({
        "name": PROXY_CONTAINER,
        "image": settings.images.sidecar,
        "imagePullPolicy": settings.images.pull_policy,
        "command": [PROGRAM],
        "args": ["sidecar"],
        "restartPolicy": "Always",
        "env": environment(plan),
        "ports": [{"name": "kybernis-admin", "containerPort": ports::ADMIN, "protocol": "TCP"}],
        "resources": plan.resources.render(),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": plan.config.uid(),
            "runAsNonRoot": true,
            "runAsUser": plan.config.uid(),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Every second: the agent waits for it.
        "startupProbe": probe("/readyz", 1, STARTUP_SECONDS),
        "livenessProbe": probe("/livez", 10, 3),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            mount(BUNDLE_VOLUME, BUNDLE_FOLDER, false),
            mount(STATE_VOLUME, STATE_FOLDER, false),
            mount(SPOOL_VOLUME, &format!("{DATA_FOLDER}/spool"), false),
            mount(TOKEN_VOLUME, TOKEN_FOLDER, true),
            mount(TRUST_VOLUME, TRUST_FOLDER, true),
            no_api_token(),
        ],
    })
}

fn probe(path: &str, period_seconds: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": ports::ADMIN, "scheme": "HTTP"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": failures,
    })
}

/// The settings of `kybernis sidecar`.
fn environment(plan: &Plan<'_>) -> Vec<Object> {
    let settings = plan.config.settings();
    // The sidecar leaves out what its pod does not have.
    let loopback = |port: u16| format!("127.0.0.1:{port},[::1]:{port}");
    let admin = std::net::SocketAddr::new(settings.admin_address, ports::ADMIN);
    let mut variables = vec![
        ("KYBERNIS_SIDECAR_DATA", DATA_FOLDER.to_owned()),
        ("KYBERNIS_KEPT_NAMES", STATE_FOLDER.to_owned()),
        ("KYBERNIS_BUNDLE", BUNDLE_FOLDER.to_owned()),
        ("KYBERNIS_LEDGER", settings.ledger.address.clone()),
        ("KYBERNIS_LEDGER_NAME", settings.ledger.server_name.clone()),
        ("KYBERNIS_LEDGER_CA", format!("{TRUST_FOLDER}/{TRUST_FILE}")),
        ("KYBERNIS_TOKEN_FILE", format!("{TOKEN_FOLDER}/{TOKEN_FILE}")),
        ("KYBERNIS_CAPTURE", plan.capture.on_receipts().to_owned()),
        ("KYBERNIS_PROXY_LISTEN", loopback(ports::PROXY)),
        ("KYBERNIS_API_LISTEN", loopback(ports::LOCAL_API)),
        ("KYBERNIS_ADMIN_LISTEN", admin.to_string()),
        ("KYBERNIS_LOG", plan.log.to_owned()),
        ("KYBERNIS_LOG_FORMAT", "json".to_owned()),
    ];
    if plan.capture.redirects() {
        variables.push(("KYBERNIS_REDIRECT_LISTEN", loopback(ports::REDIRECT)));
        variables.push(("KYBERNIS_DNS_LISTEN", loopback(ports::DNS)));
        // Ours to say: what Kubernetes tells containers of it, a Service of the pod's namespace can change.
        variables.extend(settings.api_server.map(|address| ("KYBERNIS_API_SERVER", address.to_string())));
    }
    if settings.extra_roots {
        variables.push(("KYBERNIS_ROOTS", format!("{TRUST_FOLDER}/{ROOTS_FILE}")));
    }
    variables.into_iter().map(|(name, value)| Source::Literal(value).entry(name)).collect()
}
