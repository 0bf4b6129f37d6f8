//! Parse, run, exit.

mod exit;
#[allow(dead_code, unused_imports, reason = "the commands that use it come next")]
mod profile;

fn main() -> exit::ExitStatus {
    exit::ExitStatus::Done
}
