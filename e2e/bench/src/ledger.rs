//! A ledger of ours, as the operator sees one: it takes every set, and tells of sidecars that take it in turn, each a moment later.
//! gRPC over TLS.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::stream::{self, BoxStream, StreamExt as _};
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1::control_server::{Control, ControlServer};
use kybernis_proto::v1::gate_update;
use kybernis_proto::v1::sidecar_update::Update;
use kybernis_proto::{POLICY_SET_MAX, v1};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::api_server::DISK;
use crate::population::{NAMESPACES, PODS_EACH, agent, instance, namespace};
use crate::process::{announce, until_orphaned};
use crate::tls;

/// How long a tenant's last sidecar takes to take a new set.
const TAKEN_WITHIN: Duration = Duration::from_millis(20);
/// Changes that an operator may lag behind; beyond that it is told that it lost some.
const LAG_MAX: usize = 2 * NAMESPACES * PODS_EACH;

/// Serves until its parent goes.
pub(crate) async fn serve(dir: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&[listener.local_addr()?]);
    let [leaf, key] = tls::files(dir);
    let ledger = Ledger(Arc::new(Mutex::new(Fleet::new())));
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(fs::read(leaf)?, fs::read(key)?)))?
        .tcp_nodelay(true)
        .add_service(ControlServer::new(ledger).max_decoding_message_size(POLICY_SET_MAX));
    tokio::select! {
        ended = server.serve_with_incoming(TcpListenerStream::new(listener)) => ended?,
        () = until_orphaned() => {}
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Ledger(Arc<Mutex<Fleet>>);

#[derive(Debug)]
struct Fleet {
    tenants: BTreeMap<String, Tenant>,
    told: broadcast::Sender<v1::SidecarUpdate>,
}

#[derive(Debug)]
struct Tenant {
    team: usize,
    /// The set that it was given.
    given: Vec<u8>,
    /// The set that each sidecar runs with.
    runs: Vec<Vec<u8>>,
}

impl Tenant {
    fn live(&self, pod: usize) -> v1::SidecarUpdate {
        let (tenant, app) = (namespace(self.team), agent(pod));
        let live = v1::LiveSidecar {
            instance: instance(self.team, pod),
            agent: format!("{tenant}/{app}/Deployment/{app}"),
            labels: [("app".to_owned(), app), ("pod-template-hash".to_owned(), "7d9f8c6b5".to_owned())].into(),
            digest: self.runs[pod].clone(),
            error: String::new(),
            tenant,
        };
        v1::SidecarUpdate { update: Some(Update::Live(live)) }
    }
}

impl Fleet {
    /// All are live, and have no set yet.
    fn new() -> Self {
        let tenant = |team| (namespace(team), Tenant { team, given: Vec::new(), runs: vec![Vec::new(); PODS_EACH] });
        Self { tenants: (0..NAMESPACES).map(tenant).collect(), told: broadcast::Sender::new(LAG_MAX) }
    }
}

impl Ledger {
    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One sidecar after the other takes the set, unless there is a newer one.
    async fn hand_out(self, tenant: String, digest: Vec<u8>) {
        let began = Instant::now();
        let parts = u32::try_from(PODS_EACH).unwrap_or(u32::MAX);
        for (pod, part) in (0..PODS_EACH).zip(1..) {
            tokio::time::sleep_until(began + TAKEN_WITHIN * part / parts).await;
            let mut fleet = self.fleet();
            let Some(found) = fleet.tenants.get_mut(&tenant).filter(|found| found.given == digest) else { return };
            found.runs[pod].clone_from(&digest);
            let update = found.live(pod);
            // Nobody may listen just now.
            let _ = fleet.told.send(update);
        }
    }
}

#[tonic::async_trait]
impl Control for Ledger {
    type WatchSidecarsStream = BoxStream<'static, Result<v1::SidecarUpdate, Status>>;
    type WatchGatesStream = BoxStream<'static, Result<v1::GateUpdate, Status>>;

    async fn program(&self, request: Request<v1::ProgramRequest>) -> Result<Response<v1::ProgramReply>, Status> {
        let v1::ProgramRequest { tenant, policy_set, .. } = request.into_inner();
        let set: PolicySet = serde_json::from_slice(&policy_set).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let digest = set.digest().as_bytes().to_vec();
        tokio::time::sleep(DISK).await;
        let is_new =
            self.fleet().tenants.get_mut(&tenant).is_some_and(|found| std::mem::replace(&mut found.given, digest.clone()) != digest);
        if is_new {
            tokio::spawn(self.clone().hand_out(tenant, digest.clone()));
        }
        Ok(Response::new(v1::ProgramReply { digest }))
    }

    async fn watch_sidecars(&self, _: Request<v1::WatchSidecarsRequest>) -> Result<Response<Self::WatchSidecarsStream>, Status> {
        let fleet = self.fleet();
        let now: Vec<_> = fleet.tenants.values().flat_map(|tenant| (0..PODS_EACH).map(|pod| tenant.live(pod))).collect();
        let later = BroadcastStream::new(fleet.told.subscribe());
        let synced = v1::SidecarUpdate { update: Some(Update::Synced(v1::Synced { partial: false })) };
        let later = later.map(|update| update.map_err(|_| Status::aborted("a change was lost on the way")));
        Ok(Response::new(stream::iter(now.into_iter().chain([synced]).map(Ok)).chain(later).boxed()))
    }

    async fn watch_gates(&self, _: Request<v1::WatchGatesRequest>) -> Result<Response<Self::WatchGatesStream>, Status> {
        let synced = v1::GateUpdate { update: Some(gate_update::Update::Synced(v1::Synced { partial: false })) };
        Ok(Response::new(stream::iter([Ok(synced)]).chain(stream::pending()).boxed()))
    }

    async fn decide_gate(&self, _: Request<v1::DecideGateRequest>) -> Result<Response<v1::DecideGateReply>, Status> {
        Err(Status::unimplemented("no gate is open here"))
    }
}
