//! The clients, installed: a Python environment with pinned packages, a Go binary, Java classes, in a cache outside the tree.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::client::Client;

/// Flags that only make a short-lived JVM start faster.
const JAVA_FLAGS: [&str; 3] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"];

/// The version of Python in the agents' image (Debian 12).
const POD_PYTHON: &str = "3.11";

/// Everything that is needed to run the clients.
#[derive(Clone, Debug)]
pub struct Kit {
    sources: PathBuf,
    /// The interpreter, as a command begins with it.
    python: Vec<OsString>,
    go: PathBuf,
    java: PathBuf,
}

/// What one client is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'a> {
    /// Where the order goes.
    pub url: &'a str,
    /// The order.
    pub body: &'a str,
    /// Tries in all.
    pub tries: u32,
    /// For each.
    pub timeout_s: f64,
    /// Read before.
    pub first: Option<&'a str>,
}

/// `$XDG_CACHE_HOME/kybernis` or `~/.cache/kybernis`.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    base.unwrap_or_else(home).join("kybernis")
}

impl Kit {
    /// Installs what is missing below `cache`, saying so. What is there stays: each part's folder is named by what it is made of.
    ///
    /// # Errors
    /// When a toolchain is missing or a registry is out of reach.
    pub fn install(cache: &Path) -> Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let python = part(cache, "python", &sources.join("requirements.txt"), |folder, requirements| {
            run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
            run(Command::new(folder.join("bin/python")).args(pip).arg(requirements))
        })?;
        let go = part(cache, "go", &sources.join("go/main.go"), |folder, source| {
            let module = source.parent().unwrap_or(source);
            run(Command::new("go").args(["build", "-o"]).arg(folder.join("order")).arg(".").current_dir(module))
        })?;
        let java = part(cache, "java", &sources.join("java/Order.java"), |folder, source| {
            run(Command::new("javac").arg("-d").arg(folder).arg(source))
        })?;
        Ok(Self { sources, python: vec![python.join("bin/python").into()], go: go.join("order"), java })
    }

    /// The same clients in a pod that has the folder of sources at `sources`, and the folders of [`Self::compiled`] and of the packages,
    /// which it returns, where they lie here. Its interpreters are its own; its distribution's packages would be other clients.
    ///
    /// # Errors
    /// When the packages are out of reach.
    pub fn in_pod(&self, cache: &Path, sources: &Path) -> Result<(Self, PathBuf)> {
        let packages = part(cache, &format!("python-{POD_PYTHON}"), &self.sources.join("requirements.txt"), |folder, requirements| {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:"]);
            pip.args(["--python-version", POD_PYTHON, "--target"]).arg(folder).arg("--requirement").arg(requirements);
            run(&mut pip)
        })?;
        let path = format!("PYTHONPATH={}", packages.display());
        let python = vec!["env".into(), path.into(), "python3".into()];
        Ok((Self { sources: sources.into(), python, ..self.clone() }, packages))
    }

    /// The folder of sources.
    pub fn sources(&self) -> &Path {
        &self.sources
    }

    /// The folders of what was compiled.
    pub fn compiled(&self) -> [&Path; 2] {
        [self.go.parent().unwrap_or(&self.go), &self.java]
    }

    /// The command line for an errand.
    pub fn words(&self, client: Client, errand: Errand<'_>) -> Vec<OsString> {
        let script = |program: &str, name: &str| vec![program.into(), self.sources.join(name).into_os_string()];
        let python = |name: &str| [self.python.as_slice(), &[self.sources.join(name).into_os_string()]].concat();
        let mut words = match client {
            Client::Requests => python("requests_order.py"),
            Client::Httpx => python("httpx_order.py"),
            Client::Aiohttp => python("aiohttp_order.py"),
            Client::Curl => script("sh", "curl_order.sh"),
            Client::Fetch => script("node", "fetch_order.mjs"),
            Client::Go => vec![self.go.clone().into_os_string()],
            Client::Java => {
                let mut words: Vec<OsString> = vec!["java".into()];
                words.extend(JAVA_FLAGS.map(OsString::from));
                words.extend(["-cp".into(), self.java.clone().into_os_string(), "Order".into()]);
                words
            }
        };
        words.extend([errand.url.into(), errand.body.into(), errand.tries.to_string().into(), errand.timeout_s.to_string().into()]);
        words.extend(errand.first.map(OsString::from));
        words
    }
}

/// A folder made from `source` once; a half-made one is made anew.
fn part(cache: &Path, name: &str, source: &Path, make: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let folder = cache.join("clients").join(format!("{name}-{:016x}", hasher.finish()));
    let made = folder.join(".made");
    if !made.exists() {
        eprintln!("making the {name} clients in {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        make(&folder, source)?;
        fs::write(&made, "")?;
    }
    Ok(folder)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
