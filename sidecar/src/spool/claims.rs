//! Claims that this sidecar made by itself while the ledger was away, under a policy that says `failureMode: Open`: fsynced
//! before the first byte goes out, met by repeats, and handed to the ledger with their outcomes once it is back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_core::ids::{EffectId, KeyDigest, Meaning};
use kybernis_core::machine::Fence;
use kybernis_core::reason::Code;
use kybernis_proto::{DecideAnswer, v1};
use prost::Message as _;
use tokio::sync::Notify;

use super::{BARE_ROOM, Outcomes, REFUSED_MAX, SpoolError, encode_within, set_aside, write_durably};
use crate::control::{Backoff, CallError, Control};

/// Claims at a time; more would be a ledger that nobody misses.
const CLAIMS_MAX: usize = 1024;
/// Bytes of claims and their outcomes on disk: a quarter of the volume that is set aside for the spool.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a further claim may come to: the largest stored answer with its head, and the question.
const RESERVE: u64 = 10 * 1024 * 1024;

const CLAIM: &str = "claim";
const OUTCOME: &str = "claim-outcome";
/// What does not fit the ledger's record stays, for people to look at.
const REFUSED: &str = "refused";

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another claim holds one of its keys, or means the same.
    #[error("an effect under this key went out while the ledger was away, and is not on record yet")]
    Held,
    /// Too many, or too large together.
    #[error("{CLAIMS_MAX} claims, or {} MiB of them, wait for the ledger already", BYTES_MAX >> 20)]
    Full,
    /// It could not be made durable.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What became of a claim once the ledger was back.
#[derive(Debug)]
pub enum Adoption {
    /// It is on record.
    Granted {
        /// What the effect was called until then, in this life.
        alone: Option<EffectId>,
        /// What the ledger calls it.
        effect: EffectId,
        /// The ledger's grant.
        fence: Fence,
    },
    /// It does not fit the record: a person must look at the far side.
    Refused {
        /// What was asked.
        decide: Box<v1::DecideRequest>,
        /// The ledger's refusal; `None` where it takes the question itself for invalid.
        code: Option<Code>,
        /// In words.
        reason: String,
    },
}

/// Why a claim is not adopted yet, or ever.
enum NotAdopted {
    Away,
    Refused { code: Option<Code>, reason: String },
}

#[derive(Clone, Debug)]
struct Claim {
    decide: v1::DecideRequest,
    /// What this life calls the effect.
    alone: Option<EffectId>,
    /// Its exchange is over, or was never seen to its end.
    settled: bool,
    bytes: u64,
}

/// The claims that the ledger does not know.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
    held: Mutex<Held>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Held {
    claims: BTreeMap<u64, Claim>,
    /// Bytes of what the ledger did not take.
    refused: u64,
    last: u64,
}

impl Held {
    fn meets(&self, keys: &[Vec<u8>], meaning: &[u8]) -> bool {
        self.claims.values().any(|claim| claim.decide.meaning == meaning || claim.decide.keys.iter().any(|key| keys.contains(key)))
    }

    fn bytes(&self) -> u64 {
        self.claims.values().map(|claim| claim.bytes).sum()
    }

    /// What the next outcome may come to with its answer.
    fn room(&self) -> u64 {
        BYTES_MAX.saturating_sub(BARE_ROOM + self.bytes() + self.refused)
    }
}

