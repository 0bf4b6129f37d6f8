//! Where the requests go: an http or https URL taken apart, and its addresses, resolved once before the start.

use std::net::{SocketAddr, ToSocketAddrs as _};

use serde::{Deserialize, Serialize};

use super::plan::PlanError;

/// A parsed and resolved http or https URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The URL as it was given.
    pub(crate) url: String,
    /// It is https.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, as in the request line; never empty.
    pub(crate) path: String,
    /// The value of the Host header.
    pub(crate) authority: String,
    /// In the resolver's order of preference; never empty, but on the way to another machine, which resolves the
    /// host itself.
    #[serde(skip)]
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Target {
    /// Parses a URL and resolves its host (a blocking look-up: the only one of a run).
    ///
    /// # Errors
    /// The URL is not an http or https URL, or its host has no address.
    pub(crate) fn parse(url: &str) -> Result<Self, PlanError> {
        // What comes before an @ may be a password.
        let shown = || url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("***@{host}"));
        let parts = Parts::of(url).map_err(|Flaw(problem)| PlanError::Url { url: shown(), problem })?;
        let resolved = (parts.host, parts.port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = resolved
            .map_err(|source| PlanError::Resolve { host: parts.host.to_owned(), source })?
            .fold(Vec::new(), |mut unique, address| {
                if !unique.contains(&address) {
                    unique.push(address);
                }
                unique
            });
        if addresses.is_empty() {
            let source = std::io::Error::other("the name has no address");
            return Err(PlanError::Resolve { host: parts.host.to_owned(), source });
        }
        Ok(Self {
            url: url.to_owned(),
            tls: parts.tls,
            host: parts.host.to_owned(),
            port: parts.port,
            path: parts.path,
            authority: parts.authority.to_owned(),
            addresses,
        })
    }

    /// The same target as this machine sees it: checked and resolved anew.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub(crate) fn resolved_here(self) -> Result<Self, PlanError> {
        let Self { host, port, path, authority, addresses, .. } = Self::parse(&self.url)?;
        Ok(Self { host, port, path, authority, addresses, ..self })
    }

    /// As it was given.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How many of the first addresses are alike in family: users are spread over these, the others are only
    /// tried when one fails. (`localhost` is often `::1` and `127.0.0.1`, with a service on one of them.)
    pub(super) fn preferred(&self) -> usize {
        let family = self.addresses.first().map(SocketAddr::is_ipv4);
        self.addresses.iter().take_while(|address| Some(address.is_ipv4()) == family).count().max(1)
    }
}

struct Parts<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
    authority: &'a str,
    path: String,
}

struct Flaw(&'static str);

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Result<Self, Flaw> {
        let (scheme, rest) =
            url.split_once("://").ok_or(Flaw("it has no scheme; expected http://HOST[:PORT]/PATH"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(Flaw("its scheme is neither http nor https; expected http://HOST[:PORT]/PATH")),
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Flaw("it contains a space, a control or a non-ASCII character; percent-encode it"));
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(Flaw("it contains a user name; send credentials with --header 'Authorization: …'"));
        }
        let (host, port) = host_and_port(authority, if tls { 443 } else { 80 })?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host, port, authority, path })
    }
}

fn host_and_port(authority: &str, default_port: u16) -> Result<(&str, u16), Flaw> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or(Flaw("its IPv6 address lacks the closing bracket"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(Flaw("what stands in brackets is not an IPv6 address"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(Flaw("only :PORT may follow the closing bracket")),
            }
        }
        None if authority.matches(':').count() > 1 => {
            return Err(Flaw("an IPv6 address must stand in brackets: http://[::1]:80/"));
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(Flaw("it has no host; expected http://HOST[:PORT]/PATH"));
    }
    let port = match port {
        None => default_port,
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().filter(|&port| port != 0).ok_or(Flaw("its port is not within 1 to 65535"))?
        }
        Some(_) => {
            return Err(Flaw(
                "its port is not a number; an IPv6 address stands in brackets: http://[::1]:80/",
            ));
        }
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, path, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "/", "127.0.0.1:8080"),
            ("HTTP://127.0.0.1/a/b?c=d#e", "127.0.0.1", 80, "/a/b?c=d", "127.0.0.1"),
            ("http://127.0.0.1?q", "127.0.0.1", 80, "/?q", "127.0.0.1"),
            ("http://[::1]:9/x", "::1", 9, "/x", "[::1]:9"),
            ("http://[::1]", "::1", 80, "/", "[::1]"),
            ("https://127.0.0.1/x", "127.0.0.1", 443, "/x", "127.0.0.1"),
            ("HTTPS://127.0.0.1:8443", "127.0.0.1", 8443, "/", "127.0.0.1:8443"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (&*target.host, target.port, &*target.path, &*target.authority),
                (host, port, path, authority),
                "{url}"
            );
            assert_eq!((target.addresses.len(), target.tls), (1, url.to_lowercase().starts_with("https")));
        }
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        for (url, part) in [
            ("example.com", "no scheme"),
            ("ftp://example.com", "scheme is neither http nor https"),
            ("http://", "no host"),
            ("http:///path", "no host"),
            ("http://:80/", "no host"),
            ("http://a:0/", "port is not within"),
            ("http://a:99999/", "port is not within"),
            ("http://a:/", "port is not within"),
            ("http://a:b/", "port is not a number"),
            ("http://::1/", "in brackets"),
            ("http://u:p@a/", "user name"),
            ("http://[::1/", "closing bracket"),
            ("http://[zz]/", "not an IPv6 address"),
            ("http://[::1]x/", "only :PORT"),
            ("http://a/b c", "percent-encode"),
            ("http://a/\r\nX: y", "percent-encode"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
            let shown = url.replace("http://u:p@", "***@");
            assert!(error.contains(shown.split("\r").next().unwrap()), "{url}: {error}");
        }
    }

    #[test]
    fn an_unresolvable_name_is_found_before_the_start() {
        // RFC 6761: .invalid never resolves.
        let error = Target::parse("http://nowhere.invalid/").unwrap_err();
        assert!(matches!(error, PlanError::Resolve { .. }));
        assert!(error.to_string().contains("nowhere.invalid"), "{error}");
    }

    #[test]
    fn users_are_spread_over_the_first_family() {
        let mut target = Target::parse("http://127.0.0.1/").unwrap();
        target.addresses = ["[::1]:1", "[::2]:1", "127.0.0.1:1"].map(|a| a.parse().unwrap()).to_vec();
        assert_eq!(target.preferred(), 2);
    }
}
