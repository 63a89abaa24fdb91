//! The listener as an API server reaches it, and as others do: real TLS, real requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use kybernis_core::ids::{AgentId, BootId, RunId};
use kybernis_core::policy::PolicySet;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::engine::Settings;
use crate::fixtures::{call, gated};

const OWN_NAME: &str = "kybernis-ledger.kybernis-system.svc";
const GROUP_PATH: &str = "/apis/ledger.kybernis.io/v1alpha1";

/// A CA of client certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A client's certificate and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn certificate(&self, name: &str) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }
}

struct Rig {
    at: SocketAddr,
    roots: Arc<RootCertStore>,
    authority: Authority,
    published: Arc<Mutex<BTreeMap<String, String>>>,
    tenants: Folders,
    folder: tempfile::TempDir,
    _closes: DropGuard,
}

/// One answer: its status and its body.
type Got = (u16, Value);

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let closing = CancellationToken::new();
        let (certificate, key) = crate::tls::leaf(folder.path(), &[OWN_NAME.to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.path().join(crate::tls::CA_FILE)).unwrap()).unwrap();
        let authority = Authority::new();
        let published = Arc::new(Mutex::new(says(&authority, r#"["front-proxy-client"]"#)));
        let front = {
            let published = Arc::clone(&published);
            Published::new("test", move || std::future::ready(Front::of(&published.lock().unwrap()).map_err(|error| error.to_string())))
        };
        // Two namespaces are one tenant's, as a cluster admin says with a label; another is its own; any other is not there.
        let tenant_of: TenantOf = Arc::new(|namespace| {
            let tenant = match namespace.as_str() {
                "desk" | "vault" => Ok(Some("shared")),
                "quiet" => Ok(Some("quiet")),
                "away" => Err("away".to_owned()),
                _ => Ok(None),
            };
            Box::pin(std::future::ready(tenant.map(|tenant| tenant.map(|tenant| TenantId::new(tenant).unwrap()))))
        });
        let tenants = Folders::new(folder.path().join("tenants"), Settings::default(), closing.clone());
        let tls = tls(&certificate, &key).unwrap();
        let aggregated = Aggregated { tenants: tenants.clone(), tenant_of, front: Arc::new(front), tls };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, aggregated, closing.clone()));
        Self { at, roots: Arc::new(roots), authority, published, tenants, folder, _closes: closing.drop_guard() }
    }

    async fn send(&self, shown: Option<Shown>, request: &str) -> Got {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(Arc::clone(&self.roots));
        let config = match shown {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        };
        let stream = TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from(OWN_NAME).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Whoever is turned away need not be told that the connection ends.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// As the API server forwards what ada asks.
    async fn ask(&self, method: &str, path: &str) -> Got {
        let shown = self.authority.certificate("front-proxy-client");
        self.send(Some(shown), &request(method, path, "X-Remote-User: ada\r\nX-Remote-Group: desk\r\n")).await
    }

    async fn get(&self, path: &str) -> Got {
        self.ask("GET", &format!("{GROUP_PATH}{path}")).await
    }

    /// What of a namespace's listing is under that name of each item.
    async fn names(&self, namespace: &str, listing: &str, name: &str) -> Vec<String> {
        let (status, body) = self.get(&format!("/namespaces/{namespace}/{listing}")).await;
        assert_eq!((status, &body["ok"]), (200, &Value::Bool(true)), "{body}");
        body["data"][listing].as_array().unwrap().iter().map(|item| item[name].as_str().unwrap().to_owned()).collect()
    }

    /// One effect and one gate of a namespace's agent, in a run of its own.
    async fn works(&self, namespace: &str, key: u8, run: &str) {
        let engine = self.tenants.of(&TenantId::new("shared").unwrap()).await.unwrap().engine.clone();
        for mut parts in [call(key, "d-1"), gated(key + 1, "d-2", 1)] {
            parts.decide.policy = PolicySet::default().digest();
            parts.decide.agent = AgentId::new(&format!("{namespace}/trader/Deployment/trader")).unwrap();
            parts.decide.boot = BootId::new(&format!("boot-{namespace}")).unwrap();
            parts.decide.run = RunId::new(run).unwrap();
            engine.decide(parts).await.unwrap();
        }
    }
}

/// What API servers publish.
fn says(authority: &Authority, names: &str) -> BTreeMap<String, String> {
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    [of("requestheader-client-ca-file", &authority.pem), of("requestheader-allowed-names", names)].into()
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n{headers}\r\n")
}

fn failed(status: u16, reason: &str, message: &str) -> Got {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status,
    });
    (status, body)
}

#[tokio::test]
async fn nobody_but_an_api_server_is_served() {
    let rig = Rig::start().await;
    let asked = request("GET", GROUP_PATH, "X-Remote-User: ada\r\n");
    let turned_away = failed(401, "Unauthorized", "Unauthorized");
    let right = || Some(rig.authority.certificate("front-proxy-client"));
    for (shown, what) in [
        (None, "no certificate"),
        (Some(Authority::new().certificate("front-proxy-client")), "a certificate of another CA"),
        (Some(rig.authority.certificate("kubelet")), "a name that is not allowed"),
    ] {
        assert_eq!(rig.send(shown, &asked).await, turned_away, "{what}");
    }
    assert_eq!(rig.send(right(), &request("GET", GROUP_PATH, "")).await, turned_away, "nobody's request");
    assert_eq!(rig.send(right(), &asked).await.0, 200);
    // With an empty list every name will do that the CA has given a certificate.
    *rig.published.lock().unwrap() = says(&rig.authority, "[]");
    assert_eq!(rig.send(Some(rig.authority.certificate("kubelet")), &asked).await.0, 200);
}

