//! What goes into Secrets: passwords made once for the deployment, and what files of this host hold.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use k8s_openapi::api::core::v1::Secret;

use super::ObjectsError;
use crate::profile::{Deploy, Servers};

/// The most a Secret can hold of one file; all of it ends at 1 MiB.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// Of each password: 192 bits, as hexadecimal digits, so that it needs no escape in a URL, a file or an environment.
const PASSWORD_BYTES: usize = 24;

pub(super) const REDIS_PASSWORD: &str = "redis-password";
pub(super) const CACHE_PASSWORD: &str = "cache-password";
pub(super) const MONGO_PASSWORD: &str = "mongo-password";
pub(super) const MONGO_ROOT_PASSWORD: &str = "mongo-root-password";
pub(super) const MONGO_KEYFILE: &str = "mongo-keyfile";

/// A new password.
///
/// # Errors
/// The system gives no random bytes.
pub(crate) fn password() -> Result<String, ObjectsError> {
    let mut bytes = [0; PASSWORD_BYTES];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(ObjectsError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The passwords of the deployment's own Redis and MongoDB. They are made once: a MongoDB that has files keeps the users
/// it has.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(super) redis: String,
    pub(super) cache: String,
    pub(super) mongo: String,
    pub(super) mongo_root: String,
    /// What members of MongoDB's replica set know each other by.
    pub(super) mongo_keyfile: String,
}

impl Credentials {
    /// New ones.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(crate) fn generate() -> Result<Self, ObjectsError> {
        Ok(Self {
            redis: password()?,
            cache: password()?,
            mongo: password()?,
            mongo_root: password()?,
            mongo_keyfile: password()?,
        })
    }

    /// Those of a deployment that is there.
    ///
    /// # Errors
    /// The Secret lacks one, or it is no plain text; what it holds is not repeated.
    pub(crate) fn of(secret: &Secret) -> Result<Self, ObjectsError> {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        let of = |key: &'static str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
            bytes
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                .map(str::to_owned)
                .ok_or_else(|| ObjectsError::Secret { name: name.to_owned(), key })
        };
        Ok(Self {
            redis: of(REDIS_PASSWORD)?,
            cache: of(CACHE_PASSWORD)?,
            mongo: of(MONGO_PASSWORD)?,
            mongo_root: of(MONGO_ROOT_PASSWORD)?,
            mongo_keyfile: of(MONGO_KEYFILE)?,
        })
    }
}

/// Nothing of it is ever printed.
impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials(***)")
    }
}

/// All that is secret about a deployment.
pub(crate) struct Material {
    pub(super) credentials: Credentials,
    /// Where Redis and MongoDB are, if outside.
    pub(super) servers: Servers,
    /// Files by the key they have in the Secret: tokens, certificate and key, authorities.
    pub(super) files: BTreeMap<&'static str, Vec<u8>>,
}

pub(super) const TOKENS: &str = "tokens";
pub(super) const TLS_CERT: &str = "tls.crt";
pub(super) const TLS_KEY: &str = "tls.key";
pub(super) const BACKEND_CA: &str = "backend-ca.pem";

impl Material {
    /// Reads the files that the profile names.
    ///
    /// # Errors
    /// One that cannot be read, or is too large for a Secret.
    pub(crate) fn read(
        deploy: &Deploy,
        servers: Servers,
        credentials: Credentials,
    ) -> Result<Self, ObjectsError> {
        let tls = deploy.tls.as_ref();
        let mut files = BTreeMap::new();
        for (key, name, path) in [
            ("tokens_file", TOKENS, deploy.tokens_file.as_deref()),
            ("tls.cert", TLS_CERT, tls.map(|tls| tls.cert.as_path())),
            ("tls.key", TLS_KEY, tls.map(|tls| tls.key.as_path())),
            ("backend_ca", BACKEND_CA, deploy.backend_ca.as_deref()),
        ] {
            if let Some(path) = path {
                files.insert(name, read(key, path)?);
            }
        }
        Ok(Self { credentials, servers, files })
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ObjectsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let read = read.and_then(|_| match bytes.len() as u64 {
        0..=MAX_FILE_BYTES => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
    });
    read.map(|()| bytes).map_err(|source| ObjectsError::File {
        key,
        path: path.to_owned(),
        most: MAX_FILE_BYTES,
        source,
    })
}
