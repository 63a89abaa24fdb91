//! The gRPC service of the operator: policies in, and out which sidecars run with them.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _};
use kybernis_core::ids::TenantId;
use kybernis_core::policy::{PolicySet, SecretRef};
use kybernis_proto::v1;
use kybernis_proto::v1::sidecar_update::Update;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Messages, admit};
use crate::auth::{Auth, Endpoint};
use crate::fleet::{Change, Fleet, Seat, Sidecar};
use crate::policy::Secrets;
use crate::tenants::{Folders, ProgramError};

/// The service.
#[derive(Debug)]
pub(crate) struct Control {
    auth: Auth,
    tenants: Folders,
    fleet: Fleet,
    closing: CancellationToken,
}

impl Control {
    /// A service that ends its streams when `closing` is cancelled.
    pub(crate) const fn new(auth: Auth, tenants: Folders, fleet: Fleet, closing: CancellationToken) -> Self {
        Self { auth, tenants, fleet, closing }
    }
}

impl From<ProgramError> for Status {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Policy(_) => Self::invalid_argument(error.to_string()),
            ProgramError::Tenant(tenant) => tenant.into(),
            ProgramError::Keep(ref source) => {
                tracing::error!(error = %source, "a PolicySet cannot be kept");
                Self::unavailable(error.to_string())
            }
        }
    }
}

fn invalid(field: &str, rule: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {rule}"))
}

#[tonic::async_trait]
impl v1::control_server::Control for Control {
    type WatchSidecarsStream = Messages<v1::SidecarUpdate>;
    type WatchGatesStream = Messages<v1::GateUpdate>;

    async fn watch_gates(&self, _: Request<v1::WatchGatesRequest>) -> Result<Response<Self::WatchGatesStream>, Status> {
        Err(Status::unimplemented("gates"))
    }

    async fn decide_gate(&self, _: Request<v1::DecideGateRequest>) -> Result<Response<v1::DecideGateReply>, Status> {
        Err(Status::unimplemented("gates"))
    }

    async fn program(&self, request: Request<v1::ProgramRequest>) -> Result<Response<v1::ProgramReply>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        let v1::ProgramRequest { tenant, policy_set, secrets } = request.into_inner();
        let tenant = TenantId::new(&tenant).map_err(|error| invalid("tenant", error))?;
        let set: PolicySet = serde_json::from_slice(&policy_set).map_err(|error| invalid("policy_set", error))?;
        let secret = |v1::Secret { namespace, name, key, value }| (SecretRef { namespace, name, key }, Zeroizing::new(value));
        let secrets: Secrets = secrets.into_iter().map(secret).collect::<BTreeMap<_, _>>();
        let digest = self.tenants.program(&tenant, &set, secrets).await?;
        tracing::info!(%tenant, %digest, "a policy is in force");
        Ok(Response::new(v1::ProgramReply { digest: digest.as_bytes().to_vec() }))
    }

    async fn watch_sidecars(&self, request: Request<v1::WatchSidecarsRequest>) -> Result<Response<Self::WatchSidecarsStream>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        let (live, changes) = self.fleet.watch();
        let live = live.into_iter().map(|(seat, sidecar)| Ok(update((seat, Some(sidecar)))));
        let synced = v1::SidecarUpdate { update: Some(Update::Synced(v1::Synced {})) };
        let stream = futures::stream::iter(live.chain([Ok(synced)])).chain(followed(changes));
        Ok(Response::new(stream.take_until(self.closing.clone().cancelled_owned()).boxed()))
    }
}

/// The changes until one is lost.
fn followed(changes: broadcast::Receiver<Change>) -> impl Stream<Item = Result<v1::SidecarUpdate, Status>> {
    futures::stream::unfold(Some(changes), |changes| async {
        let mut changes = changes?;
        match changes.recv().await {
            Ok(change) => Some((Ok(update(change)), Some(changes))),
            Err(RecvError::Lagged(lost)) => Some((Err(Status::aborted(format!("{lost} changes were lost on the way; ask again"))), None)),
            Err(RecvError::Closed) => None,
        }
    })
}

