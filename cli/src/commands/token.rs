//! `scalekit token`: bearer tokens for the service.

use anyhow::{Context as _, anyhow};
use scalekit_service::token::{self, RANDOM_BYTES};
use serde_json::json;

use super::print;
use crate::args::{Global, TokenAction, TokenArgs};
use crate::exit::ExitStatus;
use crate::profile::flag_error;

pub(super) fn token(global: &Global, args: &TokenArgs) -> anyhow::Result<ExitStatus> {
    let TokenAction::New { name, rate } = &args.action;
    let mut random = [0; RANDOM_BYTES];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source
        .fill(&mut random)
        .map_err(|_| anyhow!("the system gives no random numbers"))
        .context("no token")?;
    let token = token::encode(&random);
    let line = token::line(name, &token, rate.as_deref()).map_err(|problem| {
        flag_error("token new", problem, "write, for example, `scalekit token new ci --rate 500/s`")
    })?;
    if global.json {
        print(&format!("{}\n", json!({ "name": name, "token": token, "line": line })))?;
    } else {
        print(&format!(
            "token, for the client (it is shown this once):\n{token}\n\nline, for the service's --token-file:\n{line}\n"
        ))?;
    }
    Ok(ExitStatus::Done)
}
