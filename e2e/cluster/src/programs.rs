//! The cluster's programs, built once from published Go modules and kept outside the tree, each in a folder that is named by what
//! went into it: a warm run builds nothing, and an old clone keeps finding its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::home::cache;
use crate::progress::step;

/// Goes with go.mod in `kubernetes/`, where the modules of this version stand.
const KUBERNETES: &str = "v1.36.3";
/// Names by which the one program of Kubernetes is started.
const KUBERNETES_PARTS: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// Everything's flags: no paths of this machine in the programs, no symbol tables, no question to a version control system.
const FLAGS: [&str; 3] = ["-buildvcs=false", "-trimpath", "-ldflags"];

/// Programs that are installed from their own modules, as those pin their dependencies.
const INSTALLED: [Installed; 5] = [
    Installed {
        name: "containerd-2.3.7",
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd@v2.3.7",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.3.7",
            "github.com/containerd/containerd/v2/cmd/ctr@v2.3.7",
        ],
        // Snapshotters that want libraries in C.
        tags: "no_btrfs no_devmapper no_zfs",
        stamps: " -X github.com/containerd/containerd/v2/version.Version=v2.3.7",
        cgo: false,
    },
    // Newer than Debian's, which hides its errors. Filters of system calls come from a library in C.
    Installed { name: "runc-1.4.3", packages: &["github.com/opencontainers/runc@v1.4.3"], tags: "seccomp", stamps: "", cgo: true },
    Installed {
        name: "cni-1.9.1",
        packages: &[
            "github.com/containernetworking/plugins/plugins/main/bridge@v1.9.1",
            "github.com/containernetworking/plugins/plugins/main/loopback@v1.9.1",
            "github.com/containernetworking/plugins/plugins/ipam/host-local@v1.9.1",
            "github.com/containernetworking/plugins/plugins/meta/portmap@v1.9.1",
        ],
        tags: "",
        stamps: "",
        cgo: false,
    },
    Installed {
        name: "helm-3.22.0",
        packages: &["helm.sh/helm/v3/cmd/helm@v3.22.0"],
        tags: "",
        stamps: " -X helm.sh/helm/v3/internal/version.version=v3.22.0",
        cgo: false,
    },
    Installed {
        name: "helm-4.3.1",
        packages: &["helm.sh/helm/v4/cmd/helm@v4.3.1"],
        tags: "",
        stamps: " -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        cgo: false,
    },
];

/// Holds the chart's objects against what is good practice for anybody's.
const KUBE_SCORE: Installed = Installed {
    name: "kube-score-1.20.0",
    packages: &["github.com/zegl/kube-score/cmd/kube-score@v1.20.0"],
    tags: "",
    stamps: "",
    cgo: false,
};

/// A Go module of this crate. Its text is in this program, so that the build finds it wherever the tree is.
struct Module {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const SOURCE: Module = Module {
    name: "kubernetes",
    files: &[
        ("go.mod", include_str!("../kubernetes/go.mod")),
        ("go.sum", include_str!("../kubernetes/go.sum")),
        ("main.go", include_str!("../kubernetes/main.go")),
    ],
};

const COREDNS: Module = Module {
    name: "coredns",
    files: &[
        ("go.mod", include_str!("../coredns/go.mod")),
        ("go.sum", include_str!("../coredns/go.sum")),
        ("main.go", include_str!("../coredns/main.go")),
    ],
};

const INTERNET: Module = Module {
    name: "internet",
    files: &[
        ("go.mod", include_str!("../internet/go.mod")),
        ("go.sum", include_str!("../internet/go.sum")),
        ("journal.go", include_str!("../internet/journal.go")),
        ("main.go", include_str!("../internet/main.go")),
        ("quic.go", include_str!("../internet/quic.go")),
        ("sinks.go", include_str!("../internet/sinks.go")),
    ],
};

const NETWORK_POLICIES: Module = Module {
    name: "networkpolicies",
    files: &[
        ("go.mod", include_str!("../networkpolicies/go.mod")),
        ("go.sum", include_str!("../networkpolicies/go.sum")),
        ("main.go", include_str!("../networkpolicies/main.go")),
    ],
};

const IMAGES: Module = Module {
    name: "images",
    files: &[
        ("go.mod", include_str!("../images/go.mod")),
        ("pause/main.go", include_str!("../images/pause/main.go")),
        ("probe/main.go", include_str!("../images/probe/main.go")),
    ],
};

struct Installed {
    name: &'static str,
    packages: &'static [&'static str],
    tags: &'static str,
    /// Further flags of the linker.
    stamps: &'static str,
    cgo: bool,
}

