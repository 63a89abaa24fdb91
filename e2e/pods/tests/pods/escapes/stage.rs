//! Where attempts are made: a namespace without sidecars, and one where every pod has one and is captured strictly. In each a pod whose
//! code goes one way after the other.

use std::process::Output;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use kybernis_cluster::AGENTS_IMAGE;
use kybernis_pods::{Agent, Space, Workload, World, give, objects, said, soon, unheard_of};
use serde_json::{Value, json};

use super::attempts::{Attempt, How, Proof, add};

/// The pod that code runs in.
const ATTACKER: &str = "attacker";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Bare,
    Strict,
}

impl Side {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Strict => "strict",
        }
    }

    /// A token for whom is worth having.
    pub(super) const fn audience(self) -> &'static str {
        match self {
            Self::Bare => "vault.example.com",
            Self::Strict => "ledger.kybernis.io",
        }
    }

    /// A container beside one's own.
    pub(super) const fn other_container(self) -> &'static str {
        match self {
            Self::Bare => "app",
            Self::Strict => "kybernis-proxy",
        }
    }

    /// A volume that is not one's own.
    pub(super) const fn other_volume(self) -> &'static str {
        match self {
            Self::Bare => "roots",
            Self::Strict => "kybernis-token",
        }
    }
}

/// What became of an attempt.
pub(super) struct Became {
    pub(super) escaped: bool,
    pub(super) heard: String,
}

/// One side.
pub(super) struct Stage<'w> {
    world: &'w World,
    space: Space<'w>,
    side: Side,
}

impl<'w> Stage<'w> {
    pub(super) fn set(world: &'w World, side: Side) -> Result<Self> {
        let space = world.space(&format!("escapes-{}", side.name()))?;
        let stage = Self { world, space, side };
        if side == Side::Strict {
            said(&mut world.kubectl(["label", "namespace", stage.space.name(), "kybernis.io/inject=enforced"]))?;
        }
        said(stage.space.kubectl(["create", "--filename"]).arg(objects().join("escapes.yaml")))?;
        if side == Side::Strict {
            // In force for whoever comes, once the ledger has it.
            stage.space.wait("policy/allow-list", "condition=Ready")?;
        }
        stage.start(ATTACKER)?;
        Ok(stage)
    }

