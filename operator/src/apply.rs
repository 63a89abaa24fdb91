//! The fourth phase: the ledger is given what was built, and namespaces their copy of its CA. Nothing is sent that is there already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kybernis_core::ids::PolicyDigest;
use tokio::time::Instant;

use crate::build::{Built, Program};
use crate::facts::Trust;
use crate::ledger::{Fleet, Link, ProgramError};
use crate::metrics::Metrics;
use crate::reconcile::RESYNC;
use crate::validate::{Plan, Secrets, Validated};

/// The ConfigMap with the ledger's CA.
pub(crate) const TRUST: &str = "kybernis-trust";
/// Its key.
pub(crate) const TRUST_KEY: &str = "ca.pem";
/// The same for roots that vouch for far sides.
pub(crate) const ROOTS_KEY: &str = "roots.pem";
/// The label on what is ours in namespaces that are not.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kybernis");
/// Who writes, as server-side apply keeps account.
pub(crate) const MANAGER: &str = "kybernis-operator";

/// Programs at a time: the ledger syncs a disk for each, and serves sidecars meanwhile.
const PROGRAMS: usize = 4;
/// Calls in one pass that find the ledger away before the others are left to the next pass, which begins behind them: tenants that it
/// cannot store, whose answers look the same, must not keep it from the others, and a ledger that is away is not asked a thousand times.
const AWAY_MAX: usize = 8;
/// Writes to the API server at a time, which serves others too.
pub(crate) const WRITES: usize = 8;
/// How long sidecars have to take a new set before a condition that was True is lowered: they need milliseconds, and every object of
/// a namespace would be written twice for each change of one.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What the ledger was last given for a tenant.
#[derive(Clone, Debug)]
struct Taken {
    session: u64,
    /// What it was given, and whether it kept a part of its own.
    given: (PolicyDigest, bool),
    /// What is in force.
    digest: PolicyDigest,
    cluster: PolicyDigest,
    secrets: Arc<Secrets>,
    at: Instant,
    /// When it was last given although it had taken it.
    mended: Option<Instant>,
}

impl Taken {
    fn is(&self, session: u64, program: &Program) -> bool {
        self.session == session && self.given == program.given() && self.secrets == program.secrets
    }

    /// When it is to be given again, because a sidecar runs with another set and says nothing against this one: a leader that was held
    /// up may have given the ledger its own meanwhile. A sidecar that never takes it is no reason to do so all the time.
    fn again(&self, tenant: &str, fleet: &Fleet) -> Option<Instant> {
        let others = fleet.of(tenant).filter(|(_, sidecar)| sidecar.error.is_empty() && sidecar.digest != self.digest.as_bytes());
        let since = others.map(|(_, sidecar)| sidecar.since).min()?;
        let late = self.at.max(since) + GRACE;
        Some(self.mended.map_or(late, |mended| late.max(mended + RESYNC)))
    }
}

/// What the ledger did not take.
#[derive(Clone, Debug)]
struct Refused {
    session: u64,
    given: (PolicyDigest, bool),
    why: String,
}

/// For one write to the API server.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a write did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the API server did not answer in time")]
    Late,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// The answer to a write, which is waited for no longer than is good for the others.
pub(crate) async fn in_time<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    Ok(tokio::time::timeout(PATIENCE, write).await.map_err(|_| WriteError::Late)??)
}

/// Gives sets to the ledger, and remembers what it has.
#[derive(Debug, Default)]
pub(crate) struct Programmer {
    taken: BTreeMap<String, Taken>,
    refused: BTreeMap<String, Refused>,
    /// The tenant that the last answer was about.
    last: String,
    /// Why the ledger could not be asked the last time.
    away: Option<String>,
}

/// What a tenant's sidecars should run with, and how far the ledger is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The digest of a sidecar that is up to date; `None` where nobody is.
    pub(crate) digest: Option<PolicyDigest>,
    /// What keeps it from its sidecars.
    pub(crate) trouble: Option<Trouble>,
    /// Why the set has the namespace's own objects as they last held, and not as they are.
    pub(crate) behind: Option<String>,
    /// Until when sidecars may still be about to take it.
    pub(crate) fresh_until: Option<Instant>,
}

/// What keeps a set from its sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// An object does not hold; the text names it.
    Held(String),
    /// The ledger does not take it.
    Refused(String),
    /// The ledger has not been given it.
    Unsent(Option<String>),
}

