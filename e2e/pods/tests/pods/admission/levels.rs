//! Pod Security's levels: in which of them each way to catch connections is let in, and that ours hold to the strictest.

use anyhow::{Result, bail, ensure};
use kybernis_cluster::AGENTS_IMAGE;
use kybernis_pods::{Agent, Space, World, said, soon, unheard_of};
use serde_json::{Value, json};

use super::{Answer, Run, submit};
use crate::scenario::{Told, installed};

const LEVEL: &str = "pod-security.kubernetes.io/enforce";
/// The level, and the modes that are let in.
const LEVELS: [(&str, &[&str]); 3] =
    [("restricted", &["Cooperative"]), ("baseline", &["Cooperative"]), ("privileged", &["Cooperative", "Redirect", "Strict"])];
const MODES: [&str; 3] = ["Cooperative", "Redirect", "Strict"];

pub(crate) fn pod_security(world: &World) -> Result<Told> {
    installed(world)?;
    let (mut refused, mut ran) = (0, Vec::new());
    for (level, let_in) in LEVELS {
        let space = world.space(&format!("level-{level}"))?;
        space.wait("serviceaccount/default", "create")?;
        said(&mut world.kubectl(["label", "namespace", space.name(), &format!("{LEVEL}={level}")]))?;
        if level != "privileged" {
            is_in_force(world, &space, level)?;
        }
        for mode in MODES {
            match (let_in.contains(&mode), submit(world, space.name(), &agent(mode), Run::Real)?) {
                (true, Answer::Taken { .. }) => {}
                (false, Answer::Refused(why)) => {
                    let words = words(mode, level, space.name());
                    ensure!(why.contains(&words), "{mode} in {level} is refused by other words: {why}");
                    refused += 1;
                }
                (_, answer) => bail!("{mode} in {level}: {answer:?}"),
            }
        }
        for mode in let_in {
            let name = mode.to_lowercase();
            space.wait(&format!("pod/{name}"), "condition=Ready")?;
            places_one_order(world, &space.pod(&name), mode)?;
            ran.push(format!("{mode} in {level}"));
        }
    }
    let ours = own_pods(world)?;
    let placed = ran.len() + 1;
    let told = format!(
        "{placed} of {placed} once; {} ran ({}), {refused} refused by name; {ours} of our own pods Ready again",
        ran.len(),
        ran.join(", ")
    );
    let done = "each way to catch connections under each level; our own pods deleted in a namespace that enforces `restricted`";
    Ok(Told::new(done, told))
}

/// Ours are made anew where nothing but `restricted` is let in, and work.
fn own_pods(world: &World) -> Result<usize> {
    let namespace = said(&mut world.kubectl_system(["get", "deployment/kybernis-webhook", "--output=jsonpath={.metadata.namespace}"]))?;
    said(&mut world.kubectl(["label", "namespace", &namespace, &format!("{LEVEL}=restricted"), "--overwrite"]))?;
    let made = made_anew(world);
    // The label goes whatever became of them: it is not this release's.
    said(&mut world.kubectl(["label", "namespace", &namespace, &format!("{LEVEL}-")]))?;
    let made = made?;
    let space = world.space("level-own")?;
    space.wait("serviceaccount/default", "create")?;
    ensure!(matches!(submit(world, space.name(), &agent("Cooperative"), Run::Real)?, Answer::Taken { .. }), "an agent is refused");
    space.wait("pod/cooperative", "condition=Ready")?;
    places_one_order(world, &space.pod("cooperative"), "Cooperative")?;
    Ok(made)
}

fn made_anew(world: &World) -> Result<usize> {
    // Not what a test of the release has left.
    let running = "--field-selector=status.phase=Running";
    let ours = |path: &str| said(&mut world.kubectl_system(["get", "pods", running, &format!("--output=jsonpath={{{path}}}")]));
    let before = ours(".items[*].metadata.uid")?;
    let count = before.split_whitespace().count();
    said(&mut world.kubectl_system(["delete", "pods", running, "--timeout=120s"]))?;
    soon("all of ours are Ready again", || {
        let after = ours(".items[*].metadata.uid")?;
        ensure!(!after.split_whitespace().any(|uid| before.contains(uid)), "an old one is still there");
        let ready = ours(".items[*].status.conditions[?(@.type=='Ready')].status")?;
        Ok((ready.split_whitespace().filter(|status| *status == "True").count() == count).then_some(()))
    })?;
    Ok(count)
}

/// The API server itself refuses what the redirection needs: our words only come before its own.
fn is_in_force(world: &World, space: &Space<'_>, level: &str) -> Result<()> {
    let mut pod = agent("Cooperative");
    pod["metadata"] = json!({"name": "bare"});
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
    let words = format!("violates PodSecurity \"{level}:");
    soon("the level is in force", || match submit(world, space.name(), &pod, Run::Dry)? {
        Answer::Refused(why) if why.contains(&words) && why.contains("NET_ADMIN") => Ok(Some(())),
        answer => bail!("{answer:?}"),
    })
}

fn words(mode: &str, level: &str, namespace: &str) -> String {
    format!(
        "{mode} needs an init container that runs as root with NET_ADMIN, which the Pod Security level \"{level}\" of the namespace \
         {namespace} forbids. Set kybernis.io/capture: Cooperative, which needs no privilege and catches clients that honour proxy \
         variables, or label the namespace {LEVEL}=privileged."
    )
}

/// The mode is what was asked for, and a call through it arrives once.
fn places_one_order(world: &World, agent: &Agent<'_>, mode: &str) -> Result<()> {
    let runs = agent.field("{.spec.initContainers[?(@.name=='kybernis-proxy')].env[?(@.name=='KYBERNIS_CAPTURE')].value}")?;
    ensure!(runs == mode.to_lowercase(), "asked for {mode}, the sidecar runs as {runs}");
    let redirects = !agent.field("{.spec.initContainers[?(@.name=='kybernis-capture')].name}")?.is_empty();
    ensure!(redirects == (mode != "Cooperative"), "{mode}: redirected is {redirects}");
    let order = unheard_of(&mode.to_lowercase());
    let heard = agent.told("order.py", &[&world.orders(), &order])?;
    let executed = world.books()?.of(&order);
    ensure!(heard == "201" && executed == 1, "{mode}: heard {heard}, executed {executed} times");
    Ok(())
}

/// A pod that `restricted` and Strict take.
fn agent(mode: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": mode.to_lowercase(),
            "annotations": {"kybernis.io/inject": "true", "kybernis.io/capture": mode},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app",
                "image": AGENTS_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["python3", "-u", "/agents/idle.py"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "agents", "mountPath": "/agents"}],
            }],
            "volumes": [{"name": "agents", "configMap": {"name": "agents"}}],
        },
    })
}
