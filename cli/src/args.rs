//! The command line. Nobody else knows clap: what is typed here becomes plain options.

mod access;
mod cap;
mod dlq;
mod host;
mod load;
mod telemetry;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{
    ArgAction, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use scalekit_service::server_url::ServerUrl;

pub(crate) use access::{AccessArgs, SecretArgs, ServiceTokenArgs, TokenAction, TokenArgs};

pub(crate) use cap::{ApplyArgs, CapAction, CapArgs};
pub(crate) use dlq::{DlqAction, DlqArgs, DlqService, Which};
pub(crate) use host::{DoctorArgs, RollbackArgs, TuneAction, TuneArgs};
pub(crate) use load::{AgentArgs, AgentsArgs, BenchArgs, ConnectArgs, LoadArgs};
pub(crate) use telemetry::{LogFormat, TelemetryArgs};

/// The profile when none is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// Tune, deploy, load and judge an API that a crowd will hit.
#[derive(Debug, Parser)]
#[command(name = "scalekit", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Every flag can also be set in the environment as SCALEKIT_<FLAG>.\n\
    Exit status: 0 passed, 1 failed to run, 2 usage, 99 criterion failed, or users do not fit (doctor),\n\
    104 invalid profile or report, 105 interrupted, 120 measurement invalid, 121 acknowledged writes\n    lost or duplicated, 122 the host or cluster differs from the\n    profile.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: CliCommand,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The profile: a built-in name or a file
    #[arg(short, long, global = true, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    pub(crate) profile: String,
    /// Colours in the output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Say more on stderr; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print facts as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    /// Deploy, load, drain, audit, judge, tear down: one profile in, one verdict out
    Run(RunArgs),
    /// Bring kernel settings and limits of this host to what the profile asks for, and back
    #[command(args_conflicts_with_subcommands = true)]
    Tune(TuneArgs),
    /// Bring the service up and keep it up
    #[command(args_conflicts_with_subcommands = true)]
    Deploy(DeployArgs),
    /// List, show, replay or drop the writes that the database refused for good
    Dlq(DlqArgs),
    /// Say what would stop so many users on this host now, and what lifts it
    #[command(
        after_help = "Exit status: 0 nothing that was seen stops them, 99 something will fail at so many users,\n\
        104 a flag, URL or profile that cannot be understood, 1 no such process or listener.\n\
        What cannot be read is `unknown`, never `ok`; root sees more."
    )]
    Doctor(DoctorArgs),
    /// Load a deployed service, or any URL
    Bench(BenchArgs),
    /// Judge a report again, from its file alone
    Validate(ValidateArgs),
    /// Print a report in another form
    Report(ReportArgs),
    /// Make load for a `scalekit run` or `bench` with --agents on another machine
    Agent(AgentArgs),
    /// Run a part of the bundled service in the foreground
    Serve(ServeArgs),
    /// Keep the processes of a deployment up; `scalekit deploy` starts it
    #[command(hide = true)]
    Supervise {
        /// Of the deployment
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make tokens for who may ask the service
    Token(TokenArgs),
    /// Cap what a control group does on a disk, and prove that the cap holds
    Cap(CapArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    #[command(flatten)]
    pub(crate) agents: AgentsArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(flatten)]
    pub(crate) token: ServiceTokenArgs,
    /// Leave the service running afterwards; `scalekit deploy down` ends it
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// Where the service runs: processes on this host, or a Kubernetes cluster
    #[arg(long, global = true, value_name = "local|k8s")]
    pub(crate) target: Option<String>,
    /// Of the kubeconfig, for the target k8s; its current one when left out
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Print what would be deployed and touch nothing: the objects of the target k8s as YAML, or the units of --systemd
    #[arg(long)]
    pub(crate) render: bool,
    /// Print what would change in the cluster and touch nothing; exit status 122 if anything would
    #[arg(long, conflicts_with = "render")]
    pub(crate) diff: bool,
    /// Take over fields of objects in the cluster that somebody else has set otherwise
    #[arg(long, conflicts_with = "render")]
    pub(crate) force_conflicts: bool,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// Address and port of the API; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// As units of systemd, which start with the host; takes root. `status`, `logs` and `down` find them by themselves
    #[arg(long)]
    pub(crate) systemd: bool,
    #[command(subcommand)]
    pub(crate) action: Option<DeployAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeployAction {
    /// Show what is deployed
    Status(ServiceTokenArgs),
    /// Print what the processes logged
    Logs {
        /// Of these processes, such as `api`, `mongod` or `supervisor`; of all, when left out
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Lines from the end of each log
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
        /// Go on with what is logged from now on, until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop what is deployed; its data stays
    Down {
        /// Remove its data too, with every document in the embedded store
        #[arg(long)]
        purge: bool,
    },
}

/// Where Redis and MongoDB are.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// Journal, cache and database
    #[arg(long, value_name = "embedded|redis-mongo")]
    pub(crate) backend: Option<String>,
    /// How writes are taken; `direct`, for comparison, does without journal, cache and worker
    #[arg(long, value_name = "write-behind|direct")]
    pub(crate) mode: Option<String>,
    /// The journal's Redis; without it, a redis-server found on PATH is started
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) redis_url: Option<ServerUrl>,
    /// The cache's Redis; the journal's, if only that is given
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) cache_url: Option<ServerUrl>,
    /// MongoDB; without it, a mongod found on PATH is started
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) mongo_url: Option<ServerUrl>,
    #[command(flatten)]
    pub(crate) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// A report folder, or its report.json
    #[arg(value_name = "REPORT")]
    pub(crate) report: PathBuf,
    /// A criterion instead of the report's own for that metric; may be repeated
    #[arg(long = "threshold", value_name = "METRIC=EXPR")]
    pub(crate) thresholds: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// The summary, as at the end of the run
    Text,
    /// The whole report
    Json,
    /// Percentiles of http_req_total_duration in ms, for HdrHistogram's plotter
    Hgrm,
    /// HdrHistogram's interval log: a histogram in µs for each second, tagged with its metric
    Hlog,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A report folder, or its report.json
    #[arg(value_name = "REPORT")]
    pub(crate) report: PathBuf,
    /// The form; text, when left out
    #[arg(long, value_enum)]
    pub(crate) format: Option<ReportFormat>,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServeRole {
    /// The HTTP API
    Api,
    /// The worker that writes to the database
    Worker,
    /// Both in one process; the only role of the embedded backend
    All,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[arg(value_enum)]
    pub(crate) role: ServeRole,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// Address and port to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the embedded backend keeps its files
    #[arg(long, value_name = "DIR", default_value = "scalekit-data")]
    pub(crate) data_dir: PathBuf,
    /// The database's device, which this process reads for all: a block device, a path on one, or the directory of the
    /// database's control group
    #[arg(long, value_name = "PATH")]
    pub(crate) database_device: Option<String>,
    /// Threads; one for each core, when left out
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u64>,
    /// Name of the worker, stable over restarts
    #[arg(long, value_name = "NAME", default_value = "worker-0")]
    pub(crate) worker_name: String,
    /// Write the address here once requests are served
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Created if it does not exist
    pub(crate) dir: PathBuf,
}

