//! The roles as processes: started, told apart by CPU and memory, and gone with whoever started them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::ClockId;
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longer than anything that is waited for in [`until`].
const PATIENCE: Duration = Duration::from_secs(30);
/// Between looks.
const LOOK: Duration = Duration::from_millis(10);

/// Says where this process listens, on one line of standard output.
pub(crate) fn announce(addresses: &[SocketAddr]) {
    let words: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    println!("{}", words.join(" "));
}

/// Returns when standard input ends, which the parent holds open as long as it lives.
pub(crate) async fn until_orphaned() {
    let (orphaned, wait) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own, which does nothing but wait: the runtime's are for work.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(orphaned);
    });
    let _ = wait.await;
}

/// A child that dies with this value.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    child: Child,
}

impl Process {
    /// Starts a program of the product's.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the process has no id")?;
        Ok(Self { pid: Pid::from_raw(pid), child })
    }

    /// Starts another role of this program; returns the addresses that it announces.
    pub(crate) async fn role(args: &[&str]) -> Result<(Self, Vec<SocketAddr>)> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Self::start(command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let out = process.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let addresses: Vec<SocketAddr> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            bail!("{args:?} did not start");
        }
        Ok((process, addresses))
    }

    /// CPU time since its start, of all its threads, those that are gone included.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(ClockId::pid_cpu_clock_id(self.pid)?.now()?.into())
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Most resident memory since [`Process::forget_peak`], in bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// Begins a new peak.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    fn status(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the process has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Ends it in an orderly way.
    pub(crate) async fn stop(mut self) -> Result<()> {
        nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGTERM)?;
        self.child.wait().await?;
        Ok(())
    }
}

/// An address that nobody listens on now, each time another one. It lies below the ports that the kernel gives to connections, which
/// would take it before the program that is told of it starts.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(port < 30_000, "no port between 20000 and 30000 is free");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
}

/// What a program prints.
pub(crate) async fn output(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().await?;
    if !output.status.success() {
        bail!("{} {} ended with {}", program.display(), args.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A role of the product's, as it is started.
pub(crate) fn quiet(kybernis: &Path, role: &str) -> Command {
    let mut command = Command::new(kybernis);
    command.args([role, "--log", "warn"]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// What an admin port answers, head and all.
pub(crate) async fn ask(admin: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Whether a role says so.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    ask(admin, "/readyz").await.is_ok_and(|text| text.contains("200 OK"))
}

/// Waits for it.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let began = Instant::now();
    while !holds().await {
        ensure!(began.elapsed() < PATIENCE, "it never came to that: {what}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
