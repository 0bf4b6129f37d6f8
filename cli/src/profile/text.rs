//! What texts in a profile may hold. Each check gives what was expected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Most local addresses.
const MAX_ADDRESSES: usize = 1 << 16;

pub(super) fn address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>().map(drop).map_err(|_| "an address and port such as 127.0.0.1:8080".to_owned())
}

/// A URL with one of the schemes and a host; what follows is the client's business.
pub(super) fn url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let expected = || format!("a URL such as {}://host:port", schemes[0]);
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let clean = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    // MongoDB's have several.
    let reachable = hosts.split(',').all(host_and_port);
    (schemes.contains(&scheme) && reachable && clean).then_some(()).ok_or_else(expected)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_and_port(text: &str) -> bool {
    let (host, rest) = match text.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, rest)) => (host, rest),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = rest.strip_prefix(':');
    !host.is_empty() && (rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok()))
}

/// The name of a database or a collection.
pub(super) fn name(text: &str, longest: usize) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (!text.is_empty() && text.len() <= longest && text.bytes().all(allowed))
        .then_some(())
        .ok_or_else(|| format!("1 to {longest} letters, digits, `_` or `-`"))
}

pub(super) fn method(text: &str) -> Result<(), String> {
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_uppercase()))
        .then_some(())
        .ok_or_else(|| "an HTTP method such as GET".to_owned())
}

/// A header that cannot break out of its line (RFC 9110, 5.1 and 5.5).
pub(super) fn header(name: &str, value: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err("a header name of letters, digits and -".to_owned());
    }
    if value.len() > 8192 || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header value on one line, up to 8192 bytes".to_owned());
    }
    Ok(())
}

pub(super) fn body(text: &str) -> Result<(), String> {
    (text.len() <= MAX_BODY_BYTES).then_some(()).ok_or_else(|| format!("at most {MAX_BODY_BYTES} bytes"))
}

pub(super) fn path(text: &str) -> Result<(), String> {
    (!text.is_empty() && !text.contains('\0')).then_some(()).ok_or_else(|| "the path of a file".to_owned())
}

/// Adds an address, or all from the first to the last of `FIRST-LAST`.
pub(super) fn ip_range(text: &str, ips: &mut Vec<IpAddr>) -> Result<(), String> {
    let expected = || "an IP address, or a range such as 127.0.0.2-127.0.0.9".to_owned();
    let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| expected());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last, make): (u128, u128, fn(u128) -> IpAddr) = match (parse(first)?, parse(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let make = |bits| Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into();
            (first.to_bits().into(), last.to_bits().into(), make)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (first.to_bits(), last.to_bits(), |bits| Ipv6Addr::from_bits(bits).into())
        }
        _ => return Err(expected()),
    };
    if first > last {
        return Err("a range from the lower to the higher address".to_owned());
    }
    if last - first >= (MAX_ADDRESSES - ips.len().min(MAX_ADDRESSES)) as u128 {
        return Err(format!("at most {MAX_ADDRESSES} addresses in all"));
    }
    ips.extend((first..=last).map(make));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_addresses() {
        let read = |texts: &[&str]| {
            let mut ips = Vec::new();
            texts.iter().try_for_each(|text| ip_range(text, &mut ips))?;
            Ok::<_, String>(ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        };
        for (texts, expected) in [
            (&["127.0.0.2"][..], "127.0.0.2"),
            (&["127.0.0.2", "10.0.0.255 - 10.0.1.1"], "127.0.0.2 10.0.0.255 10.0.1.0 10.0.1.1"),
            (&["fe80::1-fe80::3"], "fe80::1 fe80::2 fe80::3"),
            (&["255.255.255.254-255.255.255.255"], "255.255.255.254 255.255.255.255"),
        ] {
            assert_eq!(read(texts).unwrap(), expected);
        }
        for (texts, part) in [
            (&[""][..], "an IP address"),
            (&["localhost"], "an IP address"),
            (&["127.0.0.1-"], "an IP address"),
            (&["127.0.0.1-::1"], "an IP address"),
            (&["127.0.0.9-127.0.0.2"], "lower to the higher"),
            (&["10.0.0.0-10.1.0.0"], "at most 65536"),
            (&["10.0.0.0-10.0.255.255", "127.0.0.1"], "at most 65536"),
            (&["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], "at most 65536"),
        ] {
            let error = read(texts).unwrap_err();
            assert!(error.contains(part), "{texts:?}: {error}");
        }
        assert_eq!(read(&["10.0.0.0-10.0.255.255"]).unwrap().split(' ').count(), MAX_ADDRESSES);
    }

    #[test]
    fn a_url_has_hosts_and_ports_that_can_be_reached() {
        for good in [
            "redis://h",
            "redis://h:6379/0",
            "redis://:p@ss@h:1",
            "redis://[::1]:6379",
            "redis://[::1]",
            "mongodb://u:p@a:1,b:2/?replicaSet=r",
        ] {
            assert_eq!(url(good, &["redis", "mongodb"]), Ok(()), "{good}");
        }
        for bad in [
            "h:1",
            "redis://",
            "redis://:p@",
            "redis://h:port",
            "redis://h:70000",
            "redis://h:",
            "redis://[::1]x",
            "redis://a,,b",
            "http://h",
            "redis://h h",
        ] {
            assert!(url(bad, &["redis", "mongodb"]).is_err(), "{bad}");
        }
    }
}
