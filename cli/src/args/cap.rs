//! The flags of `scalekit cap`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct CapArgs {
    #[command(subcommand)]
    pub(crate) action: CapAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CapAction {
    /// Set the cap, and have a probe in the group show whether it holds
    #[command(
        after_help = "The cap stays: take it away with the same command and --iops of what the disk can do, or with the \
        group.\nExit status: 0 verified, 120 not enforced, 1 it could not be set, 2 usage."
    )]
    Apply(ApplyArgs),
    /// What the probe does, which `apply` starts in the group
    #[command(hide = true)]
    Probe {
        /// What to do, as JSON
        #[arg(value_name = "TASK")]
        task: String,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["group", "pod_uid", "own_group"]))]
pub(crate) struct ApplyArgs {
    /// Most reads a second, and as many writes
    #[arg(long, value_name = "N/s")]
    pub(crate) iops: String,
    /// A directory on the disk, where the probe may write
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The control group's directory
    #[arg(long, value_name = "DIR")]
    pub(crate) group: Option<PathBuf>,
    /// The control group of the Kubernetes pod that this process is in
    #[arg(long, value_name = "UID")]
    pub(crate) pod_uid: Option<String>,
    /// The control group that this process is in
    #[arg(long)]
    pub(crate) own_group: bool,
    /// Where the node's control groups are mounted
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub(crate) cgroup_root: PathBuf,
    /// Write what was found there, too, as JSON: a pod's termination message
    #[arg(long, value_name = "FILE")]
    pub(crate) result_file: Option<PathBuf>,
    /// Let the command pass, though the cap could be set and is not proven
    #[arg(long)]
    pub(crate) unproven: bool,
}
