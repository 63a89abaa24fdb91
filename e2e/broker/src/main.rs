//! `kybernis-broker`: the broker as a process. Prints its addresses as one line of JSON once it serves.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use kybernis_broker::{Authority, Broker, Settings};
use serde_json::json;

/// A broker that misbehaves on purpose.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "EXAMPLE
  kybernis-broker --ca-out /tmp/broker-ca.pem
  curl -X POST http://ADMIN/faults -H 'content-type: application/json' -d '[{\"then\": \"drop\", \"execute\": true}]'"
)]
struct Args {
    /// Where all ports are opened
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// TLS; 0 lets the system choose
    #[arg(long, default_value_t = 0)]
    https_port: u16,
    /// No TLS: HTTP/1.1, and HTTP/2 by prior knowledge
    #[arg(long, default_value_t = 0)]
    http_port: u16,
    /// Script and journals, as JSON
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Where the authority's certificate is written, as PEM
    #[arg(long, value_name = "FILE")]
    ca_out: PathBuf,
    /// A folder with `tls.crt` and `tls.key` of the authority that signs its certificate [default: a new one]
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
    /// Whether Idempotency-Key means anything
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    idempotency: Switch,
    /// Whether HTTP/2 is offered over TLS
    #[arg(long, value_enum, default_value_t = Switch::On)]
    http2: Switch,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let authority = args.authority.as_deref().map(authority).transpose()?;
    let broker = Broker::start(Settings {
        bind: args.bind,
        https_port: args.https_port,
        http_port: args.http_port,
        admin_port: args.admin_port,
        ca_out: args.ca_out,
        honours_keys: args.idempotency == Switch::On,
        http2: args.http2 == Switch::On,
        authority,
    })
    .context("the broker did not start")?;
    let addresses = json!({"https": broker.https(), "http": broker.http(), "admin": broker.admin(), "ca": broker.ca_pem_path()});
    let mut out = std::io::stdout().lock();
    writeln!(out, "{addresses}").and_then(|()| out.flush()).context("the addresses could not be printed")?;
    // It ends by its signal: there is nothing to save.
    loop {
        std::thread::park();
    }
}

/// The names are those of a Secret for TLS.
fn authority(folder: &Path) -> Result<Arc<Authority>> {
    let read = |name| std::fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name} in {}", folder.display()));
    Ok(Arc::new(Authority::from_pem(&read("tls.crt")?, &read("tls.key")?).context("the authority is not usable")?))
}
