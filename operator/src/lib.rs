//! The operator: it watches the objects that people write, gives the ledger one PolicySet for each tenant, and tells in the objects'
//! conditions which of them hold and where they are in force.
//!
//! One pass over the cluster goes through phases, a file each: `dereference` gathers, `validate` judges, `build` names what is
//! to be sent, `apply` sends it, `status` tells people. Only the first and the last two hold a client.
//!
//! The other way go gates: `gates` shows those of the ledger as objects, in the same phases, and `decisions` brings people's words on
//! them to the ledger.

mod admin;
mod apply;
mod backoff;
mod build;
mod decisions;
mod dereference;
mod events;
mod facts;
#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod fixtures;
mod gates;
mod kinds;
mod lead;
mod ledger;
mod metrics;
mod object;
mod reason;
mod reconcile;
#[cfg(test)]
mod scale;
mod status;
mod validate;
mod wake;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::decisions::Clerk;
use self::gates::Keeper;
use self::lead::Lead;
use self::ledger::Ledger;
pub use self::ledger::LedgerSettings;
use self::metrics::Metrics;
use self::reconcile::Reconciler;
use self::status::write::Writer;
use self::wake::Wakes;
use self::watch::{Secrets, Watches};

/// What the operator must know.
#[derive(Clone)]
pub struct Settings {
    /// The API server, as the operator's ServiceAccount. It must be allowed, in every namespace: to list and watch the four kinds,
    /// Namespaces and Pods; to list and watch the Secrets that probes name; to patch the kinds' `status`; to get, list, watch, create
    /// and delete Gates, and to patch their `status`; to list and watch GateDecisions, and to patch their `status`; to list, watch,
    /// create and patch ConfigMaps named `kybernis-trust`; to create and patch Events (events.k8s.io). And in its own: to get, create
    /// and update Leases.
    pub client: Client,
    /// The release's own namespace: its objects hold for the whole cluster, and the Lease and the ledger's CA lie there.
    pub namespace: String,
    /// This replica, as the Lease names it: its pod's name.
    pub identity: String,
    /// The ledger.
    pub ledger: LedgerSettings,
    /// PEM of roots that sidecars are to trust beside the public ones.
    pub extra_roots: Option<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin: SocketAddr,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("namespace", &self.namespace)
            .field("identity", &self.identity)
            .field("ledger", &self.ledger)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin port cannot be opened.
    #[error("the admin port {address} cannot be opened")]
    Admin {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A part that works for as long as the process lives has ended.
    #[error("a part of the operator ended")]
    Ended(#[source] Option<tokio::task::JoinError>),
}

/// Works until `shutdown`. An API server or a ledger that is away ends nothing.
///
/// # Errors
/// When the admin port cannot be opened, or a part of the operator panics: then the process should start anew.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let Settings { client, namespace, identity, ledger: ledger_settings, extra_roots, admin } = settings;
    let listener = TcpListener::bind(admin).await.map_err(|source| Error::Admin { address: admin, source })?;
    let (metrics, wakes) = (Arc::new(Metrics::default()), Wakes::default());
    let mut parts = JoinSet::new();

    let (tell_lead, leads) = Lead::new();
    parts.spawn(lead::stand(client.clone(), namespace.clone(), identity.clone(), tell_lead, Arc::clone(&metrics)));
    let (leases, client) = (client.clone(), lead::writing(client, leads.clone()));
    let (watches, tasks) = Watches::new(&client, &wakes, &metrics);
    let (gate_watches, gate_tasks) = watches.gates(&client, &wakes, &metrics);
    for task in tasks.into_iter().chain(gate_tasks) {
        parts.spawn(task);
    }
    let ledger = Ledger::new(wakes.clone(), leads.clone());
    parts.spawn(ledger.clone().follow(ledger_settings, Arc::clone(&metrics)));
    let (ready, is_ready) = tokio::sync::watch::channel(false);
    parts.spawn(admin::serve(listener, Arc::clone(&metrics), is_ready));
    let reporter = Reporter { controller: "kybernis.io/operator".to_owned(), instance: Some(identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    parts.spawn(
        Keeper {
            client: client.clone(),
            watches: gate_watches.clone(),
            ledger: ledger.clone(),
            recorder: recorder.clone(),
            metrics: Arc::clone(&metrics),
            wake: Arc::clone(&wakes.gates),
            leads: leads.clone(),
            moment: gates::MOMENT,
        }
        .run(),
    );
    parts.spawn(
        Clerk {
            client: client.clone(),
            watches: gate_watches,
            ledger: ledger.clone(),
            recorder: recorder.clone(),
            metrics: Arc::clone(&metrics),
            wake: Arc::clone(&wakes.decisions),
            leads: leads.clone(),
        }
        .run(),
    );
    let reconciler = Reconciler {
        client: client.clone(),
        release: namespace.clone(),
        extra_roots,
        watches,
        secrets: Secrets::new(client.clone(), Arc::clone(&wakes.policies), Arc::clone(&metrics)),
        ledger,
        writer: Writer::new(client.clone(), recorder),
        metrics,
        wake: wakes.policies,
        leads,
        ready,
    };
    parts.spawn(reconciler.run());

    let ended = tokio::select! {
        () = shutdown => None,
        ended = parts.join_next() => Some(ended.and_then(Result::err)),
    };
    // Nothing is sent any more when another replica may begin.
    parts.shutdown().await;
    lead::step_down(leases, &namespace, &identity).await;
    ended.map_or(Ok(()), |error| Err(Error::Ended(error)))
}

#[cfg(test)]
mod tests;
