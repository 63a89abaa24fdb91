//! What a request is about: which collection, which object of it, and which of its objects count.

use anyhow::{Result, bail};
use serde_json::Value;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `v1/pods`, `kybernis.io/v1alpha1/policies`.
    pub(super) collection: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) is_status: bool,
}

impl Place {
    /// `/api/VERSION/…` or `/apis/GROUP/VERSION/…`; nothing where there is no such thing.
    pub(super) fn read(path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let version = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let (namespace, plural, rest) = match parts.collect::<Vec<_>>().as_slice() {
            // Of a namespace itself nobody here asks for the status.
            ["namespaces", namespace, plural, rest @ ..] => (Some((*namespace).to_owned()), (*plural).to_owned(), rest.to_vec()),
            [plural, rest @ ..] => (None, (*plural).to_owned(), rest.to_vec()),
            [] => return None,
        };
        let (name, is_status) = match rest.as_slice() {
            [] => (None, false),
            [name] => (Some((*name).to_owned()), false),
            [name, "status"] => (Some((*name).to_owned()), true),
            _ => return None,
        };
        Some(Self { collection: format!("{version}/{plural}"), namespace, name, is_status })
    }

    pub(super) fn api_version(&self) -> &str {
        self.collection.rsplit_once('/').map_or("", |(version, _)| version)
    }
}

/// What a query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) since: u64,
    pub(super) limit: Option<usize>,
    pub(super) after: Option<String>,
    /// Seconds.
    pub(super) timeout: Option<u64>,
    pub(super) selection: Selection,
}

impl Query {
    pub(super) fn read(query: &str) -> Result<Self> {
        let mut read = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
            match &*name {
                "watch" => read.watch = &*value == "true",
                "resourceVersion" => read.since = value.parse()?,
                "limit" => read.limit = Some(value.parse()?),
                "continue" => read.after = Some(value.into_owned()),
                "timeoutSeconds" => read.timeout = Some(value.parse()?),
                "labelSelector" => read.selection.label = Some(equal(&value)?),
                "fieldSelector" => match equal(&value)? {
                    (field, name) if field == "metadata.name" => read.selection.name = Some(name),
                    (field, _) => bail!("nothing is selected by {field} here"),
                },
                // Who writes, and how things may be told: nothing here depends on it.
                _ => {}
            }
        }
        Ok(read)
    }
}

fn equal(selector: &str) -> Result<(String, String)> {
    match selector.split_once('=') {
        Some((key, value)) if !selector.contains([',', '!']) => Ok((key.to_owned(), value.trim_start_matches('=').to_owned())),
        _ => bail!("{selector} is no selector that is known here"),
    }
}

/// Which objects count; one equality of each kind is all that the product asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) label: Option<(String, String)>,
    pub(super) name: Option<String>,
}

impl Selection {
    pub(super) fn takes(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.name.as_ref().is_none_or(|name| metadata["name"] == name.as_str())
            && self.label.as_ref().is_none_or(|(key, value)| metadata["labels"][key] == value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_collections_and_objects() {
        let check = |path: &str, collection: &str, namespace: Option<&str>, name: Option<&str>, is_status: bool| {
            let (namespace, name) = (namespace.map(str::to_owned), name.map(str::to_owned));
            assert_eq!(Place::read(path), Some(Place { collection: collection.to_owned(), namespace, name, is_status }), "{path}");
        };
        check("/api/v1/pods", "v1/pods", None, None, false);
        check("/api/v1/namespaces/a", "v1/namespaces", None, Some("a"), false);
        check("/api/v1/namespaces/a/pods/p/status", "v1/pods", Some("a"), Some("p"), true);
        check("/apis/kybernis.io/v1alpha1/namespaces/a/policies", "kybernis.io/v1alpha1/policies", Some("a"), None, false);
        assert_eq!(Place::read("/version"), None);
    }

    #[test]
    fn what_is_selected_is_said_by_one_equality() {
        let query =
            Query::read("watch=true&resourceVersion=7&labelSelector=kybernis.io%2Finjected%3Dtrue&allowWatchBookmarks=true").unwrap();
        assert!(query.watch && query.since == 7);
        assert!(query.selection.takes(&serde_json::json!({"metadata": {"labels": {"kybernis.io/injected": "true"}}})));
        assert!(!query.selection.takes(&serde_json::json!({"metadata": {}})));
        let named = Query::read("fieldSelector=metadata.name%3Da").unwrap().selection;
        assert!(
            named.takes(&serde_json::json!({"metadata": {"name": "a"}})) && !named.takes(&serde_json::json!({"metadata": {"name": "b"}}))
        );
        assert!(Query::read("labelSelector=a%3D1%2Cb%3D2").is_err() && Query::read("fieldSelector=spec.nodeName%3Dn").is_err());
    }
}
