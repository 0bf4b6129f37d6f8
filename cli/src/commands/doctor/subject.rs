//! Whom the doctor is asked about: a process, a port, a URL, what the profile has deployed, or the host alone.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use anyhow::bail;

use crate::args::DoctorArgs;
use crate::checkup::Service;
use crate::deploy::{Deployment, StateDir};
use crate::host::counters::{Holders, Listener, holders, listeners, sockets_of, workers};
use crate::host::listener::{is_of_this_host, is_proxy, serves};
use crate::profile::{self, Layer, Profile, ProfileError, flag_error};
use crate::root::Root;

/// Processes that share a listener and are named.
const MAX_NAMED: usize = 8;

/// A service, or none.
#[derive(Default)]
pub(super) struct Subject {
    pub(super) service: Option<Service>,
    /// The deployment that it is.
    pub(super) deployment: Option<Deployment>,
    /// The port that users connect to.
    pub(super) port: Option<u16>,
    /// What the reader should know of how it was found.
    pub(super) notes: Vec<String>,
}

/// A place where somebody listens: any address, where none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ip: Option<IpAddr>,
    port: u16,
}

impl Subject {
    /// Finds it.
    ///
    /// # Errors
    /// A flag that cannot be understood; a process that does not exist; a port that nobody listens on.
    pub(super) fn find(args: &DoctorArgs, profile: &Profile, root: &Root) -> anyhow::Result<Self> {
        if let Some(pid) = args.pid {
            return Self::of_pid(pid, root);
        }
        if let Some(text) = &args.listen {
            return Self::at(
                &[place(text)?],
                text,
                "--pid names a process in another network namespace, as a container's",
                root,
            );
        }
        if let Some(url) = &args.url {
            return Self::at(&places(url, "--url")?, url, "name a URL that is served on this host", root);
        }
        match Self::deployed(profile, root) {
            Ok(Some(deployed)) => return Ok(deployed),
            Ok(None) => {}
            Err(error) => {
                let note = format!(
                    "what is deployed cannot be told, so that this is about the host alone: {error:#}"
                );
                return Ok(Self { notes: vec![note], ..Self::default() });
            }
        }
        match &profile.load.url {
            None => Ok(Self::default()),
            Some(url) => Ok(Self::at(&places(url, "load.url")?, url, "", root).unwrap_or_else(|_| {
                let note = format!(
                    "{} is not served on this host, so that this is about the host alone",
                    shown(url)
                );
                Self { notes: vec![note], ..Self::default() }
            })),
        }
    }

    fn of_pid(pid: u32, root: &Root) -> anyhow::Result<Self> {
        if !root.path(format!("/proc/{pid}")).exists() {
            bail!(
                "process {pid} does not exist; --pid takes the number of one that runs, such as `pidof scalekit` prints"
            );
        }
        let listeners = own_listeners(root, pid);
        let port = listeners.iter().flatten().next().map(|listener| listener.address.port());
        Ok(Self {
            service: Some(Service { pid: Some(pid), processes: 1, listeners }),
            port,
            ..Self::default()
        })
    }

    /// Whoever listens in one of these places, in the network namespace of this process.
    fn at(places: &[Place], named: &str, help: &str, root: &Root) -> anyhow::Result<Self> {
        let all = match listeners(root, std::process::id(), None) {
            Ok(all) => all,
            Err(why) => bail!("who listens at {} cannot be told: {why}", shown(named)),
        };
        let places: Vec<&Place> = places.iter().filter(|place| place.is_here()).collect();
        let fits = |listener: &&Listener| places.iter().any(|place| place.fits(listener.address));
        let found: Vec<Listener> = all.iter().filter(fits).cloned().collect();
        let Some(first) = found.first() else {
            bail!("nobody listens at {} on this host\nhelp: {help}", shown(named));
        };
        let port = Some(first.address.port());
        let inodes: HashSet<u32> = found.iter().flat_map(|listener| listener.inodes.clone()).collect();
        let Holders { pids, are_some_hidden } = holders(root, &inodes);
        let (proxies, pids): (Vec<u32>, Vec<u32>) =
            workers(root, &pids).into_iter().partition(|pid| is_proxy(root, *pid));
        let mut notes = Vec::new();
        match (&pids[..], are_some_hidden) {
            ([], _) if !proxies.is_empty() => notes.push(
                "a proxy of a container listens there; name the service's process itself with --pid"
                    .to_owned(),
            ),
            ([], true) => notes.push("which process listens there only root can see".to_owned()),
            ([], false) => {
                notes.push("no process here holds that listener: it may be in a container".to_owned());
            }
            ([_], _) => {}
            ([first, others @ ..], _) => {
                let others: Vec<String> = others.iter().take(MAX_NAMED).map(u32::to_string).collect();
                let others = others.join(", ");
                notes.push(format!("{others} listen there, too; files and groups are those of {first}"));
            }
        }
        let processes = pids.len() as u64;
        let service = Service { pid: pids.first().copied(), processes, listeners: Ok(found) };
        Ok(Self { service: Some(service), port, notes, ..Self::default() })
    }

