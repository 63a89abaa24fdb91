//! Where a cluster keeps what it has, and the two locks that say who works on it and whether it lives.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait;

/// Names the folder of another cluster than the usual one.
pub const FOLDER: &str = "KYB_CLUSTER_FOLDER";

/// How long a dying process may go on writing into a folder that is being removed.
const REMOVAL: Duration = Duration::from_secs(10);

/// Where everything that may be kept between runs lies: outside the tree, so that a fresh clone starts warm.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    base.unwrap_or_else(home).join("kybernis")
}

/// The folder of one cluster. `state/` holds everything about the running one; beside it lie the locks, which outlive it.
#[derive(Clone, Debug)]
pub struct Home {
    folder: PathBuf,
}

/// Holds a lock until it is dropped, or until the last process that it was handed to has ended.
pub(crate) struct Lock(File);

impl From<Lock> for std::process::Stdio {
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

impl Home {
    /// A cluster in `folder`, which is made when it is needed.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder: folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))? })
    }

    /// The one that `cargo xtask cluster` and the scenarios use: where [`FOLDER`] says, or the usual place.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn usual() -> Result<Self> {
        let named = env::var_os(FOLDER).filter(|folder| !folder.is_empty());
        Self::new(&named.map_or_else(|| cache().join("cluster/default"), PathBuf::from))
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Other clusters, whose folders lie in this one.
    pub(crate) fn below(&self) -> Result<Vec<Self>> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("cannot read {}", self.folder.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path != self.state("").components().as_path() {
                found.push(Self::new(&path)?);
            }
        }
        Ok(found)
    }

    /// What the running cluster keeps; seen from inside it, this is `/mnt`.
    pub(crate) fn state(&self, path: &str) -> PathBuf {
        self.folder.join("state").join(path)
    }

    /// Makes this process the only one that starts or ends the cluster.
    pub(crate) fn work(&self) -> Result<Lock> {
        match self.lock("work.lock")? {
            Some(lock) => Ok(lock),
            None => bail!("another process is starting or ending the cluster in {}", self.folder.display()),
        }
    }

    /// Waits until no other process looks whether the cluster is up, and starts it when it is not.
    pub(crate) fn turn(&self) -> Result<Lock> {
        let file = self.open("turn.lock")?;
        file.lock().with_context(|| format!("cannot lock turn.lock in {}", self.folder.display()))?;
        Ok(Lock(file))
    }

    /// Waits until no other process runs a command with a cluster of its own here.
    pub(crate) fn session(&self, patience: Duration) -> Result<Lock> {
        match self.lock("session.lock")? {
            Some(lock) => Ok(lock),
            None => {
                println!("another run has the cluster in {}; waiting for its end", self.folder.display());
                wait::until("the other run has ended", patience, || self.lock("session.lock"))
            }
        }
    }

    /// The lock that the cluster's first process holds for life: `None` while one lives. Only for whoever has the lock for work.
    pub(crate) fn alive(&self) -> Result<Option<Lock>> {
        self.lock("alive.lock")
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        let file = self.open(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {name} in {}", self.folder.display())),
        }
    }

    fn open(&self, name: &str) -> Result<File> {
        let path = self.folder.join(name);
        let open = || File::options().create(true).append(true).open(&path);
        open().with_context(|| format!("cannot open {}", path.display()))
    }

    /// Removes `state/`. Its mounts are no obstacle: they exist in the cluster's namespaces only.
    pub(crate) fn forget(&self) -> Result<()> {
        let state = self.state("");
        wait::until("the state folder is empty", REMOVAL, || match fs::remove_dir_all(&state) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", state.display())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_below_are_found_and_the_state_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path()).unwrap();
        fs::create_dir_all(home.state("run")).unwrap();
        home.work().unwrap();
        assert!(home.below().unwrap().is_empty());
        let own = Home::new(&folder.path().join("own")).unwrap();
        let below: Vec<PathBuf> = home.below().unwrap().into_iter().map(|home| home.folder).collect();
        assert_eq!(below, [own.folder]);
    }

    #[test]
    fn one_at_a_time_starts_or_ends_a_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path()).unwrap();
        let first = home.work().unwrap();
        let refused = home.work().err().unwrap().to_string();
        assert!(refused.contains("another process is starting or ending"), "{refused}");
        drop(first);
        home.work().unwrap();
    }
}
