//! Where a role's logs go: stderr, or a file that cannot grow without bound.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// A log larger than this is put aside at the next start; the one put aside before goes.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// How a line of log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of every role's logs.
#[derive(Clone, Debug, Args)]
pub(super) struct LogArgs {
    /// What is logged, as in `info` or `kybernis_sidecar=debug,info`
    #[arg(long, value_name = "FILTER", env = "KYBERNIS_LOG", default_value = "info")]
    pub(super) log: String,
    /// How a line looks
    #[arg(long, value_enum, env = "KYBERNIS_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log to a file instead of stderr
    #[arg(long, value_name = "FILE", env = "KYBERNIS_LOG_FILE")]
    pub(super) log_file: Option<PathBuf>,
}

impl LogArgs {
    /// The filter, checked.
    pub(super) fn filter(&self) -> Result<EnvFilter, String> {
        EnvFilter::try_new(&self.log).map_err(|error| format!("{:?}: {error}", self.log))
    }

    /// Sends this process's logs where they go.
    pub(super) fn start(&self, filter: EnvFilter) -> anyhow::Result<()> {
        let writer = match &self.log_file {
            Some(path) => BoxMakeWriter::new(open(path).with_context(|| format!("the log file {}", path.display()))?),
            None => BoxMakeWriter::new(std::io::stderr),
        };
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
        // Otherwise a line that cannot be written is told on stderr, and panics where that is what has gone.
        let subscriber = subscriber.log_internal_errors(false);
        match self.log_format {
            LogFormat::Text => subscriber.init(),
            LogFormat::Json => subscriber.json().flatten_event(true).init(),
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > FILE_BYTES) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
