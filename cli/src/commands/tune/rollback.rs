//! `scalekit tune rollback`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use anyhow::bail;
use serde_json::json;

use super::{confirmed, journal_path, print, table};
use crate::args::{Global, RollbackArgs};
use crate::exit::ExitStatus;
use crate::host::{self, Journal, Machine, Undone, place};
use crate::root::Root;

/// Exit status 1 if something is still to be undone.
pub(super) fn rollback(global: &Global, args: &RollbackArgs) -> anyhow::Result<ExitStatus> {
    let root = Root::host();
    let path = journal_path(&root)?;
    let machine = Machine::read(&root);
    if args.dry_run && !path.exists() {
        print(&shown(global, &[], &[]))?;
        return Ok(ExitStatus::Done);
    }
    let (mut journal, account) = Journal::open(&path)?;
    let asks = !args.yes && !global.json && io::stdin().is_terminal() && !account.open.is_empty();
    if args.dry_run || asks {
        print(&shown(global, &host::preview(&account, &root, &machine, &root), &account.damaged))?;
    }
    if args.dry_run {
        return Ok(ExitStatus::Done);
    }
    if asks && !confirmed("give this back?")? {
        bail!("nothing was changed");
    }
    let undone = host::rollback(&account, &mut journal, &root, &machine, &root)?;
    for line in &account.damaged {
        eprintln!("error: {} line {line} is damaged; that change is not undone", path.display());
    }
    print(&shown(global, &undone, &account.damaged))?;
    if undone.is_empty() && path != place::roots() {
        eprintln!(
            "note: this looked into {}; root's changes are in {}",
            path.display(),
            place::roots().display()
        );
    }
    let is_done = account.damaged.is_empty() && undone.iter().all(|row| row.outcome.is_settled());
    Ok(if is_done { ExitStatus::Done } else { ExitStatus::Failed })
}

fn shown(global: &Global, undone: &[Undone], damaged: &[usize]) -> String {
    if global.json {
        return format!("{}\n", json!({ "changes": undone, "damaged_lines": damaged }));
    }
    if undone.is_empty() {
        return "there is nothing to give back\n".to_owned();
    }
    let cells: Vec<[String; 4]> = undone
        .iter()
        .map(|row| [row.outcome.name().to_owned(), row.what.clone(), row.ours.clone(), row.prior.clone()])
        .collect();
    let mut text = String::new();
    let lines = table(["OUTCOME", "WHAT", "OURS", "BEFORE"], &cells);
    let _ = writeln!(text, "{}", lines[0]);
    for (line, row) in lines[1..].iter().zip(undone) {
        let _ = writeln!(text, "{line}");
        if let Some(detail) = row.outcome.detail() {
            let _ = writeln!(text, "    {detail}");
        }
    }
    text
}
