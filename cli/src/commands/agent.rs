//! `scalekit agent`: makes load for a coordinator on another machine.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::serve::{raise_open_files, stop_on_signal, tell};
use crate::agent::{self, Settings, Token};
use crate::args::AgentArgs;
use crate::exit::ExitStatus;
use crate::profile::{ProfileError, flag_error};

/// A token file holds one line.
const MAX_TOKEN_FILE_BYTES: u64 = 8192;

pub(super) fn agent(args: &AgentArgs) -> anyhow::Result<ExitStatus> {
    let token = args.token_file.as_deref().map(|file| token("--token-file", file)).transpose()?;
    let listen = listen(&args.listen, token.is_some())?;
    raise_open_files();
    // The generator has threads of its own; this one only answers.
    let runtime = super::control_runtime()?;
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen}; choose another address or port with --listen")
        })?;
        let address =
            listener.local_addr().context("cannot tell the address that is listened on")?.to_string();
        if let Some(file) = &args.ready_file {
            tell(file, &address).context("the ready file cannot be written")?;
        }
        tracing::info!(address, token = token.is_some(), "waiting for a coordinator");
        agent::serve(listener, Settings { name: machine_name(), token }, stop).await;
        anyhow::Ok(())
    })?;
    Ok(ExitStatus::Done)
}

/// An agent sends any request to anywhere for whoever may talk to it, so only a token opens it to others.
fn listen(text: &str, has_token: bool) -> Result<SocketAddr, ProfileError> {
    let address: SocketAddr = text.parse().map_err(|_| {
        flag_error(
            "--listen",
            format!("expected IP:PORT, found {text:?}"),
            "write, for example, 127.0.0.1:7420 or 0.0.0.0:7420",
        )
    })?;
    if !address.ip().is_loopback() && !has_token {
        return Err(flag_error(
            "--listen",
            format!(
                "{address} can be reached from other machines, and there is no token to keep strangers out"
            ),
            "add --token-file FILE (make one with `openssl rand -hex 32 > FILE`), or listen on 127.0.0.1",
        ));
    }
    Ok(address)
}

/// The token in a file.
pub(super) fn token(flag: &str, file: &Path) -> Result<Token, ProfileError> {
    let shown = file.display();
    let mut text = String::new();
    File::open(file).and_then(|file| file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text)).map_err(
        |error| flag_error(flag, format!("cannot read {shown}: {error}"), "name a file with the token in it"),
    )?;
    Token::parse(&text).map_err(|problem| {
        flag_error(flag, format!("{shown}: {problem}"), "make one with `openssl rand -hex 32 > FILE`")
    })
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_only_this_machine_is_served() {
        for (text, has_token, fits) in [
            ("127.0.0.1:7420", false, true),
            ("127.3.2.1:0", false, true),
            ("[::1]:7420", false, true),
            ("0.0.0.0:7420", false, false),
            ("[::]:7420", false, false),
            ("192.168.1.2:7420", false, false),
            ("[::ffff:127.0.0.1]:7420", false, false),
            ("0.0.0.0:7420", true, true),
            ("localhost:7420", true, false),
            ("7420", true, false),
        ] {
            assert_eq!(listen(text, has_token).is_ok(), fits, "{text}");
        }
        let error = listen("0.0.0.0:7420", false).unwrap_err().to_string();
        assert!(error.contains("--token-file") && error.contains("0.0.0.0:7420"), "{error}");
    }
}
