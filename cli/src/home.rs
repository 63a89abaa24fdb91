//! The data folder: what lies where in it, who owns it now, and where that owner's ledger is.
//!
//! One process at a time owns the folder's ledger, by a lock that the system takes back however that process ends. What it
//! writes into `ledger.json` holds only while the lock is held, so a file that was left behind is recognised.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const STANDING_FILE: &str = "ledger.json";
const LOCK_FILE: &str = "owner.lock";

/// A data folder that is there and is ours alone.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// Neither `--data` nor an environment that says where data go.
    #[error("no data folder: give --data DIR, or set HOME or XDG_DATA_HOME")]
    Nowhere,
    /// The system refuses.
    #[error("{path}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can look into it.
    #[error(
        "{path} can be opened by other users (mode {mode:o}), and keys lie in a data folder: give --data a folder of its own, or, if \
         it is one, chmod 700 {path}"
    )]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// The owner's word on its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The process that owns the folder.
    pub(crate) pid: u32,
    /// Where sidecars connect.
    pub(crate) grpc: SocketAddr,
    /// Where people and programs connect.
    pub(crate) http: SocketAddr,
    /// The folder of manifests, absolute.
    pub(crate) policies: Option<PathBuf>,
    /// Whose manifests are in force.
    pub(crate) namespace: String,
    /// The abstract socket at which the listeners are handed to who wants to follow as owner.
    pub(crate) handover: Option<String>,
}

/// The right to run the folder's ledger, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ownership {
    home: Home,
    _lock: File,
}

impl Home {
    /// `--data`, else where the XDG specification puts a user's data.
    pub(crate) fn locate(given: Option<PathBuf>, env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, HomeError> {
        // The specification: a path that is not absolute is to be ignored.
        let absolute = |name| env(name).filter(|path| path.is_absolute());
        given
            .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("kybernis")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share/kybernis")))
            .ok_or(HomeError::Nowhere)
    }

    /// Opens the folder; makes it (0700) where it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, HomeError> {
        let failed = |source| HomeError::File { path: path.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(HomeError::Exposed { path, mode });
        }
        Ok(Self(path))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in it, made (0700) where it is not there.
    pub(crate) fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf, HomeError> {
        let path = self.0.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| HomeError::File { path: path.clone(), source })?;
        Ok(path)
    }

    /// Becomes the owner, unless another process is.
    pub(crate) fn try_own(&self) -> Result<Option<Ownership>, HomeError> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Ownership { home: self.clone(), _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(HomeError::File { path: self.0.join(LOCK_FILE), source }),
        }
    }

    /// Waits until the owner has gone and becomes the next. Blocks the thread.
    pub(crate) fn own(&self) -> Result<Ownership, HomeError> {
        let lock = self.lock_file()?;
        lock.lock().map_err(|source| HomeError::File { path: self.0.join(LOCK_FILE), source })?;
        Ok(Ownership { home: self.clone(), _lock: lock })
    }

    fn lock_file(&self) -> Result<File, HomeError> {
        let path = self.0.join(LOCK_FILE);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        opened.map_err(|source| HomeError::File { path, source })
    }

    /// The owner's word; only to be believed while there is an owner.
    pub(crate) fn standing(&self) -> Option<Standing> {
        serde_json::from_slice(&fs::read(self.0.join(STANDING_FILE)).ok()?).ok()
    }
}

impl Ownership {
    /// Tells everybody where the ledger is.
    pub(crate) fn announce(&self, standing: &Standing) -> Result<(), HomeError> {
        let path = self.home.0.join(STANDING_FILE);
        // A handful of addresses and paths: a path that is no UTF-8 is refused when arguments are read.
        let text = serde_json::to_vec_pretty(standing).unwrap_or_default();
        write_whole(&path, &text, 0o600).map_err(|source| HomeError::File { path, source })
    }

    /// Takes the word back.
    pub(crate) fn withdraw(&self) {
        let _ = fs::remove_file(self.home.0.join(STANDING_FILE));
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_go_where_the_user_or_xdg_says() {
        let locate = |given: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            let env = |name: &str| match name {
                "XDG_DATA_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            };
            Home::locate(given.map(PathBuf::from), env).ok().map(|path| path.display().to_string())
        };
        for (given, xdg, home, expect) in [
            (Some("d"), Some("/x"), Some("/h"), Some("d")),
            (None, Some("/x"), Some("/h"), Some("/x/kybernis")),
            (None, Some("relative"), Some("/h"), Some("/h/.local/share/kybernis")),
            (None, None, Some("/h"), Some("/h/.local/share/kybernis")),
            (None, None, None, None),
        ] {
            assert_eq!(locate(given, xdg, home).as_deref(), expect);
        }
    }

    #[test]
    fn the_folder_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("deep/data")).unwrap();
        assert_eq!(fs::metadata(home.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Home::open(home.path()).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn there_is_one_owner_and_a_file_left_behind_by_none_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("data")).unwrap();
        let owner = home.try_own().unwrap().unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], 1));
        let standing = Standing { pid: 1, grpc: at, http: at, policies: None, namespace: "default".into(), handover: None };
        owner.announce(&standing).unwrap();
        assert_eq!(home.standing(), Some(standing));
        assert!(home.try_own().unwrap().is_none());
        let next = std::thread::spawn({
            let home = home.clone();
            move || home.own().unwrap()
        });
        drop(owner);
        let next = next.join().unwrap();
        assert!(home.standing().is_some(), "its owner did not say goodbye");
        next.withdraw();
        assert_eq!(home.standing(), None);
    }
}
