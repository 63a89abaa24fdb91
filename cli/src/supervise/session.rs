//! One workload under Kybernis: a place at the ledger, a token, a sidecar of its own, and what COMMAND must be told.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use kybernis_core::ids::{AgentId, PersonId, RunId, TenantId};
use kybernis_core::policy::Labels;
use kybernis_ledger::Ledger;
use kybernis_ledger::auth::{Claims, Role as Caller, TokenKey, Workload};
use kybernis_sidecar::serve::Sidecar;

use super::kept::{Kept, Role};
use super::seat::{Seat, Wanted};
use crate::capture::environment::{Capture, Injected};
use crate::capture::redirect::Namespace;
use crate::capture::truststore;
use crate::handover::{Purpose, Sockets};
use crate::home::{Home, write_whole};

/// Longer than any run: the token lies in a folder of the user's own, and dies with it.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

const SIDECARS: &str = "sidecars";

/// How this session's connections come in.
#[derive(Debug)]
pub(crate) enum Capturing {
    /// Through the sockets of a namespace.
    Redirect,
    /// At a forward proxy.
    Cooperative(SocketAddr),
}

impl Capturing {
    /// The mode's name.
    pub(crate) const fn mode(&self) -> Capture {
        match self {
            Self::Redirect => Capture::Redirect,
            Self::Cooperative(_) => Capture::Cooperative,
        }
    }

    /// Takes the namespace's sockets.
    pub(crate) fn redirect(namespace: &mut Namespace) -> (Self, Sockets) {
        let mut sockets = Sockets::default();
        sockets.add_all(Purpose::Redirect, std::mem::take(&mut namespace.listeners));
        sockets.add_all(Purpose::DnsUdp, std::mem::take(&mut namespace.dns_udp));
        sockets.add_all(Purpose::DnsTcp, std::mem::take(&mut namespace.dns_tcp));
        (Self::Redirect, sockets)
    }

    /// Opens a forward proxy.
    pub(crate) fn cooperative(listen: SocketAddr) -> io::Result<(Self, Sockets)> {
        let listener = TcpListener::bind(listen)?;
        let at = listener.local_addr()?;
        let mut sockets = Sockets::default();
        sockets.add(Purpose::Proxy, listener);
        Ok((Self::Cooperative(at), sockets))
    }
}

/// What a session is for.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The data folder.
    pub(crate) home: Home,
    /// Which ledger.
    pub(crate) wanted: Wanted,
    /// Who acts.
    pub(crate) agent: AgentId,
    /// What selectors look at.
    pub(crate) labels: Labels,
    /// The run.
    pub(crate) run: RunId,
    /// Whether the user named it.
    pub(crate) explicit_run: bool,
    /// PEM files of roots that vouch for far sides, absolute.
    pub(crate) roots: Vec<PathBuf>,
}

/// A folder of one sidecar, locked for as long as its session lives.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    _lock: File,
}

/// A session that stands.
#[derive(Debug)]
pub(crate) struct Session {
    /// The run.
    pub(crate) run: RunId,
    /// The tenant: the namespace in force.
    pub(crate) tenant: String,
    /// How connections are caught.
    pub(crate) capturing: Capturing,
    agent: AgentId,
    roots: Vec<PathBuf>,
    instance: String,
    seat: Seat,
    sidecar: Kept,
    place: Place,
}

impl Session {
    /// Takes a place at the ledger and starts the sidecar; returns when COMMAND may start.
    pub(crate) async fn start(settings: Settings, capturing: Capturing, sockets: Sockets) -> anyhow::Result<Self> {
        let Settings { home, wanted, agent, labels, run, explicit_run, roots } = settings;
        let seat = Seat::take(&home, &wanted).await?;
        deliver_leftovers(&home, &wanted.program, &seat);
        let tenant = seat.standing.namespace.clone();
        let instance = uuid::Uuid::new_v4().to_string();
        let workload = Workload { agent: agent.clone(), run: run.clone(), explicit_run, labels, instance: instance.clone() };
        let place = Place::make(&home, &instance)?;
        let claims = Claims {
            role: Caller::Sidecar,
            tenant: TenantId::new(&tenant)?,
            subject: local_person(),
            workload: Some(workload),
            expires: now_seconds() + TOKEN_LIFE.as_secs(),
        };
        let token = TokenKey::open(home.path())?.mint(&claims);
        write_whole(&place.token(), token.as_bytes(), 0o600)?;
        let role = place.role(&home, &wanted.program, seat.standing.grpc, capturing.mode(), &roots, sockets)?;
        let sidecar = match Kept::start(role).await {
            Ok(sidecar) => sidecar,
            Err(error) => {
                seat.leave().await;
                return Err(error.into());
            }
        };
        place.write_trust_store()?;
        Ok(Self { run, tenant, capturing, agent, roots, instance, seat, sidecar, place })
    }

    /// Where the ledger's HTTP API is.
    pub(crate) const fn http(&self) -> SocketAddr {
        self.seat.standing.http
    }

