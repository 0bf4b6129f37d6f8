//! `scalekit deploy logs`: the end of each log, and what comes after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::libc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use super::find;
use crate::commands::{control_runtime, print};
use crate::deploy::{Deployment, StateDir};
use crate::exit::ExitStatus;
use crate::profile::Profile;

/// Of each log, however long it has become; and of each at a time while following.
const MAX_LOG_BYTES: u64 = 16 << 20;
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked which logs there are.
const LOOKS_A_LIST: u32 = 5;

/// What is to be printed.
pub(super) struct Choice<'a> {
    /// Of processes; none: of all.
    pub(super) names: &'a [String],
    /// From the end of each.
    pub(super) lines: usize,
    pub(super) follow: bool,
}

pub(super) fn logs(state: &StateDir, profile: &Profile, choice: &Choice<'_>) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    if let Some(systemd) = &deployment.systemd {
        return super::systemd::logs(systemd, choice);
    }
    let mut follower = Follower::default();
    for log in chosen(&deployment, choice.names)? {
        // Where following goes on: what is logged from here on is printed once.
        let length = std::fs::metadata(&log).map(|metadata| metadata.len()).unwrap_or_default();
        let text = last_lines(&log, choice.lines, MAX_LOG_BYTES)
            .with_context(|| format!("cannot read {}", log.display()))?;
        print(&format!("==> {} <==\n{text}\n", log.display()))?;
        follower.current = Some(log.clone());
        follower.read.insert(log, length);
    }
    if !choice.follow {
        return Ok(ExitStatus::Done);
    }
    control_runtime()?.block_on(async {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let (mut interrupt, mut end) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let mut looks = interval(FOLLOW_EVERY);
        for look in 1_u32.. {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = end.recv() => break,
                _ = looks.tick() => {}
            }
            if look.is_multiple_of(LOOKS_A_LIST)
                && let Ok(Some(deployment)) = state.load(&profile.name)
                && let Ok(logs) = chosen(&deployment, choice.names)
            {
                logs.into_iter().for_each(|log| {
                    follower.read.entry(log).or_default();
                });
            }
            if nobody_reads() {
                break;
            }
            match follower.print_news(&mut io::stdout()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                result => result.context("cannot write to stdout")?,
            }
        }
        anyhow::Ok(ExitStatus::Done)
    })
}

/// Whether stdout is a pipe or terminal whose other end is gone. Writing would tell, too, but only once there is news.
fn nobody_reads() -> bool {
    let mut stdout = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    // SAFETY: the pointer is to one `pollfd`, as the count says, which outlives the call.
    let found = unsafe { libc::poll(&raw mut stdout, 1, 0) };
    found == 1 && stdout.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

/// The logs of these processes; of the supervisor last.
fn chosen(deployment: &Deployment, names: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let processes = deployment.processes.iter().map(|process| &process.identity);
    let all: Vec<_> = processes.chain(&deployment.supervisor).collect();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|process| process.name != **name)) {
        let known: Vec<&str> = all.iter().map(|process| process.name.as_str()).collect();
        bail!("the deployment has no process `{unknown}`\nhelp: name one of {}", known.join(", "));
    }
    let wanted = all.iter().filter(|process| names.is_empty() || names.contains(&process.name));
    Ok(wanted.map(|process| process.log.clone()).collect())
}

/// Logs, and how far each has been printed.
#[derive(Default)]
struct Follower {
    read: BTreeMap<PathBuf, u64>,
    /// Whose lines were printed last.
    current: Option<PathBuf>,
}

impl Follower {
    fn print_news(&mut self, to: &mut impl io::Write) -> io::Result<()> {
        for (log, read) in &mut self.read {
            // One that cannot be read now may be there at the next look.
            let Ok((news, end)) = news(log, *read) else { continue };
            *read = end;
            if news.is_empty() {
                continue;
            }
            if self.current.as_ref() != Some(log) {
                write!(to, "\n==> {} <==\n", log.display())?;
                self.current = Some(log.clone());
            }
            to.write_all(&news)?;
        }
        to.flush()
    }
}

/// The whole lines after so many bytes, and where they end. A file that is shorter by now begins anew.
fn news(log: &Path, read: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(log)?;
    let start = if file.metadata()?.len() < read { 0 } else { read };
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    // A line that is longer than all that is read at a time comes in pieces.
    if (bytes.len() as u64) < MAX_LOG_BYTES {
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    }
    let end = start + bytes.len() as u64;
    Ok((bytes, end))
}

/// The last lines of a file, of its last `most` bytes.
fn last_lines(path: &Path, lines: usize, most: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is whole only at the beginning of the file.
    let whole: Vec<&str> = text.lines().skip(usize::from(start > 0)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_end_of_a_log_is_read_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "one\ntwo\nthree\nfour\n").unwrap();
        for (lines, most, expected) in [
            (2, 100, "three\nfour"),
            (9, 100, "one\ntwo\nthree\nfour"),
            (0, 100, ""),
            // Of a line that is cut there is nothing.
            (9, 13, "three\nfour"),
            (9, 8, "four"),
            (9, 2, ""),
        ] {
            assert_eq!(last_lines(&log, lines, most).unwrap(), expected, "{lines} {most}");
        }
        assert!(last_lines(&folder.path().join("none"), 1, 1).is_err());
    }

    #[test]
    fn what_follows_is_printed_once_in_whole_lines_under_the_name_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "before\n").unwrap();
        let mut follower = Follower::default();
        follower.read.insert(one.clone(), 7);
        follower.read.insert(two.clone(), 0);
        follower.current = Some(one.clone());
        let mut said = |write: &dyn Fn()| {
            write();
            let mut printed = Vec::new();
            follower.print_news(&mut printed).unwrap();
            String::from_utf8(printed).unwrap().replace(&format!("{}/", folder.path().display()), "")
        };
        let append = |file: &Path, text: &str| {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        assert_eq!(said(&|| ()), "");
        assert_eq!(said(&|| append(&one, "a\nhal")), "a\n");
        assert_eq!(said(&|| append(&one, "f\n")), "half\n");
        assert_eq!(said(&|| append(&two, "b\n")), "\n==> two <==\nb\n");
        assert_eq!(said(&|| fs::write(&one, "c\n").unwrap()), "\n==> one <==\nc\n", "it was emptied");
    }
}
