//! What the tests share: a configuration, the API server's part, and JSON as people can read it.

pub(crate) mod api_server;

use kybernis_webhook::{Config, Settings};
use serde_json::{Value, json};

/// A release's configuration, with a test's own settings over it.
pub(crate) fn config(overrides: &Value) -> Config {
    let mut settings = json!({
        "version": "0.1.0",
        "images": {"sidecar": "ghcr.io/kybernis/sidecar:0.1.0", "capture": "ghcr.io/kybernis/capture:0.1.0"},
        "ledger": {"address": "https://kybernis-ledger.kybernis-system.svc:7443", "serverName": "kybernis-ledger.kybernis-system.svc"},
        "releaseNamespace": "kybernis-system",
        "apiServer": "198.18.128.1:443",
    });
    merge(&mut settings, overrides);
    Config::new(serde_json::from_value::<Settings>(settings).expect("settings")).expect("a configuration that holds")
}

fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            over.iter().for_each(|(key, value)| merge(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        (_, Value::Null) => {}
        (into, over) => *into = over.clone(),
    }
}
