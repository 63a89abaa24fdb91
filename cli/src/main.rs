//! x
mod capture;
use std::process::ExitCode;
fn main() -> ExitCode {
    if let Some(code) = capture::redirect::run_helper() {
        return code;
    }
    ExitCode::SUCCESS
}
