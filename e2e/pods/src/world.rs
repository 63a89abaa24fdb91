//! The stage of every scenario: a cluster with the images of this build, and a broker in the world outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use kybernis_broker::Authority;
use kybernis_cluster::{Cluster, OwnImage, Programs, agents_image, step};
use serde_json::{Value, json};

use crate::command::{PATIENCE, fed, said};
use crate::release::{self, Release};
use crate::{Books, Space};

/// The node is the world outside: what listens there is no pod's neighbour.
pub const OUTSIDE: &str = "198.19.0.1";
const OUTSIDE_V6: &str = "2001:2:0:c::1";
/// Whatever arrives here is noted, and [`World::arrived`] tells.
pub const SINKS: &str = "198.19.0.9";
const SINKS_ADMIN: u16 = 9001;
/// The broker's ports.
const BROKER_HTTP: u16 = 18080;
const BROKER_HTTPS: u16 = 18443;
const BROKER_ADMIN: u16 = 18081;

/// A cluster and a broker beside it.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
    /// Tells this build's pods from those of another.
    build: String,
    authority: Arc<Authority>,
}

impl World {
    /// Sets the stage: everything but Kybernis itself.
    ///
    /// # Errors
    /// When a part of it does not come about.
    pub fn set() -> Result<Self> {
        let cluster = Cluster::usual()?;
        let programs = programs()?;
        let authority = Arc::new(Authority::create().context("no authority for the broker")?);
        let folder = tempfile::tempdir()?;
        let sidecar = folder.path().join("sidecar.tar");
        OwnImage::Sidecar.write_trusting(&programs, authority.certificate(), &sidecar)?;
        let others = [OwnImage::Kybernis, OwnImage::Capture, OwnImage::Broker].map(|own| own.archive(&programs));
        let agents = agents_image(&Programs::build()?);
        for image in others.into_iter().chain([Ok(sidecar), agents]) {
            let image = image?;
            step(&format!("load {}", image.display()), || cluster.load(&image))?;
        }
        for own in OwnImage::KYBERNIS {
            cluster.tag_image(&own.reference(), &own.reference().replace(Release::Today.tag(), Release::Earlier.tag()))?;
        }
        cluster
            .set_outside_names(&format!("{OUTSIDE} broker.example.com\n{OUTSIDE_V6} broker6.example.com\n{SINKS} sink.example.com\n"))?;
        let world = Self { cluster, build: unheard_of("build"), authority };
        step("the broker outside", || world.open_broker())?;
        Ok(world)
    }

