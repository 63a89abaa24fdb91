//! The program as a person uses it: real processes, real sockets, and a far side that counts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Far more than anything here takes; a test that fails must not hang.
const PATIENCE: Duration = Duration::from_secs(60);
const MODES: [&str; 2] = ["Redirect", "Cooperative"];

/// A far side over plain HTTP: answers with the status that its path names, and remembers methods and paths.
struct FarSide {
    at: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl FarSide {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hearing = Arc::clone(&hearing);
                std::thread::spawn(move || serve(stream, &hearing));
            }
        });
        Self { at, heard }
    }

    /// A shell command that prints the status of a call.
    fn call(&self, method: &str, path: &str) -> String {
        format!("curl -sS -m 40 -o /dev/null -w '%{{http_code}}\\n' -X {method} -d '{{}}' http://{}{path}", self.at)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_ascii_lowercase());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let request: Vec<&str> = head[0].split(' ').collect();
        heard.lock().unwrap().push(format!("{} {}", request[0].to_uppercase(), request[1]));
        let status = request[1].trim_start_matches('/').split('/').next().and_then(|text| text.parse::<u16>().ok()).unwrap_or(200);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One data folder and everything started on it.
struct Rig {
    folder: tempfile::TempDir,
}

/// A program that runs, with what it says.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
    told: Receiver<String>,
}

