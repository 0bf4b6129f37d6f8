//! The probe of a cap: joins the control group, and then writes to its disk, and reads from it, as fast as it can. A process
//! of its own, since a group takes whole processes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use scalekit_service::device_io::{Disks, Group};
use serde::{Deserialize, Serialize};

use super::CapError;
use super::verdict::{Part, Trial};

/// Of each write; what a database's smallest page and most disks' sectors fit into.
const BLOCK_BYTES: usize = 4096;
/// The file is written over and over, so that no block has to be found for it while the clock runs.
const BLOCKS: usize = 64;
/// What a trial may take beyond its time, by a cap of one write a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the process is told to do, and what it says, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The control group.
    pub(crate) group: PathBuf,
    /// Whether the process has to go there first.
    pub(crate) joins: bool,
    /// Where the file is made, on the disk.
    pub(crate) directory: PathBuf,
    /// For so long, and so many writes at most; and half of both for reads.
    pub(crate) time: Duration,
    pub(crate) most: u64,
}

/// Whole numbers only, so that what is written is what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    writes: PartOutcome,
    reads: PartOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PartOutcome {
    done: u64,
    took_us: u64,
    counted: u64,
}

impl PartOutcome {
    fn of((done, took): (u64, Duration), before: u64, after: u64) -> Self {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self { done, took_us, counted: after.saturating_sub(before) }
    }

    fn part(self) -> Part {
        Part { done: self.done, took: Duration::from_micros(self.took_us), counted: self.counted }
    }
}

/// What the process of the probe does.
///
/// # Errors
/// What the system refuses, with where.
pub(crate) fn work(task: &Task) -> anyhow::Result<Outcome> {
    let group = Group::at(&task.group)?;
    let disks = Disks::of(&task.directory)?;
    if task.joins {
        let members = task.group.join("cgroup.procs");
        fs::write(&members, std::process::id().to_string())
            .with_context(|| format!("cannot join {}", members.display()))?;
    }
    let file = nameless(&task.directory)
        .with_context(|| format!("cannot write a file in {}", task.directory.display()))?;
    let past_memory = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .context("the file system of the directory takes no O_DIRECT, so reads cannot be put to the test")?;
    let counts = || group.read_on(&disks).map_err(anyhow::Error::msg);
    let start = counts()?;
    let writes = flat_out(task.time, task.most, |place| {
        // Never the same twice, for disks that notice.
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(&place.to_le_bytes());
        file.write_all_at(&block, offset(place))?;
        file.sync_data()
    });
    let writes = writes.context("a write to the disk failed")?;
    let between = counts()?;
    let mut block = Box::new(Aligned([0; BLOCK_BYTES]));
    let reads = flat_out(task.time / 2, task.most / 2, |place| {
        past_memory.read_exact_at(&mut block.0, offset(place))
    });
    let reads = reads.context("a read from the disk failed")?;
    let end = counts()?;
    Ok(Outcome {
        writes: PartOutcome::of(writes, start.writes, between.writes),
        reads: PartOutcome::of(reads, between.reads, end.reads),
    })
}

/// What O_DIRECT asks of a buffer, on any disk.
#[repr(align(4096))]
struct Aligned([u8; BLOCK_BYTES]);

/// Of the block that is the next one's turn.
fn offset(place: u64) -> u64 {
    place % BLOCKS as u64 * BLOCK_BYTES as u64
}

/// A file that is gone with the process, and whose blocks are on the disk.
fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".scalekit-probe-{}", std::process::id()));
    let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all_at(&vec![b'.'; BLOCK_BYTES * BLOCKS], 0)?;
    file.sync_all()?;
    Ok(file)
}

/// One after the other, each done before the next: how many, and how long they took.
fn flat_out(
    time: Duration,
    most: u64,
    mut each: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<(u64, Duration)> {
    let start = Instant::now();
    let mut done = 0;
    while done < most && start.elapsed() < time {
        each(done)?;
        done += 1;
    }
    Ok((done, start.elapsed()))
}

/// Has a process do it.
///
/// # Errors
/// It could not, with what it said.
pub(super) async fn run(binary: &Path, task: &Task) -> Result<Trial, CapError> {
    let failed = |problem: String| CapError::Probe { group: task.group.clone(), problem };
    // Two paths and two numbers are always JSON, if the paths are text.
    let words = serde_json::to_string(task).map_err(|error| failed(error.to_string()))?;
    let child = tokio::process::Command::new(binary)
        .args(["cap", "probe", &words])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{}: {error}", binary.display())))?;
    let output = tokio::time::timeout(task.time + PATIENCE, child.wait_with_output());
    let output = match output.await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => {
            return Err(failed(format!("it did not end within {} s", (task.time + PATIENCE).as_secs())));
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    let outcome: Outcome = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("{error}: {}", said.trim())))?;
    Ok(Trial { writes: outcome.writes.part(), reads: outcome.reads.part() })
}
