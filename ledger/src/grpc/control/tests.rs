//! The service as the operator reaches it, without a network.

mod gates;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use kybernis_core::ids::{AgentId, PersonId};
use kybernis_core::word::PublicKeys;
use kybernis_proto::v1::control_server::Control as _;
use kybernis_proto::v1::sidecar_update::Update;
use tonic::Code;

use super::*;
use crate::auth::{Claims, Role, TokenKey};
use crate::engine::Settings;
use crate::fleet::Sidecar;

struct Rig {
    control: Control,
    tokens: Arc<TokenKey>,
    published: Published,
    closing: CancellationToken,
    folder: tempfile::TempDir,
}

/// The keys that admission has published; none where the API server is away.
type Published = Arc<Mutex<Option<PublicKeys>>>;

impl Rig {
    fn start() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    fn over(folder: tempfile::TempDir) -> Self {
        let tokens = Arc::new(TokenKey::open(folder.path()).unwrap());
        let closing = CancellationToken::new();
        let settings = Settings { tick: Duration::from_millis(5), ..Settings::default() };
        let tenants = Folders::new(folder.path().join("tenants"), settings, closing.clone());
        let published = Published::default();
        let keys = {
            let published = Arc::clone(&published);
            DecisionKeys::new(move || std::future::ready(published.lock().unwrap().clone().ok_or_else(|| "away".to_owned())))
        };
        let control = Control::new(Auth::Key(Arc::clone(&tokens)), tenants, Fleet::new(), keys, closing.clone());
        Self { control, tokens, published, closing, folder }
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
        let message = v1::ProgramRequest { tenant: tenant.to_owned(), policy_set: set.to_vec(), secrets, keep_own: false };
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
