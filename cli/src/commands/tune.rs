//! `scalekit tune` and its `verify` and `rollback`.

mod remedy;
mod rollback;

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::print;
use crate::args::{Global, TuneAction, TuneArgs};
use crate::deploy::StateDir;
use crate::exit::ExitStatus;
use crate::host::limits::{self, LimitRow, Resource};
use crate::host::persist::{self, LimitWish, Persisted};
use crate::host::{self, Journal, Key, Machine, Row, Scope, Status, place};
use crate::profile::{self, HugePages, Layer, Profile};
use crate::root::Root;

/// What a limit that is persisted holds for.
const LATER: &str = "holds for logins from the next one on, and for services once `systemctl daemon-reexec` was run and they \
                     were started again";

/// What was found and done.
struct Tuning {
    /// As it was named.
    named: String,
    pid: Option<i32>,
    persist: bool,
    profile: Profile,
    root: Root,
    machine: Machine,
    rows: Vec<Row>,
    limits: Vec<LimitRow>,
    files: Vec<Persisted>,
}

pub(super) fn tune(global: &Global, args: &TuneArgs) -> anyhow::Result<ExitStatus> {
    let mut tuning = match &args.action {
        Some(TuneAction::Rollback(args)) => return rollback::rollback(global, args),
        Some(TuneAction::Verify(args)) => return verify(global, Tuning::look(global, args.pid)?),
        None => Tuning::look(global, args.pid)?,
    };
    tuning.persist = args.persist;
    if args.persist {
        tuning.files = tuning.plan_files();
    }
    let changes = tuning.all().any(|row| row.status == Status::Planned) || !tuning.files.is_empty();
    if args.dry_run || !changes {
        print(&tuning.shown(global))?;
        return Ok(if args.dry_run { ExitStatus::Done } else { tuning.outcome() });
    }
    if !args.yes {
        ask(global, &tuning)?;
    }
    let (mut journal, _) = Journal::open(&journal_path(&tuning.root)?)?;
    let applied = tuning.apply(&mut journal);
    // Also where it broke off: what is done is done.
    print(&tuning.shown(global))?;
    applied?;
    Ok(tuning.outcome())
}

