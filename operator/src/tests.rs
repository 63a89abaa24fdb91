//! The whole operator against an API server that is away at first and then forgets where its watches were: what came meanwhile is told all
//! the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::*;

/// An API server with one object in one namespace, and a second one once its first watch has begun.
#[derive(Clone)]
struct Api {
    away: Arc<AtomicBool>,
    /// Watches of each path so far.
    watches: Arc<Mutex<HashMap<String, usize>>>,
    /// Every write, every question while it is away, and every watch.
    seen: mpsc::UnboundedSender<(String, Value)>,
}

impl Api {
    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let failure =
            |code: u16, reason: &str| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason});
        let reading = head.method == "GET";
        let (code, answer) = if self.away.load(Ordering::SeqCst) {
            let _ = self.seen.send((path, Value::Null));
            (500, failure(500, "InternalError"))
        } else if !reading {
            let _ = self.seen.send((path, body.clone()));
            (200, body)
        } else if query.contains("watch=true") {
            let times = {
                let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
                let times = watches.entry(path.clone()).or_default();
                *times += 1;
                *times
            };
            let _ = self.seen.send((format!("{path} watched"), json!(times)));
            if times > 1 {
                std::future::pending::<()>().await;
            }
            (200, json!({"type": "ERROR", "object": failure(410, "Expired")}))
        } else if path.ends_with("/leases/kybernis-operator") {
            (404, failure(404, "NotFound"))
        } else {
            let meta = |name: &str, namespace: Value| json!({"name": name, "namespace": namespace, "uid": name, "generation": 1, "resourceVersion": "5"});
            let spec = |host: &str| json!({"match": [{"hosts": [host]}]});
            let tool = |name: &str, host: &str| json!({"metadata": meta(name, json!("trading")), "spec": spec(host)});
            let is_again = self.watches.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&path);
            let items = match path.rsplit('/').next().unwrap_or_default() {
                "namespaces" => json!([{"metadata": meta("trading", Value::Null)}]),
                "toolregistrations" if is_again => json!([tool("orders", "a.example.com"), tool("refunds", "b.example.com")]),
                "toolregistrations" => json!([tool("orders", "a.example.com")]),
                "configmaps" => json!([{"metadata": meta("kybernis-trust", json!("kybernis-system")), "data": {"ca.pem": "CA"}}]),
                _ => json!([]),
            };
            (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items}))
        };
        Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap())
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_and_one_that_has_forgotten_end_nothing() {
    let (seen, mut calls) = mpsc::unbounded_channel();
    let api = Api { away: Arc::new(AtomicBool::new(true)), watches: Arc::default(), seen };
    let server = api.clone();
    let client = Client::new(tower::service_fn(move |request| server.clone().answer(request)), "default");
    let nowhere = std::path::PathBuf::from("/nowhere");
    let ledger =
        LedgerSettings { address: "https://127.0.0.1:1".to_owned(), server_name: "x".to_owned(), ca: nowhere.clone(), token: nowhere };
    let admin = "127.0.0.1:0".parse().unwrap();
    let settings = Settings {
        client,
        namespace: "kybernis-system".to_owned(),
        identity: "me".to_owned(),
        ledger,
        extra_roots: Some("ROOTS".to_owned()),
        admin,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(run(settings, async {
        let _ = stopped.await;
    }));

    // Everybody asks, and asks again.
    let mut times: HashMap<String, usize> = HashMap::new();
    let patience = Duration::from_secs(60);
    while times.len() < 10 || times.values().any(|times| *times < 2) {
        let (path, _) = tokio::time::timeout(patience, calls.recv()).await.unwrap().unwrap();
        *times.entry(path).or_default() += 1;
    }
    assert!(!running.is_finished());
    api.away.store(false, Ordering::SeqCst);

    let mut wanted = vec![
        "/api/v1/namespaces/trading/configmaps/kybernis-trust",
        "/apis/coordination.k8s.io/v1/namespaces/kybernis-system/leases",
        "/apis/kybernis.io/v1alpha1/namespaces/trading/toolregistrations/orders/status",
        // It came while nobody watched, and is watched from there.
        "/apis/kybernis.io/v1alpha1/namespaces/trading/toolregistrations/refunds/status",
        "/apis/kybernis.io/v1alpha1/toolregistrations watched",
    ];
    // The Lease is written all the time, so there is always one more call.
    let until = tokio::time::Instant::now() + patience;
    while !wanted.is_empty() {
        let call = tokio::time::timeout_at(until, calls.recv()).await;
        let (path, body) = call.unwrap_or_else(|_| panic!("{wanted:?} do not come")).unwrap();
        let due = wanted.iter().position(|wanted| *wanted == path && !body.is_null() && body != 1);
        if let Some(at) = due {
            wanted.remove(at);
        }
        if path.ends_with("/status") {
            let conditions = body["status"]["conditions"].as_array().unwrap();
            let words: Vec<_> = conditions.iter().map(|found| format!("{}={}", found["type"], found["status"]).replace('"', "")).collect();
            assert_eq!(words, ["Accepted=True", "Programmed=False", "Ready=False"], "nobody can say who runs with it");
        }
        if path.ends_with("/kybernis-trust") {
            assert_eq!(body["data"], json!({"ca.pem": "CA", "roots.pem": "ROOTS"}));
            assert_eq!(body["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "kybernis"}));
        }
    }
    assert!(!running.is_finished());
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_admin_port_says_how_the_operator_does() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ready, is_ready) = tokio::sync::watch::channel(false);
    tokio::spawn(admin::serve(listener, Arc::new(Metrics::default()), is_ready));
    let get = |path: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    ready.send_replace(true);
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.contains("\nkyb_operator_leading 0\n"), "{metrics}");
    assert!(get("/else").await.starts_with("HTTP/1.1 404"));
}
