//! A sidecar's folder in the data folder: made for a session, locked while that lives, and gone after it unless the ledger
//! has not taken everything.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kybernis_ledger::Ledger;
use kybernis_sidecar::serve::Sidecar;

use super::kept::Role;
use crate::capture::environment::Capture;
use crate::handover::Sockets;
use crate::home::Home;
use crate::say::tell;

const SIDECARS: &str = "sidecars";
const LOGS: &str = "logs";
/// Where spools go that hold nothing but what the ledger refused.
const REFUSED: &str = "refused";
/// As many files as a message names: enough to begin with, and the rest lies beside them.
const NAMED_MAX: usize = 5;

/// A folder of one sidecar, locked for as long as its session lives.
#[derive(Debug)]
pub(super) struct Place {
    home: Home,
    path: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes a new one. It has its name only once it is locked: a folder with a name and without a lock is a leftover.
    pub(super) fn make(home: &Home, instance: &str) -> anyhow::Result<Self> {
        let path = home.folder(SIDECARS)?.join(instance);
        let nameless = home.folder(nameless(&path))?;
        let place = Self::lock(home, nameless)?.context("the sidecar's folder is in use")?;
        fs::rename(&place.path, &path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { path, ..place })
    }

    /// Those whose sessions are gone.
    pub(super) fn leftovers(home: &Home) -> impl Iterator<Item = Self> {
        let folders = fs::read_dir(home.path().join(SIDECARS)).into_iter().flatten().filter_map(Result::ok);
        let named = folders.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        named.filter_map(|entry| Self::lock(home, entry.path()).ok().flatten())
    }

