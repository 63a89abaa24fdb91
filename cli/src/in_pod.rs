//! The command line of `kybernis-sidecar`.

use clap::Parser;

use crate::capture::pod::CaptureArgs;
use crate::roles::sidecar::SidecarArgs;

/// What runs in an injected pod beside the agent.
#[derive(Debug, Parser)]
#[command(name = "kybernis", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, once")]
pub(crate) enum InPod {
    /// Decide, send and record every call of the pod
    Sidecar(SidecarArgs),
    /// Redirect the pod's connections to the sidecar
    Capture(CaptureArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn it_takes_what_kybernis_takes() {
        let mut all = Cli::command();
        for small in InPod::command().get_subcommands() {
            let whole = all.find_subcommand_mut(small.get_name()).unwrap();
            let options = |command: &clap::Command| command.get_arguments().map(|a| a.get_id().to_string()).collect::<Vec<_>>();
            assert_eq!(options(small), options(whole), "{}", small.get_name());
        }
    }
}
