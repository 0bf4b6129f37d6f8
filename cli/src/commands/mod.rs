//! One file a subcommand, and the only place where profile, deployment, load, audit and report meet.

mod access;
mod agent;
mod bench;
mod cap;
mod cluster;
mod control;
mod crowd;
mod deploy;
mod device;
mod display;
mod dlq;
mod doctor;
mod experiment;
mod facts;
mod http;
mod interrupt;
mod latency_log;
mod live;
mod loading;
mod makers;
mod manual;
mod operations;
mod options;
mod planning;
mod progress;
mod render;
mod report;
mod run;
mod sampler;
mod serve;
mod subject;
mod token;
mod tune;
mod validate;
mod watching;

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, CliCommand, Color, Global, LogFormat};
use crate::criteria::CriteriaError;
use crate::deploy::DeployError;
use crate::deploy::kubernetes::cluster::ClusterError;
use crate::exit::ExitStatus;
use crate::host;
use crate::load::PlanError;
use crate::memory;
use crate::profile::ProfileError;
use crate::report::{LogError, ReadError};

/// Runs the command that was asked for; an error is printed here and nowhere else.
pub(crate) fn run(cli: Cli) -> ExitStatus {
    let Cli { global, command } = cli;
    // Of no use to load and service, but inherited: a database that is started here has a use for them.
    let is_lean = matches!(command, CliCommand::Bench(_) | CliCommand::Agent(_) | CliCommand::Serve(_));
    memory::allow_huge_pages(!is_lean);
    let format = match &command {
        CliCommand::Serve(args) => args.telemetry.log_format,
        _ => LogFormat::Text,
    };
    start_log(
        &global,
        matches!(command, CliCommand::Serve(_) | CliCommand::Agent(_) | CliCommand::Supervise { .. }),
        format,
    );
    let result = match command {
        CliCommand::Run(args) => run::run(&global, &args),
        CliCommand::Tune(args) => tune::tune(&global, &args),
        CliCommand::Deploy(args) => deploy::deploy(&global, &args),
        CliCommand::Dlq(args) => dlq::dlq(&global, &args),
        CliCommand::Doctor(args) => doctor::doctor(&global, &args),
        CliCommand::Bench(args) => bench::bench(&global, &args),
        CliCommand::Validate(args) => validate::validate(&global, &args),
        CliCommand::Report(args) => report::report(&global, &args),
        CliCommand::Agent(args) => agent::agent(&args),
        CliCommand::Serve(args) => serve::serve(&global, &args),
        CliCommand::Supervise { dir } => deploy::supervise(&dir),
        CliCommand::Token(args) => token::token(&global, &args),
        CliCommand::Cap(args) => cap::cap(&global, &args),
        CliCommand::Completions(args) => manual::completions(&args),
        CliCommand::Man(args) => manual::pages(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        status_of(&error)
    })
}

/// Prints what clap has to say: an error, or the help that was asked for.
pub(crate) fn usage(usage: &clap::Error) -> ExitStatus {
    // A closed pipe is the reader's choice.
    let _ = usage.print();
    if usage.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done }
}

/// What was found before anything started is the configuration's fault; the rest failed.
fn status_of(error: &anyhow::Error) -> ExitStatus {
    let is_config = error.is::<ProfileError>()
        || error.is::<CriteriaError>()
        || error.is::<ReadError>()
        || error.is::<LogError>()
        || error.is::<PlanError>()
        || error.is::<host::PlanError>();
    match error.downcast_ref() {
        Some(DeployError::Interrupted) => ExitStatus::Interrupted,
        _ if matches!(error.downcast_ref(), Some(ClusterError::Interrupted | ClusterError::NoLoad)) => {
            ExitStatus::Interrupted
        }
        _ if is_config => ExitStatus::InvalidConfig,
        _ => ExitStatus::Failed,
    }
}

fn start_log(global: &Global, is_service: bool, format: LogFormat) {
    let level = match (global.verbose, is_service) {
        (0, false) => "warn",
        (0, true) | (1, false) => "info",
        (1, true) | (2, false) => "debug",
        _ => "trace",
    };
    // The drivers' own debug output is asked for with RUST_LOG.
    let ours = format!("warn,scalekit={level},scalekit_service={level}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(ours));
    let colored = use_color(global.color, std::io::stderr().is_terminal());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(colored).init(),
        // The fields beside the message, where log stores look for them.
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
}

/// <https://no-color.org>: any value but an empty one switches colours off.
fn use_color(choice: Color, is_terminal: bool) -> bool {
    match choice {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// A runtime for the control plane; the load generator has threads of its own. Tasks run on the calling
/// thread, which is the one that child processes are bound to.
fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Writes to stdout; a closed pipe is the reader's choice, not an error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
