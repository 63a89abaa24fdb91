//! `kubectl kyb` as `kubectl` starts it, against an API server that says what a case wants, over a real socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A call: method, path with query, body.
type Call = (String, String, Value);
/// What a case answers: status and body; a string is sent as it is.
type Answer = Box<dyn Fn(&Call) -> (u16, Value) + Send + Sync>;

/// An API server and a kubeconfig that names it.
struct Cluster {
    folder: TempDir,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Cluster {
    fn new(answer: impl Fn(&Call) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = Self::at(&listener.local_addr().unwrap().to_string());
        let (calls, answer): (_, Arc<Answer>) = (Arc::clone(&cluster.calls), Arc::new(Box::new(answer)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (calls, answer) = (Arc::clone(&calls), Arc::clone(&answer));
                thread::spawn(move || serve(&stream, &calls, &answer));
            }
        });
        cluster
    }

    /// A kubeconfig alone.
    fn at(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "trading"}}],
        });
        std::fs::write(folder.path().join("config"), kubeconfig.to_string()).unwrap();
        symlink(env!("CARGO_BIN_EXE_kybernis"), folder.path().join("kubectl-kyb")).unwrap();
        Self { folder, calls: Arc::default() }
    }

    fn kyb(&self, line: &str) -> Said {
        let program: PathBuf = self.folder.path().join("kubectl-kyb");
        let run = Command::new(program).args(line.split(' ')).env_clear().env("KUBECONFIG", self.folder.path().join("config")).output();
        Said::new(run.unwrap())
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<String> {
        self.calls().into_iter().map(|(method, path, _)| format!("{method} {path}")).collect()
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// One connection, call by call, until the client goes.
fn serve(stream: &TcpStream, calls: &Mutex<Vec<Call>>, answer: &Answer) {
    let mut reader = BufReader::new(stream);
    while let Some(call) = next_call(&mut reader) {
        calls.lock().unwrap().push(call.clone());
        let (status, body) = answer(&call);
        let (kind, text) = match body {
            Value::String(text) => ("text/plain", text),
            body => ("application/json", body.to_string()),
        };
        let head = format!("HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", text.len());
        if (&mut &*stream).write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

fn next_call(reader: &mut BufReader<&TcpStream>) -> Option<Call> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, serde_json::from_slice(&body).unwrap_or_default()))
}

const GATES: &str = "/apis/kybernis.io/v1alpha1/namespaces/trading/gates";
const DECISIONS: &str = "/apis/kybernis.io/v1alpha1/namespaces/trading/gatedecisions";
const LEDGER: &str = "/apis/ledger.kybernis.io/v1alpha1/namespaces/trading";

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn gate(kind: &str, required: u32, status: &Value) -> Value {
    json!({
        "apiVersion": "kybernis.io/v1alpha1", "kind": "Gate",
        "metadata": {"name": "trader-7f9c2", "namespace": "trading", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": kind, "agent": "trading/trader/Deployment/trader", "runId": "r-1", "spanId": "s-1", "tool": "broker-orders",
            "action": "POST broker.example.com/v1/orders", "summary": "qty=500 symbol=AAPL", "digest": digest(),
            "policy": "trading/large-orders", "required": required, "class": "desk-heads",
        },
        "status": status,
    })
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}))
}

fn condition(status: &str, reason: &str, message: &str) -> Value {
    let at = "2026-01-01T00:00:00Z";
    json!({"conditions": [{"type": "Recorded", "status": status, "reason": reason, "message": message, "lastTransitionTime": at}]})
}

/// A cluster where `gate` waits, a decision is stamped with ada's name, and has `status` when it is read.
fn deciding(gate: Value, status: Value) -> Cluster {
    let created: Mutex<Value> = Mutex::default();
    Cluster::new(move |(method, path, body)| match (method.as_str(), path.split('?').next().unwrap_or_default()) {
        ("GET", path) if path == format!("{GATES}/trader-7f9c2") => (200, gate.clone()),
        ("POST", DECISIONS) => {
            let mut stored = body.clone();
            stored["metadata"]["namespace"] = json!("trading");
            stored["spec"]["decidedBy"] = json!("ada");
            *created.lock().unwrap() = stored.clone();
            (201, stored)
        }
        ("GET", path) if path.starts_with(DECISIONS) => {
            let mut stored = created.lock().unwrap().clone();
            stored["status"] = status.clone();
            (200, stored)
        }
        _ => failure(404, "NotFound", &format!("nothing at {path}")),
    })
}

