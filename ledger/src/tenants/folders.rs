//! A folder for each tenant, opened when it is first named. Each has a thread of its own, because the embedded journal takes the
//! thread that commits for as long as the disk does. One that cannot be opened, or stops, takes nobody else with it.

use std::collections::{BTreeSet, HashMap};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures::StreamExt as _;
use kybernis_core::ids::{PolicyDigest, TenantId, is_dns_label};
use kybernis_core::policy::PolicyError;
use tokio::sync::{OnceCell, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Tenant, TenantError};
use crate::engine::{self, EngineError, Observers};
use crate::gates::Gates;
use crate::metrics::{Metrics, TenantMetrics};
use crate::policy::{self, Given, InForce};

/// A thread and a file each: more than any cluster of ours has been tried with.
const TENANTS_MAX: usize = 1000;

/// Journals that are read at a time when the ledger starts: reading keeps a core and a disk busy, and more would only take more memory.
const OPENING: usize = 8;

/// A tenant, once it is open.
type Cell = OnceCell<Arc<Tenant>>;

/// The tenants in the subfolders of one folder.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    root: Arc<PathBuf>,
    settings: engine::Settings,
    closing: CancellationToken,
    gates: Gates,
    metrics: Arc<Metrics>,
    open: Arc<Mutex<HashMap<TenantId, Arc<Cell>>>>,
    /// Those whose records could not be opened when somebody last asked.
    closed: Arc<Mutex<BTreeSet<TenantId>>>,
    threads: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
}

impl Folders {
    /// Tenants whose streams end when `closing` is cancelled.
    pub(crate) fn new(root: PathBuf, settings: engine::Settings, closing: CancellationToken) -> Self {
        let (open, closed, threads, metrics) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        Self { root: Arc::new(root), settings, closing, gates: Gates::new(), metrics, open, closed, threads }
    }

    /// The gates of all that are open, and of those that were.
    pub(crate) const fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Whether there are records that could not be opened, and so gates that nobody is told of.
    pub(crate) fn any_closed(&self) -> bool {
        !self.closed.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What all count together.
    pub(crate) const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Opens those that are there, because leases and gates run out whether or not anybody calls.
    pub(crate) async fn open_all(&self) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&*self.root)?;
        let names = std::fs::read_dir(&*self.root)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        let names = names.iter().filter_map(|name| TenantId::new(name.to_str()?).ok());
        futures::stream::iter(names)
            .for_each_concurrent(OPENING, async |tenant| {
                if let Err(error) = self.of(&tenant).await {
                    tracing::error!(%error, "a tenant's records are closed");
                }
            })
            .await;
        Ok(())
    }

    pub(crate) async fn of(&self, name: &TenantId) -> Result<Arc<Tenant>, TenantError> {
        if !is_dns_label(name.as_str()) {
            return Err(TenantError::Name(name.clone()));
        }
        let cell = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= TENANTS_MAX && !open.contains_key(name) {
                return Err(TenantError::TooMany(TENANTS_MAX));
            }
            Arc::clone(open.entry(name.clone()).or_default())
        };
        if let Some(tenant) = cell.get() {
            return Ok(Arc::clone(tenant));
        }
        // Whoever asked first may lose patience: what is being opened is opened all the same.
        let (folders, name) = (self.clone(), name.clone());
        let opening = tokio::spawn(async move {
            let opened = cell.get_or_try_init(|| folders.start(&name, &cell)).await.cloned();
            let mut closed = folders.closed.lock().unwrap_or_else(PoisonError::into_inner);
            if opened.is_ok() {
                closed.remove(&name);
            }
            opened.map_err(|error| {
                tracing::error!(tenant = %name, %error, "a tenant cannot be opened");
                closed.insert(name.clone());
                folders.forget(&name, &cell);
                TenantError::Closed(name)
            })
        });
        opening.await.unwrap_or(Err(TenantError::Stopping))
    }

    /// The tenant of this name, if anything of it is on record: whoever only asks makes none.
    pub(crate) async fn known(&self, name: &TenantId) -> Result<Option<Arc<Tenant>>, TenantError> {
        let is_there = is_dns_label(name.as_str()) && tokio::fs::try_exists(self.root.join(name.as_str())).await.unwrap_or(false);
        if is_there { self.of(name).await.map(Some) } else { Ok(None) }
    }

    /// Takes a set into force, and keeps it for the next start. With `keep_own` it has what binds the whole cluster, and the tenant's own
    /// part stays as it was last given.
    pub(crate) async fn program(&self, name: &TenantId, given: Given, keep_own: bool) -> Result<PolicyDigest, ProgramError> {
        let folder = self.root.join(name.as_str());
        let own = if keep_own && is_dns_label(name.as_str()) { policy::kept(&folder).map_err(ProgramError::Keep)? } else { None };
        let given = match own {
            Some(own) => own.map_err(|error| ProgramError::Keep(std::io::Error::other(error)))?.under(given),
            None => given,
        };
        let in_force = InForce::new(&given.set, given.secrets).map_err(ProgramError::Policy)?;
        let tenant = self.of(name).await?;
        policy::keep(&folder, &given.set, &in_force.secrets).map_err(ProgramError::Keep)?;
        let digest = in_force.digest;
        tenant.program(in_force);
        Ok(digest)
    }

    /// Opens a tenant on a thread of its own, which ends when nobody holds the tenant any more.
    async fn start(&self, name: &TenantId, cell: &Arc<Cell>) -> Result<Arc<Tenant>, OpenError> {
        let (tell, told) = oneshot::channel();
        let (folder, settings) = (self.root.join(name.as_str()), self.settings);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let (tenants, name, cell) = (self.clone(), name.clone(), Arc::downgrade(cell));
        let closing = self.closing.child_token();
        let observers = Observers { gates: Some(self.gates.of(name.clone())), metrics: TenantMetrics::of(&self.metrics) };
        let thread = thread::Builder::new().name(format!("tenant {name}")).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error.into()))),
            };
            runtime.block_on(async {
                let writer = match Tenant::open(&folder, observers, settings, closing.clone()).await {
                    Err(error) => return drop(tell.send(Err(error.into()))),
                    Ok((tenant, writer)) => {
                        match policy::recall(&folder) {
                            Ok(kept) => kept.into_iter().for_each(|set| tenant.program(set)),
                            Err(error) => return drop(tell.send(Err(error.into()))),
                        }
                        // Whoever asked may have gone; then the tenant ends here, and the next who asks opens it again.
                        let _ = tell.send(Ok(tenant));
                        writer
                    }
                };
                let reason = match writer.await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(broken) => broken.to_string(),
                };
                closing.cancel();
                tracing::error!(tenant = %name, reason, "a tenant's journal stopped; it is opened again when it is needed");
                if let Some(cell) = cell.upgrade() {
                    tenants.forget(&name, &cell);
                }
            });
        })?;
        self.remember(thread);
        told.await.map_err(|_| OpenError::Gone)?
    }

    fn remember(&self, thread: thread::JoinHandle<()>) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Lets the next who asks open it again.
    fn forget(&self, name: &TenantId, cell: &Arc<Cell>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(name).is_some_and(|now| Arc::ptr_eq(now, cell)) {
            open.remove(name);
        }
    }

    /// Closes every journal, once nobody holds a tenant any more.
    pub(crate) async fn close(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().try_for_each(thread::JoinHandle::join));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a tenant's thread broke off");
        }
    }
}

