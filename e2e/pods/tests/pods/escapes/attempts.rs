//! What is tried, and what stops it under Strict. Each succeeds from a pod that is not injected, or it would show nothing.

use kybernis_pods::SINKS;
use serde_json::{Value, json};

use super::stage::Side;

/// An attempt to bring something out of a pod past the sidecar.
pub(super) struct Attempt {
    /// In words, for the page.
    pub(super) what: &'static str,
    pub(super) how: How,
    /// What shows that it succeeded.
    pub(super) proof: Proof,
    /// Part of what is heard under Strict, for the page.
    pub(super) stopped: &'static str,
}

/// Who tries, and by which means.
pub(super) enum How {
    /// The agent's own code: a way of `escape.py`, in a running container that has every right that Strict leaves it.
    Code(&'static str),
    /// The same, and the broker's first answer to a refund goes wrong in this way.
    Loses(&'static str, &'static str),
    /// The same with the ledger's address in place of a token.
    Calls,
    /// A way while the sidecar is killed.
    WhileAway(&'static str),
    /// The first way, then the second once the sidecar has started anew.
    Before(&'static str, &'static str),
    /// Whoever writes the pod: with this changed, it goes a way of `escape.py` as it starts.
    Pod(fn(&mut Value, Side), &'static str),
    /// Whoever may debug it: an ephemeral container with these fields goes a way.
    Joins(fn(Side) -> Value, &'static str),
    /// Whoever may execute commands in it.
    Enters,
    /// Whoever may mint tokens of its ServiceAccount.
    Mints,
}

/// What shows that an attempt succeeded.
#[derive(Clone, Copy)]
pub(super) enum Proof {
    /// A sink in the world outside has its token.
    Sink,
    /// The broker has executed its order so often.
    Executed(usize),
    /// It has heard this.
    Heard(&'static str),
}

const fn code(what: &'static str, way: &'static str, stopped: &'static str) -> Attempt {
    Attempt { what, how: How::Code(way), proof: Proof::Sink, stopped }
}

const fn pod(what: &'static str, change: fn(&mut Value, Side), stopped: &'static str) -> Attempt {
    Attempt { what, how: How::Pod(change, "tcp"), proof: Proof::Sink, stopped }
}

const fn named(what: &'static str, change: fn(&mut Value, Side), stopped: &'static str) -> Attempt {
    Attempt { what, how: How::Pod(change, "as-named"), proof: Proof::Sink, stopped }
}

const fn joins(what: &'static str, fields: fn(Side) -> Value, stopped: &'static str) -> Attempt {
    Attempt { what, how: How::Joins(fields, "tcp"), proof: Proof::Sink, stopped }
}

/// In the order of the page. What spoils its pod for others stands last.
pub(super) const ATTEMPTS: [Attempt; 65] = [
    code("HTTP to a raw IPv4 address, by a plain socket", "tcp", "403 Forbidden"),
    code("the same over IPv6", "tcp6", "403 Forbidden"),
    code("the same to an IPv4 address written as IPv6", "mapped", "403 Forbidden"),
    code("the same by Multipath TCP", "mptcp", "403 Forbidden"),
    code("the same in the first packet (TCP Fast Open)", "fast-open", "403 Forbidden"),
    code("TCP that is no protocol anybody knows", "opaque", "closed without a word"),
    code("UDP over IPv4", "udp", "Operation not permitted"),
    code("UDP over IPv6", "udp6", "Operation not permitted"),
    code("UDP-Lite", "udplite", "Operation not permitted"),
    code("ICMP: an echo with a payload", "icmp", "Operation not permitted"),
    code("ICMPv6: the same", "icmp6", "timed out"),
    code("QUIC: HTTP/3 over IPv4", "quic", "operation not permitted"),
    code("QUIC: HTTP/3 over IPv6", "quic6", "operation not permitted"),
    code("a raw IP packet", "raw", "Operation not permitted"),
    code("an Ethernet frame", "frame", "Operation not permitted"),
    code("a question to a name server outside, over UDP", "dns", "NXDOMAIN"),
    code("the same over IPv6", "dns6", "NXDOMAIN"),
    code("the same over TCP", "dns-tcp", "NXDOMAIN"),
    code("a name that carries the secret, looked up in the usual way", "look-up", "Name or service not known"),
    code("a client that ignores proxy variables", "no-variables", "Name or service not known"),
    code("a process with variables of its own (NO_PROXY=*)", "other-variables", "Could not resolve host"),
    code("a connection to one host in the name of another, which is permitted", "another-name", "421 Misdirected Request"),
    code("CONNECT on the sidecar's own port", "proxy", "403 Forbidden"),
    code("setuid to the sidecar's user", "setuid", "Operation not permitted"),
    code("the sidecar's user, in a user namespace", "user-namespace", "403 Forbidden"),
    Attempt {
        what: "the port of a connection that the far side has reset, taken over",
        how: How::Loses("taken-port", r#"{"half_answer": {"end": "reset"}}"#),
        proof: Proof::Executed(1),
        stopped: "No route to host",
    },
    Attempt { what: "TCP while the sidecar is away", how: How::WhileAway("while-away"), proof: Proof::Sink, stopped: "Connection refused" },
    Attempt {
        what: "the ledger, called directly",
        how: How::Calls,
        proof: Proof::Heard("it answered in HTTP/2"),
        stopped: "403 Forbidden",
    },
    Attempt {
        what: "one more root among those that clients trust",
        how: How::Code("bundle"),
        proof: Proof::Heard("written"),
        stopped: "Read-only file system",
    },
    Attempt {
        what: "an approval of its own gate, by the local API and by its ServiceAccount",
        how: How::Code("approve"),
        proof: Proof::Executed(1),
        stopped: "403 forbidden; decides no gate: it is a ServiceAccount",
    },
    Attempt {
        what: "a resolution of its own doubt, by the same",
        how: How::Loses("settle", r#""reset""#),
        proof: Proof::Executed(2),
        stopped: "403 forbidden; decides no gate: it is a ServiceAccount",
    },
    pod(
        "the sidecar's uid for the container",
        |pod, _| app(pod)["securityContext"]["runAsUser"] = json!(7400),
        "would run as 7400, the user of the sidecar",
    ),
    pod("the sidecar's uid for the pod", by_pod_user, "would run as 7400, the user of the sidecar"),
    pod("no user said, so that the image's decides", |pod, side| unset(pod, side, "runAsUser"), "does not say as which user it runs"),
    pod(
        "privilege escalation not forbidden",
        |pod, side| unset(pod, side, "allowPrivilegeEscalation"),
        "forbids the container app to gain privileges",
    ),
    pod(
        "privileged",
        |pod, _| app(pod)["securityContext"] = json!({"privileged": true, "runAsUser": 0}),
        "forbids the container app to be privileged",
    ),
    pod(
        "NET_ADMIN",
        |pod, _| app(pod)["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]),
        "forbids the container app to add NET_ADMIN",
    ),
    pod(
        "BPF and SYS_ADMIN",
        |pod, _| app(pod)["securityContext"]["capabilities"]["add"] = json!(["BPF", "SYS_ADMIN"]),
        "forbids the container app to add BPF and SYS_ADMIN",
    ),
    pod(
        "NET_RAW and SETUID kept",
        |pod, _| app(pod)["securityContext"]["capabilities"]["drop"] = json!(["SETGID"]),
        "the container app must drop",
    ),
    pod("the node's network", |pod, _| pod["spec"]["hostNetwork"] = json!(true), "its node's network is not the pod's own to govern"),
    pod("the node's processes", |pod, _| pod["spec"]["hostPID"] = json!(true), "gives the containers its node's processes"),
    pod(
        "one view of processes for all containers",
        |pod, _| pod["spec"]["shareProcessNamespace"] = json!(true),
        "gives the containers one view of processes",
    ),
    pod("a folder of the node", node_folder, "the volume node is a folder of the node"),
    pod(
        "no sidecar wanted: the annotation says false",
        |pod, _| pod["metadata"]["annotations"]["kybernis.io/inject"] = json!("false"),
        "a pod cannot opt out of the namespace",
    ),
    pod(
        "a port left out of the redirection",
        |pod, _| pod["metadata"]["annotations"]["kybernis.io/skip-outbound-ports"] = json!("80"),
        "under Strict nothing leave",
    ),
    pod("the volume with the CA's key", |pod, _| volume(pod, "kybernis-state"), "mounts kybernis-state, a volume of Kybernis"),
    pod("the volume with the sidecar's token", |pod, _| volume(pod, "kybernis-token"), "mounts kybernis-token, a volume of Kybernis"),
    pod(
        "the volume with what the ledger was not told yet",
        |pod, _| volume(pod, "kybernis-spool"),
        "mounts kybernis-spool, a volume of Kybernis",
    ),
    pod("variables of the sidecar's, overridden", |pod, _| variable(pod, "HTTP_PROXY", ""), "sets HTTP_PROXY to another value"),
    pod("KYB_ variables, overridden", |pod, _| variable(pod, "KYB_AGENT", "somebody-else"), "sets KYB_AGENT to another value"),
    pod("an init container that runs first", first, "403 Forbidden"),
    pod("a container that passes for the sidecar", passes_for_the_sidecar, "kybernis-proxy is a name of Kybernis' own"),
    named("names of the pod's own, which lead elsewhere", host_aliases, "says where names lead, the sidecar's among them"),
    named("name servers of the pod's own", name_servers, "says where names lead, the sidecar's among them"),
    named("search domains of the pod's own", searches, "says where names lead, the sidecar's among them"),
    pod("another pod of the same ServiceAccount, with a token for the ledger", audience, "ledger.kybernis.io is the ledger's audience"),
    Attempt {
        what: "a token for the ledger, minted",
        how: How::Mints,
        proof: Proof::Heard("eyJ"),
        stopped: "only kubelets get tokens for ledger.kybernis.io",
    },
    Attempt {
        what: "kubectl exec into the sidecar",
        how: How::Enters,
        proof: Proof::Sink,
        stopped: "nobody enters the container kybernis-proxy",
    },
    joins("an ephemeral container with the sidecar's uid", |_| user(7400), "does not run as the sidecar's user"),
    joins(
        "one that is privileged",
        |_| json!({"securityContext": {"privileged": true, "runAsUser": 0}}),
        "sets runAsUser and allowPrivilegeEscalation: false",
    ),
    joins("one that sees the sidecar's processes", sees, "does not share the sidecar's processes"),
    joins("one that mounts the volume with the sidecar's token", mounts, "mounts no volume of Kybernis"),
    joins("one as Strict wants it", |_| user(1000), "403 Forbidden"),
    Attempt {
        what: "/etc/hosts, changed by the agent; then the sidecar starts anew",
        how: How::Before("hosts-file", "as-named"),
        proof: Proof::Sink,
        stopped: "502: Bad Gateway",
    },
    Attempt {
        what: "/etc/resolv.conf, the same way",
        how: How::Before("name-servers", "as-named"),
        proof: Proof::Sink,
        stopped: "502: Bad Gateway",
    },
];

/// The one container that the attempt is made in.
fn app(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["containers"][0]
}

fn unset(pod: &mut Value, side: Side, field: &str) {
    // A pod that is not injected says none of it anyway.
    if side == Side::Strict
        && let Some(security) = app(pod)["securityContext"].as_object_mut()
    {
        security.remove(field);
    }
}

fn by_pod_user(pod: &mut Value, side: Side) {
    unset(pod, side, "runAsUser");
    pod["spec"]["securityContext"] = json!({"runAsUser": 7400});
}

/// One more of a list, or its first.
pub(super) fn add(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

fn node_folder(pod: &mut Value, _: Side) {
    add(&mut pod["spec"]["volumes"], json!({"name": "node", "hostPath": {"path": "/proc", "type": "Directory"}}));
    add(&mut app(pod)["volumeMounts"], json!({"name": "node", "mountPath": "/node", "readOnly": true}));
}

/// A volume by the name of one of the sidecar's.
fn volume(pod: &mut Value, name: &str) {
    add(&mut pod["spec"]["volumes"], json!({"name": name, "emptyDir": {}}));
    add(&mut app(pod)["volumeMounts"], json!({"name": name, "mountPath": "/theirs"}));
}

fn variable(pod: &mut Value, name: &str, value: &str) {
    add(&mut app(pod)["env"], json!({"name": name, "value": value}));
}

/// The attempt is made by an init container, which stands before all others as it was written.
fn first(pod: &mut Value, _: Side) {
    let mut early = app(pod).clone();
    early["name"] = json!("early");
    app(pod)["command"] = json!(["true"]);
    pod["spec"]["initContainers"] = json!([early]);
}

fn passes_for_the_sidecar(pod: &mut Value, side: Side) {
    let mut like = app(pod).clone();
    like["name"] = json!(if side == Side::Strict { "kybernis-proxy" } else { "proxy" });
    app(pod)["command"] = json!(["true"]);
    pod["spec"]["initContainers"] = json!([like]);
}

fn host_aliases(pod: &mut Value, _: Side) {
    pod["spec"]["hostAliases"] = json!([{"ip": SINKS, "hostnames": ["broker.example.com"]}]);
}

fn name_servers(pod: &mut Value, _: Side) {
    pod["spec"]["dnsPolicy"] = json!("None");
    pod["spec"]["dnsConfig"] = json!({"nameservers": [SINKS]});
}

fn searches(pod: &mut Value, _: Side) {
    pod["spec"]["dnsConfig"] = json!({"searches": ["drop.example.net"]});
}

/// Beside the sidecar's own; without one, any other audience does.
fn audience(pod: &mut Value, side: Side) {
    let source = json!({"serviceAccountToken": {"path": "token", "audience": side.audience()}});
    add(&mut pod["spec"]["volumes"], json!({"name": "mine", "projected": {"sources": [source]}}));
    add(&mut app(pod)["volumeMounts"], json!({"name": "mine", "mountPath": "/mine"}));
}

fn user(uid: u32) -> Value {
    let drop = json!({"drop": ["ALL"]});
    json!({"securityContext": {"runAsUser": uid, "allowPrivilegeEscalation": false, "capabilities": drop}})
}

fn sees(side: Side) -> Value {
    let mut fields = user(1000);
    fields["targetContainerName"] = json!(side.other_container());
    fields
}

fn mounts(side: Side) -> Value {
    let mut fields = user(1000);
    fields["volumeMounts"] = json!([{"name": side.other_volume(), "mountPath": "/theirs"}]);
    fields
}