impl Rig {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn policies(&self, text: &str) -> PathBuf {
        let dir = self.folder.path().join("policies");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("policies.yaml"), text).unwrap();
        dir
    }

    fn command(&self, args: &[&str]) -> Command {
        // Whoever runs the tests in the background has signals ignored, and what is ignored stays so in every child.
        let mut command = Command::new("env");
        command.args(["--default-signal", env!("CARGO_BIN_EXE_kybernis")]);
        command.args(args).env("KYBERNIS_DATA", self.data());
        for outer in ["KYBERNIS_POLICIES", "KYBERNIS_CAPTURE", "KYBERNIS_LOG", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(outer);
        }
        command
    }

    /// Runs to the end.
    fn output(&self, args: &[&str]) -> Output {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        eprintln!("{args:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        output
    }

    /// `kybernis run … -- sh -c SCRIPT` to its end.
    fn script(&self, options: &[&str], script: &str) -> Output {
        self.output(&[&["run"], options, &["--", "sh", "-c", script]].concat())
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.output(&[args, &["-o", "json"]].concat());
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let said = lines(child.stdout.take().unwrap());
        let told = lines(child.stderr.take().unwrap());
        Running { child, stdin, said, told }
    }

    fn start_script(&self, options: &[&str], script: &str) -> Running {
        self.start(&[&["run"], options, &["--", "sh", "-c", script]].concat())
    }

    fn pid_in(&self, file: &Path) -> i32 {
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// Kills a role the hard way.
    fn kill_role(&self, role: &str) {
        let file = if role == "ledger" { self.data().join("ledger.pid") } else { self.sidecar_folder().join("sidecar.pid") };
        kill_process(Pid::from_raw(self.pid_in(&file)).unwrap(), Signal::KILL).unwrap();
    }

    fn sidecar_folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data().join("sidecars")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn sidecar_folder(&self) -> PathBuf {
        self.sidecar_folders().pop().unwrap()
    }

    fn owner(&self) -> Option<u64> {
        let standing = std::fs::read(self.data().join("ledger.json")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&standing).ok()?["pid"].as_u64()
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for the thing.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::yield_now();
    }
}

impl Running {
    /// What COMMAND says next.
    fn says(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("COMMAND said nothing more")
    }

    /// Waits for a line on stderr.
    fn tells(&self, part: &str) -> String {
        loop {
            let line = self.told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("stderr never said {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Lets COMMAND go on: it waits for a line.
    fn go(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }

    fn signal_group(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).unwrap();
    }
}

#[test]
fn exit_status_and_signals_are_commands() {
    let rig = Rig::new();
    for mode in MODES {
        let run = |script: &str| rig.script(&["--capture", mode], script).status;
        assert_eq!(run("exit 7").code(), Some(7), "{mode}");
        for signal in [15, 9, 11] {
            assert_eq!(run(&format!("kill -{signal} $$")).signal(), Some(signal), "{mode}");
        }
        assert_eq!(rig.output(&["run", "--capture", mode, "--", "no-such-program"]).status.code(), Some(127), "{mode}");
        assert_eq!(rig.output(&["run", "--capture", mode, "--", "/etc/passwd"]).status.code(), Some(126), "{mode}");
    }
}

#[test]
fn stdin_stdout_and_environment_are_commands() {
    let rig = Rig::new();
    for mode in MODES {
        let mut run = rig.start_script(&["--capture", mode, "--run-id", "my-run", "--agent", "trader"], "read x; echo got-$x; env");
        run.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(run.says(), "got-hello");
        assert!(run.end().success());
        let env: Vec<String> = run.said.iter().collect();
        for expect in ["KYB_RUN_ID=my-run", "KYB_AGENT=trader", "KYB_TENANT_ID=default"] {
            assert!(env.iter().any(|line| line == expect), "{mode}: {expect}");
        }
        assert_eq!(env.iter().any(|line| line.starts_with("HTTPS_PROXY=http://127.0.0.1:")), mode == "Cooperative");
        assert!(env.iter().any(|line| line.starts_with("SSL_CERT_FILE=") && line.ends_with("ca-bundle.pem")), "{mode}");
    }
}

#[test]
fn either_role_can_be_killed_and_command_notices_no_more_than_a_delay() {
    for mode in MODES {
        for role in ["sidecar", "ledger"] {
            let (rig, far) = (Rig::new(), FarSide::start());
            let script = format!("{}; read x; {}; {}", far.call("POST", "/200/a"), far.call("POST", "/200/b"), far.call("GET", "/200/c"));
            let mut run = rig.start_script(&["--capture", mode], &script);
            assert_eq!(run.says(), "200", "{mode} {role}");
            rig.kill_role(role);
            run.go();
            assert_eq!((run.says().as_str(), run.says().as_str()), ("200", "200"), "{mode} {role}");
            assert!(run.end().success());
            run.tells(&format!("the {role} ended (signal 9) and is started again"));
            run.tells("3 calls, 0 replayed, 0 refused, 0 in doubt");
            assert_eq!(far.heard(), ["POST /200/a", "POST /200/b", "GET /200/c"], "{mode} {role}");
        }
    }
}

#[test]
fn a_second_run_joins_the_ledger_that_runs_and_carries_it_on() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let script = format!("echo up; read x; {}", far.call("POST", "/200"));
    let mut first = rig.start_script(&[], "echo up; read x");
    assert_eq!(first.says(), "up");
    assert_eq!(rig.owner(), Some(u64::from(first.child.id())));
    let mut second = rig.start_script(&[], &script);
    assert_eq!(second.says(), "up");
    assert_eq!(rig.json(&["runs"]).as_array().unwrap().len(), 0, "reading does not disturb");

    first.go();
    assert!(first.end().success());
    second.go();
    assert_eq!(second.says(), "200");
    second.tells("this one runs it now");
    assert!(second.end().success());
    second.tells("1 call,");
    assert_eq!(rig.owner(), None);
    assert_eq!(rig.json(&["runs"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_run_whose_supervisor_was_killed_leaves_nothing_running_and_the_next_one_cleans_up() {
    let rig = Rig::new();
    let run = rig.start_script(&["--capture", "Cooperative"], "echo up; read x");
    assert_eq!(run.says(), "up");
    let roles = [rig.data().join("ledger.pid"), rig.sidecar_folder().join("sidecar.pid")].map(|file| rig.pid_in(&file));
    kill_process(Pid::from_child(&run.child), Signal::KILL).unwrap();
    for pid in roles {
        until("the role's end", || !Path::new(&format!("/proc/{pid}")).exists());
    }
    assert_eq!(rig.owner(), Some(u64::from(run.child.id())), "the file is stale");
    assert_eq!(rig.json(&["effects"]).as_array().unwrap().len(), 0, "and is recognised");
    let left = rig.sidecar_folder();
    assert!(rig.script(&[], "true").status.success());
    assert!(!left.exists(), "however short the next run is");
}

#[test]
fn a_sidecar_that_never_comes_to_serve_ends_with_its_supervisor() {
    let rig = Rig::new();
    let token = rig.folder.path().join("token");
    std::fs::write(&token, rig.output(&["token", "--agent", "a"]).stdout).unwrap();
    assert!(rig.script(&[], "true").status.success(), "for the ledger's CA");
    let paths = [rig.folder.path().join("sidecar"), rig.folder.path().join("bundle"), rig.data().join("ledger-ca.pem"), token];
    let paths = paths.each_ref().map(|path| path.to_str().unwrap());
    let sidecar = ["sidecar", "--supervised", "--data", paths[0], "--bundle", paths[1], "--ledger-ca", paths[2], "--token-file", paths[3]];
    // Nobody listens there, as after a supervisor that was killed while both roles started.
    let mut command = rig.command(&[&sidecar[..], &["--ledger", "https://127.0.0.1:1"]].concat());
    let (mut supervisor, lifeline) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut child = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(lifeline))).spawn().unwrap();
    drop(command);
    supervisor.write_all(&[0]).unwrap();
    until("the sidecar's spool", || Path::new(paths[0]).join("spool").exists());
    drop(supervisor);
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it goes on without a supervisor");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_run_outlives_the_supervisor_that_it_had_joined() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let first = rig.start_script(&[], "echo up; read x");
    assert_eq!(first.says(), "up");
    let mut second = rig.start_script(&[], &format!("echo up; read x; {}", far.call("POST", "/200")));
    assert_eq!(second.says(), "up");
    kill_process(Pid::from_child(&first.child), Signal::KILL).unwrap();
    second.go();
    assert_eq!(second.says(), "200");
    second.tells("this one runs it now");
    assert!(second.end().success());
}

const DENY: &str = "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: trading}\nspec:\n  selector: \
                    {matchLabels: {app: trader}}\n  rules:\n  - {name: no-posts, match: {methods: [POST]}, when: 'true', verdict: Deny, \
                    reason: closed}\n";
const APPROVE: &str = "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: p}\nspec:\n  rules:\n  - name: ask\n    match: \
                       {methods: [POST]}\n    when: 'true'\n    verdict: RequireApproval\n    approval: {required: 1, class: anyone, \
                       expiresAfter: 1h}\n";

#[test]
fn policies_are_in_force_for_whom_they_select() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let dir = rig.policies(DENY);
    let dir = dir.to_str().unwrap();
    let call = format!("echo $KYB_TENANT_ID; {}", far.call("POST", "/200"));
    let denied = rig.script(&["--policies", dir, "--label", "app=trader"], &call);
    assert_eq!(text(&denied.stdout), "trading\n403\n");
    assert!(text(&denied.stderr).contains("1 call, 0 replayed, 1 refused"));
    let passed = rig.script(&["--policies", dir], &call);
    assert_eq!(text(&passed.stdout), "trading\n200\n");
    assert!(text(&passed.stderr).contains("warning: ") && text(&passed.stderr).contains("--label"), "{}", text(&passed.stderr));
    assert_eq!(far.heard().len(), 1);
}

#[test]
fn policies_that_do_not_hold_are_told_as_check_tells_them_and_nothing_runs() {
    let rig = Rig::new();
    let dir = rig.policies(&DENY.replace("'true'", "'request.bod == 1'"));
    let dir = dir.to_str().unwrap();
    let check = rig.output(&["check", dir]);
    assert_eq!(check.status.code(), Some(1));
    let run = rig.script(&["--policies", dir], "echo ran");
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(1), ""));
    let line = text(&check.stdout).lines().next().unwrap().to_owned();
    assert!(line.contains("policies.yaml:") && line.contains("when"), "{line}");
    assert!(text(&run.stderr).contains(&line));
}

#[test]
fn settings_that_do_not_hold_are_told_at_once_and_leave_nothing() {
    let rig = Rig::new();
    let run = rig.script(&["--namespace", "a b", "--label", "app", "--run-id", ""], "echo ran");
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(125), ""));
    for part in ["--namespace: ", "--label: ", "--run-id: "] {
        assert!(text(&run.stderr).contains(part), "{part}");
    }
    assert!(rig.sidecar_folders().is_empty());
    let nowhere = rig.output(&["runs", "--data", "/proc/nowhere"]);
    assert_eq!(text(&nowhere.stderr).matches("No such file").count(), 1, "an error is said once");
}

