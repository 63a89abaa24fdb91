//! The first phase: what the watches know, at one moment, and the Secrets that it names.

use std::collections::BTreeSet;

use crate::facts::{Facts, SecretName, Trust};
use crate::kinds::tool;
use crate::watch::{Secrets, Watches};

/// Looks around.
pub(crate) async fn dereference(release: &str, roots: Option<&str>, watches: &Watches, secrets: &mut Secrets) -> Facts {
    let objects = watches.objects();
    let wanted: BTreeSet<SecretName> = objects.iter().filter_map(|object| tool::secret_name(object)).collect();
    let secrets = secrets.read(&wanted).await;
    let copies = watches.copies();
    let published = copies.get(release).and_then(|copy| copy.trust.clone());
    Facts {
        release: release.to_owned(),
        objects,
        namespaces: watches.namespaces(),
        injected: watches.injected(),
        live: BTreeSet::new(),
        secrets,
        trust: published.map(|Trust { ca, .. }| Trust { ca, roots: roots.map(str::to_owned) }),
        copies,
    }
}
