//! The whole webhook against a small imitation of an API server: what it asks for is what its role must allow, and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Trust};
use super::config;
use super::loopback::probe;
use crate::server::{Certificates, DecisionKey, Lifetimes, OwnCertificates, Settings, run};

const SECRETS: &str = "/api/v1/namespaces/kybernis-system/secrets";
const CONFIG_MAPS: &str = "/api/v1/namespaces/kybernis-system/configmaps";
const NAMESPACES: &str = "/api/v1/namespaces";
const GATES: &str = "/apis/kybernis.io/v1alpha1/namespaces/trading/gates";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Objects by their paths, and what was asked.
#[derive(Clone, Default)]
struct Imitation(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Value>,
    version: u64,
    asked: BTreeSet<String>,
    questions: Vec<Value>,
}

impl Held {
    fn put(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        object
    }
}

impl Imitation {
    fn put(&self, collection: &str, object: Value) {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        self.0.lock().unwrap().put(path, object);
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    fn asked(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().asked.clone()
    }

    async fn serve(self, listener: tokio::net::TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let imitation = self.clone();
            let service = service_fn(move |request| {
                let imitation = imitation.clone();
                async move { Ok::<_, Infallible>(imitation.answer(request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
        let is_collection = [SECRETS, CONFIG_MAPS, NAMESPACES, MUTATING, VALIDATING].contains(&path.as_str());
        let verb = match head.method {
            Method::GET if query.contains("watch=true") => "watch",
            Method::GET if is_collection => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            _ => "something else",
        };
        let only =
            query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=")).map_or_else(String::new, |only| format!(" {only}"));
        self.0.lock().unwrap().asked.insert(format!("{verb} {path}{only}"));
        if verb == "watch" {
            // Nothing happens that it could tell.
            std::future::pending::<()>().await;
        }
        let mut held = self.0.lock().unwrap();
        let (status, answer) = match verb {
            "list" => {
                let of = |key: &String| key.strip_prefix(&path).is_some_and(|rest| !rest.trim_start_matches('/').contains('/'));
                let items: Vec<Value> = held.objects.iter().filter(|(key, _)| of(key)).map(|(_, object)| object.clone()).collect();
                (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}))
            }
            "get" => held.objects.get(&path).map_or((404, json!("is not there")), |object| (200, object.clone())),
            "create" if path == REVIEWS => {
                let mut answer = body.clone();
                held.questions.push(body);
                answer["status"] = json!({"allowed": true});
                (201, answer)
            }
            "create" => {
                let key = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if held.objects.contains_key(&key) { (409, json!("is there")) } else { (201, held.put(key, body)) }
            }
            "update" => match held.objects.get(&path).map(|object| object["metadata"]["resourceVersion"].clone()) {
                Some(version) if version == body["metadata"]["resourceVersion"] => (200, held.put(path, body)),
                _ => (409, json!("has changed")),
            },
            _ => (405, json!("is not done here")),
        };
        let answer = match answer {
            Value::String(why) => {
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status, "reason": reason(status), "message": why})
            }
            answer => answer,
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }
}

fn reason(code: u16) -> &'static str {
    if code == 404 { "NotFound" } else { "Conflict" }
}

fn configuration(kind: &str) -> Value {
    let entry = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "kybernis-webhook"}}, "future": true});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "kybernis"}, "webhooks": [entry("a"), entry("b")]})
}

