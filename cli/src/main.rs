//! Parse, run, exit.

mod exit;
#[expect(dead_code, unused_imports, reason = "wired to the commands later")]
mod load;

fn main() -> exit::ExitStatus {
    exit::ExitStatus::Done
}