impl Programmer {
    /// Gives the ledger what it does not have at `now`. Whether it has everything then.
    pub(crate) async fn program(&mut self, link: &Link, now: Instant, built: &Built, validated: &Validated, metrics: &Metrics) -> bool {
        self.taken.retain(|tenant, _| validated.tenants.contains_key(tenant));
        self.refused.retain(|tenant, _| validated.tenants.contains_key(tenant));
        let Some(connection) = &link.connection else {
            self.away = None;
            return false;
        };
        let due = built.programs.iter().filter(|(tenant, program)| self.is_due(link, now, tenant, program));
        let mut due: Vec<(String, Program)> = due.map(|(tenant, program)| (tenant.clone(), program.clone())).collect();
        let behind = due.partition_point(|(tenant, _)| *tenant <= self.last);
        due.rotate_left(behind);
        let mut calls = futures::stream::iter(due)
            .map(|(tenant, program)| async move {
                let answer = connection.program(program.request(&tenant), program.set.digest()).await;
                (tenant, program, answer)
            })
            .buffer_unordered(PROGRAMS);
        self.away = None;
        let mut away = 0;
        while let Some((tenant, program, answer)) = calls.next().await {
            metrics.programs.count(&answer);
            self.last.clone_from(&tenant);
            let (session, given) = (link.session, program.given());
            match answer {
                Ok(digest) => {
                    tracing::info!(tenant, %digest, "the ledger has taken a set");
                    let taken_at = Instant::now();
                    let before = self.taken.get(&tenant).filter(|before| before.digest == digest);
                    // One that is only given again, after a connection was lost, is nothing that sidecars need time for.
                    let at = before.map_or(taken_at, |before| before.at);
                    let mended = before.and_then(|before| if before.is(session, &program) { Some(taken_at) } else { before.mended });
                    let (cluster, secrets) = (program.set.cluster(), Arc::clone(&program.secrets));
                    self.refused.remove(&tenant);
                    self.taken.insert(tenant, Taken { session, given, digest, cluster, secrets, at, mended });
                }
                Err(ProgramError::Refused(why)) => {
                    tracing::error!(tenant, digest = %given.0, error = why, "the ledger does not take a set");
                    self.refused.insert(tenant, Refused { session, given, why });
                }
                Err(ProgramError::Away(why)) => {
                    tracing::warn!(tenant, error = why, "the ledger cannot be given a set");
                    self.away = Some(why);
                    away += 1;
                    if away == AWAY_MAX {
                        break;
                    }
                }
            }
        }
        away == 0
    }

    fn is_due(&self, link: &Link, now: Instant, tenant: &str, program: &Program) -> bool {
        let given = program.given();
        let refused = self.refused.get(tenant).is_some_and(|refused| refused.session == link.session && refused.given == given);
        let taken = self.taken.get(tenant).filter(|taken| taken.is(link.session, program));
        let again = || taken.zip(link.fleet.as_ref()).and_then(|(taken, fleet)| taken.again(tenant, fleet));
        !refused && (taken.is_none() || again().is_some_and(|again| again <= now))
    }

    /// When a set that the ledger has taken may be due again, of those that were not at `now`.
    pub(crate) fn again(&self, fleet: &Fleet, now: Instant) -> Option<Instant> {
        let again = self.taken.iter().filter_map(|(tenant, taken)| taken.again(tenant, fleet));
        again.filter(|again| *again > now).min()
    }

    /// How far every tenant is.
    pub(crate) fn expected(&self, validated: &Validated) -> BTreeMap<String, Expected> {
        let cluster = validated.cluster.set.as_ref().map(|set| set.cluster());
        let of = |(tenant, plan): (&String, &Plan)| {
            let taken = self.taken.get(tenant);
            let (digest, trouble, behind) = match plan {
                Plan::Held(why) => {
                    // Its sidecars run with the release's objects as they are now, unless those have changed since.
                    let last = taken.filter(|taken| Some(taken.cluster) == cluster).map(|taken| taken.digest);
                    (last, Some(Trouble::Held(why.clone())), None)
                }
                Plan::Holds { set, .. } => (Some(set.digest()), self.unsent(tenant, (set.digest(), false)), None),
                Plan::Behind { set, why, .. } => (Some(set.digest()), self.unsent(tenant, (set.digest(), false)), Some(why.clone())),
                Plan::Kept { set, why, .. } => {
                    let given = (set.digest(), true);
                    let in_force = taken.filter(|taken| taken.given == given).map(|taken| taken.digest);
                    (in_force, self.unsent(tenant, given), Some(why.clone()))
                }
            };
            let fresh_until = taken.filter(|taken| Some(taken.digest) == digest).map(|taken| taken.at + GRACE);
            (tenant.clone(), Expected { digest, trouble, behind, fresh_until })
        };
        validated.tenants.iter().map(of).collect()
    }

    /// Why the ledger does not have this set.
    fn unsent(&self, tenant: &str, given: (PolicyDigest, bool)) -> Option<Trouble> {
        let refused = self.refused.get(tenant).filter(|refused| refused.given == given);
        match (self.taken.get(tenant).filter(|taken| taken.given == given), refused) {
            (_, Some(refused)) => Some(Trouble::Refused(refused.why.clone())),
            (Some(_), None) => None,
            (None, None) => Some(Trouble::Unsent(self.away.clone())),
        }
    }
}

/// Makes and mends the copies of the ledger's CA. Whether all of them are right now. A copy is never removed: it is a public
/// certificate, and a pod that starts later may mount it.
pub(crate) async fn trust(client: &kube::Client, built: &Built, metrics: &Metrics) -> bool {
    let Some((trust, namespaces)) = &built.trust else { return true };
    let failed: BTreeSet<String> = futures::stream::iter(namespaces.clone())
        .map(|namespace| async move {
            let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
            let (params, map) = (PatchParams::apply(MANAGER).force(), Patch::Apply(trust_map(trust)));
            let written = in_time(maps.patch(TRUST, &params, &map)).await;
            metrics.trust_writes.count(&written);
            match written {
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(namespace, %error, "the ledger's CA cannot be written");
                    Some(namespace)
                }
            }
        })
        .buffer_unordered(WRITES)
        .filter_map(|failed| async move { failed })
        .collect()
        .await;
    failed.is_empty()
}

fn trust_map(trust: &Trust) -> ConfigMap {
    let (label, value) = MANAGED_BY;
    let files = std::iter::once((TRUST_KEY, &trust.ca)).chain(trust.roots.as_ref().map(|roots| (ROOTS_KEY, roots)));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(files.map(|(key, pem)| (key.to_owned(), pem.clone())).collect()),
        ..ConfigMap::default()
    }
}
