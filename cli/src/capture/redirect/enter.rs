//! The helper: makes the namespaces around itself, hands the listeners out, waits for the word, becomes COMMAND.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::channel::{Channel, Go};
use super::identity::{Caller, Mapper, Maps};
use super::netlink::Routing;
use super::{GATEWAY_V4, GATEWAY_V6, Sockets, Step, Unsupported, rules};
use crate::say::tell;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What shells end with when a command is not found.
const NOT_FOUND: u8 = 127;
/// What shells end with when a command cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// What `kybernis` itself ends with when it fails.
const FAILED: u8 = 125;

/// No search list: names are completed by the host's resolver, once.
pub(super) fn resolv_conf() -> String {
    format!("nameserver {GATEWAY_V4}\nsearch .\n")
}

/// The hidden subcommand: `__enter NAME RESOLV_CONF`, run by the supervisor alone.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(name), Some(resolv_conf)) = (args.next(), args.next()) else {
        tell!("kybernis: this is a helper of `kybernis run`, not a command");
        return ExitCode::from(FAILED);
    };
    let Ok(mut channel) = Channel::connect(&name) else {
        tell!("kybernis: this is a helper of `kybernis run`, not a command");
        return ExitCode::from(FAILED);
    };
    match enter(&mut channel, &PathBuf::from(resolv_conf)) {
        Err(why) => {
            // With nobody left to tell there is nothing to do either.
            let _ = channel.send_refused(&why);
            ExitCode::from(FAILED)
        }
        Ok(()) => match channel.expect_go() {
            Ok(go) => ExitCode::from(execute(&go)),
            // The supervisor went away: so do we.
            Err(_) => ExitCode::from(FAILED),
        },
    }
}

fn enter(channel: &mut Channel, resolv_conf: &Path) -> Result<(), Unsupported> {
    let at = |step: Step| move |error: io::Error| Unsupported::io(step, &error);
    let caller = Caller::current();
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Unsupported::io(Step::Unshare, &errno.into()))?;
    channel.send_unshared().map_err(at(Step::Helper))?;
    channel.expect_mapped().map_err(at(Step::IdMap))?;

    let ipv6 = network().map_err(at(Step::Network))?;
    if caller.is_root() {
        // Root expects low ports, which the inner namespace has no right to; where it cannot be set, none are had.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    }
    let sockets = Sockets::open(ipv6).map_err(at(Step::Listeners))?;
    let (port_v4, port_v6) = sockets.ports().map_err(at(Step::Listeners))?;
    rules::load(port_v4, port_v6)?;
    replace_resolv_conf(resolv_conf).map_err(at(Step::ResolvConf))?;
    give_up_rights(caller).map_err(at(Step::IdMap))?;
    let sockets: Vec<OwnedFd> = sockets.into_fds();
    channel.send_ready(&sockets).map_err(at(Step::Helper))
}

/// Leads every address to the loopback interface; tells whether there is IPv6.
fn network() -> io::Result<bool> {
    let routing = Routing::open()?;
    routing.loopback_up()?;
    routing.lead_everything_to(IpAddr::V4(GATEWAY_V4))?;
    if !Path::new("/proc/net/if_inet6").exists() {
        return Ok(false);
    }
    // A host that has switched IPv6 off hands that down to its namespaces.
    let _ = fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0");
    match routing.lead_everything_to(IpAddr::V6(GATEWAY_V6)) {
        Ok(()) => Ok(true),
        // Still off: then it is no way out either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

fn replace_resolv_conf(ours: &Path) -> io::Result<()> {
    // Changes of ours stay here; the host's mounts and unmounts still arrive.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    let theirs = match fs::canonicalize(RESOLV_CONF) {
        Ok(path) => path,
        // Without the file resolvers ask loopback, whose port 53 is redirected like any other.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    mount(Some(ours), &theirs, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Enters the inner user namespace: from here on the rules stand, for their owner is out of reach.
fn give_up_rights(caller: Caller) -> io::Result<()> {
    let maps = Maps::outward(caller)?;
    let mapper = Mapper::start()?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    mapper.map(&maps)
}

/// Becomes COMMAND; returns only if that fails.
fn execute(go: &Go) -> u8 {
    let Some((program, args)) = go.command.split_first() else {
        tell!("kybernis: no command to run");
        return FAILED;
    };
    let env = go.env.iter().map(|(name, value)| (name, value));
    let error = Command::new(program).args(args).env_clear().envs(env).exec();
    tell!("kybernis: {}: {error}", program.display());
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}
