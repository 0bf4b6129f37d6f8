//! What to do: the target, the scenario, how many users, for how long. Checked as a whole before the start.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::authorization::Authorization;
use super::check::Check;
use super::connecting::Connecting;
use super::data::{Data, DataError};
use super::scenario::Job;
pub(crate) use super::share::Share;
pub(crate) use super::target::Target;
use super::template::TemplateError;
use super::{limits, soundness};

const MAX_USERS: u32 = 1_000_000;
const MAX_THREADS: usize = 1024;
const MAX_STAGES: usize = 1000;
/// Arrivals a second: beyond what one machine's network carries.
pub(crate) const MAX_RATE: u32 = 10_000_000;
const HOUR: Duration = Duration::from_secs(3600);
/// Bounds the one-second series, too.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// One load test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// How the users reach it.
    pub(crate) connecting: Connecting,
    pub(crate) scenario: Scenario,
    /// Virtual users, each with one connection and at most one request at a time. With stages of users the most
    /// there will be; in the open model how many iterations can be under way at once.
    pub(crate) users: u32,
    /// Which of the users this process is: all, unless several machines share them.
    pub(crate) share: Share,
    /// When users start iterations.
    pub(crate) arrivals: Arrivals,
    /// With [`Arrivals::Think`], between the end of an iteration's last response and the user's next iteration.
    pub(crate) think_time: Duration,
    /// How many users there are at a moment, or how many arrivals a second; empty: as many all the time.
    pub(crate) stages: Vec<Stage>,
    /// The run ends after so many iterations, if it has not ended before.
    pub(crate) iterations: Option<u64>,
    /// Of everything random.
    pub(crate) seed: u64,
    /// What `${data.…}` stands for.
    pub(crate) data: Option<Arc<Data>>,
    /// Sent with every request that has no such header of its own.
    pub(crate) authorization: Option<Authorization>,
    /// Each user keeps the cookies that it is given, until its next iteration.
    pub(crate) cookies: bool,
    /// Before the measured part; its requests are sent but not measured.
    pub(crate) warmup: Duration,
    /// The measured part.
    pub(crate) duration: Duration,
    /// For one request, the connection included.
    pub(crate) timeout: Duration,
    /// Generator threads; more than users are not started.
    pub(crate) threads: usize,
}

/// When iterations start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Arrivals {
    /// Closed: a user starts its next one after its pause.
    Think,
    /// Closed, with a schedule: each user starts one each so often, unless the one before takes longer.
    Every(Duration),
    /// Open: so many start a second, whether or not those before are over. Where no user is free, they wait, and
    /// their latency counts from when they were due.
    Rate(u32),
}

/// A straight line from the level before to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) duration: Duration,
    /// Users, or arrivals a second.
    pub(crate) target: u32,
}

/// One request of an iteration. Path, headers and body may have variables, see [`super::template`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) method: String,
    /// Path and query; `None`: the target's own.
    pub(crate) path: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) checks: Vec<Check>,
    /// Pause before the next step of the same iteration.
    pub(crate) think_time: Duration,
}

impl Step {
    /// A request to the target's own URL, with nothing else.
    pub(crate) fn new(name: &str, method: &str) -> Self {
        Self {
            name: name.to_owned(),
            method: method.to_owned(),
            path: None,
            headers: Vec::new(),
            body: String::new(),
            checks: Vec::new(),
            think_time: Duration::ZERO,
        }
    }
}

/// What each user sends again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Scenario {
    /// One request after the other.
    Steps(Vec<Step>),
    /// scalekit's own unit of work, to `/v1/transactions` below the target's path.
    Transactions {
        /// Names the run in operation ids: lower-case letters and digits.
        run: String,
        /// Reads address the items `item-000000` to one below this.
        items: u32,
        item_collection: String,
        write_collection: String,
        /// Documents that each request reads.
        reads: u8,
        /// Documents that each request inserts.
        writes: u8,
    },
}

impl Scenario {
    /// The same request to the target's own URL.
    pub(crate) fn request(method: &str, headers: Vec<(String, String)>, body: &str) -> Self {
        Self::Steps(vec![Step { headers, body: body.to_owned(), ..Step::new("request", method) }])
    }

    /// What the step of this index expects.
    pub(super) fn checks(&self, step: usize) -> &[Check] {
        match self {
            Self::Transactions { .. } => &[],
            Self::Steps(steps) => steps.get(step).map_or(&[], |step| &step.checks),
        }
    }

    /// The pause after this step, before the next one.
    pub(super) fn think_time(&self, step: usize) -> Duration {
        match self {
            Self::Transactions { .. } => Duration::ZERO,
            Self::Steps(steps) => steps.get(step).map_or(Duration::ZERO, |step| step.think_time),
        }
    }

