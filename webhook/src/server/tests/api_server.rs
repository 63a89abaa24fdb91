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
use crate::server::{Certificates, Lifetimes, OwnCertificates, Settings, run};

const SECRETS: &str = "/api/v1/namespaces/kybernis-system/secrets";
const NAMESPACES: &str = "/api/v1/namespaces";
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
        let is_collection = [SECRETS, NAMESPACES, MUTATING, VALIDATING].contains(&path.as_str());
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
    let settings = Settings { config: config(), listener, admin, certificates: Certificates::Own(own), linger: Duration::ZERO };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(settings, kube::Client::try_from(api).unwrap(), stop.clone().cancelled_owned()));
    let ready = async {
        while !probe(admin_address, "/readyz").await.starts_with("HTTP/1.1 200") {
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
    let (status, review) = Client::connect(address, trust).await.unwrap().inject().await.unwrap();
    assert_eq!((status, &review["response"]["allowed"], &review["response"]["patchType"]), (200, &json!(true), &json!("JSONPatch")));

    stop.cancel();
    running.await.unwrap().unwrap();
    let named = |collection: &str, verb: &str, name: &str| format!("{verb} {collection}/{name}");
    let mut role = BTreeSet::from([
        format!("create {SECRETS}"),
        named(SECRETS, "get", "kybernis-webhook-certificates"),
        format!("list {NAMESPACES}"),
        format!("watch {NAMESPACES}"),
        named(NAMESPACES, "get", "trading"),
    ]);
    for collection in [MUTATING, VALIDATING] {
        role.extend(["get", "update"].map(|verb| named(collection, verb, "kybernis")));
        role.extend(["list", "watch"].map(|verb| format!("{verb} {collection} metadata.name%3Dkybernis")));
    }
    assert_eq!(imitation.asked(), role);
}
