//! A namespace of a scenario's own, so that scenarios do not disturb one another, and the agents in it.

use std::process::Output;

use anyhow::{Context as _, Result};

use crate::Workload;
use crate::command::{PATIENCE, fed, give, heard, said, soon};
use crate::talk::Talk;
use crate::world::{World, agents};

/// A namespace; it goes when this is dropped.
#[derive(Debug)]
pub struct Space<'w> {
    world: &'w World,
    name: String,
}

/// A pod with a program of `tests/agents`.
#[derive(Clone, Debug)]
pub struct Agent<'s> {
    space: &'s Space<'s>,
    pod: String,
}

impl<'w> Space<'w> {
    /// Makes it; what an earlier run left there is removed first.
    pub(crate) fn make(world: &'w World, name: &str) -> Result<Self> {
        let timeout = timeout();
        said(&mut world.kubectl(["delete", "namespace", name, "--ignore-not-found", "--wait", &timeout]))?;
        said(&mut world.kubectl(["create", "namespace", name]))?;
        let space = Self { world, name: name.to_owned() };
        said(space.kubectl(["create", "configmap", "agents"]).arg("--from-file").arg(agents()))?;
        Ok(space)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl`, in it.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> std::process::Command {
        let mut kubectl = self.world.kubectl(["--namespace", &self.name]);
        kubectl.args(arguments);
        kubectl
    }

    /// Waits for what `kubectl wait --for` can wait for.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait(&self, what: &str, until: &str) -> Result<()> {
        said(&mut self.kubectl(["wait", what, &format!("--for={until}"), &timeout()])).map(drop)
    }

    /// Makes objects from their text.
    ///
    /// # Errors
    /// When one is refused.
    pub fn create(&self, objects: &str) -> Result<()> {
        fed(&mut self.kubectl(["create", "--filename=-"]), objects).map(drop)
    }

    /// Asks for objects, with arguments of one's own, and hands on what kubectl said.
    ///
    /// # Errors
    /// When kubectl does not end.
    pub fn try_create<const N: usize>(&self, arguments: [&str; N], objects: &str) -> Result<Output> {
        give(self.kubectl(["create", "--filename=-"]).args(arguments), objects)
    }

    /// Makes objects as somebody else, and hands on what kubectl said.
    ///
    /// # Errors
    /// When kubectl does not end.
    pub fn create_as(&self, person: &str, group: &str, objects: &str) -> Result<Output> {
        self.try_as(person, group, ["--output=name"], objects)
    }

    /// The same, with arguments of one's own.
    ///
    /// # Errors
    /// When kubectl does not end.
    pub fn try_as<const N: usize>(&self, person: &str, group: &str, arguments: [&str; N], objects: &str) -> Result<Output> {
        let (person, group) = (format!("--as={person}"), format!("--as-group={group}"));
        let mut kubectl = self.kubectl(["create", "--filename=-", &person, &group, "--as-group=system:authenticated"]);
        give(kubectl.args(arguments), objects)
    }

    /// Starts a workload as a Deployment, and does not wait for it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn deploy(&self, workload: &Workload<'_>) -> Result<()> {
        self.create(&workload.deployment().to_string())
    }

    /// The same, until its pod is ready.
    ///
    /// # Errors
    /// When it is refused or does not become ready.
    pub fn start(&self, workload: &Workload<'_>) -> Result<Agent<'_>> {
        self.deploy(workload)?;
        self.agent(workload.name())
    }

    /// Starts a workload as a Job.
    ///
    /// # Errors
    /// When it is refused.
    pub fn start_job(&self, workload: &Workload<'_>) -> Result<()> {
        self.create(&workload.job().to_string())
    }

    /// Asks for one pod with such a program, and hands on what kubectl said.
    ///
    /// # Errors
    /// When kubectl does not end.
    pub fn try_pod(&self, workload: &Workload<'_>) -> Result<Output> {
        self.try_create([], &workload.alone().to_string())
    }

    /// The pod of a Deployment, once it is ready and the only one.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent(&self, deployment: &str) -> Result<Agent<'_>> {
        said(&mut self.kubectl(["rollout", "status", &format!("deployment/{deployment}"), &timeout()]))?;
        let pod = soon(&format!("{deployment} has one pod"), || {
            let pods = self.pods(deployment)?;
            let [pod] = pods.as_slice() else { return Ok(None) };
            Ok(Some(pod.clone()))
        })?;
        Ok(Agent { space: self, pod })
    }

    /// The pods of a workload, those that are about to end included.
    ///
    /// # Errors
    /// When the API server does not say.
    pub fn pods(&self, workload: &str) -> Result<Vec<String>> {
        // A Job's pods carry the label of their template, too.
        let names = "--output=jsonpath={.items[*].metadata.name}";
        let names = said(&mut self.kubectl(["get", "pods", &format!("--selector=app={workload}"), names]))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// A pod by its name.
    pub fn pod(&self, name: &str) -> Agent<'_> {
        Agent { space: self, pod: name.to_owned() }
    }

    /// A field of an object, as kubectl's JSONPath finds it.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        said(&mut self.kubectl(["get", object, &format!("--output=jsonpath={path}")]))
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        // Nobody waits for it: the next scenario has a namespace of its own.
        let _ = heard(&mut self.world.kubectl(["delete", "namespace", &self.name, "--wait=false"]));
    }
}

impl Agent<'_> {
    /// Its pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Runs a program of `tests/agents` in its container, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn told(&self, program: &str, arguments: &[&str]) -> Result<String> {
        Ok(said(&mut self.exec(program, arguments))?.trim_end().to_owned())
    }

    /// Starts such a program, which answers line by line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn talk(&self, program: &str, arguments: &[&str]) -> Result<Talk> {
        Talk::start(&mut self.exec(program, arguments))
    }

    /// The command that runs such a program in its container.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> std::process::Command {
        let program = format!("/agents/{program}");
        self.runs(&[&["python3", "-u", &program], arguments].concat())
    }

    /// The command that runs any other.
    pub fn runs(&self, words: &[&str]) -> std::process::Command {
        let mut kubectl = self.space.kubectl(["exec", "--stdin", &self.pod, "--container=app", "--"]);
        kubectl.args(words);
        kubectl
    }

    /// What its app has printed.
    ///
    /// # Errors
    /// When it is gone.
    pub fn log(&self) -> Result<String> {
        said(&mut self.space.kubectl(["logs", &self.pod, "--container=app"]))
    }

    /// A field of its pod.
    ///
    /// # Errors
    /// When it is gone.
    pub fn field(&self, path: &str) -> Result<String> {
        self.space.field(&format!("pod/{}", self.pod), path)
    }

    /// How often its sidecar was started anew.
    ///
    /// # Errors
    /// When it has none.
    pub fn sidecar_restarts(&self) -> Result<usize> {
        self.field(&sidecar("restartCount"))?.parse().context("the sidecar has no restart count")
    }

    /// Kills its sidecar with a signal, as the kernel kills what has used up its memory.
    ///
    /// # Errors
    /// When it has none.
    pub fn kill_sidecar(&self) -> Result<()> {
        let id = self.field(&sidecar("containerID"))?;
        self.space.world.cluster().signal_container(&id, "SIGKILL")
    }

    /// Why the sidecar's container that was there before this one has ended, as Kubernetes has it.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn sidecar_ended_by(&self) -> Result<String> {
        self.field(&sidecar("lastState.terminated.reason"))
    }

    /// Asks for its pod's end, and does not wait for it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn delete(&self) -> Result<()> {
        said(&mut self.space.kubectl(["delete", "pod", &self.pod, "--wait=false"])).map(drop)
    }

    /// Ends its pod at once, as a node that dies does.
    ///
    /// # Errors
    /// When it is gone.
    pub fn kill(&self) -> Result<()> {
        said(&mut self.space.kubectl(["delete", "pod", &self.pod, "--force", "--grace-period=0"])).map(drop)
    }
}

fn sidecar(field: &str) -> String {
    format!("{{.status.initContainerStatuses[?(@.name=='kybernis-proxy')].{field}}}")
}

fn timeout() -> String {
    format!("--timeout={}s", PATIENCE.as_secs())
}
