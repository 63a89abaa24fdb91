//! The program of injected pods.

fn main() -> std::process::ExitCode {
    kybernis_cli::sidecar()
}
