//! How a setting stands against what is asked for, and what there is to say about it.

use std::io;

use nix::errno::Errno;
use serde::Serialize;

/// How one setting stands. What follows `Planned` comes from applying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Status {
    /// As it should be.
    Already,
    /// More than is asked for; left so. Not as asked, where the profile says `equals`.
    KeptHigher {
        equals: bool,
    },
    /// To be changed.
    Planned,
    /// Changed, and read back.
    Raised,
    /// Holds from a later time on.
    Persisted {
        from: String,
    },
    /// The kernel took it and made something else of it.
    Clamped {
        got: String,
    },
    /// This kernel has no such setting; fine where the profile says that it is optional.
    Absent {
        optional: bool,
        /// Whether the host may have it all the same, since this network namespace is not its first.
        perhaps_elsewhere: bool,
    },
    /// It cannot be written to from here.
    ReadOnly {
        errno: String,
        remedy: String,
    },
    /// The whole host shares it, and this is a network namespace of its own.
    NotNamespacedHere,
    /// A program that runs here sets it itself.
    OwnedByOther {
        owner: String,
        remedy: String,
    },
    /// A limit belongs to a process, and none was named.
    OfProcesses {
        remedy: String,
    },
    /// It would do harm.
    Refused {
        reason: String,
    },
    Failed {
        errno: String,
    },
}

impl Status {
    /// Whether something that was asked for is not so.
    pub(crate) fn is_undone(&self) -> bool {
        !matches!(
            self,
            Self::Already
                | Self::KeptHigher { equals: false }
                | Self::Raised
                | Self::Persisted { .. }
                | Self::OfProcesses { .. }
                | Self::Absent { optional: true, .. }
        )
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Already => "already",
            Self::KeptHigher { .. } => "kept-higher",
            Self::Planned => "to change",
            Self::Raised => "raised",
            Self::Persisted { .. } => "persisted",
            Self::Clamped { .. } => "clamped",
            Self::Absent { .. } => "absent",
            Self::ReadOnly { .. } => "read-only",
            Self::NotNamespacedHere => "not-namespaced-here",
            Self::OwnedByOther { .. } => "owned-by-other",
            Self::OfProcesses { .. } => "of processes",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
        }
    }
}

impl Status {
    /// What there is to say about it.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::Clamped { got } => Some(format!("the kernel made {got} of it")),
            Self::KeptHigher { equals: true } => {
                Some("the profile says `equals`; only `host.allow_lower: true` lowers it".to_owned())
            }
            Self::Persisted { from } => Some(from.clone()),
            Self::Absent { optional: true, .. } => Some("this kernel does not have it, which is fine".to_owned()),
            Self::Absent { perhaps_elsewhere: true, .. } => Some(
                "either this kernel does not have it, or the whole host shares it and only its own namespace shows it"
                    .to_owned(),
            ),
            Self::Absent { .. } => Some("this kernel does not have it".to_owned()),
            Self::ReadOnly { errno, remedy } => Some(format!("{errno}; {remedy}")),
            Self::NotNamespacedHere => {
                Some("the whole host shares it; it can only be set in the host's own namespace".to_owned())
            }
            Self::OwnedByOther { owner, remedy } => Some(format!("{owner} runs and sets it; {remedy}")),
            Self::OfProcesses { remedy } => Some(remedy.clone()),
            Self::Refused { reason } => Some(reason.clone()),
            Self::Failed { errno } => Some(errno.clone()),
            Self::Already | Self::KeptHigher { equals: false } | Self::Planned | Self::Raised => None,
        }
    }
}

/// What a write that the system refuses means.
pub(crate) fn refused_write(error: &io::Error, is_root: bool) -> Status {
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => "the tree is mounted read-only, as in a container: run this on the node itself",
        Some(Errno::EACCES | Errno::EPERM) if is_root => {
            "root may not write it here, as in a container without privileges: run this on the node itself"
        }
        Some(Errno::EACCES | Errno::EPERM) => "run it as root",
        _ => return Status::Failed { errno: describe(error) },
    };
    Status::ReadOnly { errno: describe(error), remedy: remedy.to_owned() }
}

/// `EINVAL: Invalid argument`
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{errno:?}: {}", errno.desc()),
        None => error.to_string(),
    }
}