/// Why a set is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It does not hold.
    #[error("the PolicySet does not hold: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policy(Vec<PolicyError>),
    /// Its tenant is closed.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// It cannot be kept.
    #[error("the PolicySet cannot be kept for the next start")]
    Keep(#[source] std::io::Error),
}

/// Why a tenant was not opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("its thread broke off")]
    Gone,
}

#[cfg(test)]
mod tests {
    use kybernis_core::ids::{AgentId, RunId};
    use kybernis_core::machine::EnterRun;
    use kybernis_core::policy::{Effect, HostPattern, Level, Origin, PolicySet, SecretRef, Tool, ToolMatch};
    use zeroize::Zeroizing;

    use super::*;
    use crate::policy::Secrets;

    fn name(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    fn folders(root: &tempfile::TempDir) -> Folders {
        Folders::new(root.path().join("tenants"), engine::Settings::default(), CancellationToken::new())
    }

    async fn enter(tenant: &Tenant, run: &str, agent: &str) -> bool {
        let entered = EnterRun { run: RunId::new(run).unwrap(), agent: AgentId::new(agent).unwrap() };
        tenant.engine.enter_run(entered).await.unwrap().is_ok()
    }

    #[tokio::test]
    async fn a_run_of_one_tenant_is_unknown_to_another_and_there_again_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let first = folders(&root);
        first.open_all().await.unwrap();
        let (one, other) = (first.of(&name("one")).await.unwrap(), first.of(&name("other")).await.unwrap());
        assert!(enter(&one, "run-1", "a").await && enter(&other, "run-1", "b").await, "the same name in two tenants is two runs");
        assert!(!enter(&one, "run-1", "b").await, "in one it belongs to who used it first");
        assert_ne!(one.vault.tenant_secret().as_bytes(), other.vault.tenant_secret().as_bytes());
        drop((one, other));
        first.close().await;

        let again = folders(&root);
        again.open_all().await.unwrap();
        assert!(!enter(&again.of(&name("one")).await.unwrap(), "run-1", "b").await);
        again.close().await;
    }

    fn tool(level: Level, namespace: &str, key: &str) -> Tool {
        let origin = Origin { level, namespace: namespace.to_owned(), name: "orders".to_owned() };
        let hosts = vec![HostPattern::new("broker.test").unwrap()];
        let matches = vec![ToolMatch { hosts, methods: Vec::new(), paths: Vec::new() }];
        let effect = Effect { key: Some(key.to_owned()), ..Effect::default() };
        Tool { origin, display_name: None, matches, class: None, effect, request_schema: None }
    }

    fn set<const N: usize>(tools: [Tool; N]) -> PolicySet {
        PolicySet { tools: tools.into(), ..PolicySet::default() }
    }

