//! `AdmissionReview` of `admission.k8s.io/v1`, as far as we read and write it. The object stays raw JSON: a typed one would drop
//! what it does not know.
//!
//! Shapes: <https://github.com/kubernetes/api/blob/master/admission/v1/types.go>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

use super::warnings;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The group of our kinds.
pub(crate) const GROUP: &str = "kybernis.io";
/// As many causes as one refusal lists; the message says how many more there are.
const CAUSES_MAX: usize = 25;

/// Why a body is no review that could be answered: there is no uid to answer to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("the body is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the body is {found}, and this endpoint reads AdmissionReview of admission.k8s.io/v1")]
    NotAReview { found: String },
    #[error("the AdmissionReview has no request")]
    NoRequest,
    #[error("the AdmissionReview's request has no uid that its response could carry")]
    NoUid,
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) resource: Resource,
    pub(crate) sub_resource: Option<String>,
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) operation: String,
    #[serde(default)]
    pub(crate) object: Value,
    #[serde(default)]
    pub(crate) old_object: Value,
    /// Who asks. Read where somebody wants to know: pods and policies do not wait for its form.
    #[serde(default)]
    pub(crate) user_info: Value,
    #[serde(default)]
    dry_run: Option<bool>,
}

impl Request {
    /// Nothing of it will be stored.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.unwrap_or_default()
    }
}

impl Request {
    /// The object's name, or what its name will begin with: the API server has not made it up yet.
    pub(crate) fn shown_name(&self) -> &str {
        let begins = || self.object.pointer("/metadata/generateName").and_then(Value::as_str);
        self.name.as_deref().filter(|name| !name.is_empty()).or_else(begins).unwrap_or_default()
    }
}

/// Which resource it is about.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Resource {
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) resource: String,
}

/// A review with a uid, and what could be read of the rest.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) uid: String,
    pub(crate) request: Result<Request, Refused>,
}

impl Review {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Unread> {
        let mut review: Value = serde_json::from_slice(body)?;
        let text = |key: &str| review.get(key).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if (version, kind) != (API_VERSION, KIND) {
            let found = match (version, kind) {
                ("", _) | (_, "") => "without apiVersion or kind".to_owned(),
                // Whatever somebody sends; it goes into an error and a log.
                (version, kind) => format!("{kind:.80?} of {version:.80?}"),
            };
            return Err(Unread::NotAReview { found });
        }
        let request = review.get_mut("request").map(Value::take).filter(Value::is_object).ok_or(Unread::NoRequest)?;
        let uid = request.get("uid").and_then(Value::as_str).filter(|uid| !uid.is_empty()).ok_or(Unread::NoUid)?.to_owned();
        let request = serde_json::from_value(request)
            .map_err(|error| Refused::new(Reason::BadRequest, format!("the AdmissionReview's request does not hold: {error}")));
        Ok(Self { uid, request })
    }
}

/// Why something is refused, as Kubernetes sorts reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The API server has been told to send what we do not judge.
    BadRequest,
    /// A pod may not run like this.
    Forbidden,
    /// An object's fields do not hold.
    Invalid,
    /// We cannot judge now.
    Unavailable,
}

impl Reason {
    const fn as_status(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "BadRequest"),
            Self::Forbidden => (403, "Forbidden"),
            Self::Invalid => (422, "Invalid"),
            Self::Unavailable => (503, "ServiceUnavailable"),
        }
    }
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// As in `spec.rules[0].when`.
    pub(crate) field: String,
    pub(crate) message: String,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// `kubectl` prints these of an invalid object, and then not the message.
    pub(crate) causes: Vec<Cause>,
    /// Group, kind and name of what is invalid.
    pub(crate) about: Option<(String, String, String)>,
}

impl Refused {
    pub(crate) const fn new(reason: Reason, message: String) -> Self {
        Self { reason, message, causes: Vec::new(), about: None }
    }

    /// An object of ours whose fields do not hold.
    pub(crate) fn invalid(kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let line = |cause: &Cause| match cause.field.as_str() {
            "" => cause.message.clone(),
            field => format!("{field}: {}", cause.message),
        };
        let message = match causes.as_slice() {
            [cause] => line(cause),
            causes => {
                let mut message = format!("{} things are wrong:", causes.len());
                causes.iter().take(CAUSES_MAX).for_each(|cause| message = format!("{message}\n- {}", line(cause)));
                match causes.len().saturating_sub(CAUSES_MAX) {
                    0 => message,
                    more => format!("{message}\n- and {more} more, which show once these are mended."),
                }
            }
        };
        Self { causes, about: Some((GROUP.to_owned(), kind.to_owned(), name.to_owned())), ..Self::new(Reason::Invalid, message) }
    }

    fn status(&self) -> Value {
        let (code, reason) = self.reason.as_status();
        let mut status = json!({"status": "Failure", "code": code, "reason": reason, "message": self.message});
        if let Some((group, kind, name)) = &self.about {
            let cause = |cause: &Cause| json!({"reason": "FieldValueInvalid", "field": cause.field, "message": cause.message});
            let causes: Vec<Value> = self.causes.iter().take(CAUSES_MAX).map(cause).collect();
            status["details"] = json!({"group": group, "kind": kind, "name": name, "causes": causes});
        }
        status
    }
}

/// What may go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    /// With this change.
    pub(crate) patch: Option<Patch>,
    /// And this to know.
    pub(crate) warnings: Vec<String>,
}

/// The response's JSON.
pub(crate) fn response(uid: &str, verdict: Result<Allowed, Refused>) -> Value {
    let response = match verdict {
        Err(refused) => json!({"uid": uid, "allowed": false, "status": refused.status()}),
        Ok(Allowed { patch, warnings }) => {
            let mut response = json!({"uid": uid, "allowed": true});
            if let Some(patch) = patch.filter(|patch| !patch.0.is_empty()) {
                // Every part of a patch is JSON already.
                response["patch"] = json!(STANDARD.encode(json!(patch).to_string()));
                response["patchType"] = json!("JSONPatch");
            }
            if !warnings.is_empty() {
                response["warnings"] = json!(warnings::fitted(&warnings));
            }
            response
        }
    };
    json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
}
