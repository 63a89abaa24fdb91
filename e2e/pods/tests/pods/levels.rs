//! What the release's namespace says binds everybody, whatever a namespace's own people write; and what is not theirs to write.

use anyhow::{Result, ensure};
use kybernis_pods::{Agent, Space, Workload, World, said, soon, unheard_of};
use serde_json::{Value, json};

use crate::scenario::{Told, installed};

/// Whom the release's rules of this scenario are for.
const LEVELS: &str = "levels";

/// A namespace whose own objects do not hold, with and without ones that held before; the operator has started anew in between.
pub(crate) fn binding(world: &World) -> Result<Told> {
    installed(world)?;
    let (fresh, known) = (world.space("levels-fresh")?, world.space("levels-known")?);
    let start = |space| Space::start(space, &Workload::new(LEVELS, "idle.py", &[]));
    let (newcomer, trader) = (start(&fresh)?, start(&known)?);
    known.create(&denial("own-no-refunds", None, "/v1/refunds").to_string())?;
    known.wait("policy/own-no-refunds", "condition=Ready")?;
    for space in [&fresh, &known] {
        space.create(&dangling().to_string())?;
        space.wait("policy/dangling", "condition=Accepted=False")?;
    }
    said(&mut world.kubectl_system(["rollout", "restart", "deployment/kybernis-operator"]))?;
    said(&mut world.kubectl_system(["rollout", "status", "deployment/kybernis-operator", "--timeout=120s"]))?;
    let (orders, refunds) = (world.orders(), world.url("/v1/refunds"));
    let mut names = Vec::new();
    let mut hears = |agent: &Agent<'_>, url: &str| {
        names.push(unheard_of("levels"));
        agent.told("retrying.py", &[url, names.last().map_or("", String::as_str)])
    };
    ensure!(hears(&newcomer, &orders)?.starts_with("20") && hears(&trader, &orders)?.starts_with("20"), "nothing forbids orders yet");

    world.create_in_system(&denial("no-orders-anywhere", Some(LEVELS), "/v1/orders").to_string())?;
    let denied = soon("the release's rule has come to both", || {
        let both = [&newcomer, &trader].map(|agent| hears(agent, &orders));
        Ok(both.into_iter().collect::<Result<Vec<_>>>()?.iter().all(|heard| heard.starts_with("403 ")).then_some(()))
    });
    let own = hears(&trader, &refunds);
    said(&mut world.kubectl_system(["delete", "policy/no-orders-anywhere"]))?;
    let ((), own) = (denied?, own?);
    ensure!(own.starts_with("403 ") && own.contains("policy_denied"), "what held of the namespace's own is gone: {own}");
    let told = known.field("policy/own-no-refunds", "{.status.conditions[?(@.type=='Programmed')].message}")?;
    ensure!(told.contains("dangling does not hold"), "who is behind is not named: {told:?}");
    let placed = names.iter().map(|name| world.books().map(|books| books.of(name))).collect::<Result<Vec<_>>>()?;
    ensure!(placed.iter().all(|count| *count <= 1), "executed {placed:?}");
    not_theirs(world, &known)?;
    Ok(Told::new("the release denies what two namespaces with broken objects do; the operator has started anew", "0 once it was in force"))
}

/// A Policy against calls of one path; of the release's, for pods of one name.
fn denial(name: &str, app: Option<&str>, path: &str) -> Value {
    let selector = app.map_or_else(|| json!({}), |app| json!({"matchLabels": {"app": app}}));
    let rule = json!({
        "name": name,
        "match": {"hosts": ["broker.example.com:18080"], "methods": ["POST"]},
        "when": format!("request.path == '{path}'"),
        "verdict": "Deny",
    });
    json!({
        "apiVersion": "kybernis.io/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {"selector": selector, "rules": [rule]},
    })
}

/// One that names a tool which is not there.
fn dangling() -> Value {
    let rule = json!({"name": "nothing", "match": {"tools": ["not-there"]}, "verdict": "Deny"});
    json!({
        "apiVersion": "kybernis.io/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": "dangling"},
        "spec": {"selector": {}, "rules": [rule]},
    })
}

/// A namespace's administrator, and somebody who may make namespaces.
fn not_theirs(world: &World, space: &Space<'_>) -> Result<()> {
    let who = "mallory";
    let may = |role: &str, verbs: &str, resource: &str| {
        let (verbs, resource) = (format!("--verb={verbs}"), format!("--resource={resource}"));
        said(&mut world.kubectl(["create", "clusterrole", role, &verbs, &resource]))?;
        let (role, user) = (format!("--clusterrole={role}"), format!("--user={who}"));
        said(&mut world.kubectl(["create", "clusterrolebinding", &role[14..], &role, &user])).map(drop)
    };
    said(&mut world.kubectl(["delete", "clusterrole,clusterrolebinding", "levels-namespaces", "levels-maps", "--ignore-not-found"]))?;
    may("levels-namespaces", "create,get,update,patch", "namespaces")?;
    may("levels-maps", "create,get,update,patch", "configmaps")?;
    let impersonated = format!("--as={who}");
    let refused = |arguments: &[&str], words: &str| {
        let mut command = world.kubectl([&impersonated]);
        let output = command.args(arguments).output()?;
        let heard = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && heard.contains(words), "{arguments:?}: {heard}; not {words}");
        Ok(())
    };
    let name = space.name();
    refused(&["label", "namespace", name, "kybernis.io/tenant=trading"], "must be allowed the verb map on tenants.kybernis.io/trading")?;
    let immutable = ["patch", "configmap", "kybernis-trust", "--namespace", name, "--type=merge", "--patch", r#"{"immutable":true}"#];
    refused(&immutable, "Kybernis' operator keeps it")?;
    said(&mut world.kubectl(["label", "namespace", name, &format!("kybernis.io/tenant={name}")]))?;
    let again = world.kubectl(["label", "namespace", name, "kybernis.io/tenant=trading", "--overwrite"]).output()?;
    let heard = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && heard.contains("is set once"), "an administrator mapped it anew: {heard}");
    said(&mut world.kubectl(["delete", "clusterrole,clusterrolebinding", "levels-namespaces", "levels-maps"]))?;

    let misplaced = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "misplaced", "annotations": {"kybernis.io/inject": "true"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": {
            "metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "app", "image": "kybernis.test/agents:e2e"}]},
        }},
    });
    let made = space.try_create([], &misplaced.to_string())?;
    let heard = String::from_utf8_lossy(&made.stderr).into_owned();
    ensure!(made.status.success() && heard.contains("put it on the pod template, spec.template"), "no warning: {heard}");
    Ok(())
}
