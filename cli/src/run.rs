//! `kybernis run`: COMMAND, unchanged, under a ledger and a sidecar.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use kybernis_core::ids::{AgentId, RunId, TenantId};
use kybernis_crds::{AgentScope, DEFAULT_NAMESPACE, Loaded, ManifestError, Report, SYSTEM_NAMESPACE};

use crate::api::Api;
use crate::capture::environment::{Capture, Environment, environment};
use crate::capture::redirect::{Namespace, Redirect};
use crate::command::{self, Signals};
use crate::exit;
use crate::handover::Sockets;
use crate::home::Home;
use crate::roles::{Problems, labels};
use crate::say::tell;
use crate::summary::Summary;
use crate::supervise::{Capturing, Session, Settings, Wanted};

/// How COMMAND's connections are to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum Mode {
    /// By the kernel, whatever COMMAND does
    #[value(alias = "redirect")]
    Redirect,
    /// By variables that clients may honour
    #[value(alias = "cooperative")]
    Cooperative,
}

/// What `run` and `dev` have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// A folder of manifests; without one there is no policy
    #[arg(long, value_name = "DIR", env = "KYBERNIS_POLICIES")]
    pub(crate) policies: Option<PathBuf>,
    /// The data folder [default: $XDG_DATA_HOME/kybernis or ~/.local/share/kybernis]
    #[arg(long, value_name = "DIR", env = "KYBERNIS_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// The agent's name on record [default: COMMAND's, or `dev`]
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// A label that policies' selectors look at; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Names the run, and so makes it explicit
    #[arg(long, value_name = "ID")]
    pub(crate) run_id: Option<String>,
    /// A PEM file of roots that vouch for far sides beside the public ones; may be repeated
    #[arg(long = "root", value_name = "PEM_FILE")]
    pub(crate) roots: Vec<PathBuf>,
    /// The agent's namespace [default: the manifests' own, if they use one, else `default`]
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// The settings of a run.
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "kybernis run [OPTIONS] [--] <COMMAND>...",
    after_help = "COMMAND's exit status, signals and terminal are its own.\n\nExamples:\n  kybernis run -- python agent.py\n  \
                        kybernis run --policies ./policies --label app=trader -- node agent.js\n  kybernis run --capture Cooperative -- \
                        curl https://example.com"
)]
pub(crate) struct RunArgs {
    /// How connections are caught [default: Redirect where the kernel allows it]
    #[arg(long, value_enum, value_name = "MODE", env = "KYBERNIS_CAPTURE", ignore_case = true)]
    capture: Option<Mode>,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The manifests do not hold.
#[derive(Debug)]
pub(crate) struct BadManifests(Vec<ManifestError>);

impl std::error::Error for BadManifests {}

impl fmt::Display for BadManifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = Report { errors: self.0.clone(), warnings: Vec::new(), objects: 0 };
        report.fmt(f)
    }
}

#[cfg(test)]
impl RunArgs {
    pub(crate) fn command(&self) -> &[OsString] {
        &self.command
    }
}

/// What the arguments come to.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) settings: Settings,
    /// The policies that do not select this agent, and what else somebody should know.
    pub(crate) warnings: Vec<String>,
}

impl WorkloadArgs {
    /// Checks everything, and tells everything that is wrong at once.
    pub(crate) fn prepare(self, default_agent: &str) -> anyhow::Result<Prepared> {
        let mut problems = Problems::default();
        let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let home = problems.keep("--data", Home::locate(self.data, env).and_then(|path| Home::open(&path)).map_err(anyhow::Error::from));
        let agent = problems.keep("--agent", AgentId::new(self.agent.as_deref().unwrap_or(default_agent)));
        let labels = problems.keep("--label", labels(&self.labels));
        let namespace = self.namespace.map(|namespace| TenantId::new(&namespace).map(|_| namespace)).transpose();
        let namespace = problems.keep("--namespace", namespace);
        let explicit_run = self.run_id.is_some();
        let run = problems.keep("--run-id", RunId::new(&self.run_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())));
        let roots = self.roots.iter().filter_map(|root| problems.keep("--root", absolute(root))).collect();
        let policies = self.policies.as_deref().and_then(|dir| problems.keep("--policies", absolute(dir)));
        let program = problems.keep("kybernis", std::env::current_exe());
        let complete = || Some((home?, agent?, labels?, namespace?, run?, program?));
        let (home, agent, labels, namespace, run, program) = problems.settle(complete())?;
        let loaded = policies.as_deref().map(kybernis_crds::load).transpose().map_err(BadManifests)?;
        let namespace = namespace.or_else(|| loaded.as_ref().map(only_namespace));

        let scope = AgentScope { namespace: namespace.clone().unwrap_or_default(), labels: labels.clone() };
        let warnings = loaded.iter().flat_map(|loaded| loaded.warnings().iter().cloned().chain(loaded.unselected(&scope)));
        let warnings = warnings.map(|warning| format!("kybernis: warning: {warning}")).collect();
        let wanted = Wanted { program, policies, namespace };
        Ok(Prepared { settings: Settings { home, wanted, agent, labels, run, explicit_run, roots }, warnings })
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The one namespace that the manifests use beside the release's own, else `default`.
fn only_namespace(loaded: &Loaded) -> String {
    let mut own = loaded.namespaces().into_iter().filter(|namespace| *namespace != SYSTEM_NAMESPACE);
    match (own.next(), own.next()) {
        (Some(only), None) => only.to_owned(),
        _ => DEFAULT_NAMESPACE.to_owned(),
    }
}

/// A program's name as an agent's.
fn agent_of(command: &[OsString]) -> String {
    let name = command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).take(100).collect();
    if name.is_empty() { "agent".to_owned() } else { name }
}