#[test]
fn a_changed_policy_comes_into_force_and_a_bad_one_changes_nothing() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let dir = rig.policies(&DENY.replace("POST", "PUT"));
    let post = far.call("POST", "/200");
    // The ledger says that a policy is in force; the sidecar follows within moments.
    let script = format!("{post}; read x; until [ \"$({post})\" = 403 ]; do :; done; echo closed; read x; {post}");
    let mut run = rig.start_script(&["--policies", dir.to_str().unwrap(), "--label", "app=trader"], &script);
    assert_eq!(run.says(), "200");
    rig.policies(DENY);
    run.tells("changed and are in force");
    run.go();
    assert_eq!(run.says(), "closed");
    rig.policies("kind: Nonsense\n");
    run.tells("do NOT hold");
    rig.kill_role("ledger");
    run.tells("started again");
    run.go();
    assert_eq!(run.says(), "403", "the last good set outlives a restart");
    run.end();
}

#[test]
fn a_run_with_other_policies_is_told_what_to_do() {
    let rig = Rig::new();
    let mut first = rig.start_script(&[], "echo up; read x");
    assert_eq!(first.says(), "up");
    let dir = rig.policies(DENY);
    let second = rig.script(&["--policies", dir.to_str().unwrap()], "echo ran");
    assert_eq!((second.status.code(), text(&second.stdout).as_str()), (Some(125), ""));
    for part in ["a ledger runs on", &first.child.id().to_string(), "no policies", "--data"] {
        assert!(text(&second.stderr).contains(part), "{part}");
    }
    first.end();
}