    /// The API of what the profile has deployed, if it is up.
    fn deployed(profile: &Profile, root: &Root) -> anyhow::Result<Option<Self>> {
        // Without a home nothing can have been recorded.
        let Ok(state) = StateDir::of_user() else { return Ok(None) };
        let Some(deployment) = state.load(&profile.name)? else { return Ok(None) };
        // The API is started last, since it needs the others.
        let Some(api) =
            deployment.processes.last().map(|process| &process.identity).filter(|api| api.is_alive())
        else {
            return Ok(None);
        };
        let pid = u32::try_from(api.pid)?;
        let place = places(deployment.api_url(), "deployment")?;
        let listeners = own_listeners(root, pid).map(|all| {
            all.into_iter()
                .filter(|listener| place.iter().any(|place| place.fits(listener.address)))
                .collect()
        });
        let port = place.first().map(|place| place.port);
        let service = Some(Service { pid: Some(pid), processes: 1, listeners });
        Ok(Some(Self { service, deployment: Some(deployment), port, notes: Vec::new() }))
    }

    /// What the deployed service was told to take, which may differ from what the profile says by now.
    pub(super) fn max_connections(&self) -> Option<u64> {
        let written = self.deployment.as_ref()?.dir.join("profile.yaml");
        let deployed = profile::load(written.to_str()?, Layer::default()).ok()?;
        Some(deployed.deploy.limits.max_connections.into())
    }
}

