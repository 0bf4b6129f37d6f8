//! Parse, run, exit.

#[allow(dead_code, unused_imports, reason = "the commands that use it come next")]
mod criteria;
#[allow(dead_code, reason = "the commands that use it come next")]
mod exit;
#[allow(dead_code, unused_imports, reason = "the commands that use it come next")]
mod profile;
#[allow(dead_code, unused_imports, reason = "the commands that use it come next")]
mod report;

fn main() -> exit::ExitStatus {
    exit::ExitStatus::Done
}
