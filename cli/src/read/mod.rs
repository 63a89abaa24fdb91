//! What people read of the ledger, and what they tell it: `runs`, `show`, `effects`, `gates`, `approve`, `deny`, `resolve`.

mod decide;
mod listing;
mod output;
mod source;
mod table;
mod waterfall;

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kybernis_core::policy::PolicySet;
use kybernis_ledger::policy::{InForce, Secrets};
use kybernis_ledger::{Callers, Ledger, Settings};
use tokio::sync::watch;

pub(crate) use self::decide::{DecideArgs, ResolveArgs, approve, deny, resolve};
pub(crate) use self::listing::{
    EffectsArgs, GatesArgs, RunsArgs, ShowArgs, WhichEffects, effects, gates, list_effects, list_gates, list_runs, runs, show, show_run,
};
pub(crate) use self::output::OutputArgs;
pub(crate) use self::source::{Listing, Source};
pub(crate) use self::table::{printable, until};
use crate::api::Api;
use crate::home::{Home, Ownership};

/// How long an owner that has not announced its ledger yet is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
/// Between looks.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// Which data folder is read.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// The data folder [default: $XDG_DATA_HOME/kybernis or ~/.local/share/kybernis]
    #[arg(long, value_name = "DIR", env = "KYBERNIS_DATA", global = true)]
    data: Option<PathBuf>,
}

/// A ledger to ask: the one that runs on the data folder, or one of our own for as long as it takes.
pub(crate) struct Asked {
    /// How to ask it.
    pub(crate) api: Api,
    own: Option<(Ledger, Ownership)>,
}

impl DataArgs {
    /// Opens the data folder.
    pub(crate) fn home(&self) -> anyhow::Result<Home> {
        let find = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Ok(Home::open(&Home::locate(self.data.clone(), find)?)?)
    }

    /// Finds or starts the folder's ledger.
    pub(crate) async fn ask(&self) -> anyhow::Result<Asked> {
        let home = self.home()?;
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(ownership) = home.try_own()? {
                return own(&home, ownership).await;
            }
            if let Some(standing) = home.standing() {
                return Ok(Asked { api: Api::local(&home, standing.http)?, own: None });
            }
            if tokio::time::Instant::now() > until {
                anyhow::bail!("{} is held by another kybernis process that answers nobody; wait for it to end", home.path().display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn own(home: &Home, ownership: Ownership) -> anyhow::Result<Asked> {
    let http = TcpListener::bind("127.0.0.1:0")?;
    let at = http.local_addr()?;
    let nothing = InForce::new(&PolicySet::default(), Secrets::new()).map_err(|_| anyhow::anyhow!("the empty policy does not hold"))?;
    // Nobody registers with this ledger, so no policy comes into force.
    let (_, policy) = watch::channel(nothing);
    let settings = Settings {
        data: home.path().into(),
        grpc: TcpListener::bind("127.0.0.1:0")?,
        http,
        callers: Callers::Local { policy },
        engine: kybernis_ledger::engine::Settings::default(),
    };
    let ledger = Ledger::start(settings).await.with_context(|| format!("the ledger in {} cannot be read", home.path().display()))?;
    Ok(Asked { api: Api::local(home, at)?, own: Some((ledger, ownership)) })
}

impl Asked {
    /// Ends a ledger of our own.
    pub(crate) async fn done(self) -> anyhow::Result<()> {
        if let Some((ledger, _ownership)) = self.own {
            ledger.stop().await?;
        }
        Ok(())
    }
}
