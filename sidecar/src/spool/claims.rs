//! Claims that this sidecar made by itself while the ledger was away, under a policy that says `failureMode: Open`: fsynced
//! before the first byte goes out, met by repeats, and handed to the ledger with their outcomes once it is back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_proto::{DecideAnswer, v1};
use prost::Message as _;
use tokio::sync::Notify;

use super::SpoolError;
use crate::control::{Backoff, CallError, Control};

/// Claims at a time; more would be a ledger that nobody misses.
const CLAIMS_MAX: usize = 1024;

const CLAIM: &str = "claim";
const OUTCOME: &str = "claim-outcome";

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another claim holds one of its keys, or means the same.
    #[error("an effect under this key went out while the ledger was away, and is not on record yet")]
    Held,
    /// Too many.
    #[error("{CLAIMS_MAX} claims wait for the ledger already")]
    Full,
    /// It could not be made durable.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

#[derive(Clone, Debug)]
struct Claim {
    decide: v1::DecideRequest,
    /// `None`: still under way, in this life.
    outcome: Option<v1::SettleRequest>,
}

/// The claims that the ledger does not know.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
    held: Mutex<BTreeMap<u64, Claim>>,
    news: Notify,
}

impl Claims {
    pub(super) fn open(folder: &Path) -> Result<Self, SpoolError> {
        let failed = |path: &Path, source| SpoolError { path: path.into(), source };
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let path = entry.map_err(|error| failed(folder, error))?.path();
            let Some(number) = number_of(&path, CLAIM) else { continue };
            let decide = read::<v1::DecideRequest>(&path).map_err(|error| failed(&path, error))?;
            let outcome = match read::<v1::SettleRequest>(&path.with_extension(OUTCOME)) {
                Ok(outcome) => outcome,
                // The life that made it ended before it knew.
                Err(error) if error.kind() == io::ErrorKind::NotFound => lost(&decide),
                Err(error) => return Err(failed(&path, error)),
            };
            held.insert(number, Claim { decide, outcome: Some(outcome) });
        }
        Ok(Self { folder: folder.into(), held: Mutex::new(held), news: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Claim>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ledger knows all of them.
    pub fn is_empty(&self) -> bool {
        self.held().is_empty()
    }

    /// Claims for `decide`; it is on disk when this returns. The number names the claim.
    ///
    /// # Errors
    /// When another claim stands in the way, or it could not be made durable.
    pub fn claim(&self, decide: v1::DecideRequest) -> Result<u64, ClaimError> {
        let bytes = decide.encode_to_vec();
        let number = {
            let mut held = self.held();
            if held.len() >= CLAIMS_MAX {
                return Err(ClaimError::Full);
            }
            let meets =
                |claim: &Claim| claim.decide.meaning == decide.meaning || claim.decide.keys.iter().any(|key| decide.keys.contains(key));
            if held.values().any(meets) {
                return Err(ClaimError::Held);
            }
            let number = held.keys().next_back().map_or(1, |last| last + 1);
            held.insert(number, Claim { decide, outcome: None });
            number
        };
        // The place is taken before the disk is asked, so that two calls cannot both find it free.
        self.write(number, CLAIM, &bytes).inspect_err(|_| drop(self.held().remove(&number)))?;
        Ok(number)
    }

    /// What became of a claim's effect; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn settled(&self, number: u64, outcome: v1::SettleRequest) -> Result<(), SpoolError> {
        self.write(number, OUTCOME, &outcome.encode_to_vec())?;
        if let Some(claim) = self.held().get_mut(&number) {
            claim.outcome = Some(outcome);
        }
        self.news.notify_one();
        Ok(())
    }

    fn write(&self, number: u64, kind: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let path = self.folder.join(format!("{number:020}.{kind}"));
        let draft = path.with_extension("claim-partial");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| SpoolError { path: path.clone(), source })
    }

