//! The program `kybernis`.

fn main() -> std::process::ExitCode {
    kybernis_cli::kybernis()
}