    /// The names of an iteration's steps.
    pub(crate) fn step_names(&self) -> Vec<&str> {
        match self {
            Self::Transactions { .. } => vec!["transactions"],
            Self::Steps(steps) => steps.iter().map(|step| step.name.as_str()).collect(),
        }
    }
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("the URL \"{url}\" cannot be used: {problem}")]
    Url { url: String, problem: &'static str },
    #[error(
        "the certificate authorities in {} cannot be used: {problem}; expected a PEM file of certificates",
        path.display()
    )]
    Authorities { path: PathBuf, problem: String },
    #[error(
        "the local address {ip} cannot be used: {source}; expected an address of this machine (`ip addr` lists them)"
    )]
    LocalAddress { ip: IpAddr, source: io::Error },
    #[error(
        "the host \"{host}\" cannot be resolved: {source}; check the name and the resolver (/etc/resolv.conf)"
    )]
    Resolve { host: String, source: io::Error },
    #[error("the data file {path} cannot be opened: {source}")]
    OpenData { path: String, source: io::Error },
    #[error("the data file {path} is not usable: {source}; expected CSV with a line of column names")]
    Data { path: String, source: DataError },
    #[error("the {what} of the step \"{step}\": {source}")]
    Template { step: String, what: &'static str, source: TemplateError },
    #[error(
        "the {what} of the step \"{step}\" takes the column `{column}`, which in line {line} of the data file has a \
         control character (or, for a path, a space); percent-encode it there"
    )]
    Cell { step: String, what: &'static str, column: String, line: usize },
    #[error("{what} is {given}; expected {expected}")]
    Invalid { what: &'static str, given: String, expected: String },
    #[error(
        "{users} users need {need} open files, but the hard limit of this process is {hard}: raise it (`ulimit -Hn \
         {need}` as root, LimitNOFILE={need} in a systemd unit, nofile in /etc/security/limits.conf), or ask for \
         fewer users"
    )]
    Files { users: u32, need: u64, hard: u64 },
    #[error("the limit on open files cannot be read: {source}")]
    ReadLimit { source: io::Error },
    #[error("the soft limit on open files cannot be raised from {soft} to {need}: {source}")]
    RaiseLimit { soft: u64, need: u64, source: io::Error },
    #[error(
        "{users} users need as many local ports, but there are {available} ({low} to {high} for each pair of a \
         local and a remote address): widen net.ipv4.ip_local_port_range (`sysctl -w \
         net.ipv4.ip_local_port_range=\"1024 65535\"`), connect from more local addresses (--local-ips), or ask for fewer users"
    )]
    Ports { users: u32, available: u64, low: u16, high: u16 },
}

impl PlanError {
    pub(super) fn invalid(what: &'static str, given: impl ToString, expected: impl ToString) -> Self {
        Self::Invalid { what, given: given.to_string(), expected: expected.to_string() }
    }
}

