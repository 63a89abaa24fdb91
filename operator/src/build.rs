//! The third phase: from what holds to what is sent. It cannot fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybernis_core::ids::PolicyDigest;
use kybernis_core::policy::{Level, PolicySet};
use kybernis_proto::v1;

use crate::facts::{Facts, Trust};
use crate::validate::{Plan, Secrets, Validated};

/// A set, with its name and the bytes that are sent.
#[derive(Debug)]
pub(crate) struct Lowering {
    set: PolicySet,
    digest: PolicyDigest,
    /// The name of the part that is the release's.
    cluster: PolicyDigest,
    json: Vec<u8>,
}

impl Lowering {
    pub(crate) fn new(set: PolicySet) -> Self {
        let cluster = set.clone().part(Level::Cluster);
        // A set is strings, numbers and maps with text keys: writing it cannot fail.
        let json = serde_json::to_vec(&set).unwrap_or_default();
        Self { digest: set.digest(), cluster: cluster.digest(), set, json }
    }

    pub(crate) const fn set(&self) -> &PolicySet {
        &self.set
    }

    pub(crate) const fn digest(&self) -> PolicyDigest {
        self.digest
    }

    pub(crate) const fn cluster(&self) -> PolicyDigest {
        self.cluster
    }

    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }
}

/// What a tenant should run with.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) set: Arc<Lowering>,
    pub(crate) secrets: Arc<Secrets>,
    /// The set is the release's part, and the tenant's own stays as the ledger has it.
    pub(crate) keep_own: bool,
}

impl Program {
    /// What the ledger is given: the set, and whether a part of its own is kept.
    pub(crate) fn given(&self) -> (PolicyDigest, bool) {
        (self.set.digest(), self.keep_own)
    }

    /// As the ledger takes it.
    pub(crate) fn request(&self, tenant: &str) -> v1::ProgramRequest {
        let secret = |(wanted, value): (&kybernis_core::policy::SecretRef, &zeroize::Zeroizing<Vec<u8>>)| v1::Secret {
            namespace: wanted.namespace.clone(),
            name: wanted.name.clone(),
            key: wanted.key.clone(),
            value: value.to_vec(),
        };
        v1::ProgramRequest {
            tenant: tenant.to_owned(),
            policy_set: self.set.json().to_vec(),
            secrets: self.secrets.iter().map(secret).collect(),
            keep_own: self.keep_own,
        }
    }
}

/// What is to be applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    pub(crate) programs: BTreeMap<String, Program>,
    /// What sidecars are to trust, and the namespaces whose copy of it is to be made or mended.
    pub(crate) trust: Option<(Trust, Vec<String>)>,
}

/// Builds.
pub(crate) fn build(facts: &Facts, validated: &Validated) -> Built {
    let program = |set: &Arc<Lowering>, secrets: &Arc<Secrets>, keep_own| {
        Some(Program { set: Arc::clone(set), secrets: Arc::clone(secrets), keep_own })
    };
    let programs = validated.tenants.iter().filter_map(|(tenant, plan)| {
        let program = match plan {
            Plan::Holds { set, secrets } | Plan::Behind { set, secrets, .. } => program(set, secrets, false),
            Plan::Kept { set, secrets, .. } => program(set, secrets, true),
            Plan::Held(_) => None,
        };
        Some((tenant.clone(), program?))
    });
    let trust = facts.trust.as_ref().map(|trust| {
        let wrong = |namespace: &&String| {
            let copy = facts.copies.get(*namespace);
            let right = copy.is_some_and(|copy| copy.ours && copy.trust.as_ref() == Some(trust));
            !right && !facts.namespaces.get(*namespace).is_none_or(|found| found.terminating)
        };
        (trust.clone(), validated.namespaces.keys().filter(wrong).cloned().collect())
    });
    Built { programs: programs.collect(), trust }
}
