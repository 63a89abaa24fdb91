//! The handle: starts a cluster, finds a running one, works with it, ends it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::home::Home;
use crate::node::{Life, Node};
use crate::parts::Part;
use crate::policies::Enforced;
use crate::progress::{output, step};
use crate::{Programs, machine, start};

/// `KYB_E2E_CLUSTER=existing` with KUBECONFIG set uses that cluster instead of ours.
pub const EXISTING: &str = "KYB_E2E_CLUSTER";

/// A cluster that runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// `None` where the cluster is not ours.
    own: Option<Own>,
}

#[derive(Clone, Debug)]
struct Own {
    home: Home,
    node: Node,
}

impl Cluster {
    /// Starts a cluster in `home` from nothing, and waits until a pod runs in it. What an earlier one left there is removed first.
    ///
    /// # Errors
    /// Without root; when one runs there already, or another process is starting it; when a component fails, with the end of its log.
    pub fn up(home: &Home) -> Result<Self> {
        Self::start(home, Life::Own)
    }

    /// The same, for a cluster that ends at once when the thread that called ends, even if it was killed.
    ///
    /// # Errors
    /// As for [`Self::up`].
    pub fn up_for_now(home: &Home) -> Result<Self> {
        Self::start(home, Life::Starters)
    }

    fn start(home: &Home, life: Life) -> Result<Self> {
        machine::check()?;
        let programs = Programs::build()?;
        let _work = home.work()?;
        let alive = match home.alive()? {
            Some(lock) => lock,
            None if Self::attach(home)?.is_some() => {
                bail!("a cluster is up in {} already; `cargo xtask cluster down` ends it", home.folder().display())
            }
            // It is about to end, or whoever was starting it is no more: we hold the lock for that.
            None => Node::end_living(home)?,
        };
        step("remove what was left", || start::sweep(home))?;
        let node = step("namespaces", || start::prepare(home, &programs).and_then(|()| Node::make(home, alive, life)))?;
        let cluster = Self::ours(home, node.clone());
        if let Err(error) = start::run(&cluster, home, &node, &programs) {
            // The logs stay; the next start removes them.
            node.kill()?;
            return Err(error);
        }
        Ok(cluster)
    }

    /// The cluster that runs in `home`, if one does.
    ///
    /// # Errors
    /// When `home` cannot be read.
    pub fn attach(home: &Home) -> Result<Option<Self>> {
        let node = Node::find(home)?.filter(|node| node.lives() && home.state("ready").exists());
        Ok(node.map(|node| Self::ours(home, node)))
    }

    /// Its programs are those that it was started with, whatever was built since.
    fn ours(home: &Home, node: Node) -> Self {
        let own = Own { home: home.clone(), node };
        Self { kubeconfig: home.state("pki/admin.kubeconfig"), kubectl: home.state("bin/kubectl"), own: Some(own) }
    }

    /// The cluster for scenarios: the one that the environment names, or the usual one, which is started when it is not up.
    ///
    /// # Errors
    /// As for [`Self::existing`] and [`Self::up`].
    pub fn usual() -> Result<Self> {
        if let Some(cluster) = Self::existing()? {
            return Ok(cluster);
        }
        let home = Home::usual()?;
        // Of several test processes one starts it, and the others wait here.
        let _turn = home.turn()?;
        match Self::attach(&home)? {
            Some(cluster) => Ok(cluster),
            None => Self::up(&home),
        }
    }

    /// The cluster that the environment names instead of ours, if it names one.
    ///
    /// # Errors
    /// When [`EXISTING`] has another value than `existing`, KUBECONFIG is not set, or the cluster does not answer.
    pub fn existing() -> Result<Option<Self>> {
        match env::var(EXISTING) {
            Err(_) => return Ok(None),
            Ok(value) if value.is_empty() => return Ok(None),
            Ok(value) if value == "existing" => {}
            Ok(value) => bail!("{EXISTING} is `{value}`; it may be `existing`, or not set"),
        }
        let kubeconfig = env::var_os("KUBECONFIG").map(PathBuf::from).with_context(|| format!("{EXISTING}=existing needs KUBECONFIG"))?;
        // Whoever has a cluster has its kubectl, too, as a rule; ours takes minutes to build.
        let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let kubectl = if found.is_ok_and(|status| status.success()) { "kubectl".into() } else { Programs::build()?.kubectl() };
        let cluster = Self { kubeconfig, kubectl, own: None };
        output(cluster.kubectl().args(["get", "--raw", "/readyz"])).context("the cluster that KUBECONFIG names does not answer")?;
        Ok(Some(cluster))
    }

