//! Why Redirect is not to be had on this machine, in a sentence that also says what to do.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What was being done when the machine refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Starting the helper and talking to it.
    Helper,
    /// Making the user, network and mount namespaces.
    Unshare,
    /// Writing the namespace's map of user and group ids.
    IdMap,
    /// Bringing up the loopback interface, its addresses and routes.
    Network,
    /// Loading the nftables rules.
    Rules,
    /// Putting our `resolv.conf` in place of the host's.
    ResolvConf,
    /// Opening the listeners.
    Listeners,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Helper => "starting its helper",
            Self::Unshare => "making user, network and mount namespaces",
            Self::IdMap => "mapping user ids into a namespace",
            Self::Network => "setting up the namespace's loopback network",
            Self::Rules => "loading nftables rules in the namespace",
            Self::ResolvConf => "replacing /etc/resolv.conf in the namespace",
            Self::Listeners => "listening in the namespace",
        })
    }
}

/// Redirect is not to be had here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Unsupported {
    /// The `nft` program is missing.
    #[error("capture Redirect needs the nft program: install the package nftables, or use --capture Cooperative")]
    NftMissing,
    /// The kernel or the system's policy refuses.
    #[error("capture Redirect failed at {step}: {said}; {remedy}")]
    Refused {
        /// What was being done.
        step: Step,
        /// What the system said.
        said: String,
        /// What to do about it.
        remedy: String,
    },
}

const RESTRICTED_BY_APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
const CLONE_ALLOWED: &str = "/proc/sys/kernel/unprivileged_userns_clone";
const NAMESPACES_ALLOWED: &str = "/proc/sys/user/max_user_namespaces";

impl Unsupported {
    pub(super) fn io(step: Step, error: &io::Error) -> Self {
        Self::said(step, error.to_string())
    }

    pub(super) fn said(step: Step, said: impl Into<String>) -> Self {
        let setting = |path: &str| std::fs::read_to_string(Path::new(path)).ok().map(|text| text.trim().to_owned());
        Self::Refused { step, said: said.into(), remedy: remedy(step, setting).to_owned() }
    }
}

/// Names the switch that is off, as each distribution has its own.
fn remedy(step: Step, setting: impl Fn(&str) -> Option<String>) -> &'static str {
    if setting(RESTRICTED_BY_APPARMOR).as_deref() == Some("1") {
        "AppArmor keeps unconfined programs from using user namespaces: an administrator can allow it with `sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0`; or use --capture Cooperative"
    } else if setting(CLONE_ALLOWED).as_deref() == Some("0") {
        "an administrator can allow user namespaces with `sysctl kernel.unprivileged_userns_clone=1`; or use --capture Cooperative"
    } else if setting(NAMESPACES_ALLOWED).as_deref() == Some("0") {
        "an administrator can allow user namespaces with `sysctl user.max_user_namespaces=10000`; or use --capture Cooperative"
    } else if step == Step::Rules {
        "the kernel may lack nf_tables with NAT (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REJECT_INET): load or build \
         them, or use --capture Cooperative"
    } else {
        "in a container its seccomp profile may forbid it: run outside one, or use --capture Cooperative"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_switch_that_is_off() {
        let check = |path: &str, value: &str, expect: &str| {
            let said = remedy(Step::Unshare, |asked| (asked == path).then(|| value.to_owned()));
            assert!(said.contains(expect), "{path}: {said}");
        };
        check(RESTRICTED_BY_APPARMOR, "1", "apparmor_restrict_unprivileged_userns=0");
        check(RESTRICTED_BY_APPARMOR, "0", "seccomp");
        check(CLONE_ALLOWED, "0", "unprivileged_userns_clone=1");
        check(NAMESPACES_ALLOWED, "0", "max_user_namespaces=10000");
    }
}
