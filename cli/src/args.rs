//! The command line. Nobody else knows clap: what is typed here becomes plain options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{
    ArgAction, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

/// The profile when none is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// Tune, deploy, load and judge an API that a crowd will hit.
#[derive(Debug, Parser)]
#[command(name = "scalekit", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Every flag can also be set in the environment as SCALEKIT_<FLAG>.\n\
    Exit status: 0 passed, 1 failed to run, 2 usage, 99 criterion failed, or users do not fit (doctor),\n\
    104 invalid profile or report, 105 interrupted, 120 measurement invalid, 121 acknowledged writes\n    lost or duplicated, 122 the host differs from the profile.")]
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
    /// Leave the service running afterwards; `scalekit deploy down` ends it
    #[arg(long)]
    pub(crate) keep: bool,
}

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
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// Address and port of the API; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    #[command(subcommand)]
    pub(crate) action: Option<DeployAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeployAction {
    /// Show what is deployed
    Status,
    /// Print what the processes logged
    Logs {
        /// Lines from the end of each log
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
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
    /// The journal's Redis; without it, a redis-server found on PATH is started
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) redis_url: Option<String>,
    /// The cache's Redis; the journal's, if only that is given
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) cache_url: Option<String>,
    /// MongoDB; without it, a mongod found on PATH is started
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) mongo_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Load this URL instead of the deployed service
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The service's process on this host, whose counters are sampled; found by itself for what is deployed, and for
    /// a URL of this host
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// HTTP method for --url
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header for --url; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body for --url, or @FILE
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) body: Option<String>,
    #[command(flatten)]
    pub(crate) agents: AgentsArgs,
}

/// Who makes the load.
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Make the load on these machines, each with a `scalekit agent`; the users are dealt out to them
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(crate) agents: Vec<String>,
    /// The token of the agents
    #[arg(long, value_name = "FILE")]
    pub(crate) agents_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Address and port to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    pub(crate) listen: String,
    /// Obey only who knows the token in this file; needed to listen on other than loopback addresses
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Write the address here once requests are served
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

/// How users connect.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The protocol; `auto` is what the server picks over https, HTTP/1.1 over http
    #[arg(long, value_name = "auto|1.1|2")]
    pub(crate) http_version: Option<String>,
    /// A new connection for each request
    #[arg(long)]
    pub(crate) no_connection_reuse: bool,
    /// Addresses to connect from in turn, such as 127.0.0.2,127.0.0.3-127.0.0.9
    #[arg(long, value_name = "ADDR,...")]
    pub(crate) local_ips: Option<String>,
    /// Trust any certificate
    #[arg(long)]
    pub(crate) insecure_skip_tls_verify: bool,
    /// A PEM file of certificate authorities to trust beside the usual ones
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<String>,
}

/// How much load, and when it passes.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Virtual users, each with a connection of its own
    #[arg(short = 'u', long, value_name = "N")]
    pub(crate) vus: Option<u64>,
    /// Measured time, such as 30s; the warm-up comes before it
    #[arg(short, long, value_name = "TIME")]
    pub(crate) duration: Option<String>,
    /// Time under load before measuring starts
    #[arg(long, value_name = "TIME")]
    pub(crate) warmup: Option<String>,
    /// How long a user pauses after each iteration
    #[arg(long, value_name = "TIME")]
    pub(crate) think: Option<String>,
    /// Instead of --think: each user starts an iteration each so often, such as 1s
    #[arg(long, value_name = "TIME")]
    pub(crate) pacing: Option<String>,
    /// Open model: so many iterations a second, such as 2000/s, with --vus as the cap on users
    #[arg(long, value_name = "RATE")]
    pub(crate) rate: Option<String>,
    /// Go to so many users (30s:100) or iterations a second (30s:100/s) in that time; may be repeated
    #[arg(short, long = "stage", value_name = "TIME:TARGET")]
    pub(crate) stages: Vec<String>,
    /// End after so many iterations of all users together
    #[arg(short, long, value_name = "N")]
    pub(crate) iterations: Option<u64>,
    /// Repeats a run's random choices
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// CSV file whose rows ${data.COLUMN} takes in turn
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<String>,
    /// Each user keeps the cookies that it is given, until its next iteration
    #[arg(long)]
    pub(crate) cookies: bool,
    /// When a request counts as failed
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// A criterion, in k6's grammar; replaces the profile's for that metric; may be repeated
    #[arg(long = "threshold", value_name = "METRIC=EXPR")]
    pub(crate) thresholds: Vec<String>,
    /// Directory for the report's folder
    #[arg(short, long, value_name = "DIR", default_value = "reports")]
    pub(crate) out: PathBuf,
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
    pub(crate) redis_url: Option<String>,
    /// The cache's Redis
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) cache_url: Option<String>,
    /// MongoDB
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub(crate) mongo_url: Option<String>,
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
    /// Address and port to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the embedded backend keeps its files
    #[arg(long, value_name = "DIR", default_value = "scalekit-data")]
    pub(crate) data_dir: PathBuf,
    /// Threads; one for each core, when left out
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u64>,
    /// Name of the worker, stable over restarts
    #[arg(long, value_name = "NAME", default_value = "worker-0")]
    pub(crate) worker_name: String,
    /// Write the address here once requests are served
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
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
        assert!(parse(words("scalekit bench --vus many")).is_err());
    }
}