/// Shows the plan and waits for a yes.
fn ask(global: &Global, tuning: &Tuning) -> anyhow::Result<()> {
    if global.json || !io::stdin().is_terminal() {
        print(&tuning.shown(global))?;
        bail!(
            "nothing was changed, since nobody can be asked here\nhelp: --yes changes it, --dry-run only prints"
        );
    }
    print(&tuning.text())?;
    if !confirmed("change this?")? {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Exit status 122 if anything that the profile asks for is not so, now or, where it was persisted, after the next boot.
fn verify(global: &Global, mut tuning: Tuning) -> anyhow::Result<ExitStatus> {
    let was_persisted = persist::is_any_there(&tuning.root)
        || journal_path(&tuning.root).is_ok_and(|path| Journal::peek(&path).has_files());
    if was_persisted {
        tuning.files = tuning.plan_files();
        persist::check(&mut tuning.files, &tuning.rows);
        tuning.limits_are_persisted();
    }
    print(&tuning.shown(global))?;
    Ok(if tuning.is_undone() { ExitStatus::HostDiffers } else { ExitStatus::Done })
}

/// Where the journal of this user is.
fn journal_path(root: &Root) -> anyhow::Result<PathBuf> {
    let asked = std::env::var_os(place::VARIABLE);
    Ok(match place::of_root(root, asked.as_deref())? {
        Some(path) => path,
        None => StateDir::of_user()?.tuning(),
    })
}

/// Waits for a yes.
pub(super) fn confirmed(question: &str) -> anyhow::Result<bool> {
    print(&format!("\n{question} [y/N] "))?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl Tuning {
    fn look(global: &Global, pid: Option<i32>) -> anyhow::Result<Self> {
        let profile = profile::load(&global.profile, Layer::default())?;
        let root = Root::host();
        let mut machine = Machine::read(&root);
        if profile.host.transparent_huge_pages.as_ref().is_some_and(|spec| spec.mode == HugePages::ByMongod) {
            machine.mongod = host::mongod(&root);
        }
        let users = users(&profile);
        let rows = host::plan(&profile.host, users, &machine, &root, &root)?;
        let limits = limits::plan(&profile.host, users, &machine, &root, &rows, pid)?;
        let named = global.profile.clone();
        Ok(Self { named, pid, persist: false, profile, root, machine, rows, limits, files: Vec::new() })
    }

    fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(self.limits.iter().map(|limit| &limit.row))
    }

    fn apply(&mut self, journal: &mut Journal) -> anyhow::Result<()> {
        let Self { root, machine, .. } = self;
        host::apply(&mut self.rows, machine, root, journal)?;
        let module = |row: &&Row| row.status == Status::Raised && row.key.name().starts_with("module ");
        if self.rows.iter().any(|row| module(&row)) {
            // A module brings settings of its own.
            let again = host::plan(&self.profile.host, users(&self.profile), machine, root, root)?;
            for (row, again) in self.rows.iter_mut().zip(again) {
                if matches!(row.status, Status::Absent { .. }) {
                    *row = again;
                }
            }
            host::apply(&mut self.rows, machine, root, journal)?;
        }
        // What the kernel made of fs.nr_open decides what limits there can be.
        let host = &self.profile.host;
        self.limits = limits::plan(host, users(&self.profile), machine, root, &self.rows, self.pid)?;
        for limit in &mut self.limits {
            if let (Some(pid), Status::Planned) = (self.pid, &limit.row.status) {
                limit.row.status = limits::raise(pid, limit.resource, limit.wanted, machine, journal)?;
            }
        }
        if !self.files.is_empty() {
            self.files = self.plan_files();
            persist::write(&mut self.files, self.machine.is_root, journal)?;
            self.limits_are_persisted();
        }
        Ok(())
    }

    /// What the shell that this runs in has does not matter for limits that the files give.
    fn limits_are_persisted(&mut self) {
        if self.files.iter().any(|file| file.status.is_undone()) {
            return;
        }
        for limit in &mut self.limits {
            if matches!(limit.row.status, Status::OfProcesses { .. }) {
                limit.row.status = Status::Persisted { from: LATER.to_owned() };
            }
        }
    }

    /// The files for the next boot; a limit that would not hold then is refused.
    fn plan_files(&mut self) -> Vec<Persisted> {
        let most_files = limits::refuse_beyond_boot(&mut self.limits, &self.rows, &self.root);
        let is_there = |row: &&Row| matches!(row.status, Status::Planned | Status::Raised | Status::Already);
        let mut modules: Vec<String> = self
            .rows
            .iter()
            .filter(is_there)
            .filter_map(|row| match &row.key {
                Key::Module(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        // At boot the settings of a module that is not there yet are skipped.
        let conntrack = "nf_conntrack".to_owned();
        let tracks = self.rows.iter().any(|row| row.key.name().contains(&conntrack) && row.now.is_some());
        if tracks && !modules.contains(&conntrack) {
            modules.push(conntrack);
        }
        let sound = self.limits.iter().filter(|limit| !matches!(limit.row.status, Status::Refused { .. }));
        let wish = |limit: &LimitRow| LimitWish {
            resource: limit.resource,
            wanted: limit.wanted,
            own_hard: match limit.resource {
                _ if self.pid.is_some() => 0,
                // Where this process may open more than any can after a boot.
                Resource::OpenFiles => limit.hard.min(most_files),
                Resource::Processes => limit.hard,
            },
        };
        let limits: Vec<_> = sound.map(wish).collect();
        persist::files(&self.root, &self.rows, &modules, &limits)
    }

    /// 1 if something that was asked for is not so.
    fn outcome(&self) -> ExitStatus {
        if self.is_undone() { ExitStatus::Failed } else { ExitStatus::Done }
    }

    fn is_undone(&self) -> bool {
        let mut statuses =
            self.all().map(|row| &row.status).chain(self.files.iter().map(|file| &file.status));
        statuses.any(Status::is_undone) || !self.beaten_by().is_empty()
    }

    fn shown(&self, global: &Global) -> String {
        if !global.json {
            return self.text();
        }
        let rows: Vec<_> = self.all().collect();
        let facts = json!({
            "profile": self.profile.name,
            "users": users(&self.profile),
            "network_namespace": { "id": self.machine.namespace.id, "is_first": self.machine.namespace.is_first },
            "is_root": self.machine.is_root,
            "settings": rows,
            "files": self.files,
            "beaten_by": self.beaten_by(),
            "notes": notes(&self.root, !self.files.is_empty()),
        });
        format!("{facts}\n")
    }

    fn beaten_by(&self) -> Vec<String> {
        if self.files.is_empty() { Vec::new() } else { host::beaten_by(&self.root, &self.files) }
    }

    fn text(&self) -> String {
        if self.all().next().is_none() {
            let name = &self.profile.name;
            return format!(
                "the profile {name} asks nothing of the host; host-10k, host-100k and host-loadgen do, \
                 as in `scalekit tune -p host-10k`\n"
            );
        }
        let place = match self.machine.namespace.is_first {
            Some(true) => "the host's own",
            Some(false) => "a network namespace of its own, as in a container",
            None => "perhaps a network namespace of its own",
        };
        let mut text = format!(
            "{} for {} users; in {place} ({})\n\n",
            self.profile.name,
            users(&self.profile),
            self.machine.namespace.id
        );
        let rows: Vec<&Row> = self.all().collect();
        let cells: Vec<_> = rows.iter().map(|row| cells(row)).collect();
        let lines = table(["STATUS", "KEY", "NOW", "WANTED", "HOLDS IN"], &cells);
        let _ = writeln!(text, "{}", lines[0]);
        for (line, row) in lines[1..].iter().zip(&rows) {
            let _ = writeln!(text, "{line}");
            if let Some(detail) = row.status.detail() {
                let _ = writeln!(text, "    !     {detail}");
            }
            let reasons = &row.reasons;
            for (name, reason) in [("why", &reasons.why), ("risk", &reasons.risk), ("proof", &reasons.proof)]
            {
                let _ = writeln!(text, "    {name:<5} {reason}");
            }
        }
        for file in &self.files {
            let _ = writeln!(text, "{:<12} {}", file.status.name(), file.path.display());
            for line in file.lines() {
                let _ = writeln!(text, "    {line}");
            }
            if let Some(detail) = file.status.detail() {
                let _ = writeln!(text, "    !     {detail}");
            }
        }
        for file in self.files.iter().filter(|file| !file.kept.is_empty()) {
            let _ = writeln!(
                text,
                "note: {} also keeps what was persisted before: {}",
                file.path.display(),
                file.kept.join("; ")
            );
        }
        for note in notes(&self.root, !self.files.is_empty()) {
            let _ = writeln!(text, "note: {note}");
        }
        for beaten in self.beaten_by() {
            let _ = writeln!(text, "note: at boot {beaten} and wins over ours; take it out there");
        }
        let call = remedy::Call { profile: &self.named, persist: self.persist, pid: self.pid };
        let stuck = |file: &Persisted| matches!(file.status, Status::ReadOnly { .. } | Status::Failed { .. });
        text + &remedy::remedy(self.all(), self.files.iter().any(stuck), &call)
    }
}

/// What there is to say of the host; `files`: whether there are some for its next boot.
fn notes(root: &Root, files: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if root.runs("tuned") {
        let active = root.known("etc/tuned/active_profile").unwrap_or_default();
        notes.push(format!(
            "TuneD runs here (profile {:?}) and may set these again; set them in its profile, or stop it",
            active.trim()
        ));
    }
    if files && host::is_container(root) {
        let note = "this is a container: files below its /etc are read by no boot and go with it; run it on the node";
        notes.push(note.to_owned());
    }
    notes
}

/// Whom the host is tuned for.
fn users(profile: &Profile) -> u64 {
    u64::from(profile.host.users.unwrap_or(profile.load.vus))
}

fn cells(row: &Row) -> [String; 5] {
    let scope = match row.scope {
        Scope::NetworkNamespace => "namespace",
        Scope::Host => "host",
    };
    let now = row.now.clone().unwrap_or_else(|| "-".to_owned());
    [row.status.name().to_owned(), row.key.name(), now, row.wanted.clone(), scope.to_owned()]
}

/// Lines of aligned columns, the head first.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let widths: Vec<usize> =
        (0..N).map(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    all()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_set_it_again_and_what_no_boot_reads_is_told() {
        let (_dir, root) = Root::of(&[("proc/7/comm", "systemd\n")]);
        assert_eq!(notes(&root, true), [""; 0]);
        let (_dir, root) = Root::of(&[
            ("proc/7/comm", "tuned\n"),
            ("etc/tuned/active_profile", "network-throughput\n"),
            (".dockerenv", ""),
        ]);
        let found = notes(&root, true);
        assert!(found[0].contains("TuneD runs here (profile \"network-throughput\")"), "{found:?}");
        assert!(found[1].contains("this is a container"), "{found:?}");
        assert_eq!(notes(&root, false).len(), 1);
    }
}