/// The folders of what was built.
#[derive(Clone, Debug)]
pub struct Programs {
    kubernetes: PathBuf,
    coredns: PathBuf,
    images: PathBuf,
    internet: PathBuf,
    containerd: PathBuf,
    runc: PathBuf,
    cni: PathBuf,
    helm3: PathBuf,
    helm4: PathBuf,
}

impl Programs {
    /// Builds what is not there yet: minutes on an empty cache, nothing afterwards.
    ///
    /// # Errors
    /// When Go is missing, a module cannot be fetched, or a build fails; the message has the end of what Go said.
    pub fn build() -> Result<Self> {
        let (builder, _lock) = Builder::alone()?;
        let [containerd, runc, cni, helm3, helm4] = &INSTALLED;
        Ok(Self {
            kubernetes: builder.kubernetes()?,
            coredns: builder.module(&COREDNS, &["."], "")?,
            images: builder.module(&IMAGES, &["./pause", "./probe"], "")?,
            internet: builder.module(&INTERNET, &["."], "")?,
            containerd: builder.install(containerd)?,
            runc: builder.install(runc)?,
            cni: builder.install(cni)?,
            helm3: builder.install(helm3)?,
            helm4: builder.install(helm4)?,
        })
    }

    /// Helm 3 or 4 for what needs no cluster, as rendering a chart does.
    ///
    /// # Errors
    /// As for [`Self::build`].
    pub fn helm_alone(major: u8) -> Result<PathBuf> {
        let [.., helm3, helm4] = &INSTALLED;
        let (builder, _lock) = Builder::alone()?;
        Ok(builder.install(if major == 3 { helm3 } else { helm4 })?.join("helm"))
    }

    /// What enforces NetworkPolicies.
    ///
    /// # Errors
    /// As for [`Self::build`].
    pub(crate) fn network_policies() -> Result<PathBuf> {
        let (builder, _lock) = Builder::alone()?;
        Ok(builder.module(&NETWORK_POLICIES, &["."], "")?.join("networkpolicies"))
    }

    /// kube-score.
    ///
    /// # Errors
    /// As for [`Self::build`].
    pub fn kube_score() -> Result<PathBuf> {
        let (builder, _lock) = Builder::alone()?;
        Ok(builder.install(&KUBE_SCORE)?.join("kube-score"))
    }

    /// Puts what the node runs, and what works with it, into `folder`, under the names that it is started by.
    pub(crate) fn link_into(&self, folder: &Path) -> Result<()> {
        let cni = folder.join("cni");
        fs::create_dir_all(&cni).with_context(|| format!("cannot make {}", cni.display()))?;
        for part in KUBERNETES_PARTS {
            link(&self.kubernetes.join("kubernetes"), &folder.join(part))?;
        }
        for (source, name) in [(self.pause(), "pause"), (self.helm(3), "helm3"), (self.helm(4), "helm4")] {
            link(&source, &folder.join(name))?;
        }
        for source in [&self.coredns, &self.containerd, &self.runc] {
            link_all(source, folder)?;
        }
        link_all(&self.cni, &cni)
    }

    /// The real kubectl.
    #[must_use]
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes.join("kubectl")
    }

    /// Helm 3, or 4.
    #[must_use]
    pub fn helm(&self, major: u8) -> PathBuf {
        if major == 3 { &self.helm3 } else { &self.helm4 }.join("helm")
    }

    /// The program of every sandbox.
    #[must_use]
    pub fn pause(&self) -> PathBuf {
        self.images.join("pause")
    }

    /// The program of [`crate::PROBE_IMAGE`].
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.images.join("probe")
    }

    /// The world outside: sinks that note what arrives, and a client of HTTP/3.
    #[must_use]
    pub fn internet(&self) -> PathBuf {
        self.internet.join("internet")
    }
}

