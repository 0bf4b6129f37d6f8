//! `scalekit deploy --systemd`: units of systemd, and asking systemd of them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::logs::Choice;
use crate::commands::print;
use crate::deploy::systemd::{self, Installed, Rendered, Systemd, SystemdRequest};
use crate::deploy::{self, Deployment};
use crate::exit::ExitStatus;
use crate::root::Root;

/// There where systemd is what the host was started with.
const RUNS: &str = "/run/systemd/system";
/// Where `ProtectHome=yes` and `PrivateTmp=yes` let no process see a program.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
const POLL: Duration = Duration::from_millis(100);

/// Prints what would be installed.
pub(super) fn render(request: &SystemdRequest<'_>) -> anyhow::Result<ExitStatus> {
    let Rendered { files, .. } = systemd::render(request)?;
    let mut text = String::new();
    for file in files {
        let mode = if file.is_secret { "0600" } else { "0644" };
        // What a file of root's only holds is not for a terminal.
        let held = if file.is_secret { "(a URL, which is not shown)\n" } else { &file.text };
        let _ = write!(text, "# ==> {} ({mode}) <==\n{held}\n", file.path.display());
    }
    print(&text)?;
    Ok(ExitStatus::Done)
}

/// Installs and starts them, and starts those anew that differ.
pub(super) fn up(
    request: &SystemdRequest<'_>,
    before: Option<&Deployment>,
) -> anyhow::Result<(Deployment, Installed)> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "units of systemd take root\nhelp: run it with sudo; `--render` prints what would be installed"
        );
    }
    if !Path::new(RUNS).exists() {
        bail!(
            "this host was not started with systemd: there is no {RUNS}\nhelp: `scalekit deploy` without --systemd has a \
             supervisor of its own; `--systemd --render` prints the units for another host"
        );
    }
    if let Some(hidden) = HIDDEN.iter().find(|hidden| request.binary.starts_with(hidden)) {
        bail!(
            "{} is below {hidden}, which units do not see\nhelp: `install -m 755 {} /usr/local/bin/scalekit`, and run that",
            request.binary.display(),
            request.binary.display()
        );
    }
    if let Some(before) = before.filter(|before| before.systemd.is_none() && before.is_alive()) {
        bail!(
            "the profile `{0}` is deployed without systemd, at {1}\nhelp: end that first with `scalekit deploy down -p {0}`",
            before.profile,
            before.api_url()
        );
    }
    let rendered = systemd::render(request)?;
    let deployment = rendered.deployment.clone();
    let known = before.and_then(|before| before.systemd.as_ref());
    let wanted = deployment.systemd.as_ref().context("units were rendered")?;
    // Before anything is written, so that `down` finds whatever was.
    deploy::save(&deployment)?;
    for gone in known.iter().flat_map(|known| &known.units).filter(|unit| !wanted.units.contains(unit)) {
        systemctl(&["stop", gone])?;
    }
    let installed = systemd::install(&Root::host(), &rendered, known)?;
    if let Some(users) = wanted.files.iter().find(|file| file.starts_with("/etc/sysusers.d")) {
        asked(Command::new("systemd-sysusers").arg(users))?;
    }
    systemctl(&["daemon-reload"])?;
    for unit in to_restart(&rendered, &installed, &wanted.units) {
        // One that does not run yet starts with the target.
        systemctl(&["try-restart", unit])?;
    }
    systemctl(&["enable", "--now", &wanted.target])?;
    let patience = request.profile.deploy.ready_timeout;
    let down = await_active(wanted, patience)?;
    if let Some(unit) = down {
        bail!(
            "{unit} was not active within {} s\nhelp: `journalctl -u {unit}` says why; `scalekit deploy down -p {}` removes \
             all units",
            patience.as_secs(),
            deployment.profile,
        );
    }
    Ok((deployment, installed))
}

/// Those units whose text is another one, or a secret that they name.
fn to_restart<'a>(rendered: &Rendered, installed: &Installed, units: &'a [String]) -> Vec<&'a str> {
    let written: Vec<_> =
        rendered.files.iter().filter(|file| installed.written.contains(&file.path)).collect();
    let names_new = |text: &str| {
        written.iter().any(|file| file.is_secret && text.contains(&file.path.display().to_string()))
    };
    let is_due = |unit: &&str| {
        rendered
            .files
            .iter()
            .any(|file| file.path.ends_with(unit) && (written.contains(&file) || names_new(&file.text)))
    };
    units.iter().map(String::as_str).filter(is_due).collect()
}

