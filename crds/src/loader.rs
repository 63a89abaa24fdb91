//! From documents to what holds of all of them together: each is decoded and lowered, every namespace's set compiled, and each fault
//! told where it stands.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kybernis_core::policy::{CompiledSet, Kind, Level, Origin, PolicyError};
use serde_json::{Map, Value};

use crate::decode::{Object as Decoded, decode};
use crate::error::ManifestError;
use crate::load::{DEFAULT_NAMESPACE, Loaded, Object, Source, lower_namespace};
use crate::yaml::{self, FILE_BYTES_MAX, Node, parse};
use crate::{locate, lowering, path};

/// What people write of an object's metadata, as far as it is read here; the rest the server made, or serves other tools.
const METADATA: [&str; 2] = ["name", "namespace"];

/// One document that holds so far.
struct Found {
    file: usize,
    node: Node,
}

/// Takes documents one by one, then holds all of them together to the rules.
pub(crate) struct Loader<'s> {
    system: &'s str,
    /// Each file's name and text; an object in memory has no text.
    files: Vec<(&'s str, Option<&'s str>)>,
    found: BTreeMap<(Kind, Origin), Found>,
    secret_places: BTreeMap<(String, String), (usize, usize)>,
    loaded: Loaded,
    pub(crate) errors: Vec<ManifestError>,
}