struct Builder {
    /// What `go version` says, since another compiler makes another program.
    go: String,
    cache: PathBuf,
}

impl Builder {
    /// The one that builds now: others wait until the lock is dropped.
    fn alone() -> Result<(Self, File)> {
        let go = String::from_utf8(Command::new("go").arg("version").output().context("the cluster is built with Go: install it")?.stdout)?;
        let cache = cache().join("cluster/programs");
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::create(cache.join("lock")).context("cannot open the lock of the builds")?;
        lock.lock().context("cannot take the lock of the builds")?;
        Ok((Self { go, cache }, lock))
    }

    fn kubernetes(&self) -> Result<PathBuf> {
        // Without these the server says that it is v0.0.0, and charts that ask for a version refuse it.
        let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
        let stamps = [("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "clean")];
        let modules = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
        let flag = |module: &str| stamps.map(|(name, value)| format!(" -X {module}.{name}={value}")).concat();
        let folder = self.module(&SOURCE, &["."], &modules.map(flag).concat())?;
        let kubectl = folder.join("kubectl");
        if !kubectl.exists() {
            link(&folder.join("kubernetes"), &kubectl)?;
        }
        Ok(folder)
    }

    /// Builds packages of a module in this tree; `stamps` are further flags of the linker.
    fn module(&self, module: &Module, packages: &[&str], stamps: &str) -> Result<PathBuf> {
        let mut key = self.key(stamps);
        for (name, text) in module.files {
            key.update(name);
            key.update(text);
        }
        self.once(module.name, key, |target| {
            let source = target.join("source");
            for (name, text) in module.files {
                let path = source.join(name);
                fs::create_dir_all(path.parent().unwrap_or(&source))?;
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            let mut go = self.go(&["build"], stamps, false);
            // The slash makes it a folder, whatever the number of packages.
            go.arg("-o").arg(target.join("bin/")).args(packages).current_dir(&source);
            Ok(go)
        })
    }

    fn install(&self, what: &Installed) -> Result<PathBuf> {
        let mut key = self.key(what.stamps);
        key.update(what.tags);
        what.packages.iter().for_each(|package| key.update(package));
        self.once(what.name, key, |target| {
            let mut go = self.go(&["install", "-tags", what.tags], what.stamps, what.cgo);
            go.args(what.packages).env("GOBIN", target.join("bin")).current_dir(&self.cache);
            Ok(go)
        })
    }

    fn go(&self, words: &[&str], stamps: &str, cgo: bool) -> Command {
        let mut go = Command::new("go");
        go.args(words).args(FLAGS).arg(format!("-s -w{stamps}"));
        // Flags of this machine would go unnoticed into the programs, but not into their key.
        go.env("CGO_ENABLED", if cgo { "1" } else { "0" }).env_remove("GOFLAGS").stdin(Stdio::null());
        go
    }

    fn key(&self, flags: &str) -> Sha256 {
        let mut key = Sha256::new();
        [self.go.as_str(), flags].into_iter().chain(FLAGS).for_each(|part| key.update(part));
        key
    }

    /// Runs `command` into a folder of its own unless that was done before.
    fn once(&self, name: &str, key: Sha256, command: impl FnOnce(&Path) -> Result<Command>) -> Result<PathBuf> {
        let folder = self.cache.join(format!("{name}-{}", hex::encode(&key.finalize()[..6])));
        let programs = folder.join("bin");
        if programs.exists() {
            return Ok(programs);
        }
        // Only a whole build gets the name that later runs look for.
        let unfinished = folder.with_added_extension("new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        step(&format!("build {name}"), || crate::progress::output(&mut command(&unfinished)?))?;
        fs::rename(&unfinished, &folder).with_context(|| format!("cannot name {}", folder.display()))?;
        Ok(programs)
    }
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        link(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A second name for the program, so that no path leads out of the cluster's own folder; a copy where that crosses file systems.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() && fs::copy(from, to).is_err() {
        bail!("cannot put {} at {}", from.display(), to.display());
    }
    Ok(())
}