#[test]
fn an_approval_is_an_object_that_the_ledger_records() {
    let bob = json!({"decisions": [{"by": "bob", "decision": "Approve", "at": "2026-01-01T00:01:00Z"}]});
    let cluster = deciding(gate("Approval", 2, &bob), condition("True", "Recorded", "it is on record"));
    let said = cluster.kyb("approve trader-7f9c2 -n trading --reason checked");
    assert_eq!((said.code, said.out.as_str()), (0, "gate.kybernis.io/trader-7f9c2 approved by ada (2 of 2)\n"), "{said:?}");
    for shown in ["POST broker.example.com/v1/orders", "qty=500 symbol=AAPL", "asked by  trading/large-orders", "sha256:abababababab…"] {
        assert!(said.err.contains(shown), "{}", said.err);
    }
    let posted = cluster.calls().into_iter().find(|(method, _, _)| method == "POST").unwrap();
    assert_eq!(posted.1, format!("{DECISIONS}?&fieldManager=kubectl-kyb"));
    let name = posted.2["metadata"]["name"].as_str().unwrap().to_owned();
    let suffix = name.strip_prefix("trader-7f9c2-").unwrap();
    assert!(suffix.len() == 8 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    let expect = json!({"gate": "trader-7f9c2", "gateUid": "u-1", "digest": digest(), "decision": "Approve", "reason": "checked"});
    assert_eq!(posted.2["spec"], expect);
}

#[test]
fn a_word_that_is_not_taken_fails_with_the_reason() {
    let pending = || gate("Approval", 1, &Value::Null);
    let cluster = deciding(pending(), condition("False", "Refused", "the gate expired at noon"));
    let said = cluster.kyb("deny trader-7f9c2 --reason no");
    let expect = "error: trader-7f9c2 is not decided by this: the gate expired at noon (Refused)";
    assert_eq!((said.code, said.err.lines().last()), (1, Some(expect)), "{said:?}");

    let silent = deciding(pending(), json!({}));
    let said = silent.kyb("approve trader-7f9c2 --timeout 300ms");
    assert!(said.code == 1 && said.err.contains("has not recorded it within 300ms"), "{said:?}");
    assert!(said.err.contains("\n  kubectl wait --for=condition=Recorded gatedecision/trader-7f9c2-"), "{said:?}");

    let denied = "admission webhook \"decisions.kybernis.io\" denied the request: user \"eve\" may not approve gateclasses";
    let refusing = Cluster::new(move |(method, _, _)| match method.as_str() {
        "POST" => failure(403, "Forbidden", denied),
        _ => (200, gate("Approval", 1, &Value::Null)),
    });
    let said = refusing.kyb("approve trader-7f9c2");
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert_eq!(said.err.lines().last(), Some(format!("Error from server (Forbidden): {denied}").as_str()));
}

#[test]
fn a_word_can_be_tried_and_need_not_be_waited_for() {
    let cluster = deciding(gate("Resolution", 1, &Value::Null), condition("True", "Recorded", ""));
    let said = cluster.kyb("resolve gate/trader-7f9c2 --executed --reason seen --dry-run=server");
    assert!(said.code == 0 && said.out.starts_with("gatedecision.kybernis.io/trader-7f9c2-"), "{said:?}");
    assert!(said.out.ends_with(" created (server dry run)\n"), "{said:?}");
    assert!(cluster.paths()[1].contains("dryRun=All") && cluster.paths().len() == 2, "{:?}", cluster.paths());
    let said = cluster.kyb("resolve trader-7f9c2 --executed --reason seen --wait=false");
    assert!(said.out.ends_with(" created\n") && cluster.paths().len() == 4, "{said:?}");
    let said = cluster.kyb("resolve trader-7f9c2 --not-executed --reason seen");
    assert_eq!(said.out, "gate.kybernis.io/trader-7f9c2 resolved as not executed by ada\n");
    let said = cluster.kyb("approve trader-7f9c2");
    assert!(said.code == 1 && said.err.contains("kubectl kyb resolve trader-7f9c2 --executed"), "{said:?}");
}

#[test]
fn a_word_that_arrived_twice_is_one_word() {
    let stored: Mutex<Value> = Mutex::default();
    let cluster = Cluster::new(move |(method, path, body)| match method.as_str() {
        "POST" => {
            *stored.lock().unwrap() = body.clone();
            failure(409, "AlreadyExists", "it exists")
        }
        _ if path.starts_with(DECISIONS) => {
            let mut said = stored.lock().unwrap().clone();
            said["spec"]["decidedBy"] = json!("ada");
            said["spec"]["signature"] = json!("s");
            said["status"] = condition("True", "Recorded", "");
            (200, said)
        }
        _ => (200, gate("Approval", 1, &Value::Null)),
    });
    let said = cluster.kyb("approve trader-7f9c2 --reason checked");
    assert_eq!((said.code, said.out.as_str()), (0, "gate.kybernis.io/trader-7f9c2 approved by ada (1 of 1)\n"), "{said:?}");
}

#[test]
fn gates_are_listed_from_their_objects_in_the_columns_of_the_laptop() {
    let cluster = Cluster::new(|(_, path, _)| {
        let mut decided = gate("Approval", 1, &json!({"phase": "Denied"}));
        decided["metadata"]["name"] = json!("older");
        let items = if path.contains("continue=more") { vec![decided] } else { vec![gate("Approval", 2, &Value::Null)] };
        let more = if path.contains("continue=more") { "" } else { "more" };
        (200, json!({"apiVersion": "kybernis.io/v1alpha1", "kind": "GateList", "metadata": {"continue": more}, "items": items}))
    });
    let said = cluster.kyb("gates");
    let lines: Vec<&str> = said.out.lines().collect();
    let titles: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(titles, ["GATE", "STATUS", "TYPE", "AGENT", "ACTION", "SUMMARY", "REQUIRED", "EXPIRES", "AGE"]);
    assert!(lines.len() == 2 && lines[1].starts_with("trader-7f9c2  PENDING  Approval") && lines[1].contains(" 0/2 "), "{said:?}");
    let said = cluster.kyb("gates -A --all");
    assert!(said.out.starts_with("NAMESPACE  GATE") && said.out.contains("\ntrading    older         DENIED"), "{said:?}");
    let said = cluster.kyb("gates -o json");
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()[0]["gate_id"], "trader-7f9c2");
    let paths = cluster.paths();
    assert_eq!(paths[0], format!("GET {GATES}?&limit=500"));
    assert_eq!(paths[2], "GET /apis/kybernis.io/v1alpha1/gates?&limit=500");
}

