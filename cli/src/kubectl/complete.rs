//! What `kubectl` asks when somebody presses Tab behind `kubectl kyb`: it runs `kubectl_complete-kyb` with the words so far, the last of
//! them unfinished, and reads one candidate on each line, then a directive.

use clap::{Command, CommandFactory as _};

use super::args::Cli;

/// Cobra's directive: no file names where nothing fits.
const NO_FILES: &str = ":4";

/// The answer.
pub(super) fn answer(words: &[String]) -> String {
    let mut lines = candidates(words);
    lines.push(NO_FILES.to_owned());
    lines.join("\n") + "\n"
}

fn candidates(words: &[String]) -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let (begun, before) = words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let command = before.iter().find_map(|word| cli.find_subcommand(word));
    let mut fits: Vec<String> = match command {
        _ if begun.starts_with('-') => flags(command.unwrap_or(&cli)),
        None => cli.get_subcommands().map(|command| command.get_name().to_owned()).collect(),
        Some(_) => Vec::new(),
    };
    fits.retain(|candidate| candidate.starts_with(begun));
    fits
}

fn flags(command: &Command) -> Vec<String> {
    command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_come_first_and_flags_behind_a_dash() {
        let of = |line: &str| candidates(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("app"), ["approve"]);
        assert!(of("").contains(&"explain-pod".to_owned()));
        assert_eq!(of("-n trading re"), ["resolve"]);
        assert_eq!(of("resolve g --not"), ["--not-executed"]);
        assert_eq!(of("approve g --kube"), ["--kubeconfig"]);
        assert!(of("approve g").is_empty());
        assert!(answer(&["runs".to_owned(), String::new()]).ends_with(":4\n"));
    }
}
