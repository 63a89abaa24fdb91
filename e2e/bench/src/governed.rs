//! The product itself: `kybernis ledger` and `kybernis sidecar` as processes, with policies, as people run them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags};

use crate::process::{Process, ask, free_address, is_ready, output, quiet, until};

/// What governs: a tool with a key of its own, and a policy whose rules every call is held against. `FAR` is the far side.
const MANIFESTS: &str = r#"
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: orders, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Exact, value: /v1/orders}]}]
  class: SideEffect
  effect: {key: '"order:" + request.body.id'}
---
apiVersion: kybernis.io/v1alpha1
kind: ToolRegistration
metadata: {name: refunds, namespace: default}
spec:
  match: [{hosts: ["FAR"], methods: [POST], paths: [{type: Template, value: "/v1/orders/{id}/refund"}]}]
  class: SideEffect
---
apiVersion: kybernis.io/v1alpha1
kind: Policy
metadata: {name: bench, namespace: default}
spec:
  rules:
  - {name: no-metadata-service, match: {hosts: ["169.254.169.254"]}, verdict: Deny, reason: credentials}
  - {name: large-orders, match: {tools: [orders]}, when: 'request.body.qty > 10000', verdict: RequireApproval, approval: {required: 1}}
  - {name: no-deletes, match: {methods: [DELETE]}, verdict: Deny, reason: nothing is deleted here}
"#;

/// A ledger and a sidecar.
#[derive(Debug)]
pub(crate) struct Governed {
    pub(crate) ledger: Process,
    pub(crate) sidecar: Process,
    /// The forward proxy.
    pub(crate) proxy: SocketAddr,
    /// PEM of what the sidecar's clients must trust.
    pub(crate) bundle: PathBuf,
    admin: SocketAddr,
    journal: PathBuf,
}

impl Governed {
    /// Starts both and waits until the sidecar is ready. The far side is vouched for by `root`.
    pub(crate) async fn start(kybernis: &Path, dir: &Path, far: SocketAddr, root: &Path) -> Result<Self> {
        let (data, policies, own) = (dir.join("ledger"), dir.join("policies"), dir.join("sidecar"));
        for folder in [&data, &policies, &own] {
            // Keys lie there, and the ledger insists.
            fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        fs::write(policies.join("bench.yaml"), MANIFESTS.replace("FAR", &far.to_string()))?;
        let (grpc, http, proxy, admin) = (free_address()?, free_address()?, free_address()?, free_address()?);
        let ledger = Process::start(quiet(kybernis, "ledger").arg("--data").arg(&data).arg("--policies").arg(&policies).args([
            "--grpc-listen",
            &grpc.to_string(),
            "--http-listen",
            &http.to_string(),
        ]))?;
        let ca = data.join("ledger-ca.pem");
        until("the ledger is up", || async { ca.exists() }).await?;
        let token = own.join("token");
        fs::write(&token, output(kybernis, &["token", "--data", &data.to_string_lossy(), "--agent", "bench"]).await?)?;
        let bundle = own.join("bundle");
        let sidecar = Process::start(
            quiet(kybernis, "sidecar")
                .arg("--data")
                .arg(own.join("data"))
                .arg("--bundle")
                .arg(&bundle)
                .arg("--root")
                .arg(root)
                .arg("--token-file")
                .arg(&token)
                .arg("--ledger-ca")
                .arg(&ca)
                .args(["--ledger", &format!("https://{grpc}")])
                .args(["--proxy-listen", &proxy.to_string(), "--admin-listen", &admin.to_string()]),
        )?;
        let bundle = bundle.join("ca-bundle.pem");
        let governed = Self { ledger, sidecar, proxy, bundle, admin, journal: data.join("journal.sqlite") };
        until("the sidecar is ready", || is_ready(admin)).await?;
        Ok(governed)
    }

    /// Waits until everything that was recorded is with the ledger: its delivery belongs to the cost of what was recorded.
    pub(crate) async fn settled(&self) -> Result<()> {
        let empty = || async { ask(self.admin, "/metrics").await.is_ok_and(|text| text.contains("kyb_spool_empty 1")) };
        until("the spool is empty", empty).await
    }

    /// Spans that the sidecar had no room for.
    pub(crate) async fn dropped(&self) -> Result<u64> {
        let text = ask(self.admin, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix("kyb_spool_spans_dropped_total "));
        Ok(value.context("no such metric")?.trim().parse()?)
    }

    /// Appends to the journal so far. Each is one commit of SQLite's, and that one `fdatasync`.
    pub(crate) fn appends(&self) -> Result<u64> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let journal = Connection::open_with_flags(&self.journal, flags)?;
        let last: Option<i64> = journal.query_row("SELECT max(number) FROM segment", [], |row| row.get(0))?;
        Ok(last.unwrap_or_default().try_into()?)
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.sidecar.stop().await?;
        self.ledger.stop().await
    }
}
