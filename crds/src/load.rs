//! A folder of manifests, read as a whole: either everything in it holds, or every error of every document is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kybernis_core::policy::{Delegate, Kind, Labels, Level, Origin, Policy, PolicySet, RetryPolicy, SecretRef, Tool, undelegated};
use serde_json::Value;

use crate::error::ManifestError;
use crate::folder::read_folder;
use crate::loader::Loader;
use crate::secret::{SecretValue, Secrets};

/// The release's namespace on a laptop: its objects bind the whole cluster. In a cluster the release says which it is.
pub const SYSTEM_NAMESPACE: &str = "kybernis-system";
/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One file's bytes under the name that errors give it.
#[derive(Clone, Debug)]
pub struct Source {
    /// For errors.
    pub file: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// One object in memory, under the name that errors give it.
#[derive(Clone, Debug)]
pub struct Object {
    /// For errors, in [`ManifestError::file`].
    pub name: String,
    /// The object as the API server has it.
    pub value: Value,
}

/// A folder in which everything holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub(crate) tools: Vec<Tool>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) retries: Vec<RetryPolicy>,
    pub(crate) secrets: Secrets,
    pub(crate) places: BTreeMap<(Kind, Origin), (String, usize)>,
    pub(crate) warnings: Vec<ManifestError>,
}

/// Whose policies are wanted.
#[derive(Clone, Debug, Default)]
pub struct AgentScope {
    /// The agent's namespace.
    pub namespace: String,
    /// Its pod's labels; on a laptop those of `--label`.
    pub labels: Labels,
}

/// Reads every `*.yaml`, `*.yml` and `*.json` of a folder, not of its subfolders, in the order of their names.
pub fn load(dir: &Path) -> Result<Loaded, Vec<ManifestError>> {
    let mut errors = Vec::new();
    let sources = read_folder(dir, &mut errors);
    match load_sources(&sources) {
        Ok(loaded) if errors.is_empty() => Ok(loaded.warn_if_empty(dir)),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            errors.sort();
            Err(errors)
        }
    }
}

/// What an agent's sidecar enforces: the cluster's objects and its own namespace's, less the policies that select others.
pub fn lower(loaded: &Loaded, agent: &AgentScope) -> PolicySet {
    let mut set = lower_namespace(loaded, &agent.namespace);
    set.policies.retain(|policy| policy.selector.selects(&agent.labels));
    set
}

/// What the ledger of a namespace holds for all of its agents: each sidecar picks the policies that select its own labels.
pub fn lower_namespace(loaded: &Loaded, namespace: &str) -> PolicySet {
    let here = |origin: &Origin| origin.level == Level::Cluster || origin.namespace == namespace;
    PolicySet {
        tools: loaded.tools.iter().filter(|tool| here(&tool.origin)).cloned().collect(),
        policies: loaded.policies.iter().filter(|policy| here(&policy.origin)).cloned().collect(),
        retries: loaded.retries.iter().filter(|retry| here(&retry.origin)).cloned().collect(),
    }
    .sorted()
}

/// Reads files that are already in memory.
pub fn load_sources(sources: &[Source]) -> Result<Loaded, Vec<ManifestError>> {
    let mut loader = Loader::new(SYSTEM_NAMESPACE);
    for source in sources {
        loader.file(source);
    }
    loader.compile();
    // Here the release's policies are all at hand; who has them from elsewhere asks by itself.
    let mut loaded = loader.finish()?;
    loaded.warnings.extend(loaded.undelegated());
    loaded.warnings.sort();
    Ok(loaded)
}

/// Reads objects as the API server has them, by the very same checks; the status and what the server adds to the metadata are left
/// out. Those of `system_namespace` bind the whole cluster. An error has a line and a column only where its place in an expression
/// is known.
///
/// # Errors
/// Everything that keeps one of them, or all of them together, from being used.
pub fn load_objects(objects: &[Object], system_namespace: &str) -> Result<Loaded, Vec<ManifestError>> {
    let mut loader = Loader::new(system_namespace);
    for object in objects {
        loader.object(object);
    }
    for error in &mut loader.errors {
        (error.line, error.column) = (None, None);
    }
    loader.compile();
    loader.finish()
}

impl Loaded {
    /// What somebody should know although everything holds.
    pub fn warnings(&self) -> &[ManifestError] {
        &self.warnings
    }

    /// The value that a probe names.
    pub fn secret(&self, wanted: &SecretRef) -> Option<&SecretValue> {
        self.secrets.get(wanted)
    }

    /// Every namespace that has objects, less the release's own.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        let origins = self.places.keys().map(|(_, origin)| origin);
        origins.filter(|origin| origin.level == Level::Namespace).map(|origin| origin.namespace.as_str()).collect()
    }

    /// How many objects there are, Secrets not counted.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing governs anything.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Warns of every policy that would govern this agent if its labels were others.
    pub fn unselected(&self, agent: &AgentScope) -> Vec<ManifestError> {
        let here = |origin: &Origin| origin.level == Level::Cluster || origin.namespace == agent.namespace;
        let passed = self.policies.iter().filter(|policy| here(&policy.origin) && !policy.selector.selects(&agent.labels));
        let warn = |policy: &Policy| {
            let (file, line) = self.places.get(&(Kind::Policy, policy.origin.clone()))?;
            let mut warning = ManifestError::new(
                file,
                None,
                "spec.selector",
                &format!(
                    "Policy {} does not select this agent. Give the agent its labels (--label), or widen the selector",
                    policy.origin.name
                ),
            );
            warning.line = Some(*line);
            Some(warning)
        };
        passed.filter_map(warn).collect()
    }

    /// Warns of every policy that says what the release would have to delegate first: it is valid, and without effect.
    pub fn undelegated(&self) -> Vec<ManifestError> {
        let release: Vec<&str> =
            self.policies.iter().filter(|p| p.origin.level == Level::Cluster).map(|p| p.origin.name.as_str()).collect();
        let release = match release.as_slice() {
            [] => "the release has no Policy that delegates".to_owned(),
            [name] => format!("the release's Policy {name} does not delegate"),
            names => format!("the release's Policies {} do not delegate", names.join(", ")),
        };
        let warn = |(origin, what): (&Origin, Delegate)| {
            let (file, line) = self.places.get(&(Kind::Policy, origin.clone()))?;
            let problem = format!(
                "has no effect here: {release} {} to this namespace. Remove it, or have delegates: [{}] added there",
                what.field(),
                what.name()
            );
            let mut warning = ManifestError::new(file, None, &format!("spec.{}", what.field()), &problem);
            warning.line = Some(*line).filter(|line| *line > 0);
            Some(warning)
        };
        undelegated(&self.policies).into_iter().filter_map(warn).collect()
    }

    fn warn_if_empty(mut self, dir: &Path) -> Self {
        if self.is_empty() {
            let problem = "holds no manifest, so every call goes by the defaults. Add a ToolRegistration or a Policy";
            self.warnings.push(ManifestError::new(&dir.display().to_string(), None, "", problem));
        }
        self
    }
}
