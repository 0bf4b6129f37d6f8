//! What the kernel lets the database do on its disk: a limit of its control group, put to the test before it is
//! believed.

mod group;
mod limits;
mod pod;
mod probe;
mod verdict;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scalekit_service::device_io::{Device, Disks, Group, Operations, PlaceError};
use serde::{Deserialize, Serialize};

pub(crate) use limits::Limit;
pub(crate) use pod::of_pod;
pub(crate) use probe::work as probe;
pub(crate) use verdict::{Verdict, exceeded};

/// Without the cap: long enough for a rate, and few writes.
const CONTROL: (Duration, u64) = (Duration::from_secs(1), 300);
/// With it: at 100 a second it is over by its time.
const TRIAL: (Duration, u64) = (Duration::from_secs(5), 500);

/// Why there is no cap.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CapError {
    #[error("the cap on the database's disk: {0}")]
    Place(#[from] PlaceError),
    #[error(
        "the cap on the database's disk: below {} is neither the io controller of control groups 2 nor blkio of version 1; \
         boot with one, or set deploy.cap.iops to null: the operations of deploy.database_ops are governed all the same",
        _0.display()
    )]
    NoController(PathBuf),
    #[error(
        "the cap on the database's disk: {what} {}: {source}; a control group takes root (and, in a container, \
         /sys/fs/cgroup of the host); or set deploy.cap.iops to null",
        path.display()
    )]
    Refused { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the cap on the database's disk: the kernel does not take `{text}` in {}: {source}; the device {device} cannot be \
         capped; keep the database on another disk, or set deploy.cap.iops to null",
        file.display()
    )]
    Limit { file: PathBuf, text: String, device: Device, source: io::Error },
    #[error(
        "the cap on the database's disk: the control group {} has processes already, such as {pid}; end them, or give the \
         profile another name",
        group.display()
    )]
    InUse { group: PathBuf, pid: String },
    #[error(
        "below {} is no control group of the pod {uid}; mount the node's /sys/fs/cgroup (hostPath) and name it with \
         --cgroup-root, and take the uid from the downward API (metadata.uid)",
        root.display()
    )]
    NoPod { root: PathBuf, uid: String },
    #[error(
        "the cap on the database's disk: the control group {} is the root, which everybody is in; name the one of the \
         database",
        _0.display()
    )]
    Root(PathBuf),
    #[error("the probe of the cap, in the control group {}: {problem}", group.display())]
    Probe { group: PathBuf, problem: String },
}

impl CapError {
    fn refused(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Refused { what, path: path.into(), source }
    }
}

/// The control group that is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    /// One of this name, which is made.
    Own(&'a str),
    /// One that is there, with its directory.
    Given(&'a Path),
    /// The same, and this process is in a group below it: a group with groups below takes no processes itself.
    Around(&'a Path),
}

/// What is asked for.
pub(crate) struct CapRequest<'a> {
    /// Most reads a second, and as many writes.
    pub(crate) iops_per_s: u32,
    pub(crate) group: Which<'a>,
    /// On the database's disk; a file is written there.
    pub(crate) directory: &'a Path,
    /// This program.
    pub(crate) binary: &'a Path,
}

/// A cap that is in force, and what the probe says of it. It is part of the deployment's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cap {
    pub(crate) iops_per_s: u32,
    /// The control group.
    pub(crate) group: PathBuf,
    /// Made for it, and gone with it.
    is_ours: bool,
    /// On the database's disk.
    directory: PathBuf,
    /// `MAJOR:MINOR` of each device with the limit, and its limit of before.
    pub(crate) devices: Vec<(String, Limit)>,
    pub(crate) verdict: Verdict,
}

/// What there is to tell of a cap, for programs: `scalekit cap apply --json`, and a pod's termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) iops_per_s: u32,
    /// The control group's directory.
    pub(crate) group: PathBuf,
    /// On the database's disk.
    pub(crate) directory: PathBuf,
    /// `MAJOR:MINOR` of each device with the limit.
    pub(crate) devices: Vec<String>,
    /// As in [`Verdict`].
    pub(crate) capped_per_s: f64,
    pub(crate) uncapped_per_s: f64,
    pub(crate) problem: Option<String>,
}

