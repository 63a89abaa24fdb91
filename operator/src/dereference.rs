//! The first phase: what the watches know, at one moment, and the Secrets that it names.

use std::collections::BTreeSet;

use crate::facts::{Facts, SecretName};
use crate::kinds::tool;
use crate::watch::{Secrets, Watches};

/// Looks around.
pub(crate) async fn dereference(release: &str, watches: &Watches, secrets: &mut Secrets) -> Facts {
    let objects = watches.objects();
    let wanted: BTreeSet<SecretName> = objects.iter().filter_map(|object| tool::secret_name(object)).collect();
    let secrets = secrets.read(&wanted).await;
    let copies = watches.copies();
    Facts {
        release: release.to_owned(),
        objects,
        namespaces: watches.namespaces(),
        injected: watches.injected(),
        secrets,
        ca: copies.get(release).and_then(|copy| copy.ca.clone()),
        copies,
    }
}