impl<'s> Loader<'s> {
    pub(crate) fn new(system: &'s str) -> Self {
        Self {
            system,
            files: Vec::new(),
            found: BTreeMap::new(),
            secret_places: BTreeMap::new(),
            loaded: Loaded::default(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn object(&mut self, object: &'s Object) {
        match yaml::from_json(&as_written(&object.value)) {
            Err(error) => self.errors.push(ManifestError::new(&object.name, None, "", &error.problem)),
            Ok(node) => {
                self.files.push((&object.name, None));
                self.document(self.files.len() - 1, node);
            }
        }
    }

    fn origin(&self, metadata: &ObjectMeta) -> Origin {
        let namespace = metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let level = if namespace == self.system { Level::Cluster } else { Level::Namespace };
        Origin { level, namespace, name: metadata.name.clone().unwrap_or_default() }
    }

    pub(crate) fn file(&mut self, source: &'s Source) {
        let name = source.file.as_str();
        if source.bytes.len() > FILE_BYTES_MAX {
            let problem = format!("is larger than {FILE_BYTES_MAX} bytes. Split the file");
            self.errors.push(ManifestError::new(name, None, "", &problem));
            return;
        }
        let text = match std::str::from_utf8(&source.bytes) {
            Ok(text) => text,
            Err(error) => {
                let line = 1 + source.bytes.iter().take(error.valid_up_to()).filter(|b| **b == b'\n').count();
                let mut error = ManifestError::new(name, None, "", "is not UTF-8 text. Save the file as UTF-8");
                error.line = Some(line);
                self.errors.push(error);
                return;
            }
        };
        match parse(text) {
            Err(error) => {
                let placed = ManifestError::new(name, Some(error.at), "", &error.problem);
                self.errors.push(placed.at_column(error.at));
            }
            Ok(documents) => {
                self.files.push((name, Some(text)));
                let file = self.files.len() - 1;
                for node in documents {
                    self.document(file, node);
                }
            }
        }
    }

    fn document(&mut self, file: usize, node: Node) {
        let name = self.files.get(file).map_or("", |(name, _)| *name);
        let Some(object) = decode(name, &node, &mut self.errors) else { return };
        let mut problems = Vec::new();
        match object {
            Decoded::Tool(found) => {
                let origin = self.origin(&found.metadata);
                let tool = lowering::tool(origin.clone(), &found, &mut problems);
                self.keep(Kind::Tool, origin, file, node, problems, |loaded| loaded.tools.push(tool));
            }
            Decoded::Policy(found) => {
                let origin = self.origin(&found.metadata);
                let policy = lowering::policy(origin.clone(), &found, &mut problems);
                self.keep(Kind::Policy, origin, file, node, problems, |loaded| loaded.policies.push(policy));
            }
            Decoded::RetryPolicy(found) => {
                let origin = self.origin(&found.metadata);
                let retry = lowering::retry(origin.clone(), &found, &mut problems);
                self.keep(Kind::RetryPolicy, origin, file, node, problems, |loaded| loaded.retries.push(retry));
            }
            Decoded::Secret(found) => {
                let Origin { namespace, name, .. } = self.origin(&found.metadata);
                let key = (namespace.clone(), name.clone());
                if let Some(first) = self.secret_places.get(&key).copied() {
                    self.duplicate("Secret", &namespace, &name, first, (file, &node));
                    return;
                }
                self.secret_places.insert(key, (file, node.at.line));
                self.loaded.secrets.add(&namespace, &name, *found, &mut problems);
                self.field_errors(file, &node, problems);
            }
        }
    }

    fn keep(
        &mut self,
        kind: Kind,
        origin: Origin,
        file: usize,
        node: Node,
        problems: Vec<lowering::FieldError>,
        push: impl FnOnce(&mut Loaded),
    ) {
        let key = (kind, origin);
        if let Some(first) = self.found.get(&key).map(|first| (first.file, first.node.at.line)) {
            let (_, origin) = &key;
            self.duplicate(&kind.to_string(), &origin.namespace, &origin.name, first, (file, &node));
            return;
        }
        self.field_errors(file, &node, problems);
        push(&mut self.loaded);
        let name = self.files.get(file).map_or("", |(name, _)| *name);
        self.loaded.places.insert(key.clone(), (name.to_owned(), node.at.line));
        self.found.insert(key, Found { file, node });
    }

    fn duplicate(&mut self, kind: &str, namespace: &str, name: &str, first: (usize, usize), again: (usize, &Node)) {
        let (first_file, line) = first;
        let place = self.files.get(first_file).map_or("", |(name, _)| *name);
        let problem = format!("{kind} {namespace}/{name} is given twice, first at {place}:{line}. Rename or remove one of them");
        self.field_errors(again.0, again.1, vec![("metadata.name".to_owned(), problem)]);
    }

    fn field_errors(&mut self, file: usize, node: &Node, problems: Vec<lowering::FieldError>) {
        let name = self.files.get(file).map_or("", |(name, _)| *name);
        let placed = problems
            .into_iter()
            .map(|(field, problem)| ManifestError::new(name, Some(node.place(&path::from_text(&field))), &field, &problem));
        self.errors.extend(placed);
    }

    /// Compiles what each namespace's agents would run with, whatever their labels.
    pub(crate) fn compile(&mut self) {
        let mut namespaces: BTreeSet<String> = self.loaded.namespaces().into_iter().map(str::to_owned).collect();
        if namespaces.is_empty() {
            namespaces.insert(DEFAULT_NAMESPACE.to_owned());
        }
        let mut found = BTreeSet::new();
        for namespace in namespaces {
            if let Err(errors) = CompiledSet::compile(lower_namespace(&self.loaded, &namespace)) {
                found.extend(errors.iter().map(|error| self.place(error)));
            }
        }
        self.errors.extend(found);
    }

    fn place(&self, error: &PolicyError) -> ManifestError {
        let Some(found) = self.found.get(&(error.kind, error.origin.clone())) else {
            return ManifestError::new("", None, &error.field, &error.problem);
        };
        let (name, text) = self.files.get(found.file).copied().unwrap_or_default();
        let Some(text) = text else {
            let at = error.at;
            let mut error = ManifestError::new(name, None, &error.field, &error.problem);
            if let Some((line, column)) = at {
                (error.line, error.column) = (usize::try_from(line).ok(), usize::try_from(column).ok());
            }
            return error;
        };
        let steps = path::from_text(&error.field);
        let placed = ManifestError::new(name, Some(found.node.place(&steps)), &error.field, &error.problem);
        let inside = error.at.zip(found.node.find(&steps)).and_then(|((line, column), scalar)| locate::inside(text, scalar, line, column));
        match inside {
            Some(at) => placed.at_column(at),
            None => placed,
        }
    }

    pub(crate) fn finish(mut self) -> Result<Loaded, Vec<ManifestError>> {
        if !self.errors.is_empty() {
            self.errors.sort();
            return Err(self.errors);
        }
        self.warn_of_missing_secrets();
        self.warn_of_shared_rule_names();
        self.loaded.warnings.sort();
        Ok(self.loaded)
    }

    fn warn(&mut self, kind: Kind, origin: &Origin, field: &str, problem: &str) {
        let Some(found) = self.found.get(&(kind, origin.clone())) else { return };
        let name = self.files.get(found.file).map_or("", |(name, _)| *name);
        let at = found.node.place(&path::from_text(field));
        self.loaded.warnings.push(ManifestError::new(name, Some(at), field, problem));
    }

    fn warn_of_missing_secrets(&mut self) {
        for tool in self.loaded.tools.clone() {
            let Some(wanted) = tool.effect.probe.as_ref().and_then(|probe| probe.secret_ref.as_ref()) else { continue };
            if self.loaded.secrets.get(wanted).is_none() {
                let problem = format!(
                    "Secret {}/{} with key {} is not in this folder, so on a laptop the probe would ask without it. Add the Secret, or remove the reference",
                    wanted.namespace, wanted.name, wanted.key,
                );
                self.warn(Kind::Tool, &tool.origin, "spec.effect.probe.secretRef", &problem);
            }
        }
    }

    /// Callers see `namespace/rule`, which two policies should not share.
    fn warn_of_shared_rule_names(&mut self) {
        let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
        for policy in self.loaded.policies.clone() {
            for (at, rule) in policy.rules.iter().enumerate() {
                let id = (policy.origin.namespace.clone(), rule.name.clone());
                if let Some(other) = seen.insert(id, policy.origin.name.clone()) {
                    let problem =
                        format!("Policy {other} has a rule {:?} too, and callers are told only that name. Rename one of them", rule.name);
                    self.warn(Kind::Policy, &policy.origin, &format!("spec.rules[{at}].name"), &problem);
                }
            }
        }
    }
}

/// The object without what only the server writes.
fn as_written(value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let written = members.iter().filter(|(name, _)| *name != "status").map(|(name, value)| {
        let value = match value {
            Value::Object(metadata) if name == "metadata" => {
                let kept = metadata.iter().filter(|(name, _)| METADATA.contains(&name.as_str()));
                Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
            }
            other => other.clone(),
        };
        (name.clone(), value)
    });
    Value::Object(written.collect::<Map<_, _>>())
}
