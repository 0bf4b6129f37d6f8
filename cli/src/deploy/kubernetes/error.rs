//! Why there are no objects for a profile.

use std::io;
use std::path::PathBuf;

/// Something that the objects are made of cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    #[error("deploy.{key}: cannot read {}: {source}\nhelp: name a readable file of at most {most} bytes", path.display())]
    File { key: &'static str, path: PathBuf, most: u64, source: io::Error },
    #[error(
        "the Secret {name} has no `{key}` of letters and digits, and so none that fits the deployment\nhelp: if its data \
         is of no use, remove it with `scalekit deploy down --purge --target k8s`; else mend the Secret"
    )]
    Secret { name: String, key: &'static str },
    #[error("no random bytes from the system: {0}")]
    Random(io::Error),
    #[error("an object cannot be written: {0}")]
    Form(String),
}
