//! Parse, run, exit.

mod exit;

fn main() -> exit::ExitStatus {
    exit::ExitStatus::Done
}
