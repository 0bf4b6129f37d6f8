//! Flags about who may ask: tokens, certificates, and files with the URLs of servers.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Who may ask the service.
#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    /// Answer only who sends a token of this file (`scalekit token new` makes one); read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<String>,
    /// Serve HTTPS with the certificates of this PEM file; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<String>,
    /// The PEM file with the private key of the first of them
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<String>,
}

/// URLs with passwords, out of files.
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    /// Like --redis-url, from a file with nothing but the URL: a mounted secret
    #[arg(long, value_name = "FILE")]
    pub(crate) redis_url_file: Option<String>,
    /// Like --cache-url, from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) cache_url_file: Option<String>,
    /// Like --mongo-url, from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) mongo_url_file: Option<String>,
    /// A PEM file of authorities that Redis and MongoDB are trusted by, in place of the public ones
    #[arg(long, value_name = "FILE")]
    pub(crate) backend_ca: Option<String>,
}

/// What the service under test wants to see.
#[derive(Debug, Args)]
pub(crate) struct ServiceTokenArgs {
    /// The service's token, in a file with nothing else; sent with every request to it
    #[arg(long, value_name = "FILE")]
    pub(crate) service_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) action: TokenAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenAction {
    /// Print a new token, which nobody can print again, and the line for the service's --token-file
    New {
        /// Who it is for: letters, digits, `-`, `_` and `.`
        name: String,
        /// Most requests a second with it, such as 500/s
        #[arg(long, value_name = "RATE")]
        rate: Option<String>,
    },
}
