//! What a rule is: a threshold for one counter, what crossing it means, and what lifts it.

use serde::{Deserialize, Serialize};

/// What there can be too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Resource {
    Process,
    AcceptQueue,
    SynQueue,
    Ports,
    OpenFiles,
    Conntrack,
    CpuQuota,
    Cpu,
    Memory,
    TcpMemory,
    Disk,
    NetworkBacklog,
    RedisConnections,
    RedisMemory,
    MongoConnections,
    MongoCache,
}

impl Resource {
    /// Stable name, as it is serialised: `accept-queue`.
    pub(crate) fn id(self) -> String {
        serde_json::to_value(self).ok().and_then(|id| id.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::AcceptQueue => "accept queue",
            Self::SynQueue => "queue of half-open connections",
            Self::Ports => "local ports",
            Self::OpenFiles => "open files",
            Self::Conntrack => "connection tracking",
            Self::CpuQuota => "CPU quota",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::TcpMemory => "TCP memory",
            Self::Disk => "disk",
            Self::NetworkBacklog => "network backlog",
            Self::RedisConnections => "connections of Redis",
            Self::RedisMemory => "memory of Redis",
            Self::MongoConnections => "connections of MongoDB",
            Self::MongoCache => "cache of MongoDB",
        }
    }
}

/// In the order of the USE method: what failed says more than what waited, and that more than what was busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Saturation,
    Utilisation,
}

/// When a counter is over its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Test {
    /// It grew.
    Rises,
    /// A gauge that was above zero is zero.
    Ends,
    /// A gauge is at this share of another, or above.
    Share { of: &'static str, at: f64 },
    /// It grew by more than this share of another's growth, for so long, in which the other grew by so much at least.
    Part { of: &'static str, above: f64, for_s: f64, least: f64 },
    /// Microseconds grew by more than this share of the time that passed, for so long.
    Stall { above: f64, for_s: f64 },
    /// It grew by this share of a cap a second, or more, on average over so long. Without a cap nothing is near it.
    Cap { of: &'static str, at: f64, for_s: f64 },
}

/// What must hold in the same seconds. Where it cannot be known it is taken to hold. Of the counter's own object where
/// there is such a counter, else of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Guard {
    /// It grew by more than so much a second.
    Rate { counter: &'static str, above: f64 },
    /// It grew by more than this share of another's growth.
    Part { counter: &'static str, of: &'static str, above: f64 },
    /// Microseconds grew by more than this share of the time that passed.
    Stall { counter: &'static str, above: f64 },
    /// A gauge is this, or above.
    AtLeast { gauge: &'static str, value: f64 },
}

/// When a rule's counter must be known for its resource to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Always, and with it its counterpart.
    Always,
    /// Always, and with it its counterpart, unless this gauge is known to be zero: then there is no such thing.
    Unless(&'static str),
    /// Whenever this other counter is: the rule's own is only there when there is something to tell.
    With(&'static str),
    /// Not on each host: where no sample names the counter, there is no such thing.
    Optional,
}

/// Whose rise is a consequence of a rule's, when they come at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fills {
    Nothing,
    /// These counters', by their names without brackets.
    Counters(&'static [&'static str]),
    /// All others' of its time and before it, except these.
    AllBut(&'static [&'static str]),
}

impl Fills {
    /// Of a counter's name without brackets.
    pub(super) fn has(self, counter: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Counters(names) => names.contains(&counter),
            Self::AllBut(names) => !names.contains(&counter),
        }
    }
}

/// One counter's threshold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) resource: Resource,
    pub(super) severity: Severity,
    /// Name of the counter, without brackets.
    pub(super) counter: &'static str,
    pub(super) test: Test,
    /// All must hold.
    pub(super) guards: &'static [Guard],
    pub(super) presence: Presence,
    /// What the counter says.
    pub(super) meaning: &'static str,
    /// What else rises because of this.
    pub(super) fills: Fills,
    /// Settings of the host and of the deployment that lift it. One that begins with [`OF_GROUP`] is a file of the
    /// control group that the counter names.
    pub(super) tune: &'static [&'static str],
    pub(super) deploy: &'static [&'static str],
    pub(super) advice: &'static str,
    /// What lifts it instead where a fact is known; the first one that holds.
    pub(super) instead: &'static [(Fact, Remedy)],
}

/// What is known of the settings at hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fact {
    /// The listener at hand has a backlog below `net.core.somaxconn`, which therefore does not cut it: the kernel keeps
    /// the lesser of both (`__sys_listen_socket`).
    OwnBacklog,
    /// A gauge has this value.
    Is(&'static str, f64),
}

/// Settings of the host, settings of the deployment, and what to do.
pub(super) type Remedy = (&'static [&'static str], &'static [&'static str], &'static str);

/// The name under which a cap that the caller knows is looked up.
pub(super) const GIVEN_CAP: &str = "cap.operations_per_s";
/// Marks a file of a control group, by its name in version 2.
pub(super) const OF_GROUP: &str = "cgroup ";

pub(super) const fn rule(
    resource: Resource,
    severity: Severity,
    counter: &'static str,
    test: Test,
    meaning: &'static str,
) -> Rule {
    Rule {
        resource,
        severity,
        counter,
        test,
        guards: &[],
        presence: Presence::Always,
        meaning,
        fills: Fills::Nothing,
        tune: &[],
        deploy: &[],
        advice: "",
        instead: &[],
    }
}

impl Rule {
    pub(super) const fn lifted_by(mut self, (tune, deploy, advice): Remedy) -> Self {
        (self.tune, self.deploy, self.advice) = (tune, deploy, advice);
        self
    }

    pub(super) const fn only_while(mut self, guards: &'static [Guard]) -> Self {
        self.guards = guards;
        self
    }

    pub(super) const fn or_instead(mut self, remedies: &'static [(Fact, Remedy)]) -> Self {
        self.instead = remedies;
        self
    }

    pub(super) const fn known_by(mut self, counter: &'static str) -> Self {
        self.presence = Presence::With(counter);
        self
    }

    pub(super) const fn unless_zero(mut self, gauge: &'static str) -> Self {
        self.presence = Presence::Unless(gauge);
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    pub(super) const fn fills(mut self, counters: &'static [&'static str]) -> Self {
        self.fills = Fills::Counters(counters);
        self
    }

    pub(super) const fn fills_all_but(mut self, counters: &'static [&'static str]) -> Self {
        self.fills = Fills::AllBut(counters);
        self
    }
}