    /// Ends whatever runs in `home`, and removes all that it had.
    ///
    /// # Errors
    /// When another process is starting it, or something cannot be removed.
    pub fn down(home: &Home) -> Result<()> {
        let _work = home.work()?;
        let alive = match home.alive()? {
            Some(lock) => lock,
            None => Node::end_living(home)?,
        };
        let swept = start::sweep(home);
        drop(alive);
        swept
    }

    /// The administrator's kubeconfig. Ours works in the node's network only.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl as the administrator, with the caller's working folder, environment and plug-ins.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.command(&self.kubectl)
    }

    /// Helm 3 or 4 as the administrator. In a cluster that is not ours, the one on the PATH.
    #[must_use]
    pub fn helm(&self, major: u8) -> Command {
        let helm = self.own.as_ref().map_or_else(|| "helm".into(), |own| own.home.state(&format!("bin/helm{major}")));
        self.command(&helm)
    }

    /// Any program of the caller's, with KUBECONFIG set, in the network of the node: it reaches the API server, Services and pods.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let Some(own) = &self.own else {
            let mut command = Command::new(program);
            command.env("KUBECONFIG", &self.kubeconfig);
            return command;
        };
        let mut command = own.node.in_network(program);
        // Variables of the machine that send clients through a proxy would send them out of the cluster.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        // What kubectl remembers of an API server goes with it: the next one is at the same address and knows other kinds.
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", own.home.state("kubectl"));
        command
    }

    /// Makes the images of an archive (an OCI layout or what `docker save` writes) available to pods.
    ///
    /// # Errors
    /// When the archive cannot be read, or the cluster is not ours.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
        let mut ctr = self.ctr()?;
        // By standard input, since the node sees other files at some paths than we do.
        ctr.args(["images", "import", "--snapshotter", "overlayfs", "-"]).stdin(file);
        output(&mut ctr).map(drop).with_context(|| format!("cannot load {}", archive.display()))
    }

    /// Gives an image that was loaded one more name.
    ///
    /// # Errors
    /// When there is no such image, or the cluster is not ours.
    pub fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        output(self.ctr()?.args(["images", "tag", "--force", image, name])).map(drop)
    }

    /// Sends a signal to the first process of a container, by the container's id as a pod's status has it (`containerd://…`): what the
    /// kernel does to one that has used up its memory.
    ///
    /// # Errors
    /// When there is no such container, or the cluster is not ours.
    pub fn signal_container(&self, id: &str, signal: &str) -> Result<()> {
        let id = id.strip_prefix("containerd://").with_context(|| format!("{id:?} is no container of containerd's"))?;
        output(self.ctr()?.args(["tasks", "kill", "--signal", signal, id])).map(drop)
    }

    fn ctr(&self) -> Result<Command> {
        let mut ctr = self.own()?.node.inside("/mnt/bin/ctr");
        ctr.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]);
        Ok(ctr)
    }

    /// Ends a component with a signal, such as `TERM` or `KILL`, and waits until it is gone. Its pods stay as they are.
    ///
    /// # Errors
    /// When the cluster is not ours, or the component does not end.
    pub fn stop(&self, part: Part, signal: &str) -> Result<()> {
        self.own()?.node.stop(part, signal)
    }

    /// Starts a component that was stopped.
    ///
    /// # Errors
    /// When the cluster is not ours, or the component cannot be started.
    pub fn start_part(&self, part: Part) -> Result<()> {
        self.own()?.node.start(part)
    }

    /// Enforces NetworkPolicies from now on, until what is returned is dropped.
    ///
    /// # Errors
    /// When the cluster is not ours, or the kernel has no queues for packets.
    pub fn enforce_network_policies(&self) -> Result<Enforced> {
        let own = self.own()?;
        Enforced::begin(&own.node, &own.home)
    }

    /// Moves the calling thread into the node's network, and with it all that it opens and starts from now on.
    ///
    /// # Errors
    /// When the cluster is not ours.
    pub fn enter_network(&self) -> Result<()> {
        self.own()?.node.enter_network()
    }

    /// The folder of a volume, by the name of its PersistentVolume.
    ///
    /// # Errors
    /// When the cluster is not ours.
    pub fn volume(&self, name: &str) -> Result<PathBuf> {
        Ok(self.own()?.home.state("volumes").join(name))
    }

    /// The log of a component.
    ///
    /// # Errors
    /// When the cluster is not ours.
    pub fn log(&self, part: Part) -> Result<PathBuf> {
        Ok(self.own()?.node.log(part))
    }

    /// Gives the world outside these names: lines of `ADDRESS NAME…`, as in a hosts file. They hold a second later.
    ///
    /// # Errors
    /// When the cluster is not ours, or the file cannot be written.
    pub fn set_outside_names(&self, lines: &str) -> Result<()> {
        let path = self.own()?.home.state("dns/hosts");
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this needs a cluster of our own, not the one that KUBECONFIG names")
    }
}
