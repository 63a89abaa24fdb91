//! The way from an empty folder to a pod that runs, in phases: sweep, prepare, (make the namespaces,) run.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cluster::Cluster;
use crate::home::Home;
use crate::image::{Entry, Image, Layer};
use crate::node::Node;
use crate::parts::{CONFIG, NODE_NAME, Part};
use crate::progress::{output, step};
use crate::{PAUSE_IMAGE, PROBE_IMAGE, Programs, cgroups, pki, wait};

/// How long any one thing may take on a machine that is busy with other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

const ADDONS: &str = include_str!("../node/addons.yaml");
const FIRST_POD: &str = include_str!("../node/first-pod.yaml");

/// Folders in `state/`: what the script binds over the host's, and what the components write.
const FOLDERS: [&str; 10] = ["bin", "config/cni", "dns", "images", "log", "pki", "run", "tmp", "var/lib", "var/log"];

/// How many volumes of each access mode there are. One that was used is not used again, as its data are still in it.
const VOLUMES: usize = 12;
const ACCESS_MODES: [&str; 2] = ["ReadWriteOnce", "ReadWriteOncePod"];

/// Removes what an earlier run left: control groups, then files. Its mounts and devices went with its processes.
pub(crate) fn sweep(home: &Home) -> Result<()> {
    cgroups::remove(home)?;
    home.forget()
}

/// Lays out everything that the components read.
pub(crate) fn prepare(home: &Home, programs: &Programs) -> Result<()> {
    let volumes = volume_names().map(|(_, name)| format!("volumes/{name}"));
    for folder in FOLDERS.into_iter().map(str::to_owned).chain(volumes) {
        let path = home.state(&folder);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    programs.link_into(&home.state("bin"))?;
    for (name, text) in CONFIG {
        let path = home.state("config").join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::write(home.state("dns/hosts"), "").context("cannot write the names of the world outside")?;
    pki::write(&home.state("pki"))?;
    cgroups::make(home)
}

/// Starts the components and waits for a pod.
pub(crate) fn run(cluster: &Cluster, home: &Home, node: &Node, programs: &Programs) -> Result<()> {
    let starting = Starting { cluster, node };
    step("etcd, containerd, API server", || {
        starting.start(&Part::ALL[..3])?;
        starting.until("the API server was ready", Part::ApiServer, &["get", "--raw", "/readyz"], "")
    })?;
    step("the other components", || {
        starting.start(&Part::ALL[3..])?;
        starting.until("the API server took the add-ons", Part::ApiServer, &["apply", "-f", "-"], &format!("{ADDONS}{}", volumes()))
    })?;
    step("images", || {
        for image in own_images(programs)? {
            let path = home.state("images/own.tar");
            image.write(&path)?;
            cluster.load(&path)?;
            fs::remove_file(&path)?;
        }
        Ok(())
    })?;
    step("node", || {
        let ready = ["wait", "node/node", "--for=condition=Ready", "--timeout=1s"];
        starting.until("the node was ready", Part::Kubelet, &ready, "")
    })?;
    step("first pod", || {
        // The API server refuses pods until the controller manager has made the namespace's service account.
        starting.until("the API server took a pod", Part::ControllerManager, &["apply", "-f", "-"], FIRST_POD)?;
        let ready = ["wait", "pod/first", "--namespace=kube-system", "--for=condition=Ready", "--timeout=1s"];
        starting.until("a pod ran", Part::Kubelet, &ready, "")?;
        let delete = ["delete", "pod/first", "--namespace=kube-system", "--grace-period=0", "--force", "--wait=false"];
        output(cluster.kubectl().args(delete)).map(drop)
    })?;
    let ready = home.state("ready");
    fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))
}

struct Starting<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
}

impl Starting<'_> {
    fn start(&self, parts: &[Part]) -> Result<()> {
        parts.iter().try_for_each(|part| self.node.start(*part).with_context(|| format!("cannot start {}", part.name())))
    }

    /// Repeats a kubectl command until it succeeds, as long as every component lives that was started. What kubectl said last goes with
    /// a failure, and the end of `suspect`'s log.
    fn until(&self, what: &str, suspect: Part, arguments: &[&str], input: &str) -> Result<()> {
        let mut said = String::new();
        let waited = wait::until(what, PATIENCE, || {
            if self.dead().is_some() {
                return Ok(Some(()));
            }
            match fed(self.cluster.kubectl().args(arguments), input) {
                Ok(()) => Ok(Some(())),
                Err(error) => {
                    said = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        if let Some(part) = self.dead() {
            bail!("{} has ended; {}", part.name(), self.node.log_of(part));
        }
        waited.map_err(|error| anyhow!("{error}; kubectl says: {said}\n{}", self.node.log_of(suspect)))
    }

    /// A component that was started and has ended.
    fn dead(&self) -> Option<Part> {
        Part::ALL.into_iter().find(|part| self.node.was_started(*part) && self.node.running(*part).is_none())
    }
}

/// Runs a command with this input.
fn fed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that has failed no longer reads; its own words say more than this.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

/// The images that every cluster has.
fn own_images(programs: &Programs) -> Result<[Image; 2]> {
    let image = |name: &str, path: &str, program, arguments: &[&str]| {
        let layer = Layer::of([Entry::program(path, program)?])?;
        Ok::<_, anyhow::Error>(Image::new(name, layer).entrypoint([path]).arguments(arguments.iter().copied()))
    };
    Ok([image(PAUSE_IMAGE, "/pause", &programs.pause(), &[])?, image(PROBE_IMAGE, "/probe", &programs.probe(), &["serve", ":8080"])?])
}

fn volume_names() -> impl Iterator<Item = (&'static str, String)> {
    ACCESS_MODES.iter().flat_map(|mode| (0..VOLUMES).map(move |number| (*mode, format!("{}-{number}", mode.to_lowercase()))))
}

/// Of the kind `local`, since kubelet gives those to the pod's `fsGroup`, and a `hostPath` to nobody.
fn volumes() -> String {
    let volume = |(mode, name): (&str, String)| {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "16Gi"},
                "accessModes": [mode],
                "storageClassName": "standard",
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": format!("/mnt/volumes/{name}")},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}]},
                ]}},
            },
        })
    };
    volume_names().map(|name| format!("---\n{}\n", volume(name))).collect()
}
