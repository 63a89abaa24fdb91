//! The PolicySet in force, as it is handed to sidecars.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kybernis_core::ids::PolicyDigest;
use kybernis_core::policy::{CompiledSet, Level, PolicyError, PolicySet, SecretRef};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files;

/// What the set's `secretRef`s name.
pub type Secrets = BTreeMap<SecretRef, Zeroizing<Vec<u8>>>;

/// What the operator gives for a tenant.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) set: PolicySet,
    pub(crate) secrets: Secrets,
}

impl Given {
    /// Whether it binds the whole cluster, all of it.
    pub(crate) fn is_cluster(&self) -> bool {
        self.set.clone().part(Level::Cluster) == self.set
    }

    /// The tenant's own part of this, under what binds the whole cluster now.
    pub(crate) fn under(mut self, cluster: Self) -> Self {
        let mut own = self.set.part(Level::Namespace);
        let PolicySet { tools, policies, retries } = &mut own;
        self.secrets.retain(|named, _| tools.iter().any(|tool| tool.origin.namespace == named.namespace));
        tools.extend(cluster.set.tools);
        policies.extend(cluster.set.policies);
        retries.extend(cluster.set.retries);
        self.secrets.extend(cluster.secrets);
        Self { set: own.sorted(), secrets: self.secrets }
    }
}

/// A set that compiles, named by its digest.
#[derive(Clone)]
pub struct InForce {
    /// Its name.
    pub digest: PolicyDigest,
    /// The set in JSON, as the sidecars read it.
    pub json: Bytes,
    /// What its probes send as their credentials.
    pub secrets: Arc<Secrets>,
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InForce").field("digest", &self.digest).field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl InForce {
    /// Takes a set, unless one of its expressions or patterns does not compile.
    pub fn new(set: &PolicySet, secrets: Secrets) -> Result<Self, Vec<PolicyError>> {
        let compiled = CompiledSet::compile(set.clone())?;
        // A set is strings, numbers and maps with text keys: writing it cannot fail.
        let json = serde_json::to_vec(set).unwrap_or_default();
        Ok(Self { digest: compiled.digest(), json: json.into(), secrets: Arc::new(secrets) })
    }
}

/// The set that a tenant was last given, as it lies beside its journal (0600): a ledger that starts while no operator is there goes
/// on by it.
#[derive(Serialize, Deserialize)]
struct Kept {
    set: PolicySet,
    /// Each value in base64.
    secrets: Vec<(SecretRef, String)>,
}

const KEPT: &str = "policy-in-force.json";

/// Keeps a set for the next start.
pub(crate) fn keep(folder: &Path, set: &PolicySet, secrets: &Secrets) -> io::Result<()> {
    let secrets = secrets.iter().map(|(named, value)| (named.clone(), STANDARD.encode(value.as_slice()))).collect();
    let kept = Kept { set: set.clone(), secrets };
    // As for the set alone: writing it cannot fail.
    let bytes = Zeroizing::new(serde_json::to_vec(&kept).unwrap_or_default());
    files::write_whole(&folder.join(KEPT), &bytes, files::PRIVATE)
}

/// What was kept, whether it holds or not; the inner error is of what the file says.
pub(crate) fn kept(folder: &Path) -> io::Result<Option<Result<Given, String>>> {
    let read = |bytes: Zeroizing<Vec<u8>>| {
        let Kept { set, secrets } = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let secret = |(named, value): (SecretRef, String)| {
            let value = STANDARD.decode(value).map_err(|error| error.to_string())?;
            Ok((named, Zeroizing::new(value)))
        };
        Ok(Given { set, secrets: secrets.into_iter().map(secret).collect::<Result<_, String>>()? })
    };
    Ok(files::read(&folder.join(KEPT))?.map(read))
}

/// The set that was kept; one that does not hold any more is told of and left to the operator.
pub(crate) fn recall(folder: &Path) -> io::Result<Option<InForce>> {
    let holds = |Given { set, secrets }: Given| {
        InForce::new(&set, secrets).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let read = kept(folder)?.map(|given| given.and_then(holds)).transpose();
    if let Err(error) = &read {
        tracing::error!(folder = %folder.display(), error, "the set that was kept does not hold; the operator must bring one");
    }
    Ok(read.ok().flatten())
}
