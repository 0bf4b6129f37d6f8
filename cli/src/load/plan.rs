//! What to do: the target, the scenario, how many users, for how long. Checked as a whole before the start.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::connecting::Connecting;
pub(crate) use super::target::Target;
use super::{limits, scenario};

const MAX_USERS: u32 = 1_000_000;
const MAX_THREADS: usize = 1024;
const HOUR: Duration = Duration::from_secs(3600);
/// Bounds the one-second series, too.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// One load test in the closed model.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// How the users reach it.
    pub(crate) connecting: Connecting,
    pub(crate) scenario: Scenario,
    /// Virtual users, each with one connection and at most one request at a time.
    pub(crate) users: u32,
    /// Between the end of a response and the user's next request.
    pub(crate) think_time: Duration,
    /// Before the measured part; its requests are sent but not measured.
    pub(crate) warmup: Duration,
    /// The measured part.
    pub(crate) duration: Duration,
    /// For one request, the connection included.
    pub(crate) timeout: Duration,
    /// Generator threads; more than users are not started.
    pub(crate) threads: usize,
}

/// What each user sends again and again.
#[derive(Clone, Debug)]
pub(crate) enum Scenario {
    /// The same request to the target's own URL.
    Request { method: String, headers: Vec<(String, String)>, body: Vec<u8> },
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
         local and a remote address): widen net.ipv4.ip_local_port_range (`scalekit tune`, or `sysctl -w \
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
    /// Checks every bound and that this machine can carry the users; raises the soft limit on open files if that
    /// is what it takes.
    ///
    /// # Errors
    /// The first bound that is not kept, with the remedy.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
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
        scenario::check(&self.scenario, &self.target)?;
        let mut source = scenario::RequestSource::new(&self.scenario, &self.target);
        self.connecting.check_request(source.render(0, 0))?;
        limits::ensure_files(self.users, self.worker_threads())?;
        limits::ensure_ports(self.users, self.connecting.local_addresses(), self.target.preferred())
    }

    /// Threads that have at least one user.
    pub(super) fn worker_threads(&self) -> usize {
        self.threads.min(self.users as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::connecting::ConnectOptions;
    use super::*;

    fn plan() -> Plan {
        let target = Target::parse("http://127.0.0.1:1/").unwrap();
        Plan {
            connecting: Connecting::new(&ConnectOptions::default(), &target).unwrap(),
            target,
            scenario: Scenario::Request { method: "GET".into(), headers: vec![], body: vec![] },
            users: 1,
            think_time: Duration::ZERO,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            threads: 4,
        }
    }

    #[test]
    fn a_sound_plan_passes_and_starts_no_idle_threads() {
        plan().check().unwrap();
        assert_eq!(plan().worker_threads(), 1);
    }

    #[test]
    fn bounds_are_named() {
        type Spoil = fn(&mut Plan);
        let cases: [(Spoil, &str); 8] = [
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
