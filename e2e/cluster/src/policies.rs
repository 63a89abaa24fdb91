//! NetworkPolicies are stored by any cluster, and enforced in ours only while somebody asks for it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::Programs;
use crate::home::Home;
use crate::node::Node;
use crate::parts::{NODE_NAME, POD_RANGES};
use crate::programs::link;

/// Its log.
const LOG: &str = "log/networkpolicies.log";

/// Enforcement of every NetworkPolicy in the cluster, over IPv4, until this is dropped.
#[derive(Debug)]
pub struct Enforced(Child);

impl Enforced {
    /// Starts it on the node, among whose files it finds no other runtime to ask for pods, and waits until it has begun.
    pub(crate) fn begin(node: &Node, home: &Home) -> Result<Self> {
        let program = home.state("bin/networkpolicies");
        if !program.exists() {
            link(&Programs::network_policies()?, &program)?;
        }
        let log = home.state(LOG);
        let pods = POD_RANGES.split(',').next().unwrap_or_default();
        let mut enforce = node.among_files("/mnt/bin/networkpolicies");
        enforce.args(["/mnt/pki/admin.kubeconfig", NODE_NAME, pods]);
        enforce.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).context("cannot make the log")?);
        let mut child = enforce.spawn().with_context(|| format!("cannot start {enforce:?}"))?;
        let out = child.stdout.take().context("no standard output")?;
        let begun = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "ready\n", "NetworkPolicies are not enforced; see {}", log.display());
        Ok(begun)
    }
}

impl Drop for Enforced {
    fn drop(&mut self) {
        // What it has set up lets everything pass once it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
