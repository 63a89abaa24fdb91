//! The writer against an API server that fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::Recorder;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{facts, now, tool};
use crate::validate::Validator;

/// What came: method, path and body.
type Calls = Arc<Mutex<Vec<(String, String, Value)>>>;

/// An API server that answers status patches as told, and takes everything else.
fn server(answers: &[u16]) -> (Client, Calls) {
    let calls = Calls::default();
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<u16>>()));
    let seen = Arc::clone(&calls);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let path = head.uri.path().to_owned();
            let code = if path.ends_with("/status") { answers.lock().unwrap().pop_front().unwrap_or(200) } else { 200 };
            seen.lock().unwrap().push((head.method.to_string(), path, body.clone()));
            let answer = match code {
                200 => body,
                code => {
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Test", "message": "as told"})
                }
            };
            let answer = Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
            Ok::<_, std::convert::Infallible>(answer.unwrap())
        }
    });
    (Client::new(service, "default"), calls)
}

#[tokio::test]
async fn a_status_is_written_once_and_again_only_when_the_write_failed() {
    let (client, calls) = server(&[403, 200]);
    let mut writer = Writer::new(client.clone(), Recorder::new(client, "kybernis.io/operator".into()));
    let validated = Validator::default().validate(&facts(vec![tool("trading", "orders", "a.example.com")], &[]));
    let (expected, metrics) = (BTreeMap::new(), Metrics::default());
    let mut rounds = Vec::new();
    for second in 0..4 {
        // Every round is later: a status that was worked out from the watch's old one would look like a change.
        let view = View { validated: &validated, expected: &expected, fleet: None, connected_since: None, now: now(1_000_000 + second) };
        rounds.push(writer.write(&view, &metrics).await.all_written);
    }
    assert_eq!(rounds, [false, true, true, true]);
    let calls = calls.lock().unwrap();
    let patches: Vec<_> = calls.iter().filter(|(_, path, _)| path.ends_with("/status")).collect();
    assert_eq!(patches.len(), 2);
    let (method, path, body) = patches[1];
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("PATCH", "/apis/kybernis.io/v1alpha1/namespaces/trading/toolregistrations/orders/status")
    );
    assert_eq!(body["metadata"], json!({"name": "orders", "namespace": "trading", "uid": "uid-of-orders"}));
    assert_eq!(body["status"]["conditions"][0]["observedGeneration"], 2);
    assert_eq!(body["status"].get("rules"), None);
}

#[tokio::test]
async fn an_object_that_is_gone_needs_no_status() {
    let (client, _) = server(&[404]);
    let mut writer = Writer::new(client.clone(), Recorder::new(client, "kybernis.io/operator".into()));
    let validated = Validator::default().validate(&facts(vec![tool("trading", "orders", "a.example.com")], &[]));
    let view = View { validated: &validated, expected: &BTreeMap::new(), fleet: None, connected_since: None, now: now(1) };
    assert!(writer.write(&view, &Metrics::default()).await.all_written);
}
