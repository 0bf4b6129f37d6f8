//! Flags of what makes load: how much, from where, and how users connect.

use std::path::PathBuf;

use clap::Args;

use super::ServiceTokenArgs;

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
pub(crate) struct BenchArgs {
    /// Where the profile was deployed: processes on this host, or a Kubernetes cluster
    #[arg(long, value_name = "local|k8s", conflicts_with = "url")]
    pub(crate) target: Option<String>,
    /// Of the kubeconfig, for the target k8s; its current one when left out
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub(crate) context: Option<String>,
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
    #[command(flatten)]
    pub(crate) token: ServiceTokenArgs,
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

/// Who makes the load.
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Make the load on these machines, each with a `scalekit agent`; the users are dealt out to them. For `bench` with
    /// the target k8s, a number: so many pods are made for it and removed afterwards
    #[arg(long, value_name = "HOST:PORT,...|N", value_delimiter = ',')]
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