impl Plan {
    /// Checks every bound and that this machine can carry its users; raises the soft limit on open files if that
    /// is what it takes.
    ///
    /// # Errors
    /// The first bound that is not kept, with the remedy.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        self.check_bounds()?;
        let users = self.own_users();
        limits::ensure_files(users, self.worker_threads())?;
        limits::ensure_ports(users, self.connecting.local_addresses(), self.target.preferred())
    }

    /// Checks every bound, whichever machine it is for.
    ///
    /// # Errors
    /// The first bound that is not kept, with the remedy.
    pub(crate) fn check_bounds(&self) -> Result<(), PlanError> {
        if !(1..=MAX_USERS).contains(&self.users) {
            return Err(PlanError::invalid("the number of users", self.users, "1 to 1000000"));
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return Err(PlanError::invalid("the number of generator threads", self.threads, "1 to 1024"));
        }
        for (what, given, least, most) in [
            ("the duration", self.duration, Duration::from_millis(1), MAX_DURATION),
            ("the warm-up", self.warmup, Duration::ZERO, MAX_DURATION),
            ("the think time", self.think_time, Duration::ZERO, HOUR),
            ("the timeout", self.timeout, Duration::from_millis(1), HOUR),
        ] {
            if !(least..=most).contains(&given) {
                return Err(PlanError::invalid(what, format!("{given:?}"), format!("{least:?} to {most:?}")));
            }
        }
        self.share.check(self.users)?;
        self.check_model()?;
        if let Some(all) = self.iterations.filter(|&all| self.share.among(all) == 0) {
            let expected = format!("at most one machine an iteration, {all}");
            return Err(PlanError::invalid("the number of machines", self.share.step, expected));
        }
        let mut source = soundness::check(self)?;
        for step in (0u16..).take(self.scenario.step_names().len()) {
            self.connecting.check_request(source.render(0, Job { iteration: 0, step }))?;
        }
        Ok(())
    }

    /// The part of the plan that the `index`th of `of` machines carries out. Users keep their numbers, and with
    /// them their ids and when they start.
    pub(crate) fn share(&self, index: u32, of: u32) -> Self {
        Self { share: self.share.part(index, of), ..self.clone() }
    }

    /// The plan for this machine, after it came from another one: its own addresses of the target, and its own trust.
    ///
    /// # Errors
    /// The target cannot be resolved here, or an address or a file of the plan is not here.
    pub(crate) fn made_here(self) -> Result<Self, PlanError> {
        let target = self.target.resolved_here()?;
        let connecting = self.connecting.made_here(&target)?;
        Ok(Self { target, connecting, ..self })
    }

    /// How many users this process is.
    pub(crate) fn own_users(&self) -> u32 {
        self.share.count(self.users)
    }

    fn check_model(&self) -> Result<(), PlanError> {
        match self.arrivals {
            Arrivals::Think => {}
            Arrivals::Every(every) => {
                if !(Duration::from_millis(1)..=HOUR).contains(&every) {
                    return Err(PlanError::invalid("the pacing", format!("{every:?}"), "1ms to 3600s"));
                }
            }
            Arrivals::Rate(rate) => {
                if !(1..=MAX_RATE).contains(&rate) {
                    return Err(PlanError::invalid("the rate", rate, "1/s to 10000000/s"));
                }
            }
        }
        if let Some(stage) = self.stages.iter().find(|stage| stage.duration.is_zero()) {
            let given = format!("0s, to {}", stage.target);
            return Err(PlanError::invalid("the length of a stage", given, "a time above 0"));
        }
        if self.stages.len() > MAX_STAGES {
            return Err(PlanError::invalid("the number of stages", self.stages.len(), "at most 1000"));
        }
        let highest = self.stages.iter().map(|stage| stage.target).max();
        if highest == Some(0) {
            return Err(PlanError::invalid("the highest target of the stages", 0, "at least one above 0"));
        }
        if self.iterations == Some(0) {
            return Err(PlanError::invalid("the number of iterations", 0, "at least 1"));
        }
        Ok(())
    }

    /// How many checks each step has.
    pub(super) fn checks_of_steps(&self) -> Vec<usize> {
        let steps = self.scenario.step_names().len();
        (0..steps).map(|step| self.scenario.checks(step).len()).collect()
    }

    /// Threads that have at least one user and one iteration.
    pub(super) fn worker_threads(&self) -> usize {
        let iterations = self.iterations.map_or(u64::MAX, |all| self.share.among(all));
        let most = iterations.min(self.own_users().into());
        self.threads.min(usize::try_from(most).unwrap_or(usize::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::any_plan;
    use super::*;

    fn plan() -> Plan {
        Plan { users: 1, threads: 4, ..any_plan() }
    }

    #[test]
    fn a_sound_plan_passes_and_starts_no_idle_threads() {
        plan().check().unwrap();
        assert_eq!(plan().worker_threads(), 1);
        let plan = Plan { users: 9, iterations: Some(3), ..plan() };
        assert_eq!((plan.worker_threads(), plan.share(1, 2).worker_threads()), (3, 1));
        let none_left = plan.share(3, 4).check_bounds().unwrap_err().to_string();
        assert!(none_left.contains("at most one machine an iteration, 3"), "{none_left}");
    }

    #[test]
    fn a_part_travels_and_is_resolved_where_it_arrives() {
        let whole = Plan { users: 7, ..plan() };
        let part = whole.share(2, 3);
        assert_eq!((part.users, part.own_users(), part.worker_threads()), (7, 2, 2));
        let text = serde_json::to_string(&part).unwrap();
        let arrived: Plan = serde_json::from_str(&text).unwrap();
        assert!(arrived.target.addresses.is_empty());
        assert_eq!(arrived.target.resolved_here().unwrap(), part.target);
        assert_eq!((arrived.share, arrived.users, arrived.duration), (part.share, 7, part.duration));
        let none_left = whole.share(7, 8).check_bounds().unwrap_err().to_string();
        assert!(none_left.contains("the number of machines is 8"), "{none_left}");
        let forged = Target { url: "http://127.0.0.1/a b".into(), ..part.target };
        assert!(forged.resolved_here().is_err());
    }

    #[test]
    fn bounds_are_named() {
        type Spoil = fn(&mut Plan);
        let cases: [(Spoil, &str); 14] = [
            (|p| p.arrivals = Arrivals::Rate(0), "the rate is 0; expected 1/s to 10000000/s"),
            (|p| p.arrivals = Arrivals::Every(Duration::ZERO), "the pacing is 0ns"),
            (|p| p.iterations = Some(0), "the number of iterations is 0"),
            (
                |p| p.stages = vec![Stage { duration: Duration::ZERO, target: 5 }],
                "the length of a stage is 0s, to 5",
            ),
            (
                |p| p.stages = vec![Stage { duration: HOUR, target: 0 }],
                "the highest target of the stages is 0",
            ),
            (|p| p.stages = vec![Stage { duration: HOUR, target: 1 }; 1001], "the number of stages is 1001"),
            (|p| p.users = 0, "the number of users is 0; expected 1 to 1000000"),
            (|p| p.users = 2_000_000, "the number of users is 2000000"),
            (|p| p.threads = 0, "generator threads is 0"),
            (|p| p.duration = Duration::ZERO, "the duration is 0ns; expected 1ms to 86400s"),
            (|p| p.duration = Duration::from_secs(86_401), "the duration is 86401s"),
            (|p| p.timeout = Duration::ZERO, "the timeout is 0ns"),
            (|p| p.think_time = Duration::from_secs(4000), "the think time is 4000s"),
            (|p| p.users = 900_000, "900000 users need"),
        ];
        for (spoil, part) in cases {
            let mut plan = plan();
            spoil(&mut plan);
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
