//! The server from outside: reviews as data, TLS over loopback, a rotation under load, and garbage.

mod api_server;
mod client;
mod decisions;
mod garbage;
mod loopback;
mod memory;
mod reviews;
mod rotation;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::json;

use super::desk::Desk;
use super::namespaces::{Labels, Namespaces, namespaces};
use crate::config::Config;

fn config() -> Config {
    let settings = json!({
        "version": "0.1.0",
        "images": {"sidecar": "ghcr.io/kybernis/sidecar:0.1.0", "capture": "ghcr.io/kybernis/capture:0.1.0"},
        "ledger": {"address": "https://kybernis-ledger.kybernis-system.svc:7443", "serverName": "kybernis-ledger.kybernis-system.svc"},
        "releaseNamespace": "kybernis-system",
    });
    Config::new(serde_json::from_value(settings).unwrap()).unwrap()
}

/// What the watch has brought, and what is answered when asked; everybody is away where that is `None`.
fn cluster(known: HashMap<String, Labels>, answers: Option<BTreeMap<String, Labels>>) -> Namespaces {
    let (namespaces, mut questions) = namespaces();
    namespaces.list(known);
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            let answer = answers.as_ref().ok_or_else(|| "connection refused".to_owned());
            let _ = question.answer.send(answer.map(|answers| answers.get(&question.name).cloned()));
        }
    });
    namespaces
}

fn desk(namespaces: Namespaces) -> Arc<Desk> {
    Arc::new(Desk::new(config(), namespaces, decisions::nobody()))
}

/// `Cargo.toml` can no longer prove it.
#[test]
fn injection_knows_no_cluster_no_clock_and_no_network() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.extend((!path.ends_with("src/server")).then_some(path));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            files += 1;
            for crate_name in
                ["kube", "k8s_openapi", "tokio", "hyper", "rustls", "rcgen", "tracing", "crate::server", "std::time", "std::fs"]
            {
                assert!(!text.contains(&format!("{crate_name}::")), "{} uses {crate_name}", path.display());
            }
        }
    }
    assert!(files > 30);
}
