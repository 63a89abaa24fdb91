//! The folder of manifests as the ledger's policy: read whole, in force whole, and followed as files change.
//!
//! A folder that does not hold changes nothing: the last good set stays in force, also for a ledger that its supervisor
//! starts again, and stderr says so. That set lies in the data folder, because it carries Secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybernis_core::policy::{PolicySet, SecretRef};
use kybernis_crds::{Loaded, ManifestError, lower_namespace};
use kybernis_ledger::policy::{InForce, Secrets};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::home::write_whole;
use crate::say::tell;

/// How often the folder is looked at. Looking finds what notifications miss: network file systems, swapped symlinks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Without a folder nothing is governed but by the defaults.
pub(super) fn none() -> anyhow::Result<InForce> {
    compile(&PolicySet::default(), Secrets::new())
}

/// A folder that is followed.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    namespace: String,
    last_good: PathBuf,
}

/// What may have changed about a folder: each entry's name, size and time.
pub(super) type Look = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// The last set that held, as it lies in the data folder.
#[derive(Serialize, Deserialize)]
struct LastGood {
    dir: PathBuf,
    namespace: String,
    set: PolicySet,
    secrets: Vec<(SecretRef, String)>,
}

impl Folder {
    pub(super) fn new(dir: PathBuf, namespace: String, data: &Path) -> Self {
        Self { dir, namespace, last_good: data.join("policy-in-force.json") }
    }

    /// The set to start with, and the look of the folder before it was read. Only who starts again may fall back to the
    /// last good one.
    pub(super) fn first(&self, again: bool) -> anyhow::Result<(InForce, Look)> {
        let look = self.look();
        let errors = match self.read() {
            Ok(in_force) => return Ok((in_force, look)),
            Err(errors) => errors,
        };
        match again.then(|| self.recall()).flatten() {
            Some(in_force) => {
                self.complain(&errors);
                Ok((in_force?, look))
            }
            None => anyhow::bail!("{}", lines(&errors)),
        }
    }

    /// Takes every change since `taken` that holds into force; returns never.
    pub(super) async fn follow(&self, mut taken: Look, tell: &watch::Sender<InForce>) {
        let mut before = taken.clone();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = self.look();
            // Two looks alike: whoever writes has finished.
            let settled = std::mem::replace(&mut before, now.clone()) == now;
            if !settled || now == taken {
                continue;
            }
            taken = now;
            match self.read() {
                Ok(in_force) if in_force.digest == tell.borrow().digest => {
                    // Secrets are no part of the digest.
                    tell.send_replace(in_force);
                }
                Ok(in_force) => {
                    tell!("kybernis: the policies in {} changed and are in force ({})", self.dir.display(), in_force.digest);
                    tracing::info!(digest = %in_force.digest, "a changed policy is in force");
                    tell.send_replace(in_force);
                }
                Err(errors) => self.complain(&errors),
            }
        }
    }

    fn complain(&self, errors: &[ManifestError]) {
        tell!(
            "kybernis: the policies in {} do NOT hold; the last good ones stay in force until this is mended:\n{}",
            self.dir.display(),
            lines(errors)
        );
        tracing::error!(errors = errors.len(), "the folder of policies does not hold; the last good set stays in force");
    }

    fn read(&self) -> Result<InForce, Vec<ManifestError>> {
        let loaded = kybernis_crds::load(&self.dir)?;
        let set = lower_namespace(&loaded, &self.namespace);
        let secrets = secrets(&loaded, &set);
        if let Err(error) = self.remember(&set, &secrets) {
            tracing::warn!(%error, "the set in force cannot be kept for a restart");
        }
        // The loader has compiled this very set.
        compile(&set, secrets).map_err(|error| vec![unplaced(&self.dir, &error.to_string())])
    }

    fn remember(&self, set: &PolicySet, secrets: &Secrets) -> anyhow::Result<()> {
        let secrets = secrets.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value.as_slice()))).collect();
        let last = LastGood { dir: self.dir.clone(), namespace: self.namespace.clone(), set: set.clone(), secrets };
        let bytes = Zeroizing::new(serde_json::to_vec(&last)?);
        Ok(write_whole(&self.last_good, &bytes, 0o600)?)
    }

    /// The last good set of this very folder and namespace.
    fn recall(&self) -> Option<anyhow::Result<InForce>> {
        let bytes = Zeroizing::new(std::fs::read(&self.last_good).ok()?);
        let last: LastGood = serde_json::from_slice(&bytes).ok()?;
        if last.dir != self.dir || last.namespace != self.namespace {
            return None;
        }
        let secrets: BTreeMap<_, _> =
            last.secrets.into_iter().filter_map(|(name, value)| Some((name, Zeroizing::new(STANDARD.decode(value).ok()?)))).collect();
        Some(compile(&last.set, secrets).context("the last good policies"))
    }

    fn look(&self) -> Look {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok);
        let mut look: Look = entries
            .map(|entry| {
                // Through symlinks: what they point at is what is read.
                let about = std::fs::metadata(entry.path()).ok();
                let modified = about.as_ref().and_then(|about| about.modified().ok());
                (entry.path(), about.map_or(0, |about| about.len()), modified)
            })
            .collect();
        look.sort();
        look
    }
}

