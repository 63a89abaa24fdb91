//! What there is, and what of it has changed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::place::{Place, Selection};

/// Changes of a collection that can still be told to a watch that comes late: some minutes of a busy one.
const CHANGES_MAX: usize = 10_000;
/// What came before this bench.
const CREATED: &str = "2030-01-01T00:00:00Z";

/// Why something is not done, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NotFound,
    AlreadyExists,
    Conflict,
    Expired,
    BadRequest,
    MethodNotAllowed,
}

impl Failure {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
        }
    }

    pub(super) fn status(self) -> Value {
        let reason = format!("{self:?}");
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.code(), "reason": reason, "message": reason})
    }
}

/// How something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Create,
    Replace,
    /// RFC 7386.
    Merge,
    /// Server-side apply, by somebody who is alone in writing what he writes: then it is a merge that also makes.
    Apply,
}

/// A change, as a watch tells it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) object: Arc<Value>,
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) objects: Vec<Arc<Value>>,
    /// Where the next one begins.
    pub(super) next: Option<String>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    collections: HashMap<String, Collection>,
}

/// Namespace and name.
type Id = (String, String);

#[derive(Debug, Default)]
struct Collection {
    objects: BTreeMap<Id, Arc<Value>>,
    /// The oldest first.
    changes: VecDeque<Change>,
    /// The version of the last one that was dropped from there.
    forgotten: u64,
    told: watch::Sender<u64>,
}

impl Store {
    pub(super) fn get(&self, place: &Place) -> Result<Arc<Value>, Failure> {
        let id = id(place).ok_or(Failure::BadRequest)?;
        let found = self.collections.get(&place.collection).and_then(|collection| collection.objects.get(&id));
        found.map(Arc::clone).ok_or(Failure::NotFound)
    }

    /// At most `limit` objects beginning `after` where another page ended. Later pages may know more than the first; whoever watches
    /// from the first one's version is told of it again.
    pub(super) fn list(&self, place: &Place, selection: &Selection, limit: Option<usize>, after: Option<&str>) -> Result<Page, Failure> {
        let begun = after.map(|after| {
            let (version, rest) = after.split_once('/')?;
            let (namespace, name) = rest.split_once('/')?;
            Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
        });
        let begun: Option<(u64, Id)> = match begun {
            None => None,
            Some(read) => Some(read.ok_or(Failure::BadRequest)?),
        };
        let version = begun.as_ref().map_or(self.version, |(version, _)| *version);
        let counts = |id: &Id, object: &Value| {
            begun.as_ref().is_none_or(|(_, last)| id > last)
                && place.namespace.as_ref().is_none_or(|namespace| *namespace == id.0)
                && selection.takes(object)
        };
        let all = self.collections.get(&place.collection).into_iter().flat_map(|collection| &collection.objects);
        let mut found = all.filter(|(id, object)| counts(id, object));
        let most = limit.unwrap_or(usize::MAX);
        let page: Vec<_> = found.by_ref().take(most).collect();
        let last = page.last().filter(|_| found.next().is_some());
        let next = last.map(|((namespace, name), _)| format!("{version}/{namespace}/{name}"));
        Ok(Page { version, next, objects: page.into_iter().map(|(_, object)| Arc::clone(object)).collect() })
    }

    /// What has changed since.
    pub(super) fn changes(&mut self, collection: &str, since: u64) -> Result<Vec<Change>, Failure> {
        let collection = self.collection(collection);
        if since < collection.forgotten {
            return Err(Failure::Expired);
        }
        let begin = collection.changes.partition_point(|change| change.version <= since);
        Ok(collection.changes.range(begin..).cloned().collect())
    }

    /// Hears of every change.
    pub(super) fn subscribe(&mut self, collection: &str) -> watch::Receiver<u64> {
        self.collection(collection).told.subscribe()
    }

    fn collection(&mut self, name: &str) -> &mut Collection {
        self.collections.entry(name.to_owned()).or_default()
    }

    /// The object as it is after the write.
    pub(super) fn write(&mut self, write: Write, place: &Place, body: &Value) -> Result<Arc<Value>, Failure> {
        let name = place.name.as_deref().or_else(|| body["metadata"]["name"].as_str()).map(str::to_owned);
        let place = Place { name, ..place.clone() };
        let found = self.get(&place);
        match (write, found) {
            (Write::Create, Ok(_)) => Err(Failure::AlreadyExists),
            (Write::Replace | Write::Merge, Err(failure)) => Err(failure),
            (Write::Create | Write::Apply, Err(Failure::NotFound)) if !place.is_status => self.put(&place, None, body.clone()),
            (Write::Create | Write::Apply, Err(failure)) => Err(failure),
            (_, Ok(found)) if is_other(&body["metadata"], &found["metadata"]) => Err(Failure::Conflict),
            (_, Ok(found)) => {
                let wanted = match write {
                    Write::Create | Write::Replace => body.clone(),
                    Write::Merge | Write::Apply => merged(&found, body),
                };
                self.put(&place, Some(found), wanted)
            }
        }
    }

