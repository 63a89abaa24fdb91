//! Signals, terminals, and readers that go away: COMMAND fares as it would without us.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::pty::openpty;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Far more than anything here takes; a test that fails must not hang.
const PATIENCE: Duration = Duration::from_secs(60);
const MODES: [&str; 2] = ["Redirect", "Cooperative"];
const CTRL_C: &[u8] = b"\x03";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

/// `kybernis run` and its COMMAND, with what they say; they end with the test.
struct Running {
    child: Child,
    said: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // COMMAND, which a failed test leaves waiting, is in the group, too.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.send_to_group(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Whoever runs the tests in the background has signals ignored, so each test says how it wants them.
fn kybernis(data: &Path, wrapper: &[&str], args: &[&str]) -> Command {
    let [program, options @ ..] = wrapper else { panic!("no wrapper") };
    let mut command = Command::new(program);
    command.args(options).arg(env!("CARGO_BIN_EXE_kybernis")).args(args).env("KYBERNIS_DATA", data.join("data"));
    for outer in ["KYBERNIS_POLICIES", "KYBERNIS_CAPTURE", "KYBERNIS_LOG"] {
        command.env_remove(outer);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn script<'a>(mode: &'a str, script: &'a str) -> [&'a str; 7] {
    ["run", "--capture", mode, "--", "sh", "-c", script]
}

fn start(mut command: Command, said: impl FnOnce(&mut Child) -> File) -> Running {
    let mut child = command.spawn().unwrap();
    let out = said(&mut child);
    // The terminal's far side, if any, is then the child's alone.
    drop(command);
    let (tell, said) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    Running { child, said }
}

/// In a group of its own, as a service manager or a shell would start it, with no terminal that is its.
fn in_background(data: &Path, wrapper: &[&str], args: &[&str]) -> Running {
    use std::os::unix::process::CommandExt as _;
    let mut command = kybernis(data, wrapper, args);
    command.process_group(0);
    start(command, |child| File::from(OwnedFd::from(child.stdout.take().unwrap())))
}

/// At a terminal of its own, whose keys are `press`ed at the other end.
fn at_a_terminal(data: &Path, args: &[&str]) -> (Running, File) {
    let pty = openpty(None, None).unwrap();
    let mut command = kybernis(data, &["setsid", "--ctty", "env", "--default-signal"], args);
    let stream = || Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(stream()).stdout(stream()).stderr(stream());
    let keys = File::from(pty.master);
    let screen = keys.try_clone().unwrap();
    drop(pty.slave);
    (start(command, |_| screen), keys)
}

impl Running {
    /// Waits for a line, and returns it.
    fn says(&self, part: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{part:?} was never said"));
            if line.contains(part) {
                return line;
            }
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn send_to_group(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn what_is_sent_to_us_alone_reaches_command() {
    let data = tempfile::tempdir().unwrap();
    let traps = "for s in INT QUIT HUP USR1 USR2; do trap \"echo $s\" $s; done; trap 'echo TERM; exit 43' TERM; echo ready; \
                 while :; do sleep 0.05; done";
    for mode in MODES {
        let mut run = in_background(data.path(), &["env", "--default-signal"], &script(mode, traps));
        run.says("ready");
        for (signal, name) in [
            (Signal::INT, "INT"),
            (Signal::QUIT, "QUIT"),
            (Signal::HUP, "HUP"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::TERM, "TERM"),
        ] {
            run.send(signal);
            assert_eq!(run.says(name), name, "{mode}");
        }
        assert_eq!(run.code(), Some(43), "{mode}");
    }
}

#[test]
fn a_key_at_the_terminal_reaches_command_once() {
    let data = tempfile::tempdir().unwrap();
    let traps = "i=0; q=0; trap 'i=$((i+1)); echo int-$i' INT; trap 'q=$((q+1)); echo quit-$q' QUIT; \
                 trap 'echo end-$i-$q; exit 44' TERM; echo ready; while :; do :; done";
    // It sleeps never: a shell that waits takes two signals for one.
    for mode in MODES {
        let (mut run, mut keys) = at_a_terminal(data.path(), &script(mode, traps));
        run.says("ready");
        keys.write_all(CTRL_C).unwrap();
        run.says("int-1");
        keys.write_all(CTRL_BACKSLASH).unwrap();
        run.says("quit-1");
        // Sent to us alone, and after whatever else we might have passed on.
        run.send(Signal::TERM);
        run.says("end-1-1");
        assert_eq!(run.code(), Some(44), "{mode}");
    }
}

#[test]
fn what_whoever_started_us_has_ignored_stays_ignored() {
    let data = tempfile::tempdir().unwrap();
    let ignored = |mode: &str, wrapper: &[&str]| {
        let mask = in_background(data.path(), wrapper, &script(mode, "grep SigIgn: /proc/self/status")).says("SigIgn:");
        // The lowest bits: SIGHUP, SIGINT, SIGQUIT.
        u64::from_str_radix(mask.trim_start_matches("SigIgn:").trim(), 16).unwrap() & 0b111
    };
    for mode in MODES {
        assert_eq!(ignored(mode, &["env", "--default-signal"]), 0, "{mode}");
        assert_eq!(ignored(mode, &["env", "--default-signal", "--ignore-signal=HUP"]), 0b001, "{mode}: as nohup does");
        assert_eq!(ignored(mode, &["env", "--default-signal", "--ignore-signal=INT,QUIT"]), 0b110, "{mode}: as a script's & does");

        let wrapper = ["env", "--default-signal", "--ignore-signal=HUP,INT,QUIT"];
        let go = data.path().join(mode);
        let waits = format!("echo ready; until [ -e '{}' ]; do sleep 0.05; done; exit 45", go.display());
        let mut run = in_background(data.path(), &wrapper, &script(mode, &waits));
        run.says("ready");
        for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
            run.send_to_group(signal);
        }
        std::fs::write(go, "").unwrap();
        assert_eq!(run.code(), Some(45), "{mode}: the hangup that nohup is for");
    }
}

#[test]
fn readers_that_have_gone_change_nothing() {
    let data = tempfile::tempdir().unwrap();
    // A pipe that nobody reads any more.
    let gone = || Stdio::from(std::io::pipe().unwrap().1);
    let end = |args: &[&str], gone_is: &str| {
        let mut command = kybernis(data.path(), &["env", "--default-signal"], args);
        if gone_is == "stdout" {
            command.stdout(gone()).stderr(Stdio::piped())
        } else {
            command.stderr(gone())
        };
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for mode in MODES {
        assert_eq!(end(&script(mode, "exit 7"), "stderr").0, Some(7), "{mode}");
    }
    assert_eq!(end(&["show", "nothing"], "stderr").0, Some(1));
    for args in [&["runs"][..], &["effects", "-o", "json"], &["completion", "bash"], &["check", env!("CARGO_MANIFEST_DIR")]] {
        let (code, told) = end(args, "stdout");
        assert!(code < Some(2) && told.is_empty(), "{args:?}: {code:?} {told}");
    }
}
