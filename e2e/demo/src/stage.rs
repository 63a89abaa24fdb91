//! What every act needs: the broker, the agent, `kybernis`, and the table of what the far side executed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kybernis_broker::{Broker, Executed, Fault, Settings};
use rustix::process::{Pid, Signal, kill_process};

use crate::books::Books;

/// How long any one thing may take before the demo says what it waited for.
const PATIENCE: Duration = Duration::from_secs(45);

/// Variables by which a machine points clients at its own roots; `kybernis run` would remark on each.
const ROOTS_ELSEWHERE: [&str; 10] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "NIX_SSL_CERT_FILE",
];

/// Everything that stands on the stage.
pub(crate) struct Stage {
    pub(crate) broker: Broker,
    kybernis: PathBuf,
    python: PathBuf,
    data: PathBuf,
    policies: PathBuf,
    agent: PathBuf,
    pub(crate) books: Books,
}

/// An agent that is running.
pub(crate) struct Playing {
    child: Child,
    lines: std::thread::JoinHandle<Vec<String>>,
}

impl Stage {
    pub(crate) fn set(kybernis: &Path, python: &Path, folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("{} is in use or cannot be removed", data.display()))?;
        }
        fs::create_dir_all(folder)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let broker = Broker::start(Settings::new(folder.join("broker-ca.pem")))?;
        println!("A broker listens at https://localhost:{}. It does what it is told to do wrong.", broker.https().port());
        Ok(Self {
            broker,
            kybernis: kybernis.into(),
            python: python.into(),
            data,
            policies: root.join("policies"),
            agent: root.join("../../examples/agents/trader.py").canonicalize()?,
            books: Books::default(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.broker.https().port())
    }

    fn agent_words(&self, order: &str, more: &[&str]) -> Vec<String> {
        let url = self.url("/v1/orders");
        let words =
            [self.python.display().to_string(), self.agent.display().to_string(), "--url".into(), url, "--order".into(), order.into()];
        words.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
    }

    /// The agent on its own.
    pub(crate) fn bare(&self, order: &str, more: &[&str]) -> Result<()> {
        let words = self.agent_words(order, more);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("REQUESTS_CA_BUNDLE", self.broker.ca_pem_path());
        self.start(command, "")?.finish()?;
        Ok(())
    }

    /// The agent under `kybernis run`, to its end.
    pub(crate) fn governed(&self, order: &str, more: &[&str]) -> Result<Vec<String>> {
        self.begin(order, more, "")?.finish()
    }

    /// The agent under `kybernis run`, while the play goes on. `mark` stands before its lines.
    pub(crate) fn begin(&self, order: &str, more: &[&str], mark: &'static str) -> Result<Playing> {
        let words = self.agent_words(order, more);
        self.start(self.under(&words), mark)
    }

    /// Any command under `kybernis run`.
    pub(crate) fn under(&self, words: &[String]) -> Command {
        let mut command = self.command(&["run", "--label", "app=trader", "--agent", "trader", "--policies"]);
        command.arg(&self.policies).arg("--root").arg(self.broker.ca_pem_path()).arg("--").args(words);
        command
    }

    /// `kybernis` with the demo's data.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.kybernis);
        command.args(words).env("KYBERNIS_DATA", &self.data);
        // Whatever this machine says about its own roots is no part of the story.
        for name in ROOTS_ELSEWHERE {
            command.env_remove(name);
        }
        command
    }

    /// Starts a command, shows what it prints, and keeps it.
    pub(crate) fn start(&self, mut command: Command, mark: &'static str) -> Result<Playing> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let out = child.stdout.take().context("no standard output")?;
        let lines = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                println!("   {mark}{line}");
                kept.push(line);
            }
            kept
        });
        Ok(Playing { child, lines })
    }

    /// Runs a `kybernis` command as a person would, and shows it.
    pub(crate) fn says(&self, words: &[&str]) -> Result<String> {
        println!("   $ kybernis {}", words.join(" "));
        let output = self.command(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text.lines().chain(String::from_utf8_lossy(&output.stderr).lines()) {
            println!("   {line}");
        }
        if !output.status.success() {
            bail!("kybernis {} ended with {}", words.join(" "), output.status);
        }
        Ok(text)
    }

    /// What a listing says, as JSON.
    pub(crate) fn listed(&self, words: &[&str]) -> Result<Vec<serde_json::Value>> {
        let output = self.command(words).args(["-o", "json"]).output()?;
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("kybernis {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)))?;
        Ok(value.as_array().cloned().unwrap_or_default())
    }

    /// What goes wrong next.
    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) -> Result<()> {
        self.broker.clear_script();
        Ok(self.broker.script(faults)?)
    }

    /// Waits until the broker's books fit.
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&kybernis_broker::Snapshot) -> bool) -> Result<()> {
        self.broker.wait_until(PATIENCE, fits).map(drop).map_err(|_| anyhow::anyhow!("waited {} s for {what}", PATIENCE.as_secs()))
    }

    fn executed_for(&self, subject: &str) -> Vec<Executed> {
        self.broker.executed().into_iter().filter(|one| one.subject == subject).collect()
    }

    /// Closes an act with what the far side executed for `subject`.
    pub(crate) fn count(&mut self, act: &'static str, subject: &str, intended: usize, governed: bool) {
        let executed = self.executed_for(subject).len();
        self.books.count(act, executed, intended, governed);
    }

    /// The whole table, and what to type next.
    pub(crate) fn close(&self, took: Duration) {
        self.books.print();
        println!("\nTold in {:.0} s. The data is still there; go on with:\n", took.as_secs_f64());
        println!("   export KYBERNIS_DATA={}", self.data.display());
        for words in ["runs", "effects", "gates", "show RUN", "check e2e/demo/policies"] {
            println!("   {} {words}", self.kybernis.display());
        }
    }
}

impl Playing {
    /// The agent's own process, or that of a role below `kybernis run`.
    pub(crate) fn child_with(&self, word: &str) -> Result<i32> {
        let own = self.child.id();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            let Ok(words) = fs::read(entry.path().join("cmdline")) else { continue };
            if parent == Some(own) && words.split(|byte| *byte == 0).any(|one| one == word.as_bytes()) {
                return Ok(pid);
            }
        }
        bail!("kybernis run has no child `{word}`")
    }

    /// `kill -9`.
    pub(crate) fn kill(&self, word: &str) -> Result<()> {
        let pid = self.child_with(word)?;
        println!("   $ kill -9 {pid}        # the {word}");
        kill_process(Pid::from_raw(pid).context("no such process")?, Signal::KILL)?;
        Ok(())
    }

    /// Waits for the end; what was printed.
    pub(crate) fn finish(mut self) -> Result<Vec<String>> {
        self.child.wait()?;
        self.lines.join().map_err(|_| anyhow::anyhow!("what was printed is lost"))
    }
}