    /// The policies of a ledger that somebody else runs.
    pub(crate) fn joined_policies(&self) -> Option<&Path> {
        self.seat.standing.policies.as_deref().filter(|_| self.seat.joined)
    }

    /// What COMMAND's environment says of all this.
    pub(crate) fn inject<T>(&self, then: impl FnOnce(&Injected<'_>) -> T) -> T {
        let proxy = match self.capturing {
            Capturing::Redirect => None,
            Capturing::Cooperative(at) => Some(at),
        };
        then(&Injected {
            tenant: &self.tenant,
            agent: self.agent.as_str(),
            run: self.run.as_str(),
            instance: &self.instance,
            capture: self.capturing.mode(),
            proxy,
            roots: &self.roots,
            bundle: &self.place.bundle_file(),
            trust_store: &self.place.trust_store(),
        })
    }

    /// Ends the sidecar, lets `last` read what the ledger has, and gives the place at the ledger up.
    pub(crate) async fn end<T>(self, last: impl AsyncFnOnce() -> T) -> T {
        self.sidecar.stop().await;
        self.place.clear();
        let read = last().await;
        self.seat.leave().await;
        read
    }
}

impl Place {
    fn make(home: &Home, instance: &str) -> anyhow::Result<Self> {
        let path = home.folder(Path::new(SIDECARS).join(instance))?;
        Self::lock(path)?.context("the sidecar's folder is in use")
    }

    /// `None`: its session lives.
    fn lock(path: PathBuf) -> anyhow::Result<Option<Self>> {
        let lock = File::create(path.join("lock")).with_context(|| format!("{}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    fn bundle_file(&self) -> PathBuf {
        self.bundle().join(Sidecar::BUNDLE_FILE)
    }

    fn trust_store(&self) -> PathBuf {
        self.bundle().join("trust.jks")
    }

    fn write_trust_store(&self) -> anyhow::Result<()> {
        let bundle = self.bundle_file();
        let pem = fs::read(&bundle).with_context(|| format!("the bundle {}", bundle.display()))?;
        let store = truststore::from_pem(&pem).with_context(|| format!("the bundle {}", bundle.display()))?;
        Ok(write_whole(&self.trust_store(), &store, 0o644)?)
    }

    fn role(
        &self,
        home: &Home,
        program: &Path,
        grpc: SocketAddr,
        capture: Capture,
        roots: &[PathBuf],
        sockets: Sockets,
    ) -> anyhow::Result<Role> {
        let log = home.folder("logs")?.join("sidecar.log");
        let mut args: Vec<std::ffi::OsString> = vec!["sidecar".into(), "--supervised".into()];
        let address = format!("https://{grpc}");
        let pairs: [(&str, std::ffi::OsString); 7] = [
            ("--data", self.path.join("data").into()),
            ("--bundle", self.bundle().into()),
            ("--ledger", address.into()),
            ("--ledger-ca", Ledger::ca_file(home.path()).into()),
            ("--token-file", self.token().into()),
            ("--capture", capture.as_str().into()),
            ("--log-file", log.clone().into()),
        ];
        for (name, value) in pairs {
            args.extend([name.into(), value]);
        }
        for root in roots {
            args.extend(["--root".into(), root.into()]);
        }
        Ok(Role { name: "sidecar", program: program.into(), args, sockets, pid_file: self.path.join("sidecar.pid"), log })
    }

    /// Removes the folder, unless its spool holds what the ledger has not taken: a later session delivers that.
    fn clear(&self) {
        let spool = fs::read_dir(self.path.join("data/spool")).into_iter().flatten().filter_map(Result::ok);
        let left = spool.filter(|entry| entry.metadata().is_ok_and(|about| about.len() > 0)).count();
        if left > 0 {
            eprintln!(
                "kybernis: the ledger has not taken everything; {} holds the rest, and the next run delivers it",
                self.path.display()
            );
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(%error, "a sidecar's folder stays");
        }
    }
}

/// Sessions that were killed may have left outcomes: a sidecar without listeners delivers them, beside this session.
fn deliver_leftovers(home: &Home, program: &Path, seat: &Seat) {
    let folders = fs::read_dir(home.path().join(SIDECARS)).into_iter().flatten().filter_map(Result::ok);
    let left = folders.filter_map(|entry| Place::lock(entry.path()).ok().flatten()).filter(|place| place.token().exists());
    for place in left {
        let role = place.role(home, program, seat.standing.grpc, Capture::Cooperative, &[], Sockets::default());
        let Ok(role) = role else { continue };
        tokio::spawn(async move {
            if let Ok(sidecar) = Kept::start(role).await {
                sidecar.stop().await;
                place.clear();
            }
        });
    }
}

/// The local user, as their decisions are recorded.
pub(crate) fn local_person() -> PersonId {
    let name = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let name: String = name.unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(100).collect();
    let uid = || format!("local:uid-{}", nix::unistd::getuid());
    let person = if name.is_empty() { uid() } else { format!("local:{name}") };
    // Letters, digits and `. _ - :` are what a person's name may hold, and it is never empty.
    PersonId::new(&person).unwrap_or_else(|_| unreachable!("{person} is a name"))
}

/// Unix seconds.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