    /// With new books: another authority is another broker.
    fn open_broker(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        said(&mut self.kubectl(["delete", "namespace", "internet", "--ignore-not-found", "--wait", &timeout]))?;
        said(self.kubectl(["create", "--filename"]).arg(objects().join("internet.yaml")))?;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "broker-authority", "namespace": "internet"},
            "stringData": {"tls.crt": self.authority.certificate(), "tls.key": self.authority.key()},
        });
        fed(&mut self.kubectl(["create", "--filename=-"]), &secret.to_string())?;
        said(&mut self.kubectl(["wait", "--namespace=internet", "pod/broker", "pod/sinks", "--for=condition=Ready", &timeout])).map(drop)
    }

    /// Installs the chart, or upgrades to it.
    ///
    /// # Errors
    /// When its pods do not become ready.
    pub fn install(&self, release: Release) -> Result<()> {
        self.install_with(release, &[])
    }

    /// The same, with values beside the usual ones, as `helm --set` takes them. The next one takes them back.
    ///
    /// # Errors
    /// When its pods do not become ready.
    pub fn install_with(&self, release: Release, values: &[&str]) -> Result<()> {
        step(&format!("install Kybernis ({release:?})"), || release.install(&self.cluster, &self.build, values))
    }

    /// Removes it again.
    ///
    /// # Errors
    /// When helm cannot.
    pub fn uninstall(&self) -> Result<()> {
        step("uninstall Kybernis", || release::uninstall(&self.cluster))
    }

    /// Runs `helm test` by Helm 3 or 4, and hands on what it said.
    ///
    /// # Errors
    /// When helm does not end.
    pub fn helm_test(&self, major: u8) -> Result<Output> {
        release::test(&self.cluster, major)
    }

    /// A namespace of this name, for one scenario.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn space(&self, name: &str) -> Result<Space<'_>> {
        Space::make(self, name)
    }

    /// Who vouches for brokers outside.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The cluster itself.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// `kubectl`, as the administrator.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(arguments);
        kubectl
    }

    /// `kubectl`, in the namespace that Kybernis is installed in.
    pub fn kubectl_system<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut kubectl = self.kubectl(["--namespace", release::NAMESPACE]);
        kubectl.args(arguments);
        kubectl
    }

    /// Makes objects there, from their text.
    ///
    /// # Errors
    /// When one is refused.
    pub fn create_in_system(&self, objects: &str) -> Result<()> {
        fed(&mut self.kubectl_system(["create", "--filename=-"]), objects).map(drop)
    }

    /// Has so many pods of one of Kybernis' own workloads, such as `deployment/kybernis-webhook`, and waits until it is so.
    ///
    /// # Errors
    /// When they do not come or go.
    pub fn scale(&self, workload: &str, replicas: u8) -> Result<()> {
        said(&mut self.kubectl_system(["scale", workload, &format!("--replicas={replicas}")]))?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        said(&mut self.kubectl_system(["rollout", "status", workload, &timeout]))?;
        if replicas == 0 {
            let component = workload.rsplit('-').next().unwrap_or_default();
            let selector = format!("--selector=app.kubernetes.io/component={component}");
            said(&mut self.kubectl_system(["wait", "pods", &selector, "--for=delete", &timeout]))?;
        }
        Ok(())
    }

    /// Applies a file of `tests/objects`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, file: &str) -> Result<()> {
        said(self.kubectl(["apply", "--filename"]).arg(objects().join(file))).map(drop)
    }

    /// Asks the broker's admin port.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn broker(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        self.ask(method, &format!("http://{OUTSIDE}:{BROKER_ADMIN}{path}"), body)
    }

    /// Asks whoever serves JSON, from the node's network.
    fn ask(&self, method: &str, url: &str, body: &str) -> Result<Value> {
        let mut curl = self.cluster.command(Path::new("curl"));
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--request", method]);
        curl.args(["--header", "content-type: application/json", "--data", body, url]);
        let answer = said(&mut curl)?;
        if answer.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&answer).context(answer) }
    }

    /// Sends bytes to an HTTPS server of the cluster's, whoever it is; returns the status and what it said.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, method: &str, url: &str, body: &str) -> Result<(u16, String)> {
        let mut curl = self.cluster.command(Path::new("curl"));
        curl.args(["--silent", "--show-error", "--insecure", "--max-time", "30", "--request", method, "--write-out", "\n%{http_code}"]);
        let answer = fed(curl.args(["--header", "content-type: application/json", "--data-binary", "@-", url]), body)?;
        let (said, status) = answer.rsplit_once('\n').context("curl told no status")?;
        Ok((status.parse()?, said.to_owned()))
    }

    /// The tokens that have come to the sinks, by whatever way.
    ///
    /// # Errors
    /// When the sinks do not tell.
    pub fn arrived(&self) -> Result<Vec<String>> {
        let heard = self.ask("GET", &format!("http://{SINKS}:{SINKS_ADMIN}/heard"), "")?;
        let arrivals = heard.as_array().context("the sinks' journal is no list")?;
        Ok(arrivals.iter().filter_map(|arrival| arrival["token"].as_str()).map(str::to_owned).collect())
    }

    /// The broker misbehaves like this next, on `path` alone: other agents than the scenario's may be at work.
    ///
    /// # Errors
    /// When the broker cannot.
    pub fn fault(&self, path: &str, then: Value) -> Result<()> {
        let fault = json!([{"then": then, "execute": true, "on": {"method": "POST", "path": path}}]);
        self.broker("POST", "/faults", &fault.to_string()).map(drop)
    }

    /// What the broker has executed.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn books(&self) -> Result<Books> {
        Books::read(&self.broker("GET", "/executed", "")?)
    }

    /// Where the broker takes orders.
    pub fn orders(&self) -> String {
        self.url("/v1/orders")
    }

    /// The broker's URL for a path, without TLS.
    pub fn url(&self, path: &str) -> String {
        format!("http://broker.example.com:{BROKER_HTTP}{path}")
    }

    /// The same, with TLS.
    pub fn secure_url(&self, path: &str) -> String {
        format!("https://broker.example.com:{BROKER_HTTPS}{path}")
    }
}

/// A name that nobody has used before: ledgers forget nothing, and the cluster may be an old one.
pub fn unheard_of(name: &str) -> String {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{name}-{}", since.as_nanos())
}

/// Where the programs lie that were built beside this one.
///
/// # Errors
/// When this one lies in no target folder.
pub fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("the test lies in no target folder")?;
    Ok(folder.into())
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the manifests of scenarios lie.
#[must_use]
pub fn objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects")
}

pub(crate) fn agents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents")
}
