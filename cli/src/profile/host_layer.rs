//! The host's part of a layer, as it is written. The doc comments are the descriptions of the JSON schema.

use schemars::JsonSchema;
use serde::Deserialize;

use super::formula::Formulas;
use super::host::HugePages;
use super::layer::section;
use super::named::Named;
use super::setting::{Merge, Setting};
use super::units::Whole;

impl Merge for Formulas {}
impl Merge for HugePages {}

section! {
    /// What the host's kernel and limits must be; `scalekit tune` brings them there.
    HostLayer {
        /// Users to tune for, `users` in formulas; `load.vus`, when left out (1 to 1000000).
        users: Whole,
        /// Whether capacities may be lowered. Without it a value that is higher already is kept.
        allow_lower: bool,
        /// Kernel settings by their names, such as `net.core.somaxconn`; `null` takes an inherited one away.
        sysctls: Named<SysctlLayer>,
        /// Resource limits of processes.
        limits: ProcessLimitsLayer,
        /// Transparent huge pages.
        transparent_huge_pages: HugePagesLayer,
        /// Kernel modules to load, by name; `null` takes an inherited one away.
        modules: Named<ModuleLayer>,
    }
}

section! {
    /// One kernel setting: `at_least`, `equals` or `includes`, and the reasons.
    SysctlLayer {
        /// Raise it to this; a number, a formula of `users`, `ram` (bytes) and `cores`, or a list of them for a key
        /// with several values. A range of ports widens.
        at_least: Formulas,
        /// Make it this.
        equals: Formulas,
        /// Ports and ranges that it must hold, such as `6379,30000-32767`; for `net.ipv4.ip_local_reserved_ports`.
        includes: String,
        /// Whether it is fine that a kernel does not have it.
        optional: bool,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// Resource limits of processes.
    ProcessLimitsLayer {
        /// Open files (RLIMIT_NOFILE).
        nofile: LimitLayer,
        /// Processes and threads of the user (RLIMIT_NPROC).
        nproc: LimitLayer,
    }
}

section! {
    /// One resource limit.
    LimitLayer {
        /// Raise it to this: a number, or a formula.
        at_least: Formulas,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// Transparent huge pages.
    HugePagesLayer {
        /// `always`, `madvise`, `never`, or `by-mongod`: always from MongoDB 8.0 on, never before, left alone without
        /// a mongod.
        mode: HugePages,
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}

section! {
    /// One kernel module.
    ModuleLayer {
        /// Why it should be so.
        why: String,
        /// What it may harm.
        risk: String,
        /// The counter that shows that it was the limit.
        proof: String,
        /// Where this is known from.
        source: String,
    }
}
