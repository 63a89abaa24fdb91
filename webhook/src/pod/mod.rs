//! A pod taken apart: what the rules look at has a type, everything else stays raw, and put together again it is the same pod.
//!
//! Typed round trips drop the fields that a newer API server knows and this build does not; raw JSON does not.

mod container;

use serde_json::Value;

use crate::json::{At, Object, put_object, put_objects, take_object, take_objects, wrong};
use crate::path::FieldPath;
use crate::refusal::Findings;

pub(crate) use self::container::Container;

/// The label of nodes that says what they run.
const NODE_OS: &str = "kubernetes.io/os";

/// A JSON object whose values are all strings: labels, annotations, a node selector.
#[derive(Debug, Default)]
pub(crate) struct Texts(Object);

impl Texts {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    pub(crate) fn set(&mut self, key: &str, text: String) {
        self.0.insert(key.to_owned(), Value::String(text));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    fn check(object: Object, path: &FieldPath, findings: &mut Findings) -> Self {
        for (key, value) in &object {
            if !value.is_string() {
                wrong(path.key(key), value, "a string", findings);
            }
        }
        Self(object)
    }
}

/// An item of a list whose items have names.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) path: FieldPath,
    pub(crate) name: String,
    pub(crate) fields: Object,
}

impl Named {
    /// Takes a list out of its owner. Items without a name are faults.
    pub(crate) fn take(owner: &mut Object, key: &str, path: &FieldPath, findings: &mut Findings) -> Vec<Self> {
        let read = |(path, fields), findings: &mut Findings| Some(Self { name: name(&fields, &path, findings)?, path, fields });
        take_objects(owner, key, path, findings).into_iter().filter_map(|item| read(item, findings)).collect()
    }
}

fn name(fields: &Object, path: &FieldPath, findings: &mut Findings) -> Option<String> {
    let faults = findings.faults.len();
    let name = At { object: fields, path }.text("name", findings);
    if name.is_none() && findings.faults.len() == faults {
        findings.fault(path.member("name"), "is missing", "Give it a name");
    }
    name.map(str::to_owned)
}

/// Who made a pod.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Of several owners one at most is the controller.
    pub(crate) is_controller: bool,
}

/// What a pod shares with its node, or its containers with one another.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) host_network: bool,
    pub(crate) host_pid: bool,
    pub(crate) host_ipc: bool,
    pub(crate) process_namespace: bool,
}

impl Sharing {
    fn read(spec: At<'_>, findings: &mut Findings) -> Self {
        let mut flag = |key| spec.flag(key, findings).unwrap_or_default();
        Self {
            host_network: flag("hostNetwork"),
            host_pid: flag("hostPID"),
            host_ipc: flag("hostIPC"),
            process_namespace: flag("shareProcessNamespace"),
        }
    }
}

/// A pod taken apart.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) labels: Texts,
    pub(crate) annotations: Texts,
    pub(crate) name: Option<String>,
    pub(crate) generate_name: Option<String>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) sharing: Sharing,
    pub(crate) os: Option<String>,
    pub(crate) node_os: Option<String>,
    /// The user that containers run as unless they say otherwise.
    pub(crate) run_as_user: Option<i64>,
    /// Where the pod itself says where names lead.
    pub(crate) own_names: Vec<FieldPath>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Vec<Named>,
    /// The pod's own `resources`, for all of its containers together.
    pub(crate) resources: Object,
    root: Object,
    metadata: Object,
    spec: Object,
}

