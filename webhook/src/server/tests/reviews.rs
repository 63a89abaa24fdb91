//! One folder for each review: `case.yaml` says what is sent, `expected.txt` what is answered. `UPDATE_GOLDEN=1` writes the latter
//! anew; read what it wrote before you keep it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::decisions::Cluster;
use super::{cluster, config};
use crate::consent::Namespace;
use crate::inject::{Outcome, inject};
use crate::server::desk::Desk;
use crate::server::namespaces::Labels;

const UID: &str = "705ab4f5-6393-11e8-b7cc-42010a800002";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows.
    #[serde(rename = "shows")]
    _shows: String,
    to: String,
    method: Option<String>,
    /// What the watch has brought.
    #[serde(default)]
    namespaces: HashMap<String, Labels>,
    /// What is answered when asked.
    #[serde(default)]
    answers: BTreeMap<String, Labels>,
    /// Nobody answers.
    #[serde(default)]
    is_away: bool,
    /// Whom decisions ask, and by what they are signed.
    #[serde(default)]
    decisions: Cluster,
    /// The object has been injected before.
    #[serde(default)]
    is_injected: bool,
    /// Fields over those of a usual request.
    request: Option<Value>,
    /// The body as it is.
    body: Option<String>,
    /// The body is a list within a list, so many times.
    nested: Option<usize>,
}

impl Case {
    fn body(&self) -> String {
        if let Some(depth) = self.nested {
            return "[".repeat(depth);
        }
        let Some(fields) = &self.request else { return self.body.clone().expect("request or body") };
        let mut request = json!({
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "trading",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "oldObject": null,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        });
        for (key, value) in fields.as_object().expect("fields") {
            request[key] = value.clone();
        }
        if self.is_injected {
            let namespace = Namespace { name: "trading".to_owned(), labels: self.namespaces["trading"].clone() };
            let Ok(Outcome::Injected { pod, .. }) = inject(&request["object"], &namespace, &config()) else { panic!("it is injected") };
            request["object"] = pod;
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    }

    async fn outcome(&self) -> String {
        let namespaces = cluster(self.namespaces.clone(), (!self.is_away).then(|| self.answers.clone()));
        let desk = Desk::new(config(), namespaces, self.decisions.start());
        let body = self.body();
        let request = Request::builder().method(self.method.as_deref().unwrap_or("POST")).uri(&self.to);
        let response = desk.answer(request.body(Full::new(Bytes::from(body.clone()))).expect("a request")).await;
        let status = response.status();
        let text = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(text.to_vec()).expect("text");
        let Ok(mut review) = serde_json::from_str::<Value>(&text) else { return format!("{status}\n{text}") };
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["kind"], "AdmissionReview");
        let mut response = review["response"].take();
        assert_eq!(response["uid"], UID, "the response is to the request");
        response.as_object_mut().expect("a response").remove("uid");
        if let Some(patch) = response.get("patch").cloned() {
            response["patch"] = self.shown(&body, &patch);
        }
        format!("{status}\n{}\n", serde_json::to_string_pretty(&response).expect("JSON"))
    }

    /// Of a decision, the patch; of a pod, which operations on which places, and that they lead to the injected pod is checked here.
    fn shown(&self, body: &str, patch: &Value) -> Value {
        let patch = STANDARD.decode(patch.as_str().expect("base64")).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("RFC 6902");
        if self.to == "/stamp/decisions" {
            return serde_json::to_value(patch).expect("JSON");
        }
        let mut object = serde_json::from_str::<Value>(body).expect("a review")["request"]["object"].take();
        let labels = self.answers.get("trading").or(self.namespaces.get("trading")).cloned().unwrap_or_default();
        let namespace = Namespace { name: "trading".to_owned(), labels };
        let Ok(Outcome::Injected { pod, .. }) = inject(&object, &namespace, &config()) else { panic!("it is injected") };
        json_patch::patch(&mut object, &patch).expect("a patch that applies");
        assert_eq!(object, pod);
        let shown = patch.iter().map(|operation| {
            let operation = serde_json::to_value(operation).expect("JSON");
            format!("{} {}", operation["op"].as_str().unwrap_or_default(), operation["path"].as_str().unwrap_or_default())
        });
        shown.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn every_review_is_answered_as_it_must() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reviews");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).expect("the cases").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 75, "only {} cases were found", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path.join("case.yaml")).expect("a case");
        let case: Case = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = case.outcome().await;
        let golden = path.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &found).expect("a writable folder");
        }
        if found != fs::read_to_string(&golden).unwrap_or_default() {
            wrong.push(format!("{}\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