/// The clap tree, every flag with its environment variable.
pub(crate) fn command() -> Command {
    with_environment(Cli::command())
}

fn with_environment(mut command: Command) -> Command {
    command = command.mut_args(|arg| match arg.get_long() {
        // Help and version are not settings; a count has no value that a variable could hold.
        Some("help" | "version" | "verbose") | None => arg,
        Some(long) => {
            let variable = format!("SCALEKIT_{}", long.replace('-', "_").to_uppercase());
            arg.env(variable)
        }
    });
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_environment))
}

/// Parses the process's command line.
///
/// # Errors
/// What to print, and with it clap's exit status (2, or 0 for help).
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent_and_every_flag_has_a_variable() {
        command().debug_assert();
        let bench = command();
        let bench = bench.find_subcommand("bench").unwrap();
        for (flag, variable) in
            [("vus", "SCALEKIT_VUS"), ("thresholds", "SCALEKIT_THRESHOLD"), ("headers", "SCALEKIT_HEADER")]
        {
            let arg = bench.get_arguments().find(|arg| arg.get_id() == flag).unwrap();
            assert_eq!(arg.get_env(), Some(std::ffi::OsStr::new(variable)));
        }
    }

    #[test]
    fn a_deployment_action_takes_no_deployment_flags() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(parse(words("scalekit deploy down --purge")).is_ok());
        assert!(parse(words("scalekit deploy --listen 127.0.0.1:0 down")).is_err());
        assert!(parse(words("scalekit deploy --render down")).is_err());
        // Which deployment is meant has to be said to all of them.
        assert!(parse(words("scalekit deploy down --target k8s")).is_ok());
        assert!(parse(words("scalekit bench --vus many")).is_err());
    }
}
