//! Whatever is sent, an answer comes, and a review's answer carries its uid.

use std::collections::{BTreeMap, HashMap};

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{cluster, desk};

const PATHS: [&str; 5] = ["/inject", "/validate/pods", "/validate/objects", "/stamp/decisions", "/validate/decisions"];

fn answer(path: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let known = HashMap::from([("a".to_owned(), BTreeMap::from([("kybernis.io/inject".to_owned(), "enforced".to_owned())]))]);
        let desk = desk(cluster(known, Some(BTreeMap::new())));
        let request = Request::post(path).body(Full::new(Bytes::from(body))).unwrap();
        let response = desk.answer(request).await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    })
}

/// Any JSON, with words in it that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "metadata",
        "spec",
        "containers",
        "initContainers",
        "name",
        "annotations",
        "kybernis.io/inject",
        "true",
        "env",
        "volumes",
        "Policy",
        "kybernis.io/v1alpha1",
        "kind",
        "apiVersion",
        "rules",
        "when",
        "1 + ",
        "kybernis-proxy",
        "gate",
        "gateUid",
        "digest",
        "decision",
        "Approve",
        "decidedBy",
        "signature",
        "kybernis.io/status",
    ]);
    let word = prop_oneof![3 => words.prop_map(str::to_owned), 1 => any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn bytes(at in 0_usize..PATHS.len(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(answer(PATHS[at], body).0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn any_json_is_no_review(at in 0_usize..PATHS.len(), body in any_json()) {
        prop_assert_eq!(answer(PATHS[at], body.to_string().into_bytes()).0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_request_of_anything_is_answered_to(at in 0_usize..PATHS.len(), object in any_json(), fields in any_json(), metadata in any_json(), spec in any_json()) {
        let resource = match at {
            2 => json!({"group": "kybernis.io", "resource": "policies"}),
            3.. => json!({"group": "kybernis.io", "resource": "gatedecisions"}),
            _ => json!({"group": "", "resource": "pods"}),
        };
        let whole = json!({"apiVersion": "kybernis.io/v1alpha1", "kind": "Policy", "metadata": metadata, "spec": spec});
        for object in [object, whole] {
            let mut request = json!({"resource": resource, "namespace": "a", "operation": "CREATE", "object": object, "userInfo": {"username": "ada"}});
            fields.as_object().into_iter().flatten().for_each(|(key, value)| request[key] = value.clone());
            request["uid"] = json!("u");
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
            let (status, body) = answer(PATHS[at], review.to_string().into_bytes());
            prop_assert_eq!(status, StatusCode::OK);
            let answer: Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(&answer["response"]["uid"], "u");
            if answer["response"]["allowed"] == false {
                let message = answer["response"]["status"]["message"].as_str().unwrap_or_default();
                prop_assert!(!message.is_empty(), "a refusal says why");
            }
        }
    }
}
