//! The probe of a cap: joins the control group, and then writes to its disk as fast as it can. A process of its own,
//! since a group takes whole processes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use scalekit_service::device_io::{Disks, Group, Operations};
use serde::{Deserialize, Serialize};

use super::CapError;
use super::verdict::Trial;

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
    /// For so long, and so many writes at most.
    pub(crate) time: Duration,
    pub(crate) most: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    writes: u64,
    took_us: u64,
    counted_reads: u64,
    counted_writes: u64,
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
    let counts = || group.read_on(&disks).map_err(anyhow::Error::msg);
    let before = counts()?;
    let (writes, took) = flat_out(&file, task.time, task.most).context("a write to the disk failed")?;
    let after = counts()?;
    Ok(Outcome {
        writes,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        counted_reads: after.reads.saturating_sub(before.reads),
        counted_writes: after.writes.saturating_sub(before.writes),
    })
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

/// Each write is on the disk before the next: `pwrite` and `fdatasync`.
fn flat_out(file: &File, time: Duration, most: u64) -> io::Result<(u64, Duration)> {
    let start = Instant::now();
    let mut block = [0; BLOCK_BYTES];
    let mut writes = 0;
    while writes < most && start.elapsed() < time {
        // Never the same twice, for disks that notice.
        block[..8].copy_from_slice(&writes.to_le_bytes());
        file.write_all_at(&block, writes % BLOCKS as u64 * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        writes += 1;
    }
    Ok((writes, start.elapsed()))
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
    Ok(Trial {
        writes: outcome.writes,
        took: Duration::from_micros(outcome.took_us),
        counted: Operations { reads: outcome.counted_reads, writes: outcome.counted_writes },
    })
}
