//! Following the policy: a stream that brings each PolicySet, and acknowledgements of what is in force here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kybernis_core::ids::PolicyDigest;
use kybernis_core::policy::{AgentPolicy, CompiledSet, Labels, PolicySet, SecretRef};
use kybernis_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use zeroize::Zeroizing;

use super::{Backoff, CallError, Control};

/// How long reads go on by the last snapshot while the ledger is away.
pub const SNAPSHOT_TTL: Duration = Duration::from_secs(5 * 60);

/// Acknowledgements that wait for the stream.
const ACKS: usize = 4;

/// One policy, compiled for this agent.
pub struct Snapshot {
    policy: AgentPolicy,
    digest: PolicyDigest,
    secrets: BTreeMap<SecretRef, Zeroizing<Vec<u8>>>,
    /// Since when the ledger has not been there to say that the policy still holds.
    away_since: Mutex<Option<Instant>>,
    expired: AtomicBool,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Snapshot {
    fn new(policy: AgentPolicy, secrets: BTreeMap<SecretRef, Zeroizing<Vec<u8>>>) -> Self {
        let digest = policy.set().digest();
        Self { policy, digest, secrets, away_since: Mutex::new(None), expired: AtomicBool::new(false) }
    }

    /// What it says.
    pub const fn policy(&self) -> &AgentPolicy {
        &self.policy
    }

    /// What a `secretRef` names.
    pub(crate) fn secret(&self, named: &SecretRef) -> Option<&[u8]> {
        self.secrets.get(named).map(|value| value.as_slice())
    }

    /// Its name.
    pub const fn digest(&self) -> PolicyDigest {
        self.digest
    }

    /// Older than [`SNAPSHOT_TTL`]: nothing may go by it any more.
    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    fn ledger_is(&self, there: bool) {
        let mut since = self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        if there {
            *since = None;
            self.expired.store(false, Ordering::Relaxed);
            return;
        }
        let from = *since.get_or_insert_with(Instant::now);
        self.expired.store(from.elapsed() > SNAPSHOT_TTL, Ordering::Relaxed);
    }
}

/// Keeps the policy of an agent with these labels up to date for as long as the process lives.
pub(super) async fn follow(control: Control, labels: Labels, tell: watch::Sender<Option<Arc<Snapshot>>>) {
    let mut backoff = Backoff::new();
    loop {
        match session(&control, &labels, &tell, &mut backoff).await {
            Ok(()) => {}
            Err(CallError::Away(reason)) => tracing::debug!(reason, "the policy stream ended"),
            Err(CallError::Refused(reason)) => tracing::error!(reason, "the ledger does not show its policy"),
        }
        note(&tell, false);
        backoff.wait().await;
    }
}

fn note(tell: &watch::Sender<Option<Arc<Snapshot>>>, there: bool) {
    if let Some(snapshot) = tell.borrow().as_ref() {
        snapshot.ledger_is(there);
    }
}

async fn session(
    control: &Control,
    labels: &Labels,
    tell: &watch::Sender<Option<Arc<Snapshot>>>,
    backoff: &mut Backoff,
) -> Result<(), CallError> {
    let (acks, queue) = mpsc::channel(ACKS);
    let in_force = tell.borrow().as_ref().map(|now| now.digest().as_bytes().to_vec()).unwrap_or_default();
    let ack = |digest: Vec<u8>, error: String| v1::PolicyAck { boot: control.boot.to_string(), digest, error };
    // The queue has room for the first message.
    let _ = acks.send(ack(in_force, String::new())).await;
    let mut updates = control.token.heard(control.client.clone().watch_policy(ReceiverStream::new(queue)).await)?;
    while let Some(update) = updates.message().await? {
        backoff.reset();
        let answer = match take(&update, labels) {
            Ok(snapshot) => {
                let digest = snapshot.digest().as_bytes().to_vec();
                tracing::info!(digest = %snapshot.digest(), policies = snapshot.policy().selected(), "policy in force");
                tell.send_replace(Some(Arc::new(snapshot)));
                ack(digest, String::new())
            }
            Err(problem) => {
                tracing::error!(problem, "a PolicySet cannot be taken into force; the last one stays");
                ack(Vec::new(), problem)
            }
        };
        note(tell, true);
        if acks.send(answer).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn take(update: &v1::PolicyUpdate, labels: &Labels) -> Result<Snapshot, String> {
    let set: PolicySet = serde_json::from_slice(&update.policy_set).map_err(|error| error.to_string())?;
    let compiled = CompiledSet::compile(set).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if compiled.digest().as_bytes().as_slice() != update.digest {
        return Err("the set does not have the digest that it is announced by".to_owned());
    }
    let secret = |secret: &v1::Secret| {
        let named = SecretRef { namespace: secret.namespace.clone(), name: secret.name.clone(), key: secret.key.clone() };
        (named, Zeroizing::new(secret.value.clone()))
    };
    Ok(Snapshot::new(Arc::new(compiled).for_agent(labels), update.secrets.iter().map(secret).collect()))
}