    /// Of a status' write nothing else counts, and of another one the status does not. What changes nothing is no write.
    fn put(&mut self, place: &Place, before: Option<Arc<Value>>, mut object: Value) -> Result<Arc<Value>, Failure> {
        let id = id(place).ok_or(Failure::BadRequest)?;
        if !object.is_object() {
            return Err(Failure::BadRequest);
        }
        if let Some(before) = &before {
            if place.is_status {
                let status = object["status"].take();
                object = Value::clone(before);
                object["status"] = status;
            } else if let Some(status) = before.get("status") {
                object["status"] = status.clone();
            }
            for kept in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                object["metadata"][kept] = before["metadata"][kept].clone();
            }
            if object == **before {
                return Ok(Arc::clone(before));
            }
        }
        self.version += 1;
        let generation = before.as_ref().map_or(1, |before| {
            before["metadata"]["generation"].as_u64().unwrap_or_default() + u64::from(object["spec"] != before["spec"])
        });
        let metadata = &mut object["metadata"];
        if before.is_none() {
            metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.version));
            metadata["creationTimestamp"] = json!(CREATED);
            metadata["name"] = json!(id.1);
            if !id.0.is_empty() {
                metadata["namespace"] = json!(id.0);
            }
        }
        metadata["generation"] = json!(generation);
        metadata["resourceVersion"] = json!(self.version.to_string());
        let (version, object) = (self.version, Arc::new(object));
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let collection = self.collection(&place.collection);
        collection.objects.insert(id, Arc::clone(&object));
        collection.changes.push_back(Change { version, kind, object: Arc::clone(&object) });
        if collection.changes.len() > CHANGES_MAX {
            collection.forgotten = collection.changes.pop_front().map_or(collection.forgotten, |change| change.version);
        }
        collection.told.send_replace(version);
        Ok(object)
    }
}

fn id(place: &Place) -> Option<Id> {
    Some((place.namespace.clone().unwrap_or_default(), place.name.clone()?))
}

/// Whether a write is meant for another object, or another state of it.
fn is_other(wanted: &Value, found: &Value) -> bool {
    ["uid", "resourceVersion"].into_iter().any(|name| !wanted[name].is_null() && wanted[name] != found[name])
}

fn merged(found: &Value, patch: &Value) -> Value {
    let mut into = found.clone();
    merge(&mut into, patch);
    into
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(into) = into else { return };
    for (name, value) in members {
        if value.is_null() {
            into.remove(name);
        } else {
            merge(into.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place::read(path).unwrap()
    }

    const POLICIES: &str = "/apis/kybernis.io/v1alpha1/namespaces/a/policies";

    fn policy(name: &str, rules: u64) -> Value {
        json!({"metadata": {"name": name}, "spec": {"rules": rules}})
    }

    #[test]
    fn generations_grow_with_the_spec_and_versions_with_every_change() {
        let mut store = Store::default();
        let (all, one) = (place(POLICIES), place(&format!("{POLICIES}/p")));
        let status = place(&format!("{POLICIES}/p/status"));
        let seen = |object: Arc<Value>| (object["metadata"]["generation"].clone(), object["metadata"]["resourceVersion"].clone());
        assert_eq!(seen(store.write(Write::Create, &all, &policy("p", 1)).unwrap()), (json!(1), json!("1")));
        assert_eq!(store.write(Write::Create, &all, &policy("p", 1)), Err(Failure::AlreadyExists));
        let told = json!({"metadata": {"name": "p"}, "spec": {"rules": 9}, "status": {"rules": 1}});
        assert_eq!(seen(store.write(Write::Apply, &status, &told).unwrap()), (json!(1), json!("2")));
        assert_eq!(seen(store.write(Write::Apply, &status, &told).unwrap()), (json!(1), json!("2")), "nothing has changed");
        let changed = store.write(Write::Apply, &one, &json!({"spec": {"rules": 2}, "status": {"rules": 9}})).unwrap();
        assert_eq!((&changed["status"]["rules"], seen(Arc::clone(&changed))), (&json!(1), (json!(2), json!("3"))));
        let late = json!({"metadata": {"resourceVersion": "2"}});
        assert_eq!(store.write(Write::Replace, &one, &late), Err(Failure::Conflict));
        assert_eq!(store.write(Write::Merge, &place(&format!("{POLICIES}/q")), &late), Err(Failure::NotFound));
        let kinds: Vec<_> = store.changes(&all.collection, 1).unwrap().iter().map(|change| (change.version, change.kind)).collect();
        assert_eq!(kinds, [(2, "MODIFIED"), (3, "MODIFIED")]);
    }

    #[test]
    fn a_list_comes_in_pages() {
        let mut store = Store::default();
        let all = place(POLICIES);
        for name in ["a", "b", "c", "d", "e"] {
            store.write(Write::Create, &all, &policy(name, 1)).unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(&all, &Selection::default(), Some(2), after.as_deref()).unwrap();
            names.push(page.objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect::<String>());
            assert_eq!(page.version, 5);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(names, ["ab", "cd", "e"]);
        assert!(store.list(&place("/apis/kybernis.io/v1alpha1/policies"), &Selection::default(), None, None).unwrap().objects.len() == 5);
        assert!(store.list(&place("/api/v1/namespaces/a/pods"), &Selection::default(), None, None).unwrap().objects.is_empty());
    }
}
