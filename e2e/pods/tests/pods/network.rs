//! The chart's NetworkPolicies, enforced: who gets through which door, by the table in docs/kubernetes.md, and that all of it still works.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Result, ensure};
use kybernis_cluster::{AGENTS_IMAGE, Cluster};
use kybernis_pods::{Agent, OUTSIDE, Release, Space, Workload, World, said, soon, unheard_of};
use serde_json::{Value, json};

use crate::scenario::{Told, installed};

/// Listens, and tries; see there.
const DOORS: &str = include_str!("../agents/doors.py");
/// Of every pod here, for nobody.
const OTHER: u16 = 9000;
/// The pods that stand where those of the release stand: with the labels that policies look at, and the ports by their names.
const STAND_INS: [(&str, &[(&str, u16)]); 3] = [
    ("ledger", &[("grpc", 7443), ("api", 7481), ("admin", 7490), ("other", OTHER)]),
    ("operator", &[("admin", 7490), ("other", OTHER)]),
    ("webhook", &[("https", 8443), ("admin", 7490), ("other", OTHER)]),
];

/// From a pod of another namespace, from the world outside and from those of the release: where to, and whether it is open. `api` and
/// `names` are the API server and the name server.
const TABLE: [(&str, &str, u16, bool); 33] = [
    ("elsewhere", "ledger", 7443, true),
    ("elsewhere", "ledger", 7481, true),
    ("elsewhere", "ledger", 7490, true),
    ("elsewhere", "ledger", OTHER, false),
    ("elsewhere", "operator", 7490, true),
    ("elsewhere", "operator", OTHER, false),
    ("elsewhere", "webhook", 8443, true),
    ("elsewhere", "webhook", 7490, true),
    ("elsewhere", "webhook", OTHER, false),
    ("outside", "ledger", 7443, false),
    ("outside", "ledger", 7481, true),
    ("outside", "ledger", 7490, false),
    ("outside", "ledger", OTHER, false),
    ("outside", "operator", 7490, false),
    ("outside", "operator", OTHER, false),
    ("outside", "webhook", 8443, true),
    ("outside", "webhook", 7490, false),
    ("outside", "webhook", OTHER, false),
    ("ledger", "names", 53, true),
    ("ledger", "api", 443, true),
    ("ledger", "operator", 7490, false),
    ("ledger", "elsewhere", OTHER, false),
    ("ledger", "outside", 18080, false),
    ("operator", "names", 53, true),
    ("operator", "api", 443, true),
    ("operator", "ledger", 7443, true),
    ("operator", "ledger", 7490, false),
    ("operator", "elsewhere", OTHER, false),
    ("operator", "outside", 18080, false),
    ("webhook", "names", 53, true),
    ("webhook", "api", 443, true),
    ("webhook", "ledger", 7443, false),
    ("webhook", "outside", 18080, false),
];

pub(crate) fn closed(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("network")?;
    // Left by a run that was cut short, too.
    let clear =
        || said(&mut world.kubectl_system(["delete", "pods", "--selector=stand-in", "--ignore-not-found", "--grace-period=0", "--force"]));
    clear()?;
    let checked = Street::lay(world, &space).and_then(|street| guarded(&street));
    // The scenarios after this one have neither policies nor stand-ins.
    let (cleared, installed) = (clear(), world.install(Release::Today));
    let told = checked?;
    cleared?;
    installed?;
    let order = unheard_of("network");
    let after = space.start(&Workload::new("trader", "idle.py", &[]))?.told("order.py", &[&world.orders(), &order])?;
    ensure!(after == "201", "without the policies again: {after}");
    Ok(Told::new("networkPolicy.enabled, everything started anew under it, an agent that starts and orders", told))
}

/// Tries every door before and after the policies are in force, and has an agent work after.
fn guarded(street: &Street<'_>) -> Result<String> {
    let world = street.world;
    soon("every door is open", || street.differs(|_| true).map(Some))?;
    let enforced = if Cluster::existing()?.is_some() { None } else { Some(world.cluster().enforce_network_policies()?) };
    soon("every door is open while there are no policies", || street.differs(|_| true).map(Some))?;
    let annotations = ["ledger", "operator", "webhook"].map(|component| format!("{component}.podAnnotations.network=closed"));
    let values: Vec<&str> = ["networkPolicy.enabled=true"].into_iter().chain(annotations.iter().map(String::as_str)).collect();
    world.install_with(Release::Today, &values)?;
    let policies = said(&mut world.kubectl_system(["get", "networkpolicies", "--output=name"]))?;
    ensure!(policies.lines().count() == 3, "the release has the policies {policies}");

    let space = world.space("network-agent")?;
    let order = unheard_of("guarded");
    let heard = space.start(&Workload::new("trader", "idle.py", &[]))?.told("order.py", &[&world.orders(), &order])?;
    let executed = world.books()?.of(&order);
    ensure!(heard == "201" && executed == 1, "behind the policies the agent heard {heard}; executed {executed} times");
    if enforced.is_none() {
        return Ok("1 of 1; whether the cluster enforces the policies is not looked at".to_owned());
    }
    soon("the doors are as the table says", || street.differs(|is_open| is_open).map(Some))?;
    let closed = TABLE.iter().filter(|(.., is_open)| !is_open).count();
    Ok(format!("1 of 1; {closed} of {} doors closed, all of them open before", TABLE.len()))
}