#[tokio::test]
async fn where_nothing_is_published_nobody_is_served_and_a_new_ca_is_known_at_once() {
    let rig = Rig::start().await;
    let asked = request("GET", GROUP_PATH, "X-Remote-User: ada\r\n");
    rig.published.lock().unwrap().clear();
    assert_eq!(rig.send(Some(rig.authority.certificate("front-proxy-client")), &asked).await.0, 401);
    let next = Authority::new();
    *rig.published.lock().unwrap() = says(&next, r#"["front-proxy-client"]"#);
    assert_eq!(rig.send(Some(next.certificate("front-proxy-client")), &asked).await.0, 200, "its first request");
    assert_eq!(rig.send(Some(rig.authority.certificate("front-proxy-client")), &asked).await.0, 401, "the CA of before");
}

#[tokio::test]
async fn the_group_is_found_as_discovery_looks_for_it() {
    let rig = Rig::start().await;
    let version = json!({"groupVersion": "ledger.kybernis.io/v1alpha1", "version": "v1alpha1"});
    let group = json!({"name": "ledger.kybernis.io", "versions": [version], "preferredVersion": version});
    let (status, groups) = rig.ask("GET", "/apis").await;
    assert_eq!((status, groups), (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})));
    let (_, alone) = rig.ask("GET", "/apis/ledger.kybernis.io").await;
    assert_eq!((&alone["kind"], &alone["name"]), (&json!("APIGroup"), &json!("ledger.kybernis.io")));
    let (_, resources) = rig.ask("GET", GROUP_PATH).await;
    let none = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ledger.kybernis.io/v1alpha1", "resources": []});
    assert_eq!(resources, none);

    let missing = failed(404, "NotFound", "the server could not find the requested resource");
    for path in ["/", "/openapi/v2", "/livez", "/apis/kybernis.io", "/apis/ledger.kybernis.io/v1alpha1/runs", "/infra/runs"] {
        assert_eq!(rig.ask("GET", path).await, missing, "{path}");
    }
    let refused = failed(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(rig.ask(method, &format!("{GROUP_PATH}/namespaces/desk/runs")).await, refused, "{method}");
    }
}

#[tokio::test]
async fn a_namespace_shows_what_belongs_to_its_agents_and_nothing_else() {
    let rig = Rig::start().await;
    rig.works("desk", 1, "run-desk").await;
    rig.works("vault", 3, "jobs/run:vault").await;
    assert_eq!(rig.names("desk", "runs", "run_id").await, ["run-desk"]);
    assert_eq!(rig.names("vault", "runs", "run_id").await, ["jobs/run:vault"]);
    for listing in ["effects", "gates"] {
        for namespace in ["desk", "vault"] {
            let agents = rig.names(namespace, listing, "agent").await;
            assert_eq!(agents, [format!("{namespace}/trader/Deployment/trader")], "{listing}");
        }
    }
    let (status, page) = rig.get("/namespaces/desk/gates?status=PENDING&limit=1").await;
    assert_eq!((status, page["data"]["gates"].as_array().unwrap().len()), (200, 1), "{page}");
    let (status, body) = rig.get("/namespaces/desk/gates?limit=0").await;
    assert_eq!((status, &body["error"]), (400, &json!("bad_request")), "{body}");

    let kinds = |body: &Value| body["data"]["events"].as_array().unwrap().iter().map(|event| event["type"].clone()).collect::<Vec<_>>();
    // As the API server forwards a name that was escaped twice, and one that reaches us otherwise.
    for run in ["jobs%252Frun:vault", "jobs%2Frun%3Avault"] {
        let (status, body) = rig.get(&format!("/namespaces/vault/runs/{run}/events?limit=2")).await;
        assert_eq!((status, kinds(&body).len(), &body["data"]["next"]), (200, 2, &json!("2")), "{body}");
    }
    let (status, body) = rig.get("/namespaces/vault/runs/run-desk/events").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")), "another namespace's run: {body}");
    assert_eq!(rig.get("/namespaces/vault/runs/jobs/run:vault/events").await.0, 404, "a path of other segments than were judged");
}

#[tokio::test]
async fn what_is_not_there_is_said_and_asking_makes_nothing() {
    let rig = Rig::start().await;
    assert_eq!(rig.names("quiet", "runs", "run_id").await, [] as [&str; 0]);
    assert_eq!(rig.get("/namespaces/quiet/runs/run-1/events").await.0, 404);
    assert_eq!(rig.get("/namespaces/nowhere/runs").await, failed(404, "NotFound", "namespaces \"nowhere\" not found"));
    assert_eq!(rig.get("/namespaces/..%2Fquiet/runs").await.0, 404);
    let (status, body) = rig.get("/namespaces/away/runs").await;
    assert_eq!((status, &body["error"]), (503, &json!("ledger_unavailable")), "{body}");
    assert!(!rig.folder.path().join("tenants").exists(), "a question has made a tenant");
}