#[tokio::test]
async fn the_whole_webhook_asks_for_no_more_than_its_role_allows() {
    let imitation = Imitation::default();
    imitation.put(MUTATING, configuration("MutatingWebhookConfiguration"));
    imitation.put(VALIDATING, configuration("ValidatingWebhookConfiguration"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    tokio::spawn(imitation.clone().serve(listener));

    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, admin) = (bind(), bind());
    let (address, admin_address) = (listener.local_addr().unwrap(), admin.local_addr().unwrap());
    let name = "kybernis".to_owned();
    let own = OwnCertificates {
        service: "kybernis-webhook".to_owned(),
        secret: "kybernis-webhook-certificates".to_owned(),
        mutating: name.clone(),
        validating: name,
        lifetimes: Lifetimes::default(),
    };
    let decision_key = DecisionKey { secret: "key".to_owned(), config_map: "keys".to_owned() };
    let (certificates, linger) = (Certificates::Own(own), Duration::ZERO);
    let settings = Settings { config: config(), listener, admin, certificates, decision_key, linger };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(settings, kube::Client::try_from(api).unwrap(), stop.clone().cancelled_owned()));
    let ready = async {
        let can_sign = async || probe(admin_address, "/metrics").await.contains("kyb_webhook_decision_key_ready 1");
        while !probe(admin_address, "/readyz").await.starts_with("HTTP/1.1 200") || !can_sign().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(30), ready).await;
    assert!(ready.is_ok(), "{} {:?}", probe(admin_address, "/readyz").await, imitation.asked());

    // Made after the namespaces were listed.
    imitation.put(
        NAMESPACES,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trading", "labels": {"kybernis.io/inject": "enabled"}}}),
    );
    let mutating = imitation.get(&format!("{MUTATING}/kybernis")).unwrap();
    let bundle = mutating["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap().to_owned();
    let mut mended = configuration("MutatingWebhookConfiguration");
    mended["webhooks"].as_array_mut().unwrap().iter_mut().for_each(|entry| entry["clientConfig"]["caBundle"] = json!(bundle));
    assert_eq!(mutating["webhooks"], mended["webhooks"], "nothing else of it has changed");
    let trust = Trust::Bundle(String::from_utf8(STANDARD.decode(&bundle).unwrap()).unwrap());
    let mut client = Client::connect(address, trust).await.unwrap();
    let (status, review) = client.inject().await.unwrap();
    assert_eq!((status, &review["response"]["allowed"], &review["response"]["patchType"]), (200, &json!(true), &json!("JSONPatch")));
    decide(&imitation, &mut client).await;

    stop.cancel();
    running.await.unwrap().unwrap();
    let named = |collection: &str, verb: &str, name: &str| format!("{verb} {collection}/{name}");
    let mut role = BTreeSet::from([
        format!("create {SECRETS}"),
        named(SECRETS, "get", "kybernis-webhook-certificates"),
        format!("list {NAMESPACES}"),
        format!("watch {NAMESPACES}"),
        named(NAMESPACES, "get", "trading"),
        named(SECRETS, "get", "key"),
        format!("create {CONFIG_MAPS}"),
        named(CONFIG_MAPS, "get", "keys"),
        named(GATES, "get", "trader-7f9c2"),
        format!("create {REVIEWS}"),
    ]);
    for collection in [MUTATING, VALIDATING] {
        role.extend(["get", "update"].map(|verb| named(collection, verb, "kybernis")));
        role.extend(["list", "watch"].map(|verb| format!("{verb} {collection} metadata.name%3Dkybernis")));
    }
    assert_eq!(imitation.asked(), role);
}

/// A decision is signed by a key that is published, for a person whose rights were asked for with all that the API server says of them.
async fn decide(imitation: &Imitation, client: &mut Client) {
    let digest = format!("sha256:{}", "07".repeat(32));
    let gate = json!({
        "apiVersion": "kybernis.io/v1alpha1", "kind": "Gate", "metadata": {"name": "trader-7f9c2", "namespace": "trading", "uid": "u"},
        "spec": {"type": "Approval", "agent": "a", "runId": "r", "spanId": "s", "tool": "t", "action": "a", "summary": "s", "digest": digest,
            "policy": "p", "required": 1, "class": "desk-heads", "expiresAt": "2999-01-01T00:00:00Z"},
        "status": {"phase": "Pending"},
    });
    imitation.put(GATES, gate);
    let user = json!({"username": "ada", "uid": "7", "groups": ["traders"], "extra": {"scopes": ["a", "b"]}});
    let decision = json!({"spec": {"gate": "trader-7f9c2", "gateUid": "u", "digest": digest, "decision": "Approve"}});
    let request = json!({
        "uid": "1", "resource": {"group": "kybernis.io", "version": "v1alpha1", "resource": "gatedecisions"}, "namespace": "trading",
        "operation": "CREATE", "object": decision, "userInfo": user,
    });
    let mut review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    let stamp = client.review("/stamp/decisions?timeout=10s", &review).await.unwrap();
    let patch = STANDARD.decode(stamp["response"]["patch"].as_str().unwrap_or_default()).expect("base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap_or_else(|_| panic!("{stamp}"));
    json_patch::patch(&mut review["request"]["object"], &patch).unwrap();
    let check = client.review("/validate/decisions?timeout=10s", &review).await.unwrap();
    assert_eq!(check["response"], json!({"uid": "1", "allowed": true}));

    let keys = imitation.get(&format!("{CONFIG_MAPS}/keys")).unwrap()["data"].clone();
    let signature = review["request"]["object"]["spec"]["signature"].as_str().unwrap().to_owned();
    assert!(keys.as_object().unwrap().keys().any(|key| signature.starts_with(&format!("ed25519:{key}:"))), "{keys} {signature}");
    let resource =
        json!({"namespace": "trading", "verb": "approve", "group": "kybernis.io", "resource": "gateclasses", "name": "desk-heads"});
    let spec = json!({"user": "ada", "uid": "7", "groups": ["traders"], "extra": {"scopes": ["a", "b"]}, "resourceAttributes": resource});
    let asked: Vec<Value> = imitation.0.lock().unwrap().questions.iter().map(|question| question["spec"].clone()).collect();
    assert_eq!(asked, [spec]);
}