fn update(((tenant, instance), now): (Seat, Option<Sidecar>)) -> v1::SidecarUpdate {
    let tenant = tenant.to_string();
    let update = match now {
        None => Update::Gone(v1::GoneSidecar { tenant, instance }),
        Some(Sidecar { agent, labels, digest, error }) => {
            let (agent, labels) = (agent.to_string(), labels.into_iter().collect());
            Update::Live(v1::LiveSidecar { tenant, instance, agent, labels, digest, error })
        }
    };
    v1::SidecarUpdate { update: Some(update) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kybernis_core::ids::{AgentId, PersonId};
    use kybernis_proto::v1::control_server::Control as _;
    use tonic::Code;

    use super::*;
    use crate::auth::{Claims, Role, TokenKey};
    use crate::engine::Settings;

    struct Rig {
        control: Control,
        tokens: Arc<TokenKey>,
        folder: tempfile::TempDir,
    }

    impl Rig {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tokens = Arc::new(TokenKey::open(folder.path()).unwrap());
            let tenants = Folders::new(folder.path().join("tenants"), Settings::default(), CancellationToken::new());
            let control = Control::new(Auth::Key(Arc::clone(&tokens)), tenants, Fleet::new(), CancellationToken::new());
            Self { control, tokens, folder }
        }

        fn request<M>(&self, role: Role, message: M) -> Request<M> {
            let (tenant, subject) = (TenantId::new("kybernis-system").unwrap(), PersonId::new("operator").unwrap());
            let token = self.tokens.mint(&Claims { role, tenant, subject, workload: None, expires: 4_000_000_000 });
            let mut request = Request::new(message);
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            request
        }

        async fn program(&self, role: Role, tenant: &str, set: &[u8]) -> Result<Vec<u8>, Status> {
            let secrets = Vec::new();
            let message = v1::ProgramRequest { tenant: tenant.to_owned(), policy_set: set.to_vec(), secrets };
            let reply = self.control.program(self.request(role, message)).await;
            reply.map(|reply| reply.into_inner().digest)
        }

        fn tenants(&self) -> usize {
            std::fs::read_dir(self.folder.path().join("tenants")).map_or(0, Iterator::count)
        }
    }

    #[tokio::test]
    async fn only_an_operator_programs_and_only_what_holds_and_a_repeat_changes_nothing() {
        let rig = Rig::start();
        let empty = serde_json::to_vec(&PolicySet::default()).unwrap();
        for role in [Role::Sidecar, Role::Agent, Role::Approver, Role::Admin, Role::Auditor] {
            assert_eq!(rig.program(role, "trading", &empty).await.unwrap_err().code(), Code::PermissionDenied, "{role:?}");
        }
        for (tenant, set, rule) in [
            ("trading", &b"{}"[..], "policy_set: missing field `tools`"),
            ("trading", b"\xff", "policy_set: expected value"),
            ("a/../b", &empty, "tenant a/../b is no DNS label"),
            ("", &empty, "tenant: tenant is empty"),
        ] {
            let refused = rig.program(Role::Operator, tenant, set).await.unwrap_err();
            assert!(refused.message().starts_with(rule), "{refused}");
        }
        assert_eq!(rig.tenants(), 0, "nothing is stored of what was refused");
        let digest = PolicySet::default().digest().as_bytes().to_vec();
        assert_eq!(rig.program(Role::Operator, "trading", &empty).await.unwrap(), digest);
        assert_eq!(rig.program(Role::Operator, "trading", &empty).await.unwrap(), digest);
        assert_eq!(rig.tenants(), 1);
    }

    #[tokio::test]
    async fn the_operator_sees_who_is_live_and_then_each_change() {
        let rig = Rig::start();
        let seat = (TenantId::new("trading").unwrap(), "pod-1".to_owned());
        let stream = rig.control.fleet.enter(seat);
        let agent = AgentId::new("trading/trader/Deployment/trader").unwrap();
        let sidecar = |digest: u8| Sidecar { agent: agent.clone(), labels: BTreeMap::new(), digest: vec![digest], error: String::new() };
        stream.says(sidecar(1));
        let refused = rig.control.watch_sidecars(rig.request(Role::Sidecar, v1::WatchSidecarsRequest {})).await;
        assert_eq!(refused.map(drop).unwrap_err().code(), Code::PermissionDenied);
        let updates = rig.control.watch_sidecars(rig.request(Role::Operator, v1::WatchSidecarsRequest {})).await.unwrap();
        stream.says(sidecar(2));
        drop(stream);
        let told: Vec<String> = updates
            .into_inner()
            .take(4)
            .map(|update| match update.unwrap().update.unwrap() {
                Update::Live(live) => format!("{} {} {} {:?}", live.tenant, live.instance, live.agent, live.digest),
                Update::Gone(gone) => format!("{} {} gone", gone.tenant, gone.instance),
                Update::Synced(_) => "synced".to_owned(),
            })
            .collect()
            .await;
        let live = |digest| format!("trading pod-1 trading/trader/Deployment/trader [{digest}]");
        assert_eq!(told, [live(1), "synced".to_owned(), live(2), "trading pod-1 gone".to_owned()]);
    }
}