    #[tokio::test]
    async fn what_binds_the_whole_cluster_comes_in_over_what_a_tenant_was_last_given() {
        let root = tempfile::tempdir().unwrap();
        let tenants = folders(&root);
        let secret = |namespace: &str| {
            let named = SecretRef { namespace: namespace.to_owned(), name: "broker".to_owned(), key: "authorization".to_owned() };
            (named, Zeroizing::new(namespace.as_bytes().to_vec()))
        };
        let release = |key: &str, named: &str| {
            let secrets = Secrets::from([secret(named)]);
            Given { set: set([tool(Level::Cluster, "kybernis-system", key)]), secrets }
        };
        let own = || tool(Level::Namespace, "one", "request.path");
        let digest = tenants.program(&name("one"), release("'a'", "kybernis-system"), true).await.unwrap();
        assert_eq!(digest, release("'a'", "").set.digest(), "a tenant that was given nothing yet has what binds everybody");

        let both = Given {
            set: set([tool(Level::Cluster, "kybernis-system", "'a'"), own()]),
            secrets: Secrets::from([secret("one"), secret("gone")]),
        };
        tenants.program(&name("one"), both, false).await.unwrap();
        let digest = tenants.program(&name("one"), release("'b'", "kybernis-system"), true).await.unwrap();
        assert_eq!(digest, set([tool(Level::Cluster, "kybernis-system", "'b'"), own()]).sorted().digest());
        let in_force = tenants.of(&name("one")).await.unwrap().policy().borrow().clone().unwrap();
        assert_eq!((in_force.digest, &*in_force.secrets), (digest, &Secrets::from([secret("one"), secret("kybernis-system")])));
        for odd in ["a/../one", "../one"] {
            assert!(tenants.program(&name(odd), release("'b'", ""), true).await.is_err());
        }
        tenants.close().await;
    }

    #[tokio::test]
    async fn a_set_that_was_programmed_is_in_force_again_after_a_restart_with_its_secrets_and_one_that_does_not_hold_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let named = SecretRef { namespace: "one".to_owned(), name: "broker".to_owned(), key: "authorization".to_owned() };
        let secrets = Secrets::from([(named, Zeroizing::new(b"Bearer x".to_vec()))]);
        let given = |key: &str| Given { set: set([tool(Level::Namespace, "one", key)]), secrets: secrets.clone() };
        let first = folders(&root);
        assert!(first.of(&name("one")).await.unwrap().policy().borrow().is_none(), "nothing is in force before it is programmed");
        let digest = first.program(&name("one"), given("request.path"), false).await.unwrap();
        let refused = first.program(&name("one"), given("no such thing"), false).await.unwrap_err();
        assert!(refused.to_string().starts_with("the PolicySet does not hold: "), "{refused}");
        first.close().await;

        let again = folders(&root);
        let tenant = again.of(&name("one")).await.unwrap();
        let in_force = tenant.policy().borrow().clone().unwrap();
        assert_eq!((in_force.digest, &*in_force.secrets), (digest, &secrets));
        drop((tenant, in_force));
        again.close().await;

        // One that is cut short is left to the operator, and keeps nobody out.
        let file = root.path().join("tenants/one/policy-in-force.json");
        let kept = std::fs::read(&file).unwrap();
        std::fs::write(&file, &kept[..kept.len() - 1]).unwrap();
        let cut = folders(&root);
        assert!(cut.of(&name("one")).await.unwrap().policy().borrow().is_none());
        assert!(cut.program(&name("one"), Given::default(), true).await.is_err(), "nobody knows what would have to be kept");
        cut.program(&name("one"), given("request.path"), false).await.unwrap();
        cut.close().await;
    }

    #[tokio::test]
    async fn one_that_cannot_be_opened_takes_nobody_else_with_it_and_may_be_mended() {
        let root = tempfile::tempdir().unwrap();
        let tenants = folders(&root);
        tenants.open_all().await.unwrap();
        let journal = root.path().join("tenants/broken/journal.sqlite");
        std::fs::create_dir_all(&journal).unwrap();
        assert_eq!(tenants.of(&name("broken")).await.unwrap_err(), TenantError::Closed(name("broken")));
        assert!(tenants.any_closed());
        assert!(enter(&tenants.of(&name("sound")).await.unwrap(), "run-1", "a").await);
        std::fs::remove_dir(&journal).unwrap();
        assert!(enter(&tenants.of(&name("broken")).await.unwrap(), "run-1", "a").await);
        assert!(!tenants.any_closed());
        tenants.close().await;
    }

    #[tokio::test]
    async fn a_name_that_is_no_label_is_refused_and_makes_no_folder() {
        let root = tempfile::tempdir().unwrap();
        let tenants = folders(&root);
        tenants.open_all().await.unwrap();
        for bad in ["..", ".", "a/b", "Upper", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert_eq!(tenants.of(&name(bad)).await.unwrap_err(), TenantError::Name(name(bad)), "{bad}");
        }
        assert_eq!(std::fs::read_dir(root.path().join("tenants")).unwrap().count(), 0);
    }
}
