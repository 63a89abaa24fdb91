//! Who calls, and what they may do: one table of endpoint × role. Default deny.
//!
//! On a laptop the ledger's own key vouches for callers, in a cluster Kubernetes does.

mod front;
mod identity;
mod keys;
mod kubernetes;
mod publish;
mod published;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kybernis_core::ids::{AgentId, PersonId, RunId, TenantId};
use serde::{Deserialize, Serialize};

pub(crate) use self::front::{Front, Stranger};
pub(crate) use self::keys::{DecisionKeys, Unbelieved};
pub use self::kubernetes::{Kubernetes, KubernetesSettings};
pub use self::publish::{PublishError, publish_api_ca, publish_ca};
pub(crate) use self::published::Published;
pub use self::token::TokenKey;

/// Longest token that is looked at.
const TOKEN_MAX: usize = 8 * 1024;

/// What kind of caller a token speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What reaches the sidecar's local API.
    Agent,
    /// A sidecar.
    Sidecar,
    /// Reads, and decides gates.
    Approver,
    /// Whatever a person may, so far the same as an approver; it never speaks as a sidecar.
    Admin,
    /// Reads.
    Auditor,
    /// The operator of this cluster: brings policies, takes gates out and decisions in.
    Operator,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The gRPC service of sidecars.
    Sidecar,
    /// The gRPC service of the operator.
    Operator,
    /// Runs, events, effects and gates.
    Read,
    /// A person's word on a gate or an effect in doubt.
    DecideGate,
}

impl Role {
    /// The table.
    pub const fn may(self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Sidecar => matches!(self, Self::Sidecar),
            Endpoint::Operator => matches!(self, Self::Operator),
            Endpoint::Read => matches!(self, Self::Approver | Self::Admin | Self::Auditor),
            Endpoint::DecideGate => matches!(self, Self::Approver | Self::Admin),
        }
    }
}

/// The workload that a sidecar stands beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Who acts.
    pub agent: AgentId,
    /// The workload's own run.
    pub run: RunId,
    /// Whether somebody named it; else it is implicit.
    #[serde(default)]
    pub explicit_run: bool,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// One pod, or one `kybernis run`: has one living sidecar at a time.
    pub instance: String,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// What kind of caller.
    pub role: Role,
    /// The isolation unit.
    pub tenant: TenantId,
    /// Who: the name that goes on record.
    pub subject: PersonId,
    /// For a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Unix seconds.
    pub expires: u64,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("no token: send `Authorization: Bearer TOKEN`")]
    Missing,
    /// Not signed by this ledger, or not a token.
    #[error("the token is not one of this ledger's")]
    Invalid,
    /// Past its time.
    #[error("the token has expired")]
    Expired,
    /// The role may not.
    #[error("the token's role may not do this")]
    Forbidden,
    /// Kubernetes vouches for the token, but not for what the ledger must know of its bearer.
    #[error("the token's bearer is not known: {0}")]
    Unknown(String),
    /// Nobody could be asked.
    #[error("whose token this is cannot be asked now")]
    Unavailable,
}

/// Unix seconds, by which tokens run out.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Who vouches for callers.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    /// The ledger's own key.
    Key(Arc<TokenKey>),
    /// The cluster.
    Kubernetes(Arc<Kubernetes>),
}

impl Auth {
    /// The claims of an `Authorization` header whose role may use `endpoint`.
    pub(crate) async fn admit(&self, authorization: Option<&str>, endpoint: Endpoint) -> Result<Claims, AuthError> {
        let token = bearer(authorization)?;
        let claims = match self {
            Self::Key(key) => key.verify(token)?,
            Self::Kubernetes(kubernetes) => kubernetes.review(token).await?,
        };
        if claims.role.may(endpoint) { Ok(claims) } else { Err(AuthError::Forbidden) }
    }
}

/// The token of an `Authorization` header (RFC 6750, 2.1).
fn bearer(authorization: Option<&str>) -> Result<&str, AuthError> {
    let (scheme, token) = authorization.and_then(|value| value.split_once(' ')).ok_or(AuthError::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Missing);
    }
    let token = token.trim();
    if token.len() > TOKEN_MAX { Err(AuthError::Invalid) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_role_may_what_the_table_says_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let key = Arc::new(TokenKey::open(folder.path()).unwrap());
        let auth = Auth::Key(Arc::clone(&key));
        let (tenant, subject) = (TenantId::new("default").unwrap(), PersonId::new("local:ada").unwrap());
        for role in [Role::Agent, Role::Sidecar, Role::Approver, Role::Admin, Role::Auditor, Role::Operator] {
            let claims = Claims { role, tenant: tenant.clone(), subject: subject.clone(), workload: None, expires: 4_000_000_000 };
            let authorization = format!("Bearer {}", key.mint(&claims));
            for (endpoint, who) in [
                (Endpoint::Sidecar, &[Role::Sidecar][..]),
                (Endpoint::Operator, &[Role::Operator]),
                (Endpoint::Read, &[Role::Approver, Role::Admin, Role::Auditor]),
                (Endpoint::DecideGate, &[Role::Approver, Role::Admin]),
            ] {
                let expect = if who.contains(&role) { Ok(claims.clone()) } else { Err(AuthError::Forbidden) };
                assert_eq!(auth.admit(Some(&authorization), endpoint).await, expect, "{role:?} at {endpoint:?}");
            }
        }
        assert_eq!(auth.admit(None, Endpoint::Read).await, Err(AuthError::Missing));
        assert_eq!(auth.admit(Some("Basic eDp5"), Endpoint::Read).await, Err(AuthError::Missing));
        let long = format!("Bearer {}", "x".repeat(TOKEN_MAX + 1));
        assert_eq!(auth.admit(Some(&long), Endpoint::Read).await, Err(AuthError::Invalid));
    }
}