/// Everybody who tries, and where they are.
struct Street<'a> {
    world: &'a World,
    space: &'a Space<'a>,
    elsewhere: Agent<'a>,
    addresses: BTreeMap<&'static str, String>,
}

impl<'a> Street<'a> {
    fn lay(world: &'a World, space: &'a Space<'a>) -> Result<Self> {
        let elsewhere = space.start(&Workload::new("elsewhere", "doors.py", &["serve", "9000"]).bare())?;
        space.create(&outside().to_string())?;
        space.wait("pod/outside", "condition=Ready")?;
        let mut addresses = BTreeMap::from([("outside", OUTSIDE.to_owned()), ("names", OUTSIDE.to_owned())]);
        addresses.insert("elsewhere", elsewhere.field("{.status.podIP}")?);
        let api = said(&mut world.kubectl(["get", "service/kubernetes", "--namespace=default", "--output=jsonpath={.spec.clusterIP}"]))?;
        addresses.insert("api", api);
        for (component, ports) in STAND_INS {
            let pod = format!("pod/stand-in-{component}");
            world.create_in_system(&stand_in(component, ports).to_string())?;
            said(&mut world.kubectl_system(["wait", &pod, "--for=jsonpath={.status.phase}=Running", "--timeout=120s"]))?;
            addresses.insert(component, said(&mut world.kubectl_system(["get", &pod, "--output=jsonpath={.status.podIP}"]))?);
        }
        Ok(Self { world, space, elsewhere, addresses })
    }

    /// Fails with the doors that are not as they must be, by what the table says of them.
    fn differs(&self, must: impl Fn(bool) -> bool) -> Result<()> {
        let mut wrong = Vec::new();
        for from in ["elsewhere", "outside", "ledger", "operator", "webhook"] {
            let rows: Vec<_> = TABLE.iter().filter(|row| row.0 == from).collect();
            let doors: Vec<String> = rows.iter().map(|(_, to, port, _)| format!("{}:{port}", self.addresses[to])).collect();
            let told = self.tries(from, &doors)?;
            for ((_, to, port, is_open), (door, said)) in rows.into_iter().zip(doors.iter().zip(told.lines())) {
                let wanted = format!("{door} {}", if must(*is_open) { "open" } else { "closed" });
                if said != wanted {
                    wrong.push(format!("{from} to {to}:{port}: {said}, not {wanted}"));
                }
            }
            ensure!(told.lines().count() == doors.len(), "{from} tried {doors:?} and told: {told}");
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }

    fn tries(&self, from: &str, doors: &[String]) -> Result<String> {
        let doors: Vec<&str> = ["try"].into_iter().chain(doors.iter().map(String::as_str)).collect();
        let script =
            |mut command: Command| said(command.args(["python3", "-c", DOORS]).args(&doors)).map(|told| told.trim_end().to_owned());
        match from {
            "elsewhere" => self.elsewhere.told("doors.py", &doors),
            "outside" => script(self.space.kubectl(["exec", "outside", "--"])),
            component => script(self.world.kubectl_system(["exec", &format!("stand-in-{component}"), "--"])),
        }
    }
}

/// With the node's address, as whatever comes from outside; not as root, whose connections are the node's own and kept out by no policy.
fn outside() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "outside"},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 65534},
            "containers": [{"name": "app", "image": AGENTS_IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}],
        },
    })
}

/// Never ready, so that no Service leads to it.
fn stand_in(component: &str, ports: &[(&str, u16)]) -> Value {
    let labels = json!({
        "stand-in": component,
        "app.kubernetes.io/name": "kybernis",
        "app.kubernetes.io/instance": "kybernis",
        "app.kubernetes.io/component": component,
    });
    let numbers = ports.iter().map(|(_, port)| port.to_string());
    let command: Vec<String> = ["python3", "-u", "-c", DOORS, "serve"].map(str::to_owned).into_iter().chain(numbers).collect();
    let ports: Vec<Value> = ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("stand-in-{component}"), "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "readinessGates": [{"conditionType": "kybernis.test/never"}],
            "containers": [{"name": "app", "image": AGENTS_IMAGE, "imagePullPolicy": "Never", "command": command, "ports": ports}],
        },
    })
}
