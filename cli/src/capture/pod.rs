//! `kybernis capture`: an init container's one task. The kernel leads every connection of the pod's other containers to the sidecar
//! and every question about names to its resolver; what is neither goes nowhere.

use std::fmt;
use std::str::FromStr;

use clap::Args;

use super::nft;
use crate::say::tell;

/// Marks the sidecar's own connections in the kernel's table.
const MARK: u32 = 0x7400;

/// The settings of a pod's redirection.
#[derive(Clone, Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The sidecar's user, whose connections go where they are meant to
    #[arg(long, value_name = "UID", value_parser = clap::value_parser!(u32).range(1..))]
    proxy_uid: u32,
    /// Where the sidecar takes redirected connections, on loopback
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    redirect_port: u16,
    /// Where the sidecar answers questions about names, on loopback
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    dns_port: u16,
    /// TCP ports that are left alone, and ranges of them, as in 5432,9000-9010
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<Ports>,
}

/// A port or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports(u16, u16);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let ports = port(from).zip(port(to)).filter(|(from, to)| from <= to);
        ports.map(|(from, to)| Self(from, to)).ok_or_else(|| format!("{text:?} is no port and no range, as in 9000-9010"))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

/// Loads the rules.
pub(crate) fn capture(args: &CaptureArgs) -> anyhow::Result<()> {
    nft::load(&table(args))?;
    tell!(
        "kybernis capture: TCP goes to port {}, names to port {}, user {} goes free{}",
        args.redirect_port,
        args.dns_port,
        args.proxy_uid,
        match skipped(args) {
            Some(ports) => format!(", TCP ports {ports} are left alone"),
            None => String::new(),
        }
    );
    Ok(())
}

fn skipped(args: &CaptureArgs) -> Option<String> {
    let ports: Vec<String> = args.skip_outbound_ports.iter().map(ToString::to_string).collect();
    (!ports.is_empty()).then(|| ports.join(", "))
}

/// The table is there anew or, where the rules do not load, as it was: an init container may run twice.
///
/// The sidecar's own TCP connections are marked, not those that it answers: once a socket is closed, what the kernel still has to send
/// belongs to no user any more. The mark is for what is nobody's alone: a connection that the far side has reset stays in the kernel's
/// table for some seconds, and whoever took its port in the meantime would go by its mark.
/// Answers to connections from outside leave, for the agent may be a server. The neighbours of IPv6 are the kernel's own questions.
/// What else there is is rejected, not dropped, so that clients of QUIC fall back at once.
fn table(args: &CaptureArgs) -> String {
    let CaptureArgs { proxy_uid, redirect_port, dns_port, .. } = args;
    let (leave, pass) = match skipped(args) {
        Some(ports) => (format!("    tcp dport {{ {ports} }} return\n"), format!("    tcp dport {{ {ports} }} accept\n")),
        None => (String::new(), String::new()),
    };
    format!(
        "table inet kybernis
delete table inet kybernis
table inet kybernis {{
  chain capture {{
    type nat hook output priority -100; policy accept;
    meta skuid {proxy_uid} return
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns_port}
    oifname \"lo\" return
{leave}    meta l4proto tcp redirect to :{redirect_port}
  }}
  chain fence {{
    type filter hook output priority 0; policy drop;
    meta skuid {proxy_uid} meta l4proto tcp ct direction original ct mark set {MARK} accept
    meta skuid {proxy_uid} accept
    ct direction original ct mark {MARK} meta skuid != {proxy_uid} reject with icmpx admin-prohibited
    ct mark {MARK} accept
    oifname \"lo\" accept
    ct status dnat accept
    ct direction reply accept
{pass}    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report }} accept
    reject with icmpx admin-prohibited
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(ports: &[&str]) -> CaptureArgs {
        let skip_outbound_ports = ports.iter().map(|text| text.parse().unwrap()).collect();
        CaptureArgs { proxy_uid: 7400, redirect_port: 7401, dns_port: 7453, skip_outbound_ports }
    }

    #[test]
    fn skipped_ports_are_left_alone_by_both_chains() {
        assert!(!table(&args(&[])).contains("tcp dport"));
        let table = table(&args(&["5432", "9000-9010"]));
        assert!(
            table.contains("    tcp dport { 5432, 9000-9010 } return\n") && table.contains("    tcp dport { 5432, 9000-9010 } accept\n")
        );
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in ["", "0", "65536", "5-4", "a", "1-", "-1", "1-2-3"] {
            assert!(text.parse::<Ports>().unwrap_err().contains("no port and no range"), "{text}");
        }
    }

    /// In a network namespace of its own, where whoever made it may do everything.
    #[test]
    fn the_kernel_takes_the_rules_twice() {
        let rules = table(&args(&["5432", "9000-9010"]));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        let script =
            format!("export PATH=$PATH:/usr/sbin:/sbin; nft -f {0} && nft -f {0} && nft list table inet kybernis", file.path().display());
        let run =
            std::process::Command::new("unshare").args(["--user", "--map-root-user", "--net", "sh", "-ec", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(said.matches("redirect to :7401").count(), 1, "{said}");
    }
}
