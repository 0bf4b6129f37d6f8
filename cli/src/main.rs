//! Parse, run, exit.

mod agent;
mod args;
mod audit;
mod backends;
mod cgroup_path;
mod checkup;
mod commands;
mod criteria;
mod deploy;
mod exit;
mod host;
mod load;
mod memory;
mod profile;
mod report;
mod root;

/// The generator and the service allocate in many threads at once, which this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> exit::ExitStatus {
    match args::parse(std::env::args_os()) {
        Ok(cli) => commands::run(cli),
        Err(usage) => commands::usage(&usage),
    }
}