#[test]
fn an_approval_is_asked_for_given_and_used_once() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let dir = rig.policies(APPROVE);
    let call = far.call("POST", "/200");
    let run = || text(&rig.script(&["--policies", dir.to_str().unwrap(), "--agent", "a"], &call).stdout);
    assert_eq!(run(), "403\n");
    let gates = rig.json(&["gates"]);
    let gate = gates[0]["gate_id"].as_str().unwrap();
    assert_eq!((gates[0]["type"].as_str(), gates[0]["status"].as_str()), (Some("Approval"), Some("PENDING")));
    assert!(!rig.output(&["resolve", gate, "--executed", "--reason", "r"]).status.success(), "it is no doubt");
    let approved = rig.output(&["approve", gate, "--reason", "checked"]);
    assert!(text(&approved.stdout).contains("next identical call goes through"));
    assert_eq!(run(), "200\n");
    assert_eq!(rig.json(&["gates"]).as_array().unwrap().len(), 0);
    let all = rig.json(&["gates", "--all"]);
    assert!(all[0]["decisions"][0]["person"].as_str().unwrap().starts_with("local:"));
    assert_eq!(all[0]["decisions"][0]["reason"], "checked");
    assert_eq!(far.heard().len(), 1);
}

#[test]
fn an_effect_in_doubt_is_shown_and_resolved_by_a_person() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let run = rig.script(&["--agent", "a"], &far.call("POST", "/500"));
    assert_eq!(text(&run.stdout), "423\n");
    assert!(text(&run.stderr).contains("1 in doubt, 1 gate open"));
    let effects = rig.json(&["effects", "--in-doubt"]);
    let effect = effects[0]["effect_id"].as_str().unwrap();
    let runs = rig.json(&["runs"]);
    let shown = rig.output(&["show", &runs[0]["run_id"].as_str().unwrap()[..8]]);
    for part in ["POST 127.0.0.1", "effect_in_doubt", "gate opened", effect] {
        assert!(text(&shown.stdout).contains(part), "{part}");
    }
    let resolved = rig.output(&["resolve", effect, "--not-executed", "--reason", "asked them"]);
    assert!(text(&resolved.stdout).contains("on record as not executed"));
    assert_eq!(rig.json(&["effects", "--in-doubt"]).as_array().unwrap().len(), 0);
    let again = rig.output(&["resolve", effect, "--executed", "--reason", "r"]);
    assert!(!again.status.success() && !text(&again.stderr).is_empty());
}

