//! The kinds that people write and read, one file each. These types are the CRDs: their schemas are generated from here, and
//! the laptop's folder of manifests is read into the very same ones.

#![allow(unreachable_pub, reason = "the schema derive repeats each struct as a local item")]
#![allow(clippy::duplicated_attributes, reason = "two printer columns of one type are no duplicate; the lint looks inside them")]

mod budget;
mod gate;
mod gate_decision;
mod policy;
mod retry_policy;
mod status;
mod tool_registration;

pub use budget::*;
pub use gate::*;
pub use gate_decision::*;
pub use policy::*;
pub use retry_policy::*;
pub use status::*;
pub use tool_registration::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::published::published;

/// The API group of every kind.
pub const GROUP: &str = "kybernis.io";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, in the order of their plurals.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let kinds = [Budget::crd(), GateDecision::crd(), Gate::crd(), Policy::crd(), RetryPolicy::crd(), ToolRegistration::crd()];
    kinds.into_iter().map(published).collect()
}
