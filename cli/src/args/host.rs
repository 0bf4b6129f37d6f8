//! Flags of what looks after this host: `tune` and `doctor`.

use clap::{Args, Subcommand};
use scalekit_service::server_url::ServerUrl;

#[derive(Debug, Args)]
pub(crate) struct TuneArgs {
    /// Print what would change, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Change it without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Write it to /etc too, so that it holds after the next boot
    #[arg(long)]
    pub(crate) persist: bool,
    /// Raise the limits of this running process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
    #[command(subcommand)]
    pub(crate) action: Option<TuneAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TuneAction {
    /// Compare the host with the profile; exit status 122 if they differ
    Verify(VerifyArgs),
    /// Give back what was changed and is still as it was left, the newest first
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Compare the limits of this running process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Print what would be given back, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Do it without asking, as is done where there is no terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The service's process; when nothing names a service, what the profile has deployed, else the host alone
    #[arg(long, value_name = "PID", group = "service")]
    pub(crate) pid: Option<u32>,
    /// The service as whoever listens on this port here
    #[arg(long, value_name = "[ADDR:]PORT", group = "service")]
    pub(crate) listen: Option<String>,
    /// The service as whoever listens here for this URL
    #[arg(long, value_name = "URL", group = "service")]
    pub(crate) url: Option<String>,
    /// Users, each with a connection of its own; the profile's, when left out
    #[arg(short = 'u', long, value_name = "N")]
    pub(crate) vus: Option<u64>,
    /// How long to watch, in seconds
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) seconds: u64,
    /// The journal's Redis
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) redis_url: Option<ServerUrl>,
    /// The cache's Redis
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) cache_url: Option<ServerUrl>,
    /// MongoDB
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) mongo_url: Option<ServerUrl>,
}