#[test]
fn where_redirect_is_not_to_be_had_it_is_said_and_cooperative_named() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let binary = env!("CARGO_BIN_EXE_kybernis");
    let run = |options: &[&str]| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
        let call = far.call("POST", "/200");
        let mut unshare = Command::new("unshare");
        unshare.args(["-Ur", "sh", "-c", script, "sh", binary, "run"]).args(options).args(["--", "sh", "-c", &call]);
        unshare.env("KYBERNIS_DATA", rig.data()).output().unwrap()
    };
    let refused = run(&["--capture", "Redirect"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("max_user_namespaces") && text(&refused.stderr).contains("--capture Cooperative"));
    assert_eq!(far.heard().len(), 0);
    let fallen_back = run(&[]);
    assert_eq!(text(&fallen_back.stdout), "200\n", "{}", text(&fallen_back.stderr));
    let chosen = rig.script(&["--capture", "Cooperative"], "true");
    assert!(text(&fallen_back.stderr).contains("FALLING BACK to capture Cooperative"));
    assert!(!text(&chosen.stderr).contains("FALLING BACK"));
    for part in ["Node's fetch", "Go towards loopback", "aiohttp"] {
        assert!(text(&fallen_back.stderr).contains(part) && text(&chosen.stderr).contains(part), "{part}");
    }
}

#[test]
fn dev_serves_until_it_is_interrupted_and_env_says_how_to_use_it() {
    let (rig, far) = (Rig::new(), FarSide::start());
    assert!(text(&rig.output(&["env"]).stderr).contains("no `kybernis dev` runs"));
    let mut dev = rig.start(&["dev", "--proxy-listen", "127.0.0.1:0"]);
    dev.tells("Ctrl-C ends");
    let exports = text(&rig.output(&["env"]).stdout);
    let script = format!("{exports}\n{}", far.call("POST", "/200"));
    let called = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(text(&called.stdout), "200\n");
    assert_eq!(rig.json(&["effects"])[0]["state"], "COMPLETED");
    assert!(text(&rig.output(&["dev", "--proxy-listen", "127.0.0.1:0"]).stderr).contains("runs on"));
    dev.signal_group(Signal::INT);
    assert!(dev.end().success());
    assert!(!rig.output(&["env"]).status.success());
}

#[test]
fn ledger_and_sidecar_run_as_processes_of_their_own() {
    let (rig, far) = (Rig::new(), FarSide::start());
    let told = text(&rig.output(&["sidecar", "--proxy-listen", "nowhere"]).stderr);
    for part in ["--data is missing", "--ledger-ca is missing", "--token-file is missing", "--proxy-listen: \"nowhere\""] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let ports: Vec<u16> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()).collect();
    let at = |port: u16| format!("127.0.0.1:{port}");
    let ledger = ["ledger", "--grpc-listen", &at(ports[0]), "--http-listen", &at(ports[1]), "--log-format", "json"];
    let mut ledger = rig.start(&ledger);
    let line = ledger.tells("the ledger serves");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["message"], "the ledger serves");

    let token = rig.folder.path().join("token");
    let minted = rig.output(&["token", "--agent", "trader"]);
    std::fs::write(&token, minted.stdout).unwrap();
    let (data, bundle) = (rig.folder.path().join("sidecar"), rig.folder.path().join("bundle"));
    let ca = rig.data().join("ledger-ca.pem");
    let url = format!("https://{}", at(ports[0]));
    let paths = [&data, &bundle, &ca, &token].map(|path| path.to_str().unwrap());
    let sidecar = ["sidecar", "--data", paths[0], "--bundle", paths[1], "--ledger-ca", paths[2], "--token-file", paths[3]];
    let mut sidecar = rig.start(&[&sidecar[..], &["--ledger", &url, "--proxy-listen", &at(ports[2])]].concat());
    sidecar.tells("the sidecar is ready");
    let call = format!("http_proxy=http://{} {}", at(ports[2]), far.call("POST", "/200"));
    assert_eq!(text(&Command::new("sh").args(["-c", &call]).output().unwrap().stdout), "200\n");
    assert_eq!(rig.json(&["effects"])[0]["agent"], "trader");
    for role in [&mut sidecar, &mut ledger] {
        kill_process(Pid::from_child(&role.child), Signal::TERM).unwrap();
        assert!(role.end().success());
    }
}

#[test]
fn completion_and_tables_are_for_people() {
    let rig = Rig::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&rig.output(&["completion", shell]).stdout).contains("kybernis"));
    }
    assert!(text(&rig.output(&["runs"]).stdout).contains("kybernis run -- COMMAND"));
    assert_eq!(text(&rig.output(&["runs", "-o", "yaml"]).stdout), "[]\n");
    assert!(text(&rig.output(&["show", "nothing"]).stderr).contains("nothing is called \"nothing\"; `kybernis runs`"));
}