/// The servers at these URLs that are processes of this host, by name. One that is elsewhere, or does not show, is left
/// out.
pub(super) fn servers(subject: &Subject, urls: &[(&'static str, &str)], root: &Root) -> Vec<(String, u32)> {
    let places: Vec<(&str, Place)> =
        urls.iter().filter_map(|(name, url)| Some((*name, server_place(url)?))).collect();
    if places.is_empty() {
        return Vec::new();
    }
    let all = listeners(root, std::process::id(), None).unwrap_or_default();
    let service = subject.service.as_ref().and_then(|service| service.pid);
    let mut found: Vec<(String, u32)> = Vec::new();
    for (name, place) in places {
        let inodes: HashSet<u32> = all
            .iter()
            .filter(|listener| place.fits(listener.address))
            .flat_map(|listener| listener.inodes.clone())
            .collect();
        let pid = if inodes.is_empty() {
            None
        } else {
            workers(root, &holders(root, &inodes).pids).first().copied()
        };
        if let Some(pid) =
            pid.filter(|pid| Some(*pid) != service && found.iter().all(|(_, known)| known != pid))
        {
            found.push((name.to_owned(), pid));
        }
    }
    found
}

/// Where a URL of Redis or of one MongoDB leads, if that is told by an address; names are not looked up.
fn server_place(text: &str) -> Option<Place> {
    let url = url::Url::parse(text).ok()?;
    let default = match url.scheme() {
        "redis" => 6379,
        "mongodb" => 27017,
        _ => return None,
    };
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = if host == "localhost" { Ipv4Addr::LOCALHOST.into() } else { host.parse().ok()? };
    Some(Place { ip: Some(ip.to_canonical()), port: url.port().unwrap_or(default) })
}

/// The listeners of a process, or why they are unknown.
fn own_listeners(root: &Root, pid: u32) -> Result<Vec<Listener>, String> {
    let sockets = sockets_of(root, pid).map_err(|error| {
        format!("/proc/{pid}/fd cannot be read ({error}), and so not which listeners are its; run as root")
    })?;
    listeners(root, pid, Some(&sockets))
}

/// A URL without what may be secret in it.
fn shown(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(url) if url.has_host() => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

impl Place {
    /// Whether it is an address of this host: only those can be bound to.
    fn is_here(self) -> bool {
        self.ip.is_none_or(is_of_this_host)
    }

    /// Whether a listener is reached there.
    fn fits(self, listener: SocketAddr) -> bool {
        match self.ip {
            Some(ip) => serves(listener, (ip, self.port).into()),
            None => listener.port() == self.port,
        }
    }
}

/// `8080` or `127.0.0.1:8080`.
fn place(text: &str) -> Result<Place, ProfileError> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let found = match (port, text.parse::<SocketAddr>()) {
        (Ok(port), _) => Some(Place { ip: None, port }),
        (_, Ok(address)) => Some(Place { ip: Some(address.ip().to_canonical()), port: address.port() }),
        _ => None,
    };
    found
        .map(|place| Place { ip: place.ip.filter(|ip| !ip.is_unspecified()), ..place })
        .filter(|place| place.port != 0)
        .ok_or_else(|| {
            let message = format!("expected PORT or ADDRESS:PORT, found {text:?}");
            flag_error("--listen", message, "write, for example, 8080 or 127.0.0.1:8080")
        })
}

/// Where a URL leads.
fn places(text: &str, flag: &str) -> anyhow::Result<Vec<Place>> {
    let invalid = |why: String| flag_error(flag, why, "write, for example, http://127.0.0.1:8080");
    // The text may hold a password.
    let url = url::Url::parse(text).map_err(|error| invalid(format!("not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("expected http:// or https://, found {}:", url.scheme())).into());
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(invalid("the URL has no host".to_owned()).into());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| anyhow::anyhow!("{flag}: the host {host} cannot be looked up: {error}"))?;
    Ok(addresses.map(|address| Place { ip: Some(address.ip().to_canonical()), port }).collect())
}

/// The name of a process, for the heading.
pub(super) fn name(root: &Root, pid: u32) -> Option<String> {
    let comm = root.known(Path::new("/proc").join(pid.to_string()).join("comm"))?;
    Some(comm.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_port_or_an_address_with_one() {
        let at = |ip: &str, port| Place { ip: Some(ip.parse().unwrap()), port };
        for (text, expected) in [
            ("8080", Some(Place { ip: None, port: 8080 })),
            (":8080", Some(Place { ip: None, port: 8080 })),
            ("127.0.0.1:80", Some(at("127.0.0.1", 80))),
            ("0.0.0.0:80", Some(Place { ip: None, port: 80 })),
            ("[::1]:80", Some(at("::1", 80))),
            ("[::ffff:10.0.0.1]:80", Some(at("10.0.0.1", 80))),
            ("0", None),
            ("70000", None),
            ("host:80", None),
            ("", None),
        ] {
            assert_eq!(place(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_listener_is_reached_by_its_own_address_or_any() {
        for (place, address, expected) in [
            ("80", "127.0.0.1:80", true),
            ("80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
        ] {
            let found = super::place(place).unwrap().fits(address.parse().unwrap());
            assert_eq!(found, expected, "{place} {address}");
        }
    }

    #[test]
    fn only_addresses_of_this_host_are_here() {
        for (text, expected) in [("127.0.0.1:80", true), ("80", true), ("192.0.2.1:80", false)] {
            assert_eq!(place(text).unwrap().is_here(), expected, "{text}");
        }
    }

    #[test]
    fn a_server_is_found_by_its_address() {
        for (url, expected) in [
            ("redis://:p@127.0.0.1/3", Some(("127.0.0.1", 6379))),
            ("redis://localhost:7000", Some(("127.0.0.1", 7000))),
            ("mongodb://u:p@[::1]/db?x=y", Some(("::1", 27017))),
            ("mongodb://10.0.0.1:27018", Some(("10.0.0.1", 27018))),
            ("mongodb://a,b,c", None),
            ("mongodb+srv://cluster", None),
            ("redis+unix:///run/redis", None),
            ("redis://db.example", None),
        ] {
            let expected = expected.map(|(ip, port)| Place { ip: Some(ip.parse().unwrap()), port });
            assert_eq!(server_place(url), expected, "{url}");
        }
    }

    #[test]
    fn a_url_leads_to_a_port_and_shows_no_password() {
        let found = places("http://me:secret@127.0.0.1/x", "--url").unwrap();
        assert_eq!(found, [Place { ip: Some([127, 0, 0, 1].into()), port: 80 }]);
        assert_eq!(places("https://[::1]/", "--url").unwrap()[0].port, 443);
        assert_eq!(shown("http://me:secret@127.0.0.1:81/x?token=1"), "http://127.0.0.1:81");
        for url in ["redis://h", "8080", "http://", "me:secret@h"] {
            let error = format!("{:#}", places(url, "--url").unwrap_err());
            assert!(error.contains("--url") && !error.contains("secret"), "{error}");
        }
    }
}