#[test]
fn runs_and_effects_are_read_through_the_ledgers_own_group() {
    let cluster = Cluster::new(|(_, path, _)| {
        let run =
            json!({"run_id": "desk/1", "agent": "trading/trader/Deployment/trader", "calls": 1, "started_at": "2026-01-01T00:00:00Z"});
        let start = json!({"type": "SPAN_START", "ts": "2026-01-01T00:00:00Z", "payload": {"span_id": "s", "name": "POST broker/orders"}});
        let data = match path.split('?').next().unwrap_or_default().strip_prefix(LEDGER) {
            Some("/runs") => json!({"runs": [run], "next": null}),
            Some("/runs/desk%252F1/events") => json!({"events": [start], "next": null}),
            Some("/effects") => json!({"effects": [{"effect_id": "e-1", "state": "IN_DOUBT"}], "next": null}),
            _ => return (404, json!("404 page not found\n")),
        };
        (200, json!({"ok": true, "data": data}))
    });
    let said = cluster.kyb("runs -n trading");
    assert!(said.code == 0 && said.out.contains("\ndesk/1  trading/trader/Deployment/trader  1 "), "{said:?}");
    let said = cluster.kyb("show desk -n trading");
    assert!(
        said.out.starts_with("run desk/1  agent trading/trader/Deployment/trader") && said.out.contains("POST broker/orders"),
        "{said:?}"
    );
    let said = cluster.kyb("effects --in-doubt --run desk/1");
    assert!(said.out.contains("\ne-1     IN_DOUBT"), "{said:?}");
    assert_eq!(cluster.paths().last(), Some(&format!("GET {LEDGER}/effects?status=IN_DOUBT&run_id=desk/1&limit=1000")));
    let said = cluster.kyb("show nothing");
    assert_eq!(said.err, "error: nothing is called \"nothing\"; `kubectl kyb runs` lists what there is\n");
    let said = cluster.kyb("runs -n other");
    assert!(said.code == 1 && said.err.contains("404 page not found\n") && !said.err.contains("HyperError"), "{said:?}");
    assert!(said.err.contains("\n  kubectl get apiservice v1alpha1.ledger.kybernis.io\n"), "{said:?}");
}