impl Claims {
    pub(super) fn open(folder: &Path) -> Result<Self, SpoolError> {
        let failed = |path: &Path, source| SpoolError { path: path.into(), source };
        let mut held = Held::default();
        for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let path = entry.map_err(|error| failed(folder, error))?.path();
            let Some((number, kind)) = named(&path) else { continue };
            held.last = held.last.max(number);
            let beside = |kind: &str| folder.join(file_name(number, kind));
            match kind {
                CLAIM => {
                    let decide = read::<v1::DecideRequest>(&path).map_err(|error| failed(&path, error))?;
                    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
                    let bytes = size(&path) + size(&beside(OUTCOME));
                    held.claims.insert(number, Claim { decide, alone: None, settled: true, bytes });
                }
                // Its claim is on record, and the last life ended before it could tidy up.
                OUTCOME if !beside(CLAIM).exists() => fs::remove_file(&path).map_err(|error| failed(&path, error))?,
                OUTCOME => {}
                _ => held.refused += fs::metadata(&path).map_err(|error| failed(&path, error))?.len(),
            }
        }
        Ok(Self { folder: folder.into(), held: Mutex::new(held), news: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ledger knows all of them.
    pub fn is_empty(&self) -> bool {
        self.held().claims.is_empty()
    }

    /// Whether a claim holds one of these keys, or means the same.
    pub fn meets(&self, keys: &[KeyDigest], meaning: Meaning) -> bool {
        let held = self.held();
        !held.claims.is_empty() && held.meets(&keys.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>(), meaning.as_bytes())
    }

    /// Claims for `decide`, an effect that is called `alone` until the ledger names it; it is on disk when this returns. The
    /// number names the claim.
    ///
    /// # Errors
    /// When another claim stands in the way, or it could not be made durable.
    pub async fn claim(self: &Arc<Self>, decide: v1::DecideRequest, alone: &EffectId) -> Result<u64, ClaimError> {
        let encoded = decide.encode_to_vec();
        let number = {
            let mut held = self.held();
            if held.claims.len() >= CLAIMS_MAX || held.bytes() + RESERVE > BYTES_MAX {
                return Err(ClaimError::Full);
            }
            if held.meets(&decide.keys, &decide.meaning) {
                return Err(ClaimError::Held);
            }
            held.last += 1;
            let number = held.last;
            let claim = Claim { decide, alone: Some(alone.clone()), settled: false, bytes: encoded.len() as u64 };
            held.claims.insert(number, claim);
            number
        };
        // The place is taken before the disk is asked, so that two calls cannot both find it free.
        let written = self.write(number, CLAIM, encoded).await;
        written.inspect_err(|_| drop(self.held().claims.remove(&number)))?;
        Ok(number)
    }

    /// Takes a claim back whose effect did not go out.
    pub fn withdraw(&self, number: u64) {
        self.done(number);
    }

    /// What became of a claim's effect, without its answer where the disk has no room for that; it is on disk when this returns. `fence` is 0 until the ledger gives one.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn settled(self: &Arc<Self>, number: u64, outcome: &v1::SettleRequest) -> Result<(), SpoolError> {
        // The room is taken before the disk is asked: outcomes that come together must not count on the same.
        let encoded = {
            let mut held = self.held();
            let encoded = encode_within(held.room(), outcome);
            if let Some(claim) = held.claims.get_mut(&number) {
                claim.bytes += encoded.len() as u64;
            }
            encoded
        };
        let bytes = encoded.len() as u64;
        let written = self.write(number, OUTCOME, encoded).await;
        if let Some(claim) = self.held().claims.get_mut(&number) {
            match written {
                Ok(()) => claim.settled = true,
                Err(_) => claim.bytes -= bytes,
            }
        }
        self.news.notify_one();
        written
    }

    async fn write(&self, number: u64, kind: &str, bytes: Vec<u8>) -> Result<(), SpoolError> {
        let path = self.folder.join(file_name(number, kind));
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || write_durably(&to, &bytes)).await;
        written.map_err(|error| SpoolError { path, source: io::Error::other(error) })?
    }

    /// Hands over what has an outcome, in order, and waits for more.
    pub(super) async fn deliver(self: Arc<Self>, control: Control, outcomes: Arc<Outcomes>, adopted: impl Fn(Adoption)) {
        let mut backoff = Backoff::new();
        loop {
            let next = self.held().claims.iter().find(|(_, claim)| claim.settled).map(|(number, claim)| (*number, claim.clone()));
            let Some((number, claim)) = next else {
                self.news.notified().await;
                continue;
            };
            // Decisions that were given up come first: the claim would meet its own question, which nobody waits for any more.
            if !outcomes.is_empty() {
                backoff.wait().await;
                continue;
            }
            match self.adopt(&control, number, &claim).await {
                Ok((effect, fence)) => {
                    adopted(Adoption::Granted { alone: claim.alone, effect, fence });
                    self.done(number);
                    backoff.reset();
                }
                Err(NotAdopted::Refused { code, reason }) => {
                    tracing::error!(
                        reason,
                        number,
                        "an effect that went out while the ledger was away does not fit the record: look at the far side; the claim is kept as .refused"
                    );
                    self.keep_refused(number);
                    adopted(Adoption::Refused { decide: Box::new(claim.decide), code, reason });
                    backoff.reset();
                }
                Err(NotAdopted::Away) => backoff.wait().await,
            }
        }
    }

