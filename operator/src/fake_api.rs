//! A small API server in memory: namespaces, gates and decisions that are listed, watched, made, removed and told their status, and
//! Events that are heard.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Which object: its plural, namespace and name.
type Id = (String, String, String);

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi {
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Everything there is.
#[derive(Default)]
pub(crate) struct World {
    version: u64,
    objects: BTreeMap<Id, Value>,
    /// What watches tell: version, plural, type and object.
    log: Vec<(u64, String, &'static str, Value)>,
    /// Every write: `METHOD path`.
    pub(crate) writes: Vec<String>,
    /// `reason: note` of each Event.
    pub(crate) events: Vec<String>,
    /// The next requests whose `METHOD path` holds the text fail so.
    pub(crate) failures: VecDeque<(&'static str, u16)>,
}

impl World {
    /// An object by its plural, namespace and name.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// How many writes hold the text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.writes.iter().filter(|write| write.contains(text)).count()
    }

    /// Puts an object there, whatever is there now, as whoever may do anything could.
    pub(crate) fn put(&mut self, plural: &str, namespace: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        let id = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let before = self.objects.get(&id).map(|before| before["metadata"].clone());
        let uid = before.as_ref().map_or_else(|| json!(format!("uid-{}", self.version)), |before| before["uid"].clone());
        let labels = object["metadata"]["labels"].clone();
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
        object["metadata"] = json!({
            "name": name, "uid": uid, "generation": generation, "resourceVersion": self.version.to_string(),
            "creationTimestamp": "2030-01-01T00:00:00Z", "labels": labels,
        });
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, plural.to_owned(), kind, object.clone()));
        self.objects.insert(id, object.clone());
        object
    }

    /// Takes an object away.
    pub(crate) fn remove(&mut self, plural: &str, namespace: &str, name: &str) {
        self.version += 1;
        let id = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(object) = self.objects.remove(&id) {
            self.log.push((self.version, plural.to_owned(), "DELETED", object));
        }
    }

    /// What a watch tells next.
    fn next(&self, since: u64, plural: &str) -> Option<(u64, &'static str, Value)> {
        let begin = self.log.partition_point(|(version, ..)| *version <= since);
        let next = self.log.iter().skip(begin).find(|(_, of, ..)| of == plural)?;
        Some((next.0, next.2, next.3.clone()))
    }

    fn write(&mut self, method: &str, id: Id, status: bool, body: &Value) -> (u16, Value) {
        let (plural, namespace, name) = &id;
        let found = self.objects.get(&id).cloned();
        match (method, found) {
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("POST", None) if !self.objects.contains_key(&("namespaces".to_owned(), String::new(), namespace.clone())) => {
                failure(404, "NotFound")
            }
            ("POST", None) => {
                assert_eq!((&body["apiVersion"], &body["kind"]), (&json!("kybernis.io/v1alpha1"), &json!("Gate")), "else it is no Gate");
                let mut body = body.clone();
                body.as_object_mut().unwrap().remove("status");
                (201, self.put(plural, namespace, name, body))
            }
            (_, None) => failure(404, "NotFound"),
            ("DELETE", Some(found)) if body["preconditions"]["uid"] != found["metadata"]["uid"] => failure(409, "Conflict"),
            ("DELETE", Some(_)) => {
                self.remove(plural, namespace, name);
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            ("PATCH", Some(found)) if is_other(&body["metadata"], &found["metadata"]) => failure(409, "Conflict"),
            ("PATCH", Some(mut found)) => {
                assert!(status, "only statuses are patched");
                merge(&mut found["status"], &body["status"]);
                (200, self.put(plural, namespace, name, found))
            }
            (other, Some(_)) => panic!("{other} is not asked for"),
        }
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "as told"}))
}

/// Whether a patch is meant for another object, or another state of it.
fn is_other(wanted: &Value, found: &Value) -> bool {
    ["uid", "resourceVersion"].into_iter().any(|name| !wanted[name].is_null() && wanted[name] != found[name])
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in members {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { world: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        Client::new(tower::service_fn(move |request| server.clone().answer(request)), "default")
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Changes the world, and lets everybody know.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let changed = change(&mut self.world());
        self.changed.send_modify(|changes| *changes += 1);
        changed
    }

    /// Waits until the world is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&World) -> bool) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !so(&self.world()) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err() {
            let world = self.world();
            panic!("{what} does not come about; writes: {:#?} events: {:#?} objects: {:#?}", world.writes, world.events, world.objects);
        }
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Answer>, Infallible> {
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let (id, status) = place(&path, &body);
        if query.contains("watch=true") {
            let parameter = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
            let since = parameter.and_then(|version| version.parse().ok()).unwrap_or_default();
            return Ok(Response::new(self.watched(id.0, since)));
        }
        let (code, answer) = self.change(|world| {
            let call = format!("{} {path}", head.method);
            if head.method != "GET" {
                world.writes.push(call.clone());
            }
            if world.failures.front().is_some_and(|(text, _)| call.contains(text)) {
                let code = world.failures.pop_front().map(|(_, code)| code).unwrap_or_default();
                return failure(code, "Test");
            }
            if id.0 == "events" {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                world.events.push(format!("{} {}: {}", text("type"), text("reason"), text("note")));
                return (200, body.clone());
            }
            if head.method != "GET" {
                return world.write(head.method.as_str(), id, status, &body);
            }
            if !id.2.is_empty() {
                return world.objects.get(&id).map_or_else(|| failure(404, "NotFound"), |found| (200, found.clone()));
            }
            let items: Vec<_> = world.objects.iter().filter(|((plural, ..), _)| *plural == id.0).map(|(_, object)| object).collect();
            let metadata = json!({"resourceVersion": world.version.to_string()});
            (200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
        });
        let body = Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap())).boxed_unsync();
        Ok(Response::builder().status(code).body(body).unwrap())
    }

    fn watched(self, plural: String, since: u64) -> Answer {
        let changes = self.changed.subscribe();
        let lines = futures::stream::unfold((self, changes, plural, since), |(server, mut changes, plural, since)| async move {
            loop {
                let next = server.world().next(since, &plural);
                if let Some((version, kind, object)) = next {
                    let line = format!("{}\n", json!({"type": kind, "object": object}));
                    return Some((Ok(Frame::data(Bytes::from(line))), (server, changes, plural, version)));
                }
                changes.changed().await.ok()?;
            }
        });
        StreamBody::new(lines).boxed_unsync()
    }
}

/// What a path names, and whether it is the status.
fn place(path: &str, body: &Value) -> (Id, bool) {
    let (path, status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
    let parts: Vec<&str> = path.trim_start_matches("/api/v1/").trim_start_matches("/apis/").split('/').collect();
    // GROUP/VERSION stand before the plural in `/apis/`.
    let parts = if path.starts_with("/apis/") { &parts[2..] } else { &parts[..] };
    let name = |part: Option<&&str>| part.map_or_else(|| body["metadata"]["name"].as_str().unwrap_or_default(), |name| *name).to_owned();
    let id = match parts {
        ["namespaces", namespace, plural, rest @ ..] => ((*plural).to_owned(), (*namespace).to_owned(), name(rest.first())),
        [plural, rest @ ..] => ((*plural).to_owned(), String::new(), name(rest.first())),
        [] => panic!("{path}"),
    };
    (id, status)
}
