//! What runs in a scenario's namespace: a program of `tests/agents` in a pod of the agents' image, by Deployment or by Job.

use std::path::Path;

use kybernis_cluster::AGENTS_IMAGE;
use serde_json::{Map, Value, json};

/// How long a Job may take in all.
const JOB_SECONDS: u32 = 180;

/// A program and how its pod is to be.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    name: &'a str,
    program: Vec<&'a str>,
    before: Vec<&'a str>,
    annotations: Map<String, Value>,
    grace_seconds: u32,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl<'a> Workload<'a> {
    /// One by this name, which runs a file of `tests/agents` with these arguments in a pod with a sidecar.
    #[must_use]
    pub fn new(name: &'a str, program: &'a str, arguments: &[&'a str]) -> Self {
        let program = [&[program], arguments].concat();
        let (before, annotations, volumes, mounts) = Default::default();
        let workload = Self { name, program, before, annotations, grace_seconds: 1, volumes, mounts };
        workload.annotation("inject", "true").files("agents", "/agents")
    }

    /// Nobody asks for a sidecar.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.annotations.clear();
        self
    }

    /// One of Kybernis' annotations, by its name without `kybernis.io/`.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(format!("kybernis.io/{name}"), json!(value));
        self
    }

    /// An init container of the agent's own, which runs such a program first.
    #[must_use]
    pub fn after(mut self, program: &'a str, arguments: &[&'a str]) -> Self {
        self.before = [&[program], arguments].concat();
        self
    }

    /// How long its pod may take to end.
    #[must_use]
    pub fn grace_seconds(mut self, seconds: u32) -> Self {
        self.grace_seconds = seconds;
        self
    }

    /// The files of a ConfigMap, at `path`.
    #[must_use]
    pub fn files(mut self, configmap: &str, path: &str) -> Self {
        self.volumes.push(json!({"name": configmap, "configMap": {"name": configmap}}));
        self.mounts.push(json!({"name": configmap, "mountPath": path}));
        self
    }

    /// A folder of this machine, at the same path.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        let name = format!("folder-{}", self.volumes.len());
        self.volumes.push(json!({"name": name, "hostPath": {"path": folder, "type": "Directory"}}));
        self.mounts.push(json!({"name": name, "mountPath": folder, "readOnly": true}));
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    /// A Deployment of one.
    pub(crate) fn deployment(&self) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {"selector": {"matchLabels": {"app": self.name}}, "template": self.pod("Always")},
        })
    }

    /// A Job that starts a new pod for one that failed.
    pub(crate) fn job(&self) -> Value {
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name},
            "spec": {"backoffLimit": 4, "activeDeadlineSeconds": JOB_SECONDS, "template": self.pod("Never")},
        })
    }

    /// A pod by itself.
    #[must_use]
    pub fn alone(&self) -> Value {
        let mut pod = self.pod("Always");
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(self.name);
        pod
    }

    fn pod(&self, restart: &str) -> Value {
        let before: Vec<Value> =
            [&self.before].into_iter().filter(|words| !words.is_empty()).map(|words| self.container("before", words)).collect();
        json!({
            "metadata": {"labels": {"app": self.name}, "annotations": self.annotations},
            "spec": {
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": self.grace_seconds,
                "initContainers": before,
                "containers": [self.container("app", &self.program)],
                "volumes": self.volumes,
            },
        })
    }

    fn container(&self, name: &str, words: &[&str]) -> Value {
        let (program, arguments) = words.split_first().unwrap_or((&"", &[]));
        let program = format!("/agents/{program}");
        let command: Vec<&str> = ["python3", "-u", &program].into_iter().chain(arguments.iter().copied()).collect();
        json!({
            "name": name,
            "image": AGENTS_IMAGE,
            "imagePullPolicy": "Never",
            "command": command,
            "volumeMounts": self.mounts,
        })
    }
}
