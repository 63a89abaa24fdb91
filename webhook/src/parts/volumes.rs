//! The volumes of our containers. Each is bounded, so that nothing of ours can evict the agent.

use serde_json::{Value, json};

use super::{Plan, fields, mount};
use crate::json::Object;
use crate::names::{
    BUNDLE_FOLDER, BUNDLE_VOLUME, NO_TOKEN_VOLUME, ROOTS_FILE, SPOOL_VOLUME, STATE_VOLUME, TOKEN_VOLUME, TRUST_FILE, TRUST_VOLUME,
};

/// Where the ledger's token lies.
pub(crate) const TOKEN_FOLDER: &str = "/var/run/secrets/kybernis";
/// The token's file.
pub(crate) const TOKEN_FILE: &str = "token";
/// Where the ledger's CAs lie.
pub(crate) const TRUST_FOLDER: &str = "/etc/kybernis/trust";

/// The public roots are a quarter of a megabyte, as PEM and again as a Java KeyStore; a cluster's own may be as many.
const BUNDLE_SIZE: &str = "8Mi";
/// One key and one certificate, each written beside the old and renamed.
const STATE_SIZE: &str = "1Mi";
/// Twice the sidecar's own bound on its spool.
const SPOOL_SIZE: &str = "300Mi";
/// Whoever may look into the folder may read; only our containers have it. The API server's own default.
const READABLE: u32 = 0o644;

/// What a pod's other containers mount: the roots, to read.
pub(crate) fn bundle_mount() -> Object {
    fields(mount(BUNDLE_VOLUME, BUNDLE_FOLDER, true))
}

/// Our volumes, with their names.
pub(crate) fn volumes(plan: &Plan<'_>) -> Vec<(&'static str, Object)> {
    let settings = plan.config.settings();
    let token = json!({"serviceAccountToken": {
        "audience": settings.token.audience,
        "expirationSeconds": settings.token.expiration_seconds,
        "path": TOKEN_FILE,
    }});
    let files = std::iter::once(TRUST_FILE).chain(settings.extra_roots.then_some(ROOTS_FILE));
    let items: Vec<Value> = files.map(|file| json!({"key": file, "path": file})).collect();
    let trust = json!({"name": settings.trust_config_map, "defaultMode": READABLE, "items": items});
    let volume = |name: &'static str, source: &str, value: Value| (name, fields(json!({"name": name, source: value})));
    vec![
        volume(BUNDLE_VOLUME, "emptyDir", json!({"sizeLimit": BUNDLE_SIZE})),
        volume(STATE_VOLUME, "emptyDir", json!({"medium": "Memory", "sizeLimit": STATE_SIZE})),
        volume(SPOOL_VOLUME, "emptyDir", json!({"sizeLimit": SPOOL_SIZE})),
        volume(TOKEN_VOLUME, "projected", json!({"defaultMode": READABLE, "sources": [token]})),
        volume(TRUST_VOLUME, "configMap", trust),
        volume(NO_TOKEN_VOLUME, "emptyDir", json!({})),
    ]
}
