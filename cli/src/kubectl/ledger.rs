//! The ledger's reads by way of the API server, which forwards what is asked of the group `ledger.kybernis.io`: a person's kubeconfig
//! and roles decide who reads what, and no port has to be opened.

use std::fmt::Write as _;

use http::{Request, StatusCode};
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;

use super::connect::Cluster;
use crate::api::unwrap;
use crate::read::{Listing, Source};

/// The group and version that the ledger serves.
const GROUP: &str = "/apis/ledger.kybernis.io/v1alpha1";
/// As much of an answer that is none as a message repeats.
const SHOWN_MAX: usize = 300;

/// Nobody serves the group.
#[derive(Debug, thiserror::Error)]
#[error(
    "nobody answers for the ledger in this cluster: {0}\nWhether it is installed and up is told by\n  \
     kubectl get apiservice v1alpha1.ledger.kybernis.io\n  kubectl get pods -A -l app.kubernetes.io/part-of=kybernis"
)]
struct NotServed(String);

impl Source for Cluster {
    const PROGRAM: &'static str = "kubectl kyb";

    fn place(&self, listing: Listing<'_>) -> String {
        let namespace = &self.namespace;
        match listing {
            Listing::Runs | Listing::Effects | Listing::Gates => format!("{GROUP}/namespaces/{namespace}/{}", listing.items()),
            Listing::Events(run) => format!("{GROUP}/namespaces/{namespace}/runs/{}/events", escaped(run)),
        }
    }

    async fn page(&self, place: &str) -> anyhow::Result<Value> {
        let answer = self.client.send(Request::get(place).body(Body::empty())?).await?;
        let status = answer.status();
        read(status, &answer.into_body().collect_bytes().await?)
    }
}

/// A run's id as one segment of a path. Its slashes are escaped twice: the API server undoes once what it judges and forwards, and would
/// see more segments.
fn escaped(id: &str) -> String {
    let id = id.replace('/', "%2F");
    let mut path = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The ledger's own envelope, or what the API server says in its place.
fn read(status: StatusCode, body: &[u8]) -> anyhow::Result<Value> {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    if let Some(answer) = answer {
        if answer.get("ok").is_some() {
            return unwrap(answer);
        }
        if answer.get("kind").and_then(Value::as_str) == Some("Status") {
            let said: Status = serde_json::from_value(answer)?;
            return Err(match status {
                StatusCode::SERVICE_UNAVAILABLE => NotServed(said.message).into(),
                _ => kube::Error::Api(said.boxed()).into(),
            });
        }
    }
    let text: String = String::from_utf8_lossy(body).trim().chars().take(SHOWN_MAX).collect();
    Err(match status {
        // What an API server says of a group that it does not know, and of one whose server is away.
        StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => NotServed(text).into(),
        status => kube::Error::Api(Status::failure(&text, status.canonical_reason().unwrap_or_default()).boxed()).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_segment() {
        assert_eq!(escaped("a-b_c.9"), "a-b_c.9");
        assert_eq!(escaped("desk/2026:1"), "desk%252F2026%3A1");
    }

    #[test]
    fn an_answer_is_the_ledgers_or_the_api_servers() {
        let told = |status: u16, body: &str| match read(StatusCode::from_u16(status).unwrap(), body.as_bytes()) {
            Ok(data) => data.to_string(),
            Err(error) => super::super::error::told(&error, "h"),
        };
        assert_eq!(told(200, r#"{"ok":true,"data":{"runs":[]}}"#), r#"{"runs":[]}"#);
        let failure = r#"{"ok":false,"code":"not_found","detail":"There is no run r."}"#;
        assert_eq!(told(404, failure), "error: There is no run r. (not_found)");
        let forbidden = r#"{"kind":"Status","status":"Failure","message":"no","reason":"Forbidden","code":403}"#;
        assert_eq!(told(403, forbidden), "Error from server (Forbidden): no");
        let away = r#"{"kind":"Status","status":"Failure","message":"away","reason":"ServiceUnavailable","code":503}"#;
        for (status, body) in [(404, "404 page not found\n"), (503, "service unavailable\n"), (503, away)] {
            let told = told(status, body);
            assert!(told.starts_with("error: nobody answers for the ledger in this cluster: "), "{told}");
            assert!(told.contains("\n  kubectl get apiservice v1alpha1.ledger.kybernis.io\n"), "{told}");
        }
        assert_eq!(told(502, "bad"), "Error from server (Bad Gateway): bad");
    }
}