fn secrets(loaded: &Loaded, set: &PolicySet) -> Secrets {
    let named = set.tools.iter().filter_map(|tool| tool.effect.probe.as_ref()?.secret_ref.clone());
    named.filter_map(|name| Some((name.clone(), Zeroizing::new(loaded.secret(&name)?.expose().to_vec())))).collect()
}

fn compile(set: &PolicySet, secrets: Secrets) -> anyhow::Result<InForce> {
    InForce::new(set, secrets)
        .map_err(|errors| anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

fn unplaced(dir: &Path, rule: &str) -> ManifestError {
    ManifestError {
        file: dir.display().to_string(),
        line: None,
        column: None,
        field: String::new(),
        rule: rule.to_owned(),
        advice: "Correct it".to_owned(),
    }
}

fn lines(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: &str = "apiVersion: kybernis.io/v1alpha1\nkind: ToolRegistration\nmetadata: {name: orders}\nspec:\n  match:\n  - {hosts: \
                        [broker.example.com], methods: [POST]}\n  class: SideEffect\n";

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("policies");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("tools.yaml"), TOOL).unwrap();
        let folder = Folder::new(dir, "default".to_owned(), root.path());
        (root, folder)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_holds_comes_into_force_and_one_that_does_not_changes_nothing() {
        let (_root, folder) = folder();
        let (first, look) = folder.first(false).unwrap();
        let (tell, mut policy) = watch::channel(first.clone());
        let file = folder.dir.join("tools.yaml");
        let watching = folder.follow(look, &tell);
        let script = async {
            std::fs::write(folder.dir.join("broken.yaml"), "kind: Nonsense\n").unwrap();
            // Far longer than it takes to notice: time is the test's.
            tokio::time::sleep(LOOK_EVERY * 20).await;
            assert!(!policy.has_changed().unwrap(), "a bad file changed the policy");
            std::fs::remove_file(folder.dir.join("broken.yaml")).unwrap();
            std::fs::write(&file, TOOL.replace("orders", "other-orders")).unwrap();
            policy.changed().await.unwrap();
            while policy.borrow_and_update().digest == first.digest {
                policy.changed().await.unwrap();
            }
        };
        tokio::select! {
            () = watching => {}
            () = script => {}
        }
    }

    #[test]
    fn only_who_starts_again_falls_back_to_the_last_good_set_of_the_same_folder() {
        let (root, folder) = folder();
        let (good, _) = folder.first(false).unwrap();
        std::fs::write(folder.dir.join("tools.yaml"), "kind: Nonsense\n").unwrap();
        assert!(folder.first(false).unwrap_err().to_string().contains("tools.yaml"));
        assert_eq!(folder.first(true).unwrap().0.digest, good.digest);
        let other = Folder::new(folder.dir.clone(), "trading".to_owned(), root.path());
        assert!(other.first(true).is_err());
    }

    #[test]
    fn the_probes_secrets_come_with_the_set() {
        let (_root, folder) = folder();
        let probe = "  effect:\n    key: '\"o:\" + request.body.id'\n    probe:\n      url: '\"https://broker.example.com/o\"'\n      method: \
                     GET\n      secretRef: {name: broker, key: authorization}\n      executedWhen: 'response.status == 200'\n      \
                     initialDelay: 1s\n      interval: 1s\n      giveUpAfter: 10s\n";
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: broker}\nstringData: {authorization: Bearer x}\n";
        std::fs::write(folder.dir.join("tools.yaml"), format!("{TOOL}{probe}{secret}")).unwrap();
        let (read, _) = folder.first(false).unwrap();
        assert_eq!(read.secrets.values().map(|value| value.to_vec()).collect::<Vec<_>>(), [b"Bearer x".to_vec()]);
        std::fs::remove_file(folder.dir.join("tools.yaml")).unwrap();
        std::fs::write(folder.dir.join("broken.yaml"), "kind: Nonsense\n").unwrap();
        assert_eq!(folder.first(true).unwrap().0.secrets, read.secrets);
    }
}
