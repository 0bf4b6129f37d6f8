//! How connections are made: from which local addresses, with which protocol and what trust, and for how many
//! requests. Made once before the start, with everything in it that can be wrong.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use http::uri::Scheme;
use nix::libc;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::http2_request;
use super::plan::PlanError;
use super::target::Target;
use super::tls::{self, TlsOptions};

/// The protocol to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HttpVersion {
    /// What the server picks of both over TLS (ALPN), HTTP/1.1 without.
    #[default]
    Auto,
    Http1,
    /// Without TLS: by prior knowledge (RFC 9113, section 3.3).
    Http2,
}

/// What may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectOptions {
    /// Keep a connection for the user's next request.
    pub(crate) reuse: bool,
    /// User `i` connects from address `i` modulo their number; empty: the kernel chooses.
    pub(crate) local_ips: Vec<IpAddr>,
    pub(crate) http: HttpVersion,
    pub(crate) tls: TlsOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { reuse: true, local_ips: Vec::new(), http: HttpVersion::Auto, tls: TlsOptions::default() }
    }
}

/// The options, checked and made ready for a target. Only the options travel: another machine makes them ready for
/// itself ([`Connecting::made_here`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Connecting {
    options: ConnectOptions,
    #[serde(skip)]
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connecting {
    /// # Errors
    /// An address that is not this machine's or cannot reach the target, a file of authorities that cannot be used,
    /// a host that no certificate can be for.
    pub(crate) fn new(options: &ConnectOptions, target: &Target) -> Result<Self, PlanError> {
        for &ip in &options.local_ips {
            check_local(ip, &target.addresses)?;
        }
        let tls = if target.tls {
            let name = tls::server_name(&target.host).ok_or_else(|| PlanError::Url {
                url: target.url.clone(),
                problem: "its host is neither a DNS name nor an IP address, so no certificate can be for it",
            })?;
            Some((tls::client_config(&options.tls, options.http)?, name))
        } else {
            None
        };
        Ok(Self { options: options.clone(), tls })
    }

    /// The same for this machine, after a journey.
    ///
    /// # Errors
    /// As [`Connecting::new`].
    pub(crate) fn made_here(&self, target: &Target) -> Result<Self, PlanError> {
        Self::new(&self.options, target)
    }

    /// Whether a connection is kept for the user's next request.
    pub(super) fn reuse(&self) -> bool {
        self.options.reuse
    }

    pub(super) fn http(&self) -> HttpVersion {
        self.options.http
    }

    /// What a user's TLS needs; `None` for a plain target.
    pub(super) fn tls(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.clone()
    }

    /// Checks a rendered request for what HTTP/1.1 can say and HTTP/2 cannot.
    ///
    /// # Errors
    /// It has such a part, and the users may speak HTTP/2.
    pub(super) fn check_request(&self, rendered: &[u8]) -> Result<(), PlanError> {
        let may_be_http2 = match self.options.http {
            HttpVersion::Auto => self.tls.is_some(),
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
        };
        if !may_be_http2 || http2_request::parse(rendered, Scheme::HTTP, ()).is_some() {
            return Ok(());
        }
        let line = rendered.split(|&byte| byte == b'\r').next().unwrap_or_default();
        Err(PlanError::invalid(
            "a request",
            format!("{:?}", String::from_utf8_lossy(line)),
            "one that HTTP/2 can carry: a path of URI characters, a Host of name and port, at most 128 headers; or \
             HTTP/1.1 (--http-version 1.1)",
        ))
    }

    /// How many local addresses there are to choose from: ports are counted for each.
    pub(super) fn local_addresses(&self) -> usize {
        self.options.local_ips.len().max(1)
    }

    /// Which of `remotes` addresses a user begins with. Users that share a local address spread over all of them,
    /// so that each pair of addresses, with its ports, is used.
    pub(super) fn first_remote(&self, user: u32, remotes: usize) -> usize {
        user as usize / self.local_addresses() % remotes
    }

    /// Binds a user's socket to the user's local address, if there is one for the remote's family.
    ///
    /// # Errors
    /// None of the family (EAFNOSUPPORT), or what bind(2) says.
    pub(super) fn bind(&self, socket: &Socket, user: u32, remote: SocketAddr) -> std::io::Result<()> {
        if self.options.local_ips.is_empty() {
            return Ok(());
        }
        let ip = self.options.local_ips[user as usize % self.options.local_ips.len()];
        if ip.is_ipv4() != remote.is_ipv4() {
            return Err(nix::errno::Errno::EAFNOSUPPORT.into());
        }
        leave_port_to_connect(socket);
        socket.bind(&SocketAddr::new(ip, 0).into())
    }
}

