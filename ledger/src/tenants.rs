//! Tenants. Each has a journal, keys and an engine of its own, so that nothing of one is seen, slowed down or filled up by another,
//! and forgetting one is removing a folder.

mod folders;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kybernis_core::ids::{AgentId, BootId, PolicyDigest, RunId, TenantId};
use kybernis_core::policy::PolicySet;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::folders::{Folders, ProgramError};
use crate::auth::Workload;
use crate::engine::{self, CallError, Engine, EngineError, Observers};
use crate::journal::{Journal, SqliteJournal};
use crate::policy::InForce;
use crate::vault::Vault;

/// One tenant of this ledger.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) engine: Engine,
    pub(crate) vault: Arc<Vault>,
    digest: watch::Sender<PolicyDigest>,
    policy: watch::Sender<Option<InForce>>,
    /// Ends this tenant's streams: with the ledger, or when its journal has stopped, which nobody may hold open then.
    pub(crate) closing: CancellationToken,
    living: Mutex<HashMap<String, Living>>,
}

/// The last life of a workload's sidecar: another says that this one's process is over.
#[derive(Clone, Debug)]
struct Living {
    boot: BootId,
    agent: AgentId,
    run: RunId,
    /// What it was told that its labels are, by which it picks its policies until its end.
    labels: BTreeMap<String, String>,
}

/// Lives that are remembered. Without its predecessor's a new one is no harm: whoever stays away counts as gone after a while.
const LIVING_MAX: usize = 50_000;

/// A tenant, and the task that writes its journal for as long as somebody holds the tenant.
pub(crate) type Opened = (Arc<Tenant>, JoinHandle<Result<(), EngineError>>);

impl Tenant {
    /// Opens the tenant whose journal and keys lie in `folder`; no policy is in force yet.
    pub(crate) async fn open(
        folder: &Path,
        observers: Observers,
        settings: engine::Settings,
        closing: CancellationToken,
    ) -> Result<Opened, EngineError> {
        let journal = SqliteJournal::open(folder)?;
        // Keys are made for an empty journal and for no other: what it holds was written under those that it had.
        let is_empty = journal.read(0, 1).await?.is_empty();
        let vault = if is_empty { Vault::open(folder)? } else { Vault::reopen(folder)? };
        Self::over(Arc::new(journal), Arc::new(vault), observers, settings, closing).await
    }

    pub(crate) async fn over(
        journal: Arc<dyn Journal>,
        vault: Arc<Vault>,
        observers: Observers,
        settings: engine::Settings,
        closing: CancellationToken,
    ) -> Result<Opened, EngineError> {
        // No sidecar has a policy before one is in force, so none decides by this one.
        let (digest, digests) = watch::channel(PolicySet::default().digest());
        let (engine, writer) = Engine::open(journal, Arc::clone(&vault), digests, observers, settings).await?;
        let policy = watch::Sender::new(None);
        Ok((Arc::new(Self { engine, vault, digest, policy, closing, living: Mutex::default() }), writer))
    }

    /// Takes a set into force. The engine knows first: whoever decides by another is told to wait for this one.
    pub(crate) fn program(&self, set: InForce) {
        self.digest.send_replace(set.digest);
        self.policy.send_replace(Some(set));
    }

    /// The set in force, now and whenever it changes; `None` before the first.
    pub(crate) fn policy(&self) -> watch::Receiver<Option<InForce>> {
        self.policy.subscribe()
    }

    /// A life of this workload's sidecar begins; the one before is over.
    pub(crate) async fn succeed(&self, workload: &Workload, boot: &BootId) -> Result<(), CallError> {
        let before = {
            let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
            if living.len() >= LIVING_MAX {
                living.clear();
            }
            let Workload { agent, run, labels, .. } = workload.clone();
            let life = Living { boot: boot.clone(), agent, run, labels };
            living.insert(workload.instance.clone(), life).map(|before| before.boot).filter(|before| before != boot)
        };
        match before {
            Some(before) => self.engine.boot_gone(before).await,
            None => Ok(()),
        }
    }

    /// Whether this is the run of another agent's pod, which may not have done anything in it yet: it belongs to that pod before
    /// anybody names it.
    pub(crate) fn is_run_of_another(&self, run: &RunId, agent: &AgentId) -> bool {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.values().any(|life| life.run == *run && life.agent != *agent)
    }

    /// The labels by which this workload's sidecar picks its policies: those that it had when its life began.
    pub(crate) fn labels_of(&self, workload: &Workload) -> BTreeMap<String, String> {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.get(&workload.instance).map_or_else(|| workload.labels.clone(), |life| life.labels.clone())
    }
}

/// Why a tenant's calls cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TenantError {
    /// Its journal or keys. The reason is in the log: it tells of files that no caller should know about.
    #[error("the ledger cannot open the records of tenant {0}; its log says why")]
    Closed(TenantId),
    /// The ledger has as many as it may.
    #[error("the ledger has {0} tenants already, which is as many as it may have")]
    TooMany(usize),
    /// The ledger is stopping.
    #[error("the ledger is stopping")]
    Stopping,
    /// It would be no folder's name.
    #[error("tenant {0} is no DNS label (RFC 1123), as the names of namespaces are")]
    Name(TenantId),
}

/// The tenants that a ledger has.
#[derive(Clone, Debug)]
pub(crate) enum Tenants {
    /// On a laptop: one, whatever it is called.
    One(Arc<Tenant>),
    /// In a cluster: each in a folder of its own.
    Each(Folders),
}

impl Tenants {
    /// The tenant of this name.
    pub(crate) async fn of(&self, name: &TenantId) -> Result<Arc<Tenant>, TenantError> {
        match self {
            Self::One(tenant) => Ok(Arc::clone(tenant)),
            Self::Each(folders) => folders.of(name).await,
        }
    }
}
