//! Who may talk to a process, and how: its tokens and its certificate, checked before anything starts.

use std::path::{Path, PathBuf};

use crate::api::auth::Guard;
use crate::api::tls::Tls;

/// Files that say it. By default anybody may ask anything, in the clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Hashed bearer tokens; see [`crate::token`].
    pub tokens: Option<PathBuf>,
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's own certificate first, then those up to an authority.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("{0}")]
    Tokens(String),
    #[error("{0}")]
    Tls(String),
}

impl Access {
    /// Reads all files once, and forgets them.
    ///
    /// # Errors
    /// The first that cannot be used, and why.
    pub fn check(&self) -> Result<(), AccessError> {
        self.open().map(drop)
    }

    pub(crate) fn open(&self) -> Result<(Option<Guard>, Option<Tls>), AccessError> {
        let guard = self.tokens.as_deref().map(Guard::open).transpose().map_err(AccessError::Tokens)?;
        let tls = self.tls.as_ref().map(Tls::open).transpose().map_err(AccessError::Tls)?;
        Ok((guard, tls))
    }

    /// What the owner of the process should know of this.
    pub(crate) fn warnings(&self, is_loopback: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if !is_loopback {
            match (&self.tokens, &self.tls) {
                (None, _) => warnings.push(
                    "whoever reaches this address may read and write every document: make a token with `scalekit token \
                     new NAME` and give --token-file FILE, or listen on 127.0.0.1"
                        .to_owned(),
                ),
                (Some(_), None) => warnings.push(
                    "tokens travel in the clear, and whoever sees one may use it: give --tls-cert FILE and --tls-key FILE, \
                     or put a proxy with TLS in front"
                        .to_owned(),
                ),
                (Some(_), Some(_)) => {}
            }
        }
        let mut open = |file: &Path, what: &str, mode: &str| {
            if crate::api::reload::too_open(file) {
                warnings.push(format!("{} ({what}) is open to others: `chmod {mode} {0}`", file.display()));
            }
        };
        if let Some(file) = &self.tokens {
            open(file, "the hashed tokens", "600");
        }
        if let Some(TlsFiles { key, .. }) = &self.tls {
            open(key, "the private key", "600");
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_open_to_strangers_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, "").unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "").unwrap();
        let files = TlsFiles { cert: dir.path().join("cert"), key: key.clone() };
        for (tokens, tls, is_loopback, mode, expected) in [
            (false, false, true, 0o600, &[][..]),
            (false, false, false, 0o600, &["--token-file"]),
            (false, true, false, 0o600, &["--token-file"]),
            (true, false, false, 0o600, &["--tls-cert"]),
            (true, true, false, 0o640, &[]),
            (true, true, true, 0o644, &["hashed tokens", "private key"]),
            (true, false, true, 0o620, &["hashed tokens"]),
        ] {
            for file in [&file, &key] {
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            let access = Access { tokens: tokens.then(|| file.clone()), tls: tls.then(|| files.clone()) };
            let warnings = access.warnings(is_loopback);
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            for (warning, part) in warnings.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        }
    }
}
