//! What is known of the cluster at one moment: everything that the pure phases look at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kybernis_core::policy::SecretRef;
use zeroize::Zeroizing;

use crate::object::Object;

/// The label, or on a pod the annotation, that opts in.
pub(crate) const INJECT: &str = "kybernis.io/inject";
/// Values of [`INJECT`] that opt a namespace in.
const OPTED_IN: [&str; 2] = ["enabled", "enforced"];
/// The label by which a cluster admin maps a namespace to another tenant.
pub(crate) const TENANT: &str = "kybernis.io/tenant";

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The release's own namespace: its objects hold for the whole cluster.
    pub(crate) release: String,
    /// In the order of their keys.
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// Namespaces with an injected pod.
    pub(crate) injected: BTreeSet<String>,
    /// Tenants with a live sidecar.
    pub(crate) live: BTreeSet<String>,
    pub(crate) secrets: BTreeMap<SecretName, SecretState>,
    /// What sidecars are to trust, once the ledger has published its CA.
    pub(crate) trust: Option<Trust>,
    /// What each namespace has of it.
    pub(crate) copies: BTreeMap<String, TrustCopy>,
}

/// A namespace, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) inject: Option<String>,
    pub(crate) tenant: Option<String>,
    /// Nothing can be made in it any more.
    pub(crate) terminating: bool,
}

impl Namespace {
    pub(crate) fn is_opted_in(&self) -> bool {
        self.inject.as_deref().is_some_and(|value| OPTED_IN.contains(&value))
    }
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SecretName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What is known of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SecretState {
    There(BTreeMap<String, Zeroizing<Vec<u8>>>),
    Absent,
    Unreadable(String),
}

impl fmt::Debug for SecretState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::There(values) => write!(f, "There({} keys)", values.len()),
            Self::Absent => f.write_str("Absent"),
            Self::Unreadable(why) => write!(f, "Unreadable({why})"),
        }
    }
}

impl Facts {
    /// The value of a Secret's key.
    pub(crate) fn secret(&self, wanted: &SecretRef) -> Option<&Zeroizing<Vec<u8>>> {
        match self.secret_state(wanted)? {
            SecretState::There(values) => values.get(&wanted.key),
            SecretState::Absent | SecretState::Unreadable(_) => None,
        }
    }

    /// What is known of the Secret that `wanted` names.
    pub(crate) fn secret_state(&self, wanted: &SecretRef) -> Option<&SecretState> {
        self.secrets.get(&SecretName { namespace: wanted.namespace.clone(), name: wanted.name.clone() })
    }
}

/// What sidecars are to trust, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The ledger's CA.
    pub(crate) ca: String,
    /// Roots that vouch for far sides beside the public ones.
    pub(crate) roots: Option<String>,
}

/// A namespace's copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustCopy {
    pub(crate) trust: Option<Trust>,
    /// Whether it bears our label.
    pub(crate) ours: bool,
}
