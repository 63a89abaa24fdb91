//! The reviews of pods: injection, and the check after everybody else has had a turn.

use serde_json::Value;

use super::namespaces::Namespaces;
use super::review::{Allowed, Reason, Refused, Request};
use crate::config::Config;
use crate::consent::Namespace;
use crate::inject::{Outcome, inject};
use crate::names::INJECT;
use crate::patch::patch;
use crate::refusal::Refusal;
use crate::validate::validate;

/// Injects.
pub(crate) async fn mutate(request: &Request, namespaces: &Namespaces, config: &Config) -> Result<Allowed, Refused> {
    let namespace = namespace_of(request, namespaces).await?;
    match inject(&request.object, &namespace, config).map_err(refused)? {
        Outcome::Untouched { warnings, .. } => Ok(Allowed { patch: None, warnings }),
        Outcome::Injected { pod, warnings } => Ok(Allowed { patch: Some(patch(&request.object, &pod)), warnings }),
    }
}

/// Checks.
pub(crate) async fn check(request: &Request, namespaces: &Namespaces, config: &Config) -> Result<Allowed, Refused> {
    let namespace = namespace_of(request, namespaces).await?;
    let warnings = validate(&request.object, &namespace, config).map_err(refused)?;
    Ok(Allowed { patch: None, warnings })
}

fn refused(refusal: Refusal) -> Refused {
    Refused::new(Reason::Forbidden, refusal.to_string())
}

/// The namespace, of a request that is about a new pod.
async fn namespace_of(request: &Request, namespaces: &Namespaces) -> Result<Namespace, Refused> {
    let bad = |message: String| Err(Refused::new(Reason::BadRequest, message));
    let resource = &request.resource;
    let sub = request.sub_resource.as_deref().unwrap_or_default();
    if !resource.group.is_empty() || resource.resource != "pods" || !sub.is_empty() {
        return bad(format!("this endpoint judges pods, not {}. Correct the webhook configuration's rules", named(request)));
    }
    if request.operation != "CREATE" {
        let operation = &request.operation;
        return bad(format!("this endpoint judges pods as they are made, not {operation:.20}. Correct the webhook configuration's rules"));
    }
    if request.object.is_null() {
        return bad("the AdmissionReview's request has no object".to_owned());
    }
    let Some(name) = request.namespace.as_deref().filter(|name| !name.is_empty()) else {
        return bad("the AdmissionReview's request has no namespace".to_owned());
    };
    let known = namespaces.known(name).filter(|namespace| is_asked_for(&request.object, namespace));
    match known {
        Some(namespace) => Ok(namespace),
        None => namespaces.ask(name).await.map_err(|error| {
            let message = format!("{error}; Kybernis cannot judge the pod without the namespace's labels. Try again");
            Refused::new(Reason::Unavailable, message)
        }),
    }
}

/// The API server sends us only pods that are opted in. Where what we know of the namespace says otherwise it knows more than our
/// watch has brought, and to believe the watch would let the pod run alone.
fn is_asked_for(pod: &Value, namespace: &Namespace) -> bool {
    let said = pod.get("metadata").and_then(|metadata| metadata.get("annotations")?.get(INJECT)?.as_str());
    match said {
        Some("true") => true,
        Some(_) => namespace.label(INJECT) == Some("enforced"),
        None => namespace.label(INJECT).is_some(),
    }
}

/// `deployments.apps`, `pods/status`; whatever somebody sends, it goes into an error.
pub(super) fn named(request: &Request) -> String {
    let resource = &request.resource;
    let mut name = resource.resource.clone();
    if let Some(sub) = request.sub_resource.as_deref().filter(|sub| !sub.is_empty()) {
        name = format!("{name}/{sub}");
    }
    if !resource.group.is_empty() {
        name = format!("{name}.{}", resource.group);
    }
    name.chars().take(160).collect()
}
