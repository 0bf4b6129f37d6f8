//! `scalekit tune` and its `verify` and `rollback`.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;
use serde_json::json;

use super::print;
use crate::args::{Global, TuneAction, TuneArgs};
use crate::deploy::StateDir;
use crate::exit::ExitStatus;
use crate::host::limits::{self, LimitRow};
use crate::host::persist::{self, Persisted};
use crate::host::{self, Journal, Machine, Row, Scope, Status, Undone};
use crate::profile::{self, Layer, Profile};
use crate::root::Root;

/// What was found and done.
struct Tuning {
    profile: Profile,
    root: Root,
    machine: Machine,
    rows: Vec<Row>,
    limits: Vec<LimitRow>,
    files: Vec<Persisted>,
}

pub(super) fn tune(global: &Global, args: &TuneArgs) -> anyhow::Result<ExitStatus> {
    if matches!(args.action, Some(TuneAction::Rollback)) {
        return rollback(global);
    }
    let mut tuning = Tuning::look(global, args.pid)?;
    if args.action.is_some() {
        return verify(global, &tuning);
    }
    if args.persist {
        tuning.files = tuning.to_persist();
    }
    let changes = tuning.all().any(|row| row.status == Status::Planned) || !tuning.files.is_empty();
    if args.dry_run || !changes {
        print(&tuning.shown(global))?;
        return Ok(if args.dry_run { ExitStatus::Done } else { tuning.outcome() });
    }
    if !args.yes {
        ask(global, &tuning)?;
    }
    let (mut journal, _) = Journal::open(&StateDir::of_user()?.tuning())?;
    let applied = tuning.apply(args.pid, &mut journal);
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
    print(&format!("{}\nchange this? [y/N] ", tuning.text()))?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Exit status 122 if anything that the profile asks for is not so.
fn verify(global: &Global, tuning: &Tuning) -> anyhow::Result<ExitStatus> {
    print(&tuning.shown(global))?;
    let differs = tuning.all().any(|row| row.status.is_undone());
    Ok(if differs { ExitStatus::HostDiffers } else { ExitStatus::Done })
}

fn rollback(global: &Global) -> anyhow::Result<ExitStatus> {
    let root = Root::host();
    let path = StateDir::of_user()?.tuning();
    let (mut journal, account) = Journal::open(&path)?;
    let undone = host::rollback(&account, &mut journal, &root, &Machine::read(&root), &root)?;
    for line in &account.damaged {
        eprintln!("error: {} line {line} is damaged; that change is not undone", path.display());
    }
    if global.json {
        print(&format!("{}\n", json!({ "changes": undone, "damaged_lines": account.damaged })))?;
    } else {
        print(&undone_text(&undone))?;
    }
    let is_done = account.damaged.is_empty() && undone.iter().all(|row| row.outcome.is_settled());
    Ok(if is_done { ExitStatus::Done } else { ExitStatus::Failed })
}

fn undone_text(undone: &[Undone]) -> String {
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

impl Tuning {
    fn look(global: &Global, pid: Option<i32>) -> anyhow::Result<Self> {
        let profile = profile::load(&global.profile, Layer::default())?;
        let root = Root::host();
        let machine = Machine::read(&root);
        let users = users(&profile);
        let rows = host::plan(&profile.host, users, &machine, &root, &root)?;
        let limits = limits::plan(&profile.host, users, &machine, &root, &rows, pid)?;
        Ok(Self { profile, root, machine, rows, limits, files: Vec::new() })
    }

    fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(self.limits.iter().map(|limit| &limit.row))
    }

    fn apply(&mut self, pid: Option<i32>, journal: &mut Journal) -> anyhow::Result<()> {
        let Self { root, machine, .. } = self;
        host::apply(&mut self.rows, machine, root, journal)?;
        let module = |row: &&Row| row.status == Status::Raised && row.key.name().starts_with("module ");
        if self.rows.iter().any(|row| module(&row)) {
            // A module brings settings of its own.
            let mut again = host::plan(&self.profile.host, users(&self.profile), machine, root, root)?;
            host::apply(&mut again, machine, root, journal)?;
            for (row, again) in self.rows.iter_mut().zip(again) {
                if matches!(row.status, Status::Absent { .. }) {
                    *row = again;
                }
            }
        }
        for limit in &mut self.limits {
            if let (Some(pid), Status::Planned) = (pid, &limit.row.status) {
                limit.row.status = limits::raise(pid, limit.resource, limit.wanted, machine, journal)?;
            }
        }
        if !self.files.is_empty() {
            self.files = self.to_persist();
            persist::write(&mut self.files, self.machine.is_root, journal)?;
            let written = self.files.iter().all(|file| !file.status.is_undone());
            for limit in &mut self.limits {
                if written && matches!(limit.row.status, Status::OfProcesses { .. }) {
                    limit.row.status = Status::Raised;
                }
            }
        }
        Ok(())
    }

    fn to_persist(&self) -> Vec<Persisted> {
        let mut modules: Vec<String> =
            self.profile.host.modules.iter().map(|(name, _)| name.clone()).collect();
        // At boot the settings of a module that is not there yet are skipped.
        let conntrack = "nf_conntrack".to_owned();
        let tracks = self.rows.iter().any(|row| row.key.name().contains(&conntrack) && row.now.is_some());
        if tracks && !modules.contains(&conntrack) {
            modules.push(conntrack);
        }
        let sound = self.limits.iter().filter(|limit| !matches!(limit.row.status, Status::Refused { .. }));
        let limits: Vec<_> = sound.map(|limit| (limit.resource.name(), limit.wanted)).collect();
        persist::files(&self.root, &self.rows, &modules, &limits)
    }

    /// 1 if something that was asked for is not so.
    fn outcome(&self) -> ExitStatus {
        let mut statuses =
            self.all().map(|row| &row.status).chain(self.files.iter().map(|file| &file.status));
        if statuses.any(Status::is_undone) { ExitStatus::Failed } else { ExitStatus::Done }
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
        });
        format!("{facts}\n")
    }

    fn beaten_by(&self) -> Vec<String> {
        if self.files.is_empty() { Vec::new() } else { persist::beaten_by(&self.root, &self.rows) }
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
            if let Some(detail) = file.status.detail() {
                let _ = writeln!(text, "    !     {detail}");
            }
        }
        for beaten in self.beaten_by() {
            let _ = writeln!(text, "note: at boot {beaten} after ours; take it out there");
        }
        text + &self.remedy()
    }

    /// The commands for who can do what could not be done here.
    fn remedy(&self) -> String {
        let stuck = |row: &&Row| matches!(row.status, Status::ReadOnly { .. } | Status::NotNamespacedHere);
        let mut commands = String::new();
        for row in self.all().filter(stuck) {
            let (name, value) = (row.key.name(), &row.wanted);
            let command = match name.split_once(' ') {
                Some(("module", module)) => format!("modprobe {module}"),
                None if name == "transparent_hugepage" => {
                    format!("echo {value} > /sys/kernel/mm/transparent_hugepage/enabled")
                }
                _ => format!("sysctl -w {name}='{value}'"),
            };
            let _ = writeln!(commands, "  {command}");
        }
        if commands.is_empty() {
            return commands;
        }
        let profile = &self.profile.name;
        format!(
            "\nnot possible here; on the node itself `sudo scalekit tune -p {profile} --yes` does it, or as root:\n{commands}"
        )
    }
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