/// The first that is not active in time.
fn await_active(systemd: &Systemd, patience: Duration) -> anyhow::Result<Option<String>> {
    let deadline = Instant::now() + patience;
    loop {
        let units = units(systemd)?;
        match units.into_iter().find(|unit| !unit.is_active()) {
            None => return Ok(None),
            Some(unit) if Instant::now() >= deadline => return Ok(Some(unit.name)),
            Some(_) => std::thread::sleep(POLL),
        }
    }
}

/// What systemd says of a unit.
pub(super) struct UnitState {
    name: String,
    active: String,
    pid: String,
    restarts: String,
    since: String,
}

impl UnitState {
    pub(super) fn is_active(&self) -> bool {
        self.active == "active"
    }

    pub(super) fn facts(&self) -> Value {
        json!({
            "name": self.name,
            "alive": self.is_active(),
            "state": self.active,
            "pid": self.pid.parse::<u32>().ok(),
            "restarts": self.restarts.parse::<u32>().ok(),
            "since": self.since,
        })
    }

    pub(super) fn line(&self) -> String {
        let state = if self.is_active() { "up" } else { "DOWN" };
        format!(
            "  {:<40} {state:<5} process {:<8} {}, since {}, {} restarts\n",
            self.name, self.pid, self.active, self.since, self.restarts
        )
    }
}

pub(super) fn units(systemd: &Systemd) -> anyhow::Result<Vec<UnitState>> {
    let show = |name: &String| {
        let properties = "--property=ActiveState,MainPID,NRestarts,StateChangeTimestamp";
        let text = systemctl(&["show", properties, name])?;
        let value = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        Ok(UnitState {
            name: name.clone(),
            active: value("ActiveState"),
            pid: value("MainPID"),
            restarts: value("NRestarts"),
            since: value("StateChangeTimestamp"),
        })
    };
    systemd.units.iter().map(show).collect()
}

/// The journal's lines of the units.
pub(super) fn logs(systemd: &Systemd, choice: &Choice<'_>) -> anyhow::Result<ExitStatus> {
    let matches = |unit: &str, name: &str| unit.ends_with(&format!("-{name}.service"));
    if let Some(unknown) =
        choice.names.iter().find(|name| systemd.units.iter().all(|unit| !matches(unit, name)))
    {
        bail!("the deployment has no process `{unknown}`\nhelp: its units are {}", systemd.units.join(", "));
    }
    let mut journal = Command::new("journalctl");
    journal.args(["--no-pager", "--lines", &choice.lines.to_string()]);
    for unit in &systemd.units {
        if choice.names.is_empty() || choice.names.iter().any(|name| matches(unit, name)) {
            journal.args(["--unit", unit]);
        }
    }
    if choice.follow {
        journal.arg("--follow");
    }
    // It does the rest, interrupts included.
    Err(journal.exec()).context("cannot run journalctl")
}

/// Ends all, and removes every file that was installed.
pub(super) fn down(deployment: &Deployment, systemd: &Systemd, purge: bool) -> anyhow::Result<String> {
    systemctl(&["disable", "--now", &systemd.target])?;
    // The target lets go of them, but does not wait.
    let stop: Vec<&str> =
        std::iter::once("stop").chain(systemd.units.iter().rev().map(String::as_str)).collect();
    systemctl(&stop)?;
    systemd::remove(&Root::host(), systemd)?;
    systemctl(&["daemon-reload"])?;
    deploy::forget(&deployment.dir)?;
    let mut said = format!("{} is down; removed:\n", deployment.profile);
    for file in &systemd.files {
        let _ = writeln!(said, "  {}", file.display());
    }
    if purge {
        match fs::remove_dir_all(&systemd.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", systemd.state.display()));
            }
            _ => said.push_str("and its data"),
        }
    } else {
        let _ = write!(said, "its data stays in {}", systemd.state.display());
    }
    said.push_str("; its user stays, as systemd has it");
    Ok(said)
}

fn systemctl(args: &[&str]) -> anyhow::Result<String> {
    asked(Command::new("systemctl").args(args))
}

/// What a program printed.
fn asked(command: &mut Command) -> anyhow::Result<String> {
    let said = || {
        let words = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(command.get_program().to_string_lossy().into_owned())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let said = said();
    let output = command.output().with_context(|| format!("cannot run `{said}`"))?;
    if !output.status.success() {
        bail!("`{said}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
