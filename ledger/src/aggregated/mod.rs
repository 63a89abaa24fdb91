//! The ledger as an aggregated API: what it knows, for everyone with a kubeconfig, under the API server's own authentication and
//! authorization.
//!
//! ```text
//! kubectl ──▶ kube-apiserver: who is it, and may they `list runs.ledger.kybernis.io` in that namespace? ──▶ this listener
//! ```
//!
//! By then the API server has judged path and verb by the cluster's RBAC and says in headers who asks; it is known by its client
//! certificate, and nobody else is served (Kubernetes, "Configure the aggregation layer"). So nothing is judged again here, and for
//! that every path must mean to us what it means to its `RequestInfo`: namespace, resource, name and subresource, one segment each.

mod listen;
mod routes;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;
use kybernis_core::ids::TenantId;
use rustls::ServerConfig;

use crate::auth::{Front, Kubernetes, Published};
use crate::tenants::Folders;

pub(crate) use self::listen::{serve, tls};

/// The group that is served, and its version.
const GROUP: &str = "ledger.kybernis.io";
const VERSION: &str = "v1alpha1";

/// Which tenant's a namespace is; `None` where there is no such namespace.
type TenantOf = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Option<TenantId>, String>> + Send + Sync>;

/// What is served, and to whom.
#[derive(Clone)]
pub(crate) struct Aggregated {
    tenants: Folders,
    tenant_of: TenantOf,
    front: Arc<Published<Front>>,
    tls: Arc<ServerConfig>,
}

impl Aggregated {
    /// As this cluster says.
    pub(crate) fn of(kubernetes: &Arc<Kubernetes>, tenants: Folders, tls: Arc<ServerConfig>) -> Self {
        let asked = Arc::clone(kubernetes);
        let front = Published::new("who may speak for people", move || {
            let kubernetes = Arc::clone(&asked);
            async move { kubernetes.front().await }
        });
        let kubernetes = Arc::clone(kubernetes);
        let tenant_of: TenantOf = Arc::new(move |namespace| {
            let kubernetes = Arc::clone(&kubernetes);
            Box::pin(async move { kubernetes.tenant_of(&namespace).await })
        });
        Self { tenants, tenant_of, front: Arc::new(front), tls }
    }
}