    /// Hands over what has an outcome, in order, and waits for more.
    pub(super) async fn deliver(self: Arc<Self>, control: Control) {
        let mut backoff = Backoff::new();
        loop {
            let next = self.held().iter().find_map(|(number, claim)| Some((*number, claim.decide.clone(), claim.outcome.clone()?)));
            let Some((number, decide, outcome)) = next else {
                self.news.notified().await;
                continue;
            };
            match adopt(&control, decide, outcome).await {
                Ok(()) => {
                    self.done(number);
                    backoff.reset();
                }
                Err(CallError::Refused(reason)) => {
                    tracing::error!(
                        reason,
                        "an effect that went out while the ledger was away does not fit the record: look at the far side"
                    );
                    self.done(number);
                }
                Err(CallError::Away(_)) => backoff.wait().await,
            }
        }
    }

    fn done(&self, number: u64) {
        self.held().remove(&number);
        for kind in [OUTCOME, CLAIM] {
            // A file that stays is handed over again by the next life, and meets its own record.
            let _ = fs::remove_file(self.folder.join(format!("{number:020}.{kind}")));
        }
    }
}

fn number_of(path: &Path, kind: &str) -> Option<u64> {
    if path.extension()?.to_str()? != kind {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

fn read<M: prost::Message + Default>(path: &Path) -> io::Result<M> {
    M::decode(fs::read(path)?.as_slice()).map_err(io::Error::other)
}

/// The outcome of a claim whose exchange nobody saw to its end.
fn lost(decide: &v1::DecideRequest) -> v1::SettleRequest {
    let in_doubt = v1::InDoubt { cause: v1::DoubtCause::LeaseLost.into(), status: 0 };
    v1::SettleRequest { boot: decide.boot.clone(), outcome: Some(v1::settle_request::Outcome::InDoubt(in_doubt)), ..Default::default() }
}

/// Makes the decision after the fact, under whatever policy is in force, and settles it with what is known.
async fn adopt(control: &Control, mut decide: v1::DecideRequest, mut outcome: v1::SettleRequest) -> Result<(), CallError> {
    loop {
        match control.decide(decide.clone()).await? {
            DecideAnswer::Grant(grant) => {
                outcome.effect = grant.effect.to_string();
                outcome.fence = grant.fence.get();
                return control.settle(outcome).await.map(drop);
            }
            DecideAnswer::PolicyStale(digest) => decide.policy = digest.as_bytes().to_vec(),
            DecideAnswer::Replay(replay) => return Err(CallError::Refused(format!("it was completed before as {}", replay.effect))),
            DecideAnswer::Refuse(refuse) => return Err(CallError::Refused(format!("{}: {}", refuse.code, refuse.detail))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(key: u8, meaning: u8) -> v1::DecideRequest {
        v1::DecideRequest { boot: "boot-1".to_owned(), keys: vec![vec![key; 32]], meaning: vec![meaning; 32], ..Default::default() }
    }

    #[test]
    fn a_claim_is_met_by_its_key_and_by_its_meaning() {
        let folder = tempfile::tempdir().unwrap();
        let claims = Claims::open(folder.path()).unwrap();
        claims.claim(decide(1, 1)).unwrap();
        assert!(matches!(claims.claim(decide(1, 2)), Err(ClaimError::Held)));
        assert!(matches!(claims.claim(decide(2, 1)), Err(ClaimError::Held)));
        claims.claim(decide(2, 2)).unwrap();
    }

    #[test]
    fn a_later_life_finds_a_claim_without_an_outcome_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        Claims::open(folder.path()).unwrap().claim(decide(1, 1)).unwrap();
        let again = Claims::open(folder.path()).unwrap();
        assert!(matches!(again.claim(decide(1, 2)), Err(ClaimError::Held)), "a claim was forgotten");
        let held = again.held();
        let outcome = held.values().next().unwrap().outcome.clone().unwrap();
        assert!(matches!(outcome.outcome, Some(v1::settle_request::Outcome::InDoubt(_))));
    }
}