    /// Makes the decision after the fact, under whatever policy is in force, and settles it with what is known. The grant is on
    /// disk before anything is settled under it: a later life goes on from there.
    async fn adopt(&self, control: &Control, number: u64, claim: &Claim) -> Result<(EffectId, Fence), NotAdopted> {
        let mut outcome = match read::<v1::SettleRequest>(&self.folder.join(file_name(number, OUTCOME))) {
            Ok(outcome) => outcome,
            // The life that made it ended before it knew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => lost(&claim.decide),
            Err(error) => {
                tracing::error!(%error, number, "a claim's outcome cannot be read from the spool");
                return Err(NotAdopted::Away);
            }
        };
        let granted = EffectId::new(&outcome.effect).ok().zip(Fence::new(outcome.fence));
        let (effect, fence) = match granted {
            Some(granted) => granted,
            None => {
                let (effect, fence) = match grant_for(control, claim.decide.clone()).await {
                    Ok(grant) => (grant.effect, grant.fence),
                    // The record may be this claim's own, made by a question whose answer was lost: then its word counts.
                    Err(refused @ NotAdopted::Refused { .. }) => {
                        let own = EffectId::new(&claim.decide.adopts).map_err(|_| NotAdopted::Away)?;
                        (outcome.effect, outcome.fence) = (own.to_string(), Fence::FIRST.get());
                        return match control.settle(outcome).await {
                            Ok(_) => Ok((own, Fence::FIRST)),
                            Err(CallError::Refused(_)) => Err(refused),
                            Err(CallError::Away(_)) => Err(NotAdopted::Away),
                        };
                    }
                    Err(NotAdopted::Away) => return Err(NotAdopted::Away),
                };
                (outcome.effect, outcome.fence) = (effect.to_string(), fence.get());
                self.write(number, OUTCOME, outcome.encode_to_vec()).await.map_err(|error| {
                    tracing::error!(%error, "a claim's grant could not be spooled");
                    NotAdopted::Away
                })?;
                (effect, fence)
            }
        };
        control.settle(outcome).await?;
        Ok((effect, fence))
    }

    fn done(&self, number: u64) {
        self.held().claims.remove(&number);
        // In this order: an outcome without its claim is nothing, a claim without its outcome would be a doubt. A file that
        // stays is handed over again by the next life, and meets its own record.
        for kind in [CLAIM, OUTCOME] {
            let _ = fs::remove_file(self.folder.join(file_name(number, kind)));
        }
    }

    fn keep_refused(&self, number: u64) {
        let mut held = self.held();
        held.claims.remove(&number);
        for kind in [CLAIM, OUTCOME] {
            let path = self.folder.join(file_name(number, kind));
            let room = if kind == CLAIM { u64::MAX } else { held.room().min(REFUSED_MAX.saturating_sub(held.refused)) };
            match set_aside(&path, &path.with_extension(format!("{kind}-{REFUSED}")), room) {
                Ok(bytes) => held.refused += bytes,
                Err(error) if kind == OUTCOME && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a claim that the ledger does not take could not be set aside")
                }
            }
        }
    }
}

impl From<CallError> for NotAdopted {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Away(_) => Self::Away,
            CallError::Refused(reason) => Self::Refused { code: None, reason },
        }
    }
}

fn file_name(number: u64, kind: &str) -> String {
    format!("{number:020}.{kind}")
}

/// The number and kind of a file that bears a name as we give it: another spelling of a number would pass for the claim that has it.
fn named(path: &Path) -> Option<(u64, &str)> {
    let kind = path.extension()?.to_str()?;
    // A refused one's number is not given again.
    let known = kind == CLAIM || kind == OUTCOME || kind.strip_suffix(REFUSED).is_some_and(|kind| kind.starts_with(CLAIM));
    let number = path.file_stem()?.to_str()?.parse().ok()?;
    (known && path.file_name()?.to_str()? == file_name(number, kind)).then_some((number, kind))
}

fn read<M: prost::Message + Default>(path: &Path) -> io::Result<M> {
    M::decode(fs::read(path)?.as_slice()).map_err(io::Error::other)
}

/// The outcome of a claim whose exchange nobody saw to its end.
fn lost(decide: &v1::DecideRequest) -> v1::SettleRequest {
    let in_doubt = v1::InDoubt { cause: v1::DoubtCause::LeaseLost.into(), status: 0 };
    v1::SettleRequest { boot: decide.boot.clone(), outcome: Some(v1::settle_request::Outcome::InDoubt(in_doubt)), ..Default::default() }
}

async fn grant_for(control: &Control, mut decide: v1::DecideRequest) -> Result<kybernis_core::machine::Grant, NotAdopted> {
    loop {
        match control.decide(decide.clone()).await? {
            DecideAnswer::Grant(grant) => return Ok(grant),
            DecideAnswer::PolicyStale(digest) => decide.policy = digest.as_bytes().to_vec(),
            DecideAnswer::Replay(replay) => {
                let reason = format!("it was completed before, as {}", replay.effect);
                return Err(NotAdopted::Refused { code: None, reason });
            }
            // Another's flight ends; then the record says what this one meets.
            DecideAnswer::Refuse(refuse) if matches!(refuse.code, Code::EffectInFlight | Code::LedgerUnavailable | Code::PolicyStale) => {
                return Err(NotAdopted::Away);
            }
            DecideAnswer::Refuse(refuse) => {
                return Err(NotAdopted::Refused { code: Some(refuse.code), reason: format!("{}: {}", refuse.code, refuse.detail) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