impl Cap {
    /// One of this host that somebody else has set, by what they wrote down of it.
    ///
    /// # Errors
    /// There is no such file, or it says something else.
    pub(crate) fn read(result_file: &Path) -> io::Result<Self> {
        let facts: Facts = serde_json::from_slice(&std::fs::read(result_file)?)?;
        let Facts { iops_per_s, group, directory, devices, capped_per_s, uncapped_per_s, problem } = facts;
        Ok(Self {
            iops_per_s,
            group,
            is_ours: false,
            directory,
            devices: devices.into_iter().map(|device| (device, Limit::default())).collect(),
            verdict: Verdict { capped_per_s, uncapped_per_s, problem },
        })
    }

    /// As it is now.
    pub(crate) fn facts(&self) -> Facts {
        let Verdict { capped_per_s, uncapped_per_s, problem } = self.verdict.clone();
        Facts {
            iops_per_s: self.iops_per_s,
            group: self.group.clone(),
            directory: self.directory.clone(),
            devices: self.devices.iter().map(|(device, _)| device.clone()).collect(),
            capped_per_s,
            uncapped_per_s,
            problem: self.problem().or(problem),
        }
    }

    /// Caps a group, and has a probe in it show whether that holds. That it does not is no error: see the verdict.
    ///
    /// # Errors
    /// There can be no cap; then nothing is left of it.
    pub(crate) async fn establish(request: &CapRequest<'_>) -> Result<Self, CapError> {
        let disks = Disks::of(request.directory)?;
        let group = match request.group {
            Which::Own(name) => group::make(Path::new(group::MOUNTED), name)?,
            Which::Given(directory) | Which::Around(directory) => group::below_root(directory)?,
        };
        let mut cap = Self {
            iops_per_s: request.iops_per_s,
            group: group.directory.clone(),
            is_ours: matches!(request.group, Which::Own(_)),
            directory: request.directory.to_owned(),
            devices: Vec::new(),
            verdict: Verdict { capped_per_s: 0.0, uncapped_per_s: 0.0, problem: None },
        };
        match cap.put_to_the_test(&group, &disks, request).await {
            Ok(()) => Ok(cap),
            Err(error) => {
                // The first error is the one that tells what to do.
                let _ = cap.release().await;
                Err(error)
            }
        }
    }

    async fn put_to_the_test(
        &mut self,
        group: &Group,
        disks: &Disks,
        request: &CapRequest<'_>,
    ) -> Result<(), CapError> {
        let joins = !matches!(request.group, Which::Around(_));
        for device in group::devices(disks) {
            self.devices.push((device.to_string(), group::limit_of(group, device)?));
        }
        let mut trials = Vec::new();
        for (per_second, (time, most)) in
            [(limits::NEVER_REACHED_PER_S, CONTROL), (u64::from(self.iops_per_s), TRIAL)]
        {
            for device in group::devices(disks) {
                group::limit(group, device, Limit::both(per_second))?;
            }
            let (group, directory) = (self.group.clone(), self.directory.clone());
            let task = probe::Task { group, joins, directory, time, most };
            trials.push(probe::run(request.binary, &task).await?);
        }
        self.verdict = verdict::judge(self.iops_per_s, trials[0], trials[1]);
        Ok(())
    }

    /// Why it is not in force any more; `None`: it is, as it was set.
    pub(crate) fn problem(&self) -> Option<String> {
        let asked = Limit::both(u64::from(self.iops_per_s));
        let group = match Group::at(&self.group) {
            Ok(group) => group,
            Err(error) => return Some(error.to_string()),
        };
        self.devices.iter().find_map(|(device, _)| {
            let found = match device.parse().map(|device| group::limit_of(&group, device)) {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Some(error.to_string()),
                Err(error) => return Some(format!("{device}: {error}")),
            };
            (found != asked).then(|| {
                format!(
                    "the limits of {} for {device} are no longer those that were set",
                    self.group.display()
                )
            })
        })
    }

    /// What the group's processes did on the disk so far.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(crate) fn operations(&self) -> Result<Operations, String> {
        let group = Group::at(&self.group).map_err(|error| error.to_string())?;
        let disks = Disks::of(&self.directory).map_err(|error| error.to_string())?;
        group.read_on(&disks)
    }

    /// Whether a process is in the group.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        let members = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        members.lines().any(|line| line.trim().parse() == Ok(pid))
    }

    /// Takes it away, after the processes of a group of its own have ended.
    ///
    /// # Errors
    /// The group, or a limit of it, stays.
    pub(crate) async fn release(&self) -> Result<(), CapError> {
        if self.is_ours {
            return group::remove(&self.group).await;
        }
        let group = Group::at(&self.group)?;
        for (device, former) in &self.devices {
            let Ok(device) = device.parse() else { continue };
            group::limit(&group, device, *former)?;
        }
        Ok(())
    }
}
