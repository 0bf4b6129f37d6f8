//! Flags of `dlq`.

use clap::{Args, Subcommand};

use super::ServiceTokenArgs;

#[derive(Debug, Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) action: DlqAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqAction {
    /// List dead letters, oldest first
    List {
        /// Only those of this collection
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// Most letters to list
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        #[command(flatten)]
        service: DlqService,
    },
    /// Print one dead letter with its document
    Show {
        /// The letter, or the operation id of its write
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        service: DlqService,
    },
    /// Put dead letters back into the journal
    #[command(
        after_help = "A letter keeps its operation id and its version: a document that was written since stays as it is, the\n\
        letter is gone, and GET /v1/writes/{write_id} says `superseded`. With --as-new it writes over it.\n\
        Exit status: 0 all are in the journal, 1 some are not."
    )]
    Replay {
        #[command(flatten)]
        which: Which,
        /// Write over what was written since
        #[arg(long)]
        as_new: bool,
        #[command(flatten)]
        service: DlqService,
    },
    /// Give dead letters up: nobody can bring them back
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop them without asking
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        service: DlqService,
    },
}

/// Which letters.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Letters, or operation ids of their writes
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// All that there are now
    #[arg(long)]
    pub(crate) all: bool,
    /// Of all only those of this collection
    #[arg(long, value_name = "NAME", requires = "all", conflicts_with = "ids")]
    pub(crate) collection: Option<String>,
    /// Of all only those whose reason has this in it
    #[arg(long, value_name = "TEXT", requires = "all", conflicts_with = "ids")]
    pub(crate) reason: Option<String>,
}

/// Whose letters.
#[derive(Debug, Args)]
pub(crate) struct DlqService {
    /// The service; when left out, what the profile has deployed
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) token: ServiceTokenArgs,
}
