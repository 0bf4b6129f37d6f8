//! The machines that make the load: their addresses, looked at before anything starts.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::error::ProfileError;
use super::resolve::Resolver;
use super::setting::Setting;

/// The coordinator has a connection, a task and megabytes of histograms for each.
const MAX_AGENTS: usize = 100;
const KEY: [&str; 2] = ["load", "agents"];

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentAddress {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// `file:line:column`, or the flag it came from.
    pub(crate) location: String,
}

impl AgentAddress {
    /// Whether it is certainly on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let (host, _) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

/// As it is written in a profile; none is `null` there.
pub(super) fn serialize<S: Serializer>(agents: &[AgentAddress], output: S) -> Result<S::Ok, S::Error> {
    let addresses = agents.iter().map(|agent| agent.address.as_str());
    (!agents.is_empty()).then(|| addresses.collect::<Vec<_>>()).serialize(output)
}

impl Resolver<'_> {
    pub(super) fn agents(&self, setting: &Setting<Vec<String>>) -> Result<Vec<AgentAddress>, ProfileError> {
        let Some(texts) = setting.value() else { return Ok(Vec::new()) };
        if !(1..=MAX_AGENTS).contains(&texts.len()) {
            let message = format!("expected 1 to {MAX_AGENTS} agents, found {}", texts.len());
            let help = if texts.is_empty() {
                "name some, or set it to null to make the load on this machine"
            } else {
                "name fewer, larger machines"
            };
            return Err(self.error(&KEY, message, help));
        }
        let mut agents: Vec<AgentAddress> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let index = index.to_string();
            let path = [KEY[0], KEY[1], &index];
            let address = text.trim();
            if !is_address(address) {
                let message = format!("expected HOST:PORT, found {address:?}");
                return Err(self.error(&path, message, "write, for example, 10.0.0.11:7420"));
            }
            if agents.iter().any(|agent| agent.address.eq_ignore_ascii_case(address)) {
                let message = format!("the agent {address} is named twice");
                return Err(self.error(
                    &path,
                    message,
                    "name each agent once; it takes one part of the load",
                ));
            }
            agents.push(AgentAddress { address: address.to_owned(), location: self.place(&path) });
        }
        Ok(agents)
    }
}

/// A name, an IPv4 address or an IPv6 address in brackets, and a port.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_named = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (is_named || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()))
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for (text, fits) in [
            ("10.0.0.1:7420", true),
            ("node-1.local:1", true),
            ("[::1]:7420", true),
            ("", false),
            ("10.0.0.1", false),
            (":7420", false),
            ("::1:7420", false),
            ("[::g]:7420", false),
            ("host:0", false),
            ("host:+1", false),
            ("host:70000", false),
            ("user@host:7420", false),
            ("host/path:7420", false),
        ] {
            assert_eq!(is_address(text), fits, "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_loopback_addresses() {
        for (address, expected) in [
            ("127.0.0.1:7420", true),
            ("127.3.2.1:7420", true),
            ("[::1]:7420", true),
            ("[::ffff:127.0.0.1]:7420", true),
            ("LocalHost:7420", true),
            ("10.0.0.1:7420", false),
            ("[fe80::1]:7420", false),
            ("localhost.example:7420", false),
            ("0.0.0.0:7420", false),
        ] {
            let agent = AgentAddress { address: address.to_owned(), location: String::new() };
            assert_eq!(agent.is_loopback(), expected, "{address}");
        }
    }
}