/// Leaves the choice of the port to `connect`, where the remote address counts, too (ip(7)); without it, `bind`
/// takes one port of the address for good. Where it is not known (before Linux 4.2), ports are fewer, and a
/// shortage is counted.
fn leave_port_to_connect(socket: &Socket) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` lives, and the value is an int that the kernel only
    // reads.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

fn check_local(ip: IpAddr, remotes: &[SocketAddr]) -> Result<(), PlanError> {
    if !remotes.iter().any(|remote| remote.is_ipv4() == ip.is_ipv4()) {
        let family = if ip.is_ipv4() { "an IPv6" } else { "an IPv4" };
        return Err(PlanError::invalid(
            "a local address",
            ip,
            format!("{family} address, since the target has no other"),
        ));
    }
    let bound = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&SocketAddr::new(ip, 0).into()));
    bound.map_err(|source| PlanError::LocalAddress { ip, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(ips: &[&str]) -> ConnectOptions {
        let local_ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        ConnectOptions { local_ips, ..ConnectOptions::default() }
    }

    #[test]
    fn wrong_local_addresses_are_found_before_the_start() {
        let target = Target::parse("http://127.0.0.1:1/").unwrap();
        for (ip, parts) in [
            // RFC 5737: for documentation, so nobody's.
            ("192.0.2.1", ["the local address 192.0.2.1", "ip addr"]),
            ("::1", ["a local address is ::1", "an IPv4 address"]),
        ] {
            let error = Connecting::new(&options(&["127.0.0.2", ip]), &target).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{ip}: {error}");
        }
    }

    #[test]
    fn a_request_that_http2_cannot_carry_is_found_before_the_start() {
        let request = b"GET /<> HTTP/1.1\r\nHost: a\r\n\r\n";
        for (url, http, sound) in [
            ("http://127.0.0.1:1/", HttpVersion::Auto, true),
            ("http://127.0.0.1:1/", HttpVersion::Http2, false),
            ("https://127.0.0.1:1/", HttpVersion::Auto, false),
            ("https://127.0.0.1:1/", HttpVersion::Http1, true),
        ] {
            let options = ConnectOptions { http, ..ConnectOptions::default() };
            let connecting = Connecting::new(&options, &Target::parse(url).unwrap()).unwrap();
            let result = connecting.check_request(request);
            assert_eq!(result.is_ok(), sound, "{url} {http:?}");
            assert!(result.err().is_none_or(|error| error.to_string().contains("GET /<> HTTP/1.1")));
            connecting.check_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
    }

    #[test]
    fn users_use_every_pair_of_addresses() {
        let target = Target::parse("http://127.0.0.1:1/").unwrap();
        let connecting = Connecting::new(&options(&["127.0.0.2", "127.0.0.3"]), &target).unwrap();
        assert_eq!(connecting.local_addresses(), 2);
        let remotes: Vec<_> = (0..6).map(|user| connecting.first_remote(user, 2)).collect();
        assert_eq!(remotes, [0, 0, 1, 1, 0, 0]);
        let plain = Connecting::new(&options(&[]), &target).unwrap();
        assert_eq!((0..3).map(|user| plain.first_remote(user, 2)).collect::<Vec<_>>(), [0, 1, 0]);
    }
}