impl Pod {
    /// Takes a pod apart. What is of the wrong kind is a fault, and reads as absent.
    pub(crate) fn take(pod: &Value, findings: &mut Findings) -> Self {
        let at = FieldPath::pod();
        let mut root = pod.as_object().cloned().unwrap_or_default();
        if !pod.is_object() {
            wrong(at.clone(), pod, "an object", findings);
        }
        let mut metadata = take_object(&mut root, "metadata", &at, findings);
        let mut spec = take_object(&mut root, "spec", &at, findings);
        let (meta_path, spec_path) = (at.member("metadata"), at.member("spec"));
        let mut texts = |key| Texts::check(take_object(&mut metadata, key, &meta_path, findings), &meta_path.member(key), findings);
        let (labels, annotations) = (texts("labels"), texts("annotations"));
        let meta = At { object: &metadata, path: &meta_path };
        let (name, generate_name) = (meta.text("name", findings), meta.text("generateName", findings));
        let (name, generate_name) = (name.map(str::to_owned), generate_name.map(str::to_owned));
        let owners = owners(meta, findings);
        let init_containers = Container::take(&mut spec, "initContainers", &spec_path, findings);
        let containers = Container::take(&mut spec, "containers", &spec_path, findings);
        if containers.is_empty() && findings.faults.is_empty() {
            findings.fault(spec_path.member("containers"), "is empty", "Give the pod a container");
        }
        let volumes = Named::take(&mut spec, "volumes", &spec_path, findings);
        let resources = take_object(&mut spec, "resources", &spec_path, findings);
        let facts = At { object: &spec, path: &spec_path };
        let sharing = Sharing::read(facts, findings);
        let os = inside(facts, "os", findings, |os, findings| os.text("name", findings).map(str::to_owned));
        let node_os = inside(facts, "nodeSelector", findings, |labels, findings| labels.text(NODE_OS, findings).map(str::to_owned));
        let run_as_user = inside(facts, "securityContext", findings, |security, findings| security.whole("runAsUser", findings));
        let own_names = own_names(facts, findings);
        Self {
            labels,
            annotations,
            name,
            generate_name,
            owners,
            sharing,
            os,
            node_os,
            run_as_user,
            own_names,
            init_containers,
            containers,
            volumes,
            resources,
            root,
            metadata,
            spec,
        }
    }

    /// Every container, in the order in which they start.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Puts the pod together again.
    pub(crate) fn put(self) -> Value {
        let Self { mut root, mut metadata, mut spec, .. } = self;
        put_object(&mut metadata, "labels", self.labels.0);
        put_object(&mut metadata, "annotations", self.annotations.0);
        put_objects(&mut spec, "initContainers", self.init_containers.into_iter().map(Container::put));
        put_objects(&mut spec, "containers", self.containers.into_iter().map(Container::put));
        put_objects(&mut spec, "volumes", self.volumes.into_iter().map(|volume| volume.fields));
        put_object(&mut spec, "resources", self.resources);
        put_object(&mut root, "metadata", metadata);
        put_object(&mut root, "spec", spec);
        Value::Object(root)
    }
}

/// What is to be read of an object inside another.
fn inside<T>(owner: At<'_>, key: &str, findings: &mut Findings, read: impl FnOnce(At<'_>, &mut Findings) -> Option<T>) -> Option<T> {
    let object = owner.object(key, findings)?;
    read(At { object, path: &owner.path.member(key) }, findings)
}

fn own_names(spec: At<'_>, findings: &mut Findings) -> Vec<FieldPath> {
    let aliases = !spec.objects("hostAliases", findings).is_empty();
    let dns = spec.path.member("dnsConfig");
    let mut says = |key| inside(spec, "dnsConfig", findings, |dns, findings| Some(!dns.texts(key, findings).is_empty()));
    let (servers, searches) = (says("nameservers").unwrap_or_default(), says("searches").unwrap_or_default());
    let at = [(aliases, spec.path.member("hostAliases")), (servers, dns.member("nameservers")), (searches, dns.member("searches"))];
    at.into_iter().filter_map(|(set, path)| set.then_some(path)).collect()
}

fn owners(metadata: At<'_>, findings: &mut Findings) -> Vec<Owner> {
    let mut owners = Vec::new();
    for (path, object) in metadata.objects("ownerReferences", findings) {
        let at = At { object, path: &path };
        let mut text = |key| at.text(key, findings).unwrap_or_default().to_owned();
        let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
        owners.push(Owner { kind, name, uid, is_controller: at.flag("controller", findings).unwrap_or_default() });
    }
    owners
}