/// Runs COMMAND.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let Prepared { settings, warnings } = args.workload.prepare(&agent_of(&args.command))?;
    warnings.iter().for_each(|warning| tell!("{warning}"));
    let home = settings.home.clone();
    let (capturing, sockets, namespace) = capture(args.capture, &settings)?;
    let session = Session::start(settings, capturing, sockets).await?;
    tell_joined(&session);
    let Environment { variables, notices } = session.inject(|about| environment(std::env::vars_os(), about));
    notices.iter().for_each(|notice| tell!("kybernis: {notice}"));

    let mut signals = Signals::take()?;
    let started = command::spawn(&args.command, variables, namespace).context("COMMAND could not be started");
    let status = match started {
        Ok(Ok(child)) => signals.wait(child).await.context("COMMAND could not be waited for"),
        Ok(Err(never_ran)) => Ok(never_ran),
        Err(error) => Err(error),
    };
    let (run, http) = (session.run.clone(), session.http());
    let summary = tokio::select! {
        summary = session.end(async || Summary::of(&run, &Api::local(&home, http)?).await) => summary,
        // Ledger and sidecar see our end and finish by themselves.
        () = signals.interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match summary {
        Ok(summary) => tell!("{summary}"),
        Err(error) => tell!("kybernis: run {run}: the ledger could not be asked for a summary: {error:#}"),
    }
    Ok(exit::as_command_did(status?))
}

/// A run that did not name policies goes by those of the ledger that it found.
pub(crate) fn tell_joined(session: &Session) {
    if let Some(policies) = session.joined_policies() {
        tell!("kybernis: joined the ledger that runs there, with the policies in {}", policies.display());
    }
}

/// Redirect unless it is not to be had or not wanted.
fn capture(wanted: Option<Mode>, settings: &Settings) -> anyhow::Result<(Capturing, Sockets, Option<Namespace>)> {
    if wanted != Some(Mode::Cooperative) {
        let folder = settings.home.folder("resolv")?.join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder)?;
        let redirect = Redirect { helper: settings.wanted.program.clone(), folder: folder.clone() };
        let prepared = redirect.prepare();
        // The namespace has it mounted: the file itself is not needed under its name any more.
        let _ = std::fs::remove_dir_all(&folder);
        match prepared {
            Ok(mut namespace) => {
                let (capturing, sockets) = Capturing::redirect(&mut namespace);
                return Ok((capturing, sockets, Some(namespace)));
            }
            Err(why) if wanted == Some(Mode::Redirect) => return Err(why.into()),
            Err(why) => tell!("kybernis: {why}\nkybernis: FALLING BACK to capture Cooperative"),
        }
    }
    tell!("kybernis: capture Cooperative cannot catch {}", Capture::ESCAPES);
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (capturing, sockets) = Capturing::cooperative(any_port).context("no port for the proxy")?;
    Ok((capturing, sockets, None))
}

/// What `env` prints and `dev` shows.
pub(crate) fn exports(variables: &[(&'static str, Option<OsString>)]) -> String {
    let mut sorted: BTreeMap<&str, &Option<OsString>> = BTreeMap::new();
    sorted.extend(variables.iter().map(|(name, value)| (*name, value)));
    let line = |(name, value): (&str, &Option<OsString>)| match value {
        Some(value) => format!("export {name}='{}'\n", value.to_string_lossy().replace('\'', r"'\''")),
        None => format!("unset {name}\n"),
    };
    sorted.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_called_as_its_program() {
        for (command, name) in
            [("python3", "python3"), ("/usr/bin/node", "node"), ("./my agent!", "my-agent-"), ("..", "agent"), ("", "agent")]
        {
            assert_eq!(agent_of(&[command.into()]), name);
            assert!(AgentId::new(name).is_ok());
        }
    }

    #[test]
    fn the_manifests_own_namespace_is_the_agent_s_if_there_is_one() {
        let check = |namespaces: &[&str], expect: &str| {
            let folder = tempfile::tempdir().unwrap();
            for (at, namespace) in namespaces.iter().enumerate() {
                let manifest = format!(
                    "apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {{name: p{at}, namespace: {namespace}}}\nspec: {{default: Allow}}\n"
                );
                std::fs::write(folder.path().join(format!("{at}.yaml")), manifest).unwrap();
            }
            assert_eq!(only_namespace(&kybernis_crds::load(folder.path()).unwrap()), expect, "{namespaces:?}");
        };
        check(&[], "default");
        check(&["trading"], "trading");
        check(&["trading", "kybernis-system"], "trading");
        check(&["kybernis-system"], "default");
        check(&["trading", "billing"], "default");
    }

    #[test]
    fn exports_survive_any_value() {
        let text = exports(&[("B", Some("it's $HOME".into())), ("A", None)]);
        assert_eq!(text, "unset A\nexport B='it'\\''s $HOME'\n");
    }
}