    /// A pod in which nothing happens until somebody goes a way.
    fn start(&self, name: &str) -> Result<Agent<'_>> {
        self.space.create(&self.pod(name, "idle.py", &[]).to_string())?;
        self.space.wait(&format!("pod/{name}"), "condition=Ready")?;
        Ok(self.space.pod(name))
    }

    /// With every right that Strict leaves it, or that a pod has that says nothing. The namespace decides who gets a sidecar.
    fn pod(&self, name: &str, program: &str, arguments: &[&str]) -> Value {
        let mut pod = Workload::new(name, program, arguments).bare().alone();
        pod["spec"]["restartPolicy"] = json!("Never");
        let container = &mut pod["spec"]["containers"][0];
        match self.side {
            Side::Bare => {
                container["securityContext"] = json!({});
                add(&mut container["volumeMounts"], json!({"name": "roots", "mountPath": "/var/run/kybernis"}));
                add(&mut pod["spec"]["volumes"], json!({"name": "roots", "emptyDir": {}}));
            }
            Side::Strict => {
                container["securityContext"] = json!({
                    "runAsUser": 0,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["SETUID", "SETGID", "NET_RAW", "NET_ADMIN", "SYS_PTRACE"]},
                });
                pod["metadata"]["annotations"]["kybernis.io/capture"] = json!("Strict");
            }
        }
        pod
    }

    /// Makes the attempt, and looks what came of it.
    pub(super) fn attempt(&self, number: usize, attempt: &Attempt) -> Result<Became> {
        let token = unheard_of(&format!("escape-{number}-{}", self.side.name()));
        let heard = self.tried(number, attempt, &token)?;
        let escaped = match attempt.proof {
            Proof::Heard(words) => heard.contains(words),
            Proof::Executed(times) => self.world.books()?.of(&token) >= times,
            Proof::Sink if self.side == Side::Bare => {
                soon(&format!("the world outside has heard of {:?}", attempt.what), || Ok(self.arrived(&token)?.then_some(true)))
                    .with_context(|| format!("{heard:?}"))?
            }
            Proof::Sink => self.arrived(&token)?,
        };
        Ok(Became { escaped, heard })
    }

    fn tried(&self, number: usize, attempt: &Attempt, token: &str) -> Result<String> {
        match attempt.how {
            How::Loses(way, fault) => {
                // It must be this one's.
                static ONE: Mutex<()> = Mutex::new(());
                let _one = ONE.lock();
                self.world.fault("/v1/refunds", serde_json::from_str(fault)?)?;
                self.go(ATTACKER, way, token)
            }
            How::Code(way) => self.go(ATTACKER, way, token),
            How::Calls => {
                let address = ["get", "service", "kybernis-ledger", "--output=jsonpath={.spec.clusterIP}"];
                self.go(ATTACKER, "ledger", &said(&mut self.world.kubectl_system(address))?)
            }
            How::WhileAway(way) => {
                let attacker = self.space.pod(ATTACKER);
                let mut trying = attacker.talk("escape.py", &[way, token])?;
                let begun = trying.hear()?;
                if self.side == Side::Strict {
                    attacker.kill_sidecar()?;
                }
                self.sidecar_is_back(ATTACKER)?;
                Ok(format!("{begun}: {}", trying.ask("enough")?))
            }
            How::Before(first, then) => {
                let name = format!("spoiled-{number}");
                let pod = self.start(&name)?;
                self.go(&name, first, token)?;
                if self.side == Side::Strict {
                    pod.kill_sidecar()?;
                    self.sidecar_is_back(&name)?;
                }
                self.go(&name, then, token)
            }
            How::Pod(change, way) => {
                let name = format!("pod-{number}");
                let mut pod = self.pod(&name, "escape.py", &[way, token]);
                change(&mut pod, self.side);
                let made = self.space.try_create([], &pod.to_string())?;
                if made.status.success() { self.ended(&name) } else { Ok(words(&made)) }
            }
            How::Joins(fields, way) => self.joined(&format!("joins-{number}"), &fields(self.side), way, token),
            How::Enters => {
                let container = format!("--container={}", self.side.other_container());
                let program = ["python3", "/agents/escape.py", "tcp", token];
                give(self.space.kubectl(["exec", ATTACKER, &container, "--"]).args(program), "").map(|output| words(&output))
            }
            How::Mints => {
                let audience = format!("--audience={}", self.side.audience());
                give(&mut self.space.kubectl(["create", "token", "default", &audience]), "").map(|output| words(&output))
            }
        }
    }

    /// Goes a way in a running container.
    fn go(&self, pod: &str, way: &str, token: &str) -> Result<String> {
        let output = give(&mut self.space.pod(pod).exec("escape.py", &[way, token]), "")?;
        Ok(words(&output))
    }

    fn sidecar_is_back(&self, pod: &str) -> Result<()> {
        match self.side {
            Side::Bare => Ok(()),
            Side::Strict => soon("the sidecar has started anew", || Ok((self.space.pod(pod).sidecar_restarts()? > 0).then_some(())))
                .and_then(|()| self.space.wait(&format!("pod/{pod}"), "condition=Ready")),
        }
    }

    /// What a pod has printed that was made to go a way, once it has ended.
    fn ended(&self, name: &str) -> Result<String> {
        soon(&format!("{name} has ended"), || {
            let phase = self.space.pod(name).field("{.status.phase}")?;
            Ok(matches!(phase.as_str(), "Succeeded" | "Failed").then_some(()))
        })?;
        let containers = self.space.pod(name).field("{.spec.initContainers[*].name} {.spec.containers[*].name}")?;
        let own = containers.split_whitespace().filter(|name| !name.starts_with("kybernis-"));
        let logs = own.map(|container| said(&mut self.space.kubectl(["logs", name, &format!("--container={container}")])));
        Ok(logs.collect::<Result<Vec<_>>>()?.concat().trim().to_owned())
    }

    /// An ephemeral container in the running pod.
    fn joined(&self, name: &str, fields: &Value, way: &str, token: &str) -> Result<String> {
        let mut container = json!({
            "name": name,
            "image": AGENTS_IMAGE,
            "imagePullPolicy": "Never",
            "command": ["python3", "-u", "/agents/escape.py", way, token],
            "volumeMounts": [],
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        if let Some(mounts) = container["volumeMounts"].as_array_mut() {
            mounts.push(json!({"name": "agents", "mountPath": "/agents"}));
        }
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        let patch = format!("--patch={patch}");
        let joined = give(&mut self.space.kubectl(["patch", "pod", ATTACKER, "--subresource=ephemeralcontainers", &patch]), "")?;
        if !joined.status.success() {
            return Ok(words(&joined));
        }
        soon(&format!("{name} has ended"), || {
            let path = format!("{{.status.ephemeralContainerStatuses[?(@.name=='{name}')].state.terminated.exitCode}}");
            Ok((!self.space.pod(ATTACKER).field(&path)?.is_empty()).then_some(()))
        })?;
        Ok(said(&mut self.space.kubectl(["logs", ATTACKER, &format!("--container={name}")]))?.trim().to_owned())
    }

    fn arrived(&self, token: &str) -> Result<bool> {
        Ok(self.world.arrived()?.iter().any(|arrived| arrived == token))
    }

    /// Once more at the end: nothing has come late either.
    pub(super) fn end(&self) -> Result<()> {
        let mark = format!("-{}-", self.side.name());
        let arrived: Vec<String> = self.world.arrived()?.into_iter().filter(|token| token.contains(&mark)).collect();
        ensure!(self.side == Side::Bare || arrived.is_empty(), "the world outside has heard {arrived:?}");
        Ok(())
    }
}

/// Everything that a command said, on one line.
fn words(output: &Output) -> String {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}
