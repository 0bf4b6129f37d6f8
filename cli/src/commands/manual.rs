//! `scalekit completions` and `scalekit man`: both come from the clap tree.

use std::fs;

use anyhow::Context as _;

use super::print;
use crate::args::{self, CompletionsArgs, ManArgs};
use crate::exit::ExitStatus;

pub(super) fn completions(wanted: &CompletionsArgs) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(wanted.shell, &mut args::command(), "scalekit", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}

pub(super) fn pages(wanted: &ManArgs) -> anyhow::Result<ExitStatus> {
    fs::create_dir_all(&wanted.dir).with_context(|| format!("cannot create {}", wanted.dir.display()))?;
    clap_mangen::generate_to(args::command(), &wanted.dir)
        .with_context(|| format!("cannot write the pages into {}", wanted.dir.display()))?;
    Ok(ExitStatus::Done)
}