#[test]
fn errors_are_those_of_kubectl_and_name_no_insides() {
    let cluster = Cluster::new(|(_, _, _)| failure(404, "NotFound", "gates.kybernis.io \"x\" not found"));
    let said = cluster.kyb("approve x");
    assert_eq!((said.code, said.err.as_str()), (1, "Error from server (NotFound): gates.kybernis.io \"x\" not found\n"));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = Cluster::at(&gone).kyb("gates");
    let expect = format!("The connection to the server {gone} was refused - did you specify the right host or port?\n");
    assert_eq!((said.code, said.err), (1, expect));
    let said = Cluster::at(&gone).kyb("gates --context other");
    assert!(said.code == 1 && said.err.starts_with("error: failed to load current context: other"), "{said:?}");
    let said = Cluster::at(&gone).kyb("version");
    assert!(said.code == 0 && said.out.starts_with("Client:   ") && said.out.contains("Cluster:  unknown: The connection"), "{said:?}");
}

#[test]
fn a_pod_is_explained_by_what_may_be_read() {
    let cluster = Cluster::new(|(_, path, _)| {
        let owner =
            |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true}]);
        let meta = |name: &str| json!({"name": name, "namespace": "trading", "uid": name});
        let mut object = json!({"apiVersion": "v1", "metadata": meta(path.rsplit('/').next().unwrap_or_default())});
        match path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/trading/pods/trader-5d9c-x" => {
                object["metadata"]["ownerReferences"] = owner("ReplicaSet", "trader-5d9c");
                object["spec"] = json!({"containers": [], "serviceAccountName": "trader"});
            }
            "/apis/apps/v1/namespaces/trading/replicasets/trader-5d9c" => {
                object["metadata"]["ownerReferences"] = owner("Deployment", "trader")
            }
            "/apis/apps/v1/namespaces/trading/deployments/trader" => {
                object["metadata"]["annotations"] = json!({"kybernis.io/inject": "true"});
            }
            "/api/v1/namespaces/trading" => {}
            path if path.contains("/namespaces/trading/") => return (200, json!({"kind": "List", "metadata": {}, "items": []})),
            path => return failure(403, "Forbidden", &format!("{path} is forbidden")),
        }
        (200, object)
    });
    let said = cluster.kyb("explain-pod pod/trader-5d9c-x -n trading");
    for line in [
        "Pod trading/trader-5d9c-x is not governed by Kybernis:",
        "  agent   trading/trader/Deployment/trader",
        "  Deployment trader carries kybernis.io/inject on its own metadata",
        "  Error from server (Forbidden): /apis/kybernis.io/v1alpha1/namespaces/kybernis-system/policies\n",
        "  kubectl patch deployment trader -n trading -p '{\"spec\":{\"template\":{\"metadata\":",
    ] {
        assert!(said.code == 0 && said.out.contains(line), "{line}: {said:?}");
    }
    let said = cluster.kyb("explain-pod trader-5d9c-x -o yaml");
    assert!(said.out.contains("injected: false\n") && said.out.contains("agent: trading/trader/Deployment/trader\n"), "{said:?}");
}

#[test]
fn help_speaks_of_kubectl_kyb() {
    let cluster = Cluster::at("127.0.0.1:1");
    let said = cluster.kyb("--help");
    assert!(said.code == 0 && said.out.contains("Usage: kubectl kyb [OPTIONS] <COMMAND>"), "{said:?}");
    let said = cluster.kyb("approve --help");
    assert!(said.out.contains("Usage: kubectl kyb approve [OPTIONS] <GATE>"), "{said:?}");
    assert!(cluster.kyb("completion bash").out.contains("complete -F _kubectl__kyb"));
}