    /// `None`: its session lives.
    fn lock(home: &Home, path: PathBuf) -> anyhow::Result<Option<Self>> {
        let lock = File::create(path.join("lock")).with_context(|| format!("{}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { home: home.clone(), path, _lock: lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// The sidecar's word on who it is.
    pub(super) fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    /// What COMMAND's clients are to trust.
    pub(super) fn bundle_file(&self) -> PathBuf {
        self.bundle().join(Sidecar::BUNDLE_FILE)
    }

    /// The same for Java.
    pub(super) fn trust_store(&self) -> PathBuf {
        self.bundle().join(Sidecar::TRUST_STORE_FILE)
    }

    fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    fn spool(&self) -> PathBuf {
        self.path.join("data/spool")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join(LOGS).join("sidecar.log")
    }

    /// What it takes to start the sidecar here.
    pub(super) fn role(
        &self,
        program: &Path,
        grpc: SocketAddr,
        capture: Capture,
        roots: &[PathBuf],
        sockets: Sockets,
    ) -> anyhow::Result<Role> {
        self.home.folder(LOGS)?;
        let log = self.log();
        let mut args: Vec<OsString> = vec!["sidecar".into(), "--supervised".into()];
        let address = format!("https://{grpc}");
        let pairs: [(&str, OsString); 7] = [
            ("--data", self.path.join("data").into()),
            ("--bundle", self.bundle().into()),
            ("--ledger", address.into()),
            ("--ledger-ca", Ledger::ca_file(self.home.path()).into()),
            ("--token-file", self.token().into()),
            ("--capture", capture.as_str().into()),
            ("--log-file", log.clone().into()),
        ];
        for (name, value) in pairs {
            args.extend([name.into(), value]);
        }
        for root in roots {
            args.extend(["--root".into(), root.into()]);
        }
        Ok(Role { name: "sidecar", program: program.into(), args, sockets, pid_file: self.path.join("sidecar.pid"), log })
    }

    /// Removes the folder once its sidecar has ended, and says what could not go with it.
    pub(super) fn clear(self) {
        if let Some(left) = self.settle() {
            tell!("{left}");
        }
    }

    /// What waits keeps the folder as it is: a later session delivers it. What was refused is put where no session looks
    /// again, and people do.
    fn settle(self) -> Option<Left> {
        let mut left = Left::of(self.spool(), self.log());
        if left.waiting {
            return Some(left);
        }
        if !left.refused.is_empty() {
            match self.put_aside() {
                Ok(spool) => left = Left::of(spool, self.log()),
                Err(error) => {
                    tracing::debug!(%error, "what the ledger refused stays where it is");
                    return Some(left);
                }
            }
        }
        if let Err(error) = self.remove() {
            tracing::debug!(%error, "a sidecar's folder stays");
        }
        (!left.refused.is_empty()).then_some(left)
    }

    fn put_aside(&self) -> anyhow::Result<PathBuf> {
        let aside = self.home.folder(REFUSED)?.join(self.path.file_name().unwrap_or_default());
        fs::rename(self.spool(), &aside)?;
        Ok(aside)
    }

    /// Takes the name away first: a folder that is half gone is no leftover.
    fn remove(&self) -> io::Result<()> {
        let nameless = nameless(&self.path);
        fs::rename(&self.path, &nameless)?;
        fs::remove_dir_all(nameless)
    }
}

/// The same folder where [`Place::leftovers`] does not look.
fn nameless(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// What a spool holds that the ledger has not taken.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    spool: PathBuf,
    log: PathBuf,
    waiting: bool,
    refused: Vec<PathBuf>,
}

impl Left {
    /// The sidecar's spool names a file for what it is, and what the ledger does not take `….refused` or `…-refused`;
    /// `.partial` is a draft, which nobody was promised.
    fn of(spool: PathBuf, log: PathBuf) -> Self {
        let entries = fs::read_dir(&spool).into_iter().flatten().filter_map(Result::ok);
        let filled = entries.filter(|entry| entry.metadata().is_ok_and(|about| about.is_file() && about.len() > 0));
        let kind = |path: &Path| path.extension().unwrap_or_default().to_owned();
        let files = filled.map(|entry| entry.path()).filter(|path| kind(path) != OsStr::new("partial"));
        let (mut refused, waiting): (Vec<_>, Vec<_>) = files.partition(|path| kind(path).as_encoded_bytes().ends_with(b"refused"));
        refused.sort();
        Self { spool, log, waiting: !waiting.is_empty(), refused }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spool, log, waiting, refused } = self;
        if *waiting {
            write!(
                f,
                "kybernis: the ledger has not taken everything yet; {} holds the rest, and the next run delivers it",
                spool.display()
            )?;
        }
        if refused.is_empty() {
            return Ok(());
        }
        if *waiting {
            writeln!(f)?;
        }
        write!(f, "kybernis: the ledger REFUSED what follows, and no run sends it again; it is kept for people to look at, and ")?;
        write!(f, "{} says why:", log.display())?;
        refused.iter().take(NAMED_MAX).try_for_each(|path| write!(f, "\n  {}", path.display()))?;
        match refused.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            unnamed => write!(f, "\n  and {unnamed} more beside them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        _folder: tempfile::TempDir,
        home: Home,
    }

    fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("data")).unwrap();
        Rig { _folder: folder, home }
    }

    impl Rig {
        fn place(&self, instance: &str, spool: &[(&str, &str)]) -> Place {
            let place = Place::make(&self.home, instance).unwrap();
            fs::create_dir_all(place.spool()).unwrap();
            spool.iter().for_each(|(name, content)| fs::write(place.spool().join(name), content).unwrap());
            place
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let entries = fs::read_dir(self.home.path().join(folder)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    #[test]
    fn a_spool_that_is_delivered_goes_with_its_folder() {
        let rig = rig();
        let left = rig.place("a", &[("spans-b.log", ""), ("1.settle.partial", "torn")]).settle();
        assert_eq!(left, None);
        assert!(rig.names(SIDECARS).is_empty() && rig.names(REFUSED).is_empty());
    }

    #[test]
    fn what_waits_keeps_its_folder_for_the_next_run() {
        for waiting in ["1.settle", "2.abandon", "3.claim", "3.claim-outcome", "spans-b.log"] {
            let rig = rig();
            let told = rig.place("a", &[(waiting, "x")]).settle().unwrap().to_string();
            assert!(told.contains("the next run delivers it") && !told.contains("REFUSED"), "{waiting}: {told}");
            assert_eq!(Place::leftovers(&rig.home).count(), 1, "{waiting}");
        }
    }

    #[test]
    fn what_the_ledger_refused_is_kept_for_people_and_no_run_is_promised_to_deliver_it() {
        for refused in ["1.refused", "2.claim-refused", "2.claim-outcome-refused"] {
            let rig = rig();
            let told = rig.place("a", &[(refused, "x"), ("spans-b.log", "")]).settle().unwrap().to_string();
            let kept = rig.home.path().join(REFUSED).join("a").join(refused);
            assert!(told.contains(&kept.display().to_string()) && !told.contains("delivers"), "{told}");
            assert_eq!(fs::read(kept).unwrap(), b"x");
            assert!(rig.names(SIDECARS).is_empty(), "keys and token have gone, and no later run starts a sidecar for it");
        }
    }

    #[test]
    fn both_are_told_apart_in_one_spool() {
        let rig = rig();
        let spool: Vec<String> = (1..8).map(|number| format!("{number}.refused")).collect();
        let mut spool: Vec<(&str, &str)> = spool.iter().map(|name| (name.as_str(), "x")).collect();
        spool.push(("9.settle", "x"));
        let told = rig.place("a", &spool).settle().unwrap().to_string();
        assert!(told.contains("the next run delivers it\nkybernis: the ledger REFUSED"), "{told}");
        assert!(told.contains("5.refused") && told.ends_with("and 2 more beside them"), "{told}");
        assert_eq!(rig.names(SIDECARS), ["a"]);
    }

    #[test]
    fn a_place_whose_session_lives_is_no_leftover() {
        let rig = rig();
        let lives = rig.place("a", &[]);
        assert_eq!(Place::leftovers(&rig.home).count(), 0);
        drop(lives);
        assert_eq!(Place::leftovers(&rig.home).map(|place| place.path).collect::<Vec<_>>(), [rig.home.path().join("sidecars/a")]);
    }
}
