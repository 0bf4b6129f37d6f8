//! The service's access as the profile has it, and how this tool's own requests get in.

use std::path::Path;
use std::sync::Arc;

use scalekit_service::access::{Access, AccessError, TlsFiles};

use super::agent;
use super::http::Http;
use crate::args::ServiceTokenArgs;
use crate::load::{Authorization, TlsOptions, control_tls};
use crate::profile::{Profile, ProfileError, flag_error};

/// What a process of the service is told.
///
/// # Errors
/// A file that cannot be used.
pub(super) fn checked(profile: &Profile) -> Result<Access, ProfileError> {
    let deploy = &profile.deploy;
    let access = Access {
        tokens: deploy.tokens_file.clone(),
        tls: deploy.tls.as_ref().map(|tls| TlsFiles { cert: tls.cert.clone(), key: tls.key.clone() }),
    };
    match access.check() {
        Ok(()) => Ok(access),
        Err(AccessError::Tokens(problem)) => Err(flag_error(
            "deploy.tokens_file (--token-file)",
            problem,
            "`scalekit token new NAME` prints a token and its line",
        )),
        Err(AccessError::Tls(problem)) => Err(flag_error(
            "deploy.tls (--tls-cert, --tls-key)",
            problem,
            "name the PEM files of a certificate, its chain after it, and of its key",
        )),
    }
}

/// How a client of this tool gets into the service.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) authorization: Option<Authorization>,
    tls: TlsOptions,
}

impl Entry {
    /// # Errors
    /// A token that cannot be read.
    pub(super) fn new(profile: &Profile, args: &ServiceTokenArgs) -> Result<Self, ProfileError> {
        let authorization = args.service_token_file.as_deref().map(authorization).transpose()?;
        Ok(Self { authorization, tls: super::planning::tls_options(&profile.load) })
    }

    /// A client for the control plane.
    ///
    /// # Errors
    /// Authorities that cannot be used.
    pub(super) fn http(&self) -> anyhow::Result<Http> {
        let tls = control_tls(&self.tls)?;
        Ok(Http::new(Arc::unwrap_or_clone(tls), self.authorization.as_ref()))
    }
}

/// A deployment that asks for tokens would refuse its own load.
///
/// # Errors
/// There is none to send.
pub(super) fn expect_token(profile: &Profile, entry: &Entry) -> Result<(), ProfileError> {
    if profile.deploy.tokens_file.is_none() || entry.authorization.is_some() {
        return Ok(());
    }
    Err(flag_error(
        "deploy.tokens_file (--token-file)",
        "the service will ask for a token, and there is none to send",
        "give --service-token-file FILE with a token whose line is in that file",
    ))
}

fn authorization(file: &Path) -> Result<Authorization, ProfileError> {
    let flag = "--service-token-file";
    let token = agent::token(flag, file)?;
    Authorization::bearer(token.expose()).map_err(|problem| {
        flag_error(
            flag,
            format!("{}: {problem}", file.display()),
            "write the token alone, as `scalekit token new` prints it",
        )
    })
}
