//! Admission by a real API server: the webhook's golden pods beside a hostile webhook, Pod Security's levels, and certificates that
//! rotate under load.

mod certificates;
mod golden;
mod hostile;
mod levels;
mod pods;
mod stage;
mod subset;

use std::fmt;

use anyhow::Result;
use kybernis_pods::{World, give};
use serde_json::Value;

pub(crate) use self::certificates::rotate;
pub(crate) use self::levels::pod_security;
pub(crate) use self::pods::golden;

/// What the API server said to a pod.
enum Answer {
    /// It would store, or has stored, this.
    Taken { pod: Value, warnings: String },
    /// It does not, for this.
    Refused(String),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { pod, .. } => write!(f, "let in as {pod}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// Whether a pod is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// All of admission, and then it is forgotten.
    Dry,
    Real,
}

/// Hands a pod to the API server as it is: no client looks at it before.
fn submit(world: &World, namespace: &str, pod: &Value, run: Run) -> Result<Answer> {
    let dry = if run == Run::Dry { "&dryRun=All" } else { "" };
    let path = format!("/api/v1/namespaces/{namespace}/pods?fieldValidation=Ignore{dry}");
    let output = give(&mut world.kubectl(["create", "--raw", &path, "--filename=-"]), &pod.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Answer::Taken { pod: serde_json::from_slice(&output.stdout)?, warnings: said });
    }
    Ok(Answer::Refused(said))
}
