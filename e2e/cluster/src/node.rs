//! The namespaces that the cluster lives in: made by `unshare`, held open by `pause`, entered by `nsenter`. Killing the first
//! process ends everything in them, mounts and network devices included.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::home::{Home, Lock};
use crate::parts::Part;
use crate::progress::{last_lines, output};
use crate::traces::{lives_in, mark};
use crate::{cgroups, wait};

const ENTER: &str = include_str!("../node/enter.sh");
/// How long making the namespaces may take; it is a handful of system calls.
const MAKING: Duration = Duration::from_secs(10);
/// How long a killed cluster may take to be gone, with all its processes.
const DYING: Duration = Duration::from_secs(20);
/// How long a component may take to listen on its socket.
const ANSWERING: Duration = Duration::from_secs(60);
/// How long one component may take to end by itself before it is killed.
const STOPPING: Duration = Duration::from_secs(15);
/// Where programs are found by what runs inside.
const SEARCH: &str = "/mnt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running set of namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    home: Home,
    /// The first process, as the host numbers it.
    number: u32,
}

/// How long a set of namespaces lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until somebody ends it.
    Own,
    /// As long as the thread that made it, whatever that ends by.
    Starters,
}

impl Node {
    /// Makes the namespaces. The lock is held by their first process from here on.
    pub(crate) fn make(home: &Home, alive: Lock, life: Life) -> Result<Self> {
        let (log, script) = (home.state("log/node.log"), home.state("config/enter.sh"));
        fs::write(&script, ENTER).with_context(|| format!("cannot write {}", script.display()))?;
        let errors = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut unshare = match life {
            Life::Own => Command::new("unshare"),
            Life::Starters => {
                // The kernel's word to a process about its parent's end survives what it becomes; `--kill-child` passes it on.
                let mut setpriv = Command::new("setpriv");
                setpriv.args(["--pdeathsig", "KILL", "unshare"]);
                setpriv
            }
        };
        unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh"]).arg(&script).arg(home.state(""));
        // A group of its own, or an interrupted command would take the cluster with it. The environment is the host's affair.
        unshare.process_group(0);
        let (mark, value) = mark(home);
        unshare.env_clear().env("PATH", SEARCH).env(mark, value).stdin(alive).stdout(Stdio::null()).stderr(errors);
        let mut child = unshare.spawn().context("cannot start unshare")?;
        let node = wait::until("the namespaces were there", MAKING, || {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the namespaces could not be made ({status}):\n{}", last_lines(&said, 10));
            }
            Self::find(home)
        })?;
        // Somebody has to take note of its end, or a program that starts and ends clusters collects dead children.
        thread::spawn(move || child.wait());
        Ok(node)
    }

    /// The namespaces that were made last, if their number is written down; [`Self::lives`] says whether they are there still.
    pub(crate) fn find(home: &Home) -> Result<Option<Self>> {
        match fs::read_to_string(home.state("node.pid")) {
            Ok(text) => {
                let number = text.trim().parse().context("node.pid is no process number")?;
                Ok(Some(Self { home: home.clone(), number }))
            }
            Err(_) => Ok(None),
        }
    }

    /// Ends a cluster that lives, however far it had come.
    pub(crate) fn end_living(home: &Home) -> Result<Lock> {
        wait::until("the earlier cluster is gone", DYING, || {
            // Its first process may not have come to writing its number yet; soon it will have, or it will have failed.
            if let Some(node) = Self::find(home)? {
                node.kill()?;
            }
            home.alive()
        })
    }

    /// Whether the first process runs, and is not another that got its number.
    pub(crate) fn lives(&self) -> bool {
        lives_in(&self.process(), &self.home)
    }

    /// Kills the first process and waits until the kernel has ended all the others.
    pub(crate) fn kill(&self) -> Result<()> {
        let process = self.process();
        if self.lives() {
            let number = i32::try_from(self.number).ok().and_then(Pid::from_raw).context("node.pid is no process number")?;
            // Gone since is as good as killed.
            let _ = kill_process(number, Signal::KILL);
            // Not even a zombie may be left: it is one while its last threads still end.
            wait::until("every process of the cluster has ended", DYING, || Ok((!process.exists()).then_some(())))?;
        }
        Ok(())
    }

    fn process(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.number))
    }

    /// A command in the network of the node, with the files and the working folder of whoever calls.
    pub(crate) fn in_network(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.number.to_string()).args(["--net", "--"]).arg(program);
        command
    }

    /// A program of the node's in its network and among its files, which ends when it is killed.
    pub(crate) fn among_files(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.number.to_string()).args(["--net", "--mount", "--", program]);
        command
    }

    /// Moves the calling thread into the node's network.
    pub(crate) fn enter_network(&self) -> Result<()> {
        let network = File::open(self.process().join("ns/net")).context("the node's network is gone")?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter the node's network")
    }

    /// A command on the node: its network, its files, its processes, and nothing of the caller's environment.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.number.to_string()).args(["--net", "--mount", "--pid", "--", program]);
        let (mark, value) = mark(&self.home);
        command.env_clear().env("PATH", SEARCH).env(mark, value).stdin(Stdio::null());
        command
    }

    /// Starts a component; it is a child of the namespaces' first process, not of ours. Those that others cannot start without
    /// are waited for.
    pub(crate) fn start(&self, part: Part) -> Result<()> {
        let name = part.name();
        let mut shell = self.inside("/bin/sh");
        // The background process is not the leader of its group, so setsid becomes the component without another fork, and `$!`
        // is the component.
        shell.args(["-c", r#"setsid "$@" >>"$0" 2>&1 </dev/null & echo $!"#]).arg(format!("/mnt/log/{name}.log"));
        shell.arg(format!("/mnt/bin/{name}")).args(part.arguments(&cgroups::name(&self.home)));
        let number = output(&mut shell)?;
        let path = self.home.state(&format!("run/{name}.pid"));
        fs::write(&path, number).with_context(|| format!("cannot write {}", path.display()))?;
        let Some(socket) = part.socket() else { return Ok(()) };
        let socket = PathBuf::from(format!("/proc/{}/root{socket}", self.number));
        wait::until(&format!("{name} answered"), ANSWERING, || {
            if self.running(part).is_none() {
                bail!("{name} has ended; {}", self.log_of(part));
            }
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        })
    }

    /// Ends a component with `signal`, and with a kill when that is not heard.
    pub(crate) fn stop(&self, part: Part, signal: &str) -> Result<()> {
        let Some(number) = self.running(part) else { return Ok(()) };
        let send = |signal: &str| output(self.inside("/bin/kill").args(["-s", signal, &number]));
        // A zombie is not enough: it is one while its last threads still hold its ports.
        let process = self.process_inside(&number);
        let gone = || Ok((!process.exists()).then_some(()));
        send(signal)?;
        if wait::until("it has ended", STOPPING, gone).is_err() {
            send("KILL")?;
        }
        wait::until(&format!("{} has ended", part.name()), STOPPING, gone)
    }

    /// The component's number in the cluster, while it runs.
    pub(crate) fn running(&self, part: Part) -> Option<String> {
        let number = fs::read_to_string(self.home.state(&format!("run/{}.pid", part.name()))).ok()?.trim().to_owned();
        let process = self.process_inside(&number);
        (process.exists() && !is_zombie(&process)).then_some(number)
    }

    fn process_inside(&self, number: &str) -> PathBuf {
        self.process().join("root/proc").join(number)
    }

    pub(crate) fn was_started(&self, part: Part) -> bool {
        self.home.state(&format!("run/{}.pid", part.name())).exists()
    }

    /// Where the component's log is, and its end.
    pub(crate) fn log_of(&self, part: Part) -> String {
        let path = self.log(part);
        let text = fs::read_to_string(&path).unwrap_or_default();
        format!("the end of {}:\n{}", path.display(), last_lines(&text, 12))
    }

    pub(crate) fn log(&self, part: Part) -> PathBuf {
        self.home.state(&format!("log/{}.log", part.name()))
    }
}

fn is_zombie(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
