//! One workload under Kybernis: a place at the ledger, a token, a sidecar of its own, and what COMMAND must be told.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kybernis_core::ids::{AgentId, PersonId, RunId, TenantId};
use kybernis_core::policy::Labels;
use kybernis_ledger::auth::{Claims, Role as Caller, TokenKey, Workload};
use tokio::task::JoinSet;

use super::kept::Kept;
use super::place::Place;
use super::seat::{Seat, Wanted};
use crate::capture::environment::{Capture, Injected};
use crate::capture::redirect::Namespace;
use crate::handover::{Purpose, Sockets};
use crate::home::{Home, write_whole};

/// Longer than any run: the token lies in a folder of the user's own, and dies with it.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long a run that has ended stays to deliver what others left: a spool of outcomes takes seconds.
const LEFTOVERS: Duration = Duration::from_secs(10);

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
    leftovers: JoinSet<()>,
    sidecar: Kept,
    place: Place,
}

impl Session {
    /// Takes a place at the ledger and starts the sidecar; returns when COMMAND may start.
    pub(crate) async fn start(settings: Settings, capturing: Capturing, sockets: Sockets) -> anyhow::Result<Self> {
        let Settings { home, wanted, agent, labels, run, explicit_run, roots } = settings;
        let seat = Seat::take(&home, &wanted).await?;
        let leftovers = deliver_leftovers(&home, &wanted.program, &seat);
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
        let role = place.role(&wanted.program, seat.standing.grpc, capturing.mode(), &roots, sockets)?;
        let sidecar = match Kept::start(role).await {
            Ok(sidecar) => sidecar,
            Err(error) => {
                seat.leave().await;
                return Err(error.into());
            }
        };
        Ok(Self { run, tenant, capturing, agent, roots, instance, seat, leftovers, sidecar, place })
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
    pub(crate) async fn end<T>(mut self, last: impl AsyncFnOnce() -> T) -> T {
        self.sidecar.stop().await;
        self.place.clear();
        // What other sessions left goes on waiting if it takes longer; their ends are not this COMMAND's to wait for.
        let delivered = async { while self.leftovers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LEFTOVERS, delivered).await;
        let read = last().await;
        self.seat.leave().await;
        read
    }
}

/// Sessions that were killed may have left outcomes: a sidecar without listeners delivers them, beside this session.
fn deliver_leftovers(home: &Home, program: &Path, seat: &Seat) -> JoinSet<()> {
    let mut delivering = JoinSet::new();
    for place in Place::leftovers(home) {
        if !place.token().exists() {
            // No sidecar was ever started there.
            place.clear();
            continue;
        }
        let role = place.role(program, seat.standing.grpc, Capture::Cooperative, &[], Sockets::default());
        let Ok(role) = role else { continue };
        delivering.spawn(async move {
            if let Ok(sidecar) = Kept::start(role).await {
                sidecar.stop().await;
                place.clear();
            }
        });
    }
    delivering
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
