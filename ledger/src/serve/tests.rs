//! Ledgers that start and stop.

use kybernis_core::ids::{AgentId, PersonId, RunId, TenantId};
use kybernis_core::machine::EnterRun;
use kybernis_core::policy::PolicySet;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use tonic::body::Body;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tower::{Service as _, ServiceExt as _};

use super::*;
use crate::auth::{Claims, KubernetesSettings, Role};

async fn start(data: &Path) -> Result<Ledger, StartError> {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, policy) = watch::channel(InForce::new(&PolicySet::default(), std::collections::BTreeMap::new()).unwrap());
    let callers = Callers::Local { policy };
    Ledger::start(Settings { data: data.to_owned(), grpc: bind(), http: bind(), callers, engine: engine::Settings::default() }).await
}

#[tokio::test]
async fn a_ledger_whose_journal_holds_something_starts_with_its_own_keys_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let ledger = start(data).await.unwrap();
    let entered = EnterRun { run: RunId::new("run-1").unwrap(), agent: AgentId::new("trader").unwrap() };
    ledger.engine().unwrap().enter_run(entered).await.unwrap().unwrap();
    ledger.stop().await.unwrap();
    for name in ["vault.key", "tenant.key"] {
        std::fs::rename(data.join(name), data.join("backup")).unwrap();
        let error = start(data).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("restore the file from the backup"), "{error}");
        std::fs::rename(data.join("backup"), data.join(name)).unwrap();
    }
    start(data).await.unwrap().stop().await.unwrap();
}

/// A cluster whose API server is not there.
fn kubernetes() -> Arc<Kubernetes> {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let settings = KubernetesSettings {
        audience: "ledger".to_owned(),
        container: "kybernis-proxy".to_owned(),
        images: Vec::new(),
        operator: ("kybernis-system".to_owned(), "kybernis-operator".to_owned()),
    };
    Arc::new(Kubernetes::new(kube::Client::try_from(config).unwrap(), settings))
}

/// What the admin port says: the status line and the body.
async fn admin(at: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_cluster_s_ledger_starts_without_the_api_server_and_is_ready_once_every_tenant_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Folders::new(folder.path().join(TENANTS), engine::Settings::default(), CancellationToken::new());
    for name in ["one", "two", "three"] {
        tenants.of(&TenantId::new(name).unwrap()).await.unwrap();
    }
    tenants.close().await;

    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, api) = (bind(), bind());
    let (at, reads) = (port.local_addr().unwrap(), api.local_addr().unwrap());
    let callers = Callers::Cluster(Cluster { kubernetes: kubernetes(), admin: Some(port), api: Some(api) });
    let settings = Settings { data: folder.path().to_owned(), grpc: bind(), http: bind(), callers, engine: engine::Settings::default() };
    let ledger = Ledger::start(settings).await.unwrap();
    assert!(admin(at, "/readyz").await.starts_with("HTTP/1.1 200 "));
    let metrics = admin(at, "/metrics").await;
    assert!(metrics.contains("\nkyb_ledger_tenants 3\n"), "{metrics}");
    assert!(tokio::net::TcpStream::connect(reads).await.is_ok());
    ledger.stop().await.unwrap();
}

#[tokio::test]
async fn what_comes_with_a_sidecar_s_token_is_an_agent_s_word_and_decides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (grpc, data) = (bind(), folder.path().to_owned());
    let at = grpc.local_addr().unwrap();
    let (_, policy) = watch::channel(InForce::new(&PolicySet::default(), std::collections::BTreeMap::new()).unwrap());
    let callers = Callers::Local { policy };
    let settings = Settings { data: data.clone(), grpc, http: bind(), callers, engine: engine::Settings::default() };
    let ledger = Ledger::start(settings).await.unwrap();
    let ca = std::fs::read_to_string(Ledger::ca_file(&data)).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(Ledger::SERVER_NAME);
    let channel = Endpoint::from_shared(format!("https://{at}")).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    let mint = |role| {
        let claims = Claims {
            role,
            tenant: TenantId::new("default").unwrap(),
            subject: PersonId::new("somebody").unwrap(),
            workload: None,
            expires: 4_000_000_000,
        };
        TokenKey::open(&data).unwrap().mint(&claims)
    };
    for (path, role, status, code) in [
        ("/infra/gate/decide", Role::Sidecar, 403, "forbidden"),
        ("/infra/gate/decide", Role::Agent, 403, "forbidden"),
        ("/infra/gate/decide", Role::Approver, 404, "not_found"),
        ("/infra/gates", Role::Sidecar, 403, "forbidden"),
        ("/infra/gates", Role::Auditor, 200, ""),
        ("/infra/nothing", Role::Auditor, 404, "not_found"),
    ] {
        let body = r#"{"gate_id": "g-1", "status": "APPROVED", "reason": "mine"}"#;
        let request =
            axum::http::Request::builder().uri(format!("https://{at}{path}")).header("authorization", format!("Bearer {}", mint(role)));
        let request = request.header("content-type", "application/json");
        let request =
            if path.ends_with("gates") { request.body(Body::empty()) } else { request.method("POST").body(Body::new(body.to_owned())) };
        let answer = channel.clone().ready().await.unwrap().call(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{path} as {role:?}");
        let said = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1 << 16).await.unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["error"].as_str().unwrap_or_default(), code, "{path} as {role:?}: {said}");
    }
    ledger.stop().await.unwrap();
}
