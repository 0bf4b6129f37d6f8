//! Who makes the load: this process, or the agents that the profile or `--agents` names.

use std::net::SocketAddr;

use super::access::Entry;
use super::{agent, planning};
use crate::agent::{AgentError, Crowd, Token};
use crate::args::AgentsArgs;
use crate::load::{Plan, PlanError};
use crate::profile::{AgentAddress, Profile, ProfileError, flag_error};

pub(super) struct Makers<'a> {
    /// None: this process makes it.
    agents: &'a [AgentAddress],
    token: Option<Token>,
}

impl<'a> Makers<'a> {
    pub(super) fn new(profile: &'a Profile, args: &AgentsArgs) -> Result<Self, ProfileError> {
        let token = args.agents_token_file.as_deref();
        let token = token.map(|file| agent::token("--agents-token-file", file)).transpose()?;
        Ok(Self { agents: &profile.load.agents, token })
    }

    /// Agents that are the cluster's.
    pub(super) fn pods(agents: &'a [AgentAddress], token: Token) -> Self {
        Self { agents, token: Some(token) }
    }

    /// The plan, as far as it can be known to be sound before the agents have seen it.
    pub(super) fn plan(
        &self,
        profile: &Profile,
        url: &str,
        token: &str,
        entry: &Entry,
    ) -> Result<Plan, PlanError> {
        let plan = match u32::try_from(self.agents.len()).unwrap_or(u32::MAX) {
            0 => planning::plan(profile, url, token)?,
            count => planning::plan_for_agents(profile, url, token, count)?,
        };
        Ok(Plan { authorization: entry.authorization.clone(), ..plan })
    }

    /// A service of this machine that listens there must be within reach of all.
    pub(super) fn expect_reach(&self, service: SocketAddr) -> Result<(), ProfileError> {
        let ip = service.ip().to_canonical();
        let why = if ip.is_loopback() {
            "which only this machine can reach"
        } else if ip.is_unspecified() {
            "which is no address to connect to"
        } else {
            return Ok(());
        };
        match self.agents.iter().find(|agent| !agent.is_loopback()) {
            None => Ok(()),
            Some(AgentAddress { address, location }) => Err(flag_error(
                location,
                format!(
                    "load.agents: {address} is another machine, and the service listens on {service}, {why}"
                ),
                "let the service listen on this machine's address in the agents' network (deploy.listen), such as 10.0.0.20:8080",
            )),
        }
    }

    /// Makes sure that all are there and willing, before anything is started, seeded or sent.
    pub(super) async fn gather(&self) -> Result<Option<Crowd>, AgentError> {
        if self.agents.is_empty() {
            return Ok(None);
        }
        let addresses: Vec<_> = self.agents.iter().map(|agent| agent.address.as_str()).collect();
        Crowd::gather(&addresses, self.token.as_ref()).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_others_cannot_reach_is_refused_for_agents_elsewhere() {
        let agents = |addresses: &[&str]| -> Vec<AgentAddress> {
            let address =
                |&text: &&str| AgentAddress { address: text.to_owned(), location: "x.yaml:3:4".into() };
            addresses.iter().map(address).collect()
        };
        let (here, mixed) =
            (agents(&["127.0.0.1:1", "localhost:2"]), agents(&["127.0.0.1:1", "10.0.0.1:7420"]));
        for (agents, listen, refused) in [
            (&here, "127.0.0.1:0", None),
            (&here, "0.0.0.0:80", None),
            (&mixed, "10.0.0.2:80", None),
            (&mixed, "[fd00::2]:80", None),
            (&mixed, "127.0.0.1:0", Some("only this machine can reach")),
            (&mixed, "[::ffff:127.0.0.1]:80", Some("only this machine can reach")),
            (&mixed, "[::1]:80", Some("only this machine can reach")),
            (&mixed, "0.0.0.0:80", Some("no address to connect to")),
            (&mixed, "[::]:80", Some("no address to connect to")),
        ] {
            let result = Makers { agents, token: None }.expect_reach(listen.parse().unwrap());
            let error = result.err().map(|error| error.to_string());
            assert_eq!(error.is_some(), refused.is_some(), "{listen}: {error:?}");
            for part in refused.iter().copied().chain([
                "x.yaml:3:4: load.agents: 10.0.0.1:7420",
                listen,
                "deploy.listen",
            ]) {
                assert!(error.as_ref().is_none_or(|error| error.contains(part)), "{listen}: {error:?}");
            }
        }
    }
}
