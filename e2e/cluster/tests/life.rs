//! The cluster itself, from start to end: what every scenario relies on. It builds Kubernetes when that is not there, and needs root:
//! `cargo xtask cluster test`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use kybernis_cluster::{Cluster, FOLDER, Home, Part, Programs, agents_image, cache, traces};

/// How long one thing in a running cluster may take while the machine is busy.
const PATIENCE: &str = "--timeout=120s";

const AIOHTTP: &str = "
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session, session.get('URL') as answer:
        print(await answer.text())
asyncio.run(main())
";

/// Below the folder of the cluster that the tests run with, if they run with one: it ends what they leave there.
fn home() -> Home {
    let folder = env::var_os(FOLDER).map_or_else(|| cache().join("cluster/test"), |folder| Path::new(&folder).join("own"));
    Home::new(&folder).unwrap()
}

/// Ends the cluster, also when the test fails.
struct Ending(Home);

impl Drop for Ending {
    fn drop(&mut self) {
        // A test that does not fail ends it by itself, and looks closer.
        let _ = Cluster::down(&self.0);
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{out}\n{err}", output.status);
    out.into_owned()
}

fn soon(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn answers(cluster: &Cluster, url: &str) -> bool {
    cluster.kubectl().args(["exec", "client", "--", "/probe", "get", url]).output().unwrap().status.success()
}

/// Kills the first process of the cluster, if it has come so far.
fn kill(home: &Home) {
    let Ok(number) = fs::read_to_string(home.folder().join("state/node.pid")) else { return };
    let process = Path::new("/proc").join(number.trim());
    // It may be gone since.
    let _ = Command::new("/bin/kill").args(["-s", "KILL", number.trim()]).stderr(Stdio::null()).status();
    soon("the killed process is gone", || !process.exists());
}

fn apply(cluster: &Cluster, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    said(cluster.kubectl().args(["apply", "-f"]).arg(path));
}

fn probe(cluster: &Cluster, url: &str, family: &str) -> String {
    said(cluster.kubectl().args(["exec", "client", "--", "/probe", "get", url, family]))
}

/// Folders of the host that Kubernetes and its friends like to make.
fn folders_of_the_host() -> Vec<&'static str> {
    let usual =
        ["/var/lib/kubelet", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/cni", "/run/containerd", "/etc/cni", "/var/log/pods"];
    usual.into_iter().filter(|path| Path::new(path).exists()).collect()
}

#[test]
#[ignore = "starts a cluster"]
fn a_cluster_runs_pods_and_leaves_nothing() {
    let home = home();
    Cluster::down(&home).unwrap();
    let _ending = Ending(home.clone());
    let folders = folders_of_the_host();
    let start = Instant::now();
    let cluster = Cluster::up(&home).unwrap();
    println!("up in {:.1} s", start.elapsed().as_secs_f64());

    let refused = Cluster::up(&home).unwrap_err().to_string();
    assert!(refused.contains("is up in") && refused.contains("already"), "{refused}");

    apply(&cluster, "web.yaml");
    said(cluster.kubectl().args(["wait", "pod/web", "pod/client", "--for=condition=Ready", PATIENCE]));
    for (family, start) in [("4", "at 198.18."), ("6", "at [2001:2:0:a:")] {
        for port in [8080, 8081] {
            let answer = probe(&cluster, &format!("http://web.default.svc.cluster.local:{port}/"), family);
            assert!(answer.starts_with("web at ") && answer.contains(start), "{answer}");
        }
    }
    // A pod that calls the Service it is behind leaves and comes back through the bridge.
    let hairpin = ["exec", "web", "-c", "app", "--", "/probe", "get", "http://web:8080/"];
    assert!(said(cluster.kubectl().args(hairpin)).starts_with("web at "));

    // kube-proxy's health port stands for the world outside.
    cluster.set_outside_names("198.19.0.1 far.example\n").unwrap();
    soon("the world outside has a name", || answers(&cluster, "http://far.example:10256/healthz"));
    let version = said(cluster.kubectl().args(["version"]));
    assert!(version.contains("Server Version: v1.36.3"), "{version}");
    for major in [3, 4] {
        said(cluster.helm(major).args(["list", "--all-namespaces"]));
    }

    // The node's parts can go and come while pods stay.
    for part in [Part::Containerd, Part::Kubelet, Part::ApiServer] {
        cluster.stop(part, "KILL").unwrap();
        cluster.start_part(part).unwrap();
    }
    soon("the cluster is back", || answers(&cluster, "http://web:8080/"));
    let restarts = ["get", "pod", "web", "--output=jsonpath={.status.containerStatuses[*].restartCount}"];
    assert_eq!(said(cluster.kubectl().args(restarts)), "0", "no container was restarted");

    let start = Instant::now();
    Cluster::down(&home).unwrap();
    println!("down in {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(traces(&home).unwrap(), Vec::<String>::new());
    assert_eq!(folders_of_the_host(), folders);
    for device in ["node", "pods"] {
        assert!(!Path::new("/sys/class/net").join(device).exists(), "{device} is on the host");
    }
}

#[test]
#[ignore = "starts a cluster"]
fn a_cluster_that_was_killed_at_any_instant_comes_up_again() {
    let home = home();
    Cluster::down(&home).unwrap();
    let _ending = Ending(home.clone());
    // Everything is built, so that the instants fall into the start and not before it.
    Programs::build().unwrap();
    for round in 0..6 {
        let nanoseconds = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let instant = Duration::from_millis(u64::from(nanoseconds / 1000 % 6_000));
        println!("round {round}: killed after {instant:?}");
        let mut start = Command::new(env!("CARGO_BIN_EXE_kybernis-cluster"));
        start.arg("--folder").arg(home.folder()).arg("up").stdout(Stdio::null()).stderr(Stdio::null());
        let mut start = start.spawn().unwrap();
        std::thread::sleep(instant);
        // Whoever starts it dies, or the cluster does, or both.
        if round % 3 != 1 {
            start.kill().unwrap();
        }
        if round % 3 != 0 {
            kill(&home);
        }
        start.wait().unwrap();
    }
    // The last kill may have come after everything was there, and then this one is refused.
    if Cluster::attach(&home).unwrap().is_none() {
        Cluster::up(&home).unwrap();
    }
    let cluster = Cluster::attach(&home).unwrap().unwrap();
    apply(&cluster, "web.yaml");
    said(cluster.kubectl().args(["wait", "pod/web", "pod/client", "--for=condition=Ready", PATIENCE]));

    // Killed in full life, with pods that run.
    kill(&home);
    let cluster = Cluster::up(&home).unwrap();
    let pods = said(cluster.kubectl().args(["get", "pods", "--output=name"]));
    assert_eq!(pods, "", "nothing of the earlier cluster is left in the new one");
    Cluster::down(&home).unwrap();
    assert_eq!(traces(&home).unwrap(), Vec::<String>::new());
}

#[test]
#[ignore = "starts a cluster"]
fn a_cluster_for_one_command_is_gone_with_it_and_with_whoever_started_it() {
    let home = home();
    let _ending = Ending(home.clone());
    let with = |words: &[&str]| {
        let mut with = Command::new(env!("CARGO_BIN_EXE_kybernis-cluster"));
        with.arg("--folder").arg(home.folder()).arg("with").args(words).stdout(Stdio::null()).stderr(Stdio::null());
        with
    };
    let failed = with(&["--within", "60", "--", "false"]).status().unwrap();
    assert!(!failed.success());
    assert_eq!(traces(&home).unwrap(), Vec::<String>::new());

    let start = || {
        let child = with(&["--within", "600", "--lifeline", "--", "sleep", "40"]).stdin(Stdio::piped()).spawn().unwrap();
        soon("the cluster is up", || Cluster::attach(&home).unwrap().is_some());
        child
    };
    let mut abandoned = start();
    drop(abandoned.stdin.take());
    assert!(!abandoned.wait().unwrap().success());
    assert_eq!(traces(&home).unwrap(), Vec::<String>::new());

    // Nobody is left to remove folder and control groups; what runs ends all the same.
    let mut killed = start();
    killed.kill().unwrap();
    killed.wait().unwrap();
    soon("no process is left", || !traces(&home).unwrap().iter().any(|trace| trace.starts_with("process")));
    Cluster::down(&home).unwrap();
    assert_eq!(traces(&home).unwrap(), Vec::<String>::new());
}

#[test]
#[ignore = "starts a cluster, and fetches Debian packages"]
fn real_clients_run_in_the_agents_image() {
    let home = home();
    Cluster::down(&home).unwrap();
    let _ending = Ending(home.clone());
    let cluster = Cluster::up(&home).unwrap();
    cluster.load(&agents_image(&Programs::build().unwrap()).unwrap()).unwrap();
    apply(&cluster, "web.yaml");
    apply(&cluster, "agent.yaml");
    said(cluster.kubectl().args(["wait", "pod/web", "pod/agent", "--for=condition=Ready", PATIENCE]));
    let url = "http://web:8080/";
    let python = |call: &str| vec!["python3".to_owned(), "-c".to_owned(), call.replace("URL", url)];
    let clients = [
        vec!["curl".to_owned(), "--silent".to_owned(), "--show-error".to_owned(), "--fail".to_owned(), url.to_owned()],
        python("import requests; print(requests.get('URL').text)"),
        python("import httpx; print(httpx.get('URL').text)"),
        python(AIOHTTP),
        vec!["node".to_owned(), "--eval".to_owned(), format!("fetch('{url}').then(r => r.text()).then(console.log)")],
        vec!["java".to_owned(), "/agent/Get.java".to_owned(), url.to_owned()],
        vec!["probe".to_owned(), "get".to_owned(), url.to_owned()],
    ];
    for client in clients {
        let answer = said(cluster.kubectl().args(["exec", "agent", "--"]).args(&client));
        assert!(answer.contains("web at "), "{client:?}: {answer}");
    }
    let write =
        ["exec", "agent", "--", "python3", "-c", "open('/data/file', 'w').write('x'); import os; print(os.stat('/data/file').st_gid)"];
    assert_eq!(said(cluster.kubectl().args(write)).trim(), "2000", "the volume is the pod's group's");
    Cluster::down(&home).unwrap();
}
