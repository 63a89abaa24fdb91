//! Clients that ignore proxies, under Redirect: the kernel leads them to the sidecar, or they go nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use kybernis_cluster::cache;
use kybernis_pods::{SINKS, Workload, World, give, said, unheard_of};
use kybernis_scenarios::kit::Kit;
use serde_json::json;

use crate::scenario::{Told, installed};

/// A client that knows no proxy, and tries an order twice.
#[derive(Clone, Copy)]
enum Client {
    Socket,
    SocketV6,
    Java,
    Go,
}

impl Client {
    const ALL: [Self; 4] = [Self::Socket, Self::SocketV6, Self::Java, Self::Go];

    const fn name(self) -> &'static str {
        match self {
            Self::Socket => "a plain socket",
            Self::SocketV6 => "a plain socket over IPv6",
            Self::Java => "Java's HttpURLConnection",
            Self::Go => "Go without an environment",
        }
    }

    /// The command for an order of this name.
    fn words(self, compiled: &Compiled, orders: &str, name: &str) -> Vec<String> {
        let order = json!({"client_order_id": name, "symbol": "AAPL", "side": "buy", "qty": 5, "price": 190.5}).to_string();
        let java = compiled.java.to_string_lossy();
        let go = compiled.go.join("order").to_string_lossy().into_owned();
        let words: &[&str] = match self {
            Self::Socket => &["python3", "/agents/plain.py", "broker.example.com", name],
            Self::SocketV6 => &["python3", "/agents/plain.py", "broker6.example.com", name],
            Self::Java => &["java", "-cp", &java, "Plain", orders, &order],
            Self::Go => &["env", "-i", &go, orders, &order, "2", "30"],
        };
        words.iter().map(ToString::to_string).collect()
    }
}

/// Folders that pods mount: their image has no compilers.
struct Compiled {
    go: PathBuf,
    java: PathBuf,
}

impl Compiled {
    fn make() -> Result<Self> {
        let kit = Kit::install(&cache())?;
        let [go, _] = kit.compiled();
        let java = cache().join("clients/plain");
        fs::create_dir_all(&java)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents/Plain.java");
        said(Command::new("javac").arg("-d").arg(&java).arg(source))?;
        Ok(Self { go: go.to_owned(), java })
    }
}

pub(crate) fn redirected(world: &World) -> Result<Told> {
    installed(world)?;
    let (space, compiled) = (world.space("ignoring")?, Compiled::make()?);
    for workload in [Workload::new("bare", "idle.py", &[]).bare(), Workload::new("trader", "idle.py", &[])] {
        space.deploy(&workload.folder(&compiled.go).folder(&compiled.java))?;
    }
    let mut told = Vec::new();
    for client in Client::ALL {
        let executed = |deployment: &str| {
            let order = unheard_of(deployment);
            // The broker takes it, and breaks the connection instead of answering.
            world.fault("/v1/orders", json!("reset"))?;
            let words = client.words(&compiled, &world.orders(), &order);
            let heard = said(&mut space.agent(deployment)?.runs(&words.iter().map(String::as_str).collect::<Vec<_>>()))?;
            Ok::<_, anyhow::Error>((world.books()?.of(&order), heard))
        };
        let ((bare, _), (governed, heard), name) = (executed("bare")?, executed("trader")?, client.name());
        ensure!(bare == 2, "{name}: without a sidecar both tries are executed, not {bare}");
        ensure!(governed == 1 && heard.contains("423"), "{name}: executed {governed} times, and it heard: {heard}");
        told.push(format!("{name} 1 ({bare})"));
    }
    let quic = |deployment: &str| {
        let token = unheard_of(&format!("escape-{deployment}"));
        give(&mut space.agent(deployment)?.runs(&["internet", "quic", &format!("https://{SINKS}/"), &token]), "")?;
        Ok::<_, anyhow::Error>(world.arrived()?.contains(&token))
    };
    ensure!(quic("bare")?, "without a sidecar QUIC reaches the world outside");
    ensure!(!quic("trader")?, "QUIC went past the sidecar");
    told.push("QUIC 0 (1)".to_owned());
    let done = "two tries for a lost answer, by clients that know no proxy; in brackets, without a sidecar";
    Ok(Told::new(done, told.join(", ")))
}
