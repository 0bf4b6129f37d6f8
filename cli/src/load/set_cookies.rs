//! The cookies that one response sets, as they were written; what they mean is for the jar.

/// Longest `Set-Cookie` value that is taken, in bytes: what browsers allow a cookie (RFC 6265, section 6.1).
pub(super) const MAX_SET_COOKIE_BYTES: usize = 4096;
/// Most that is taken of one response, in bytes: as much as a head of HTTP/1.1 may hold.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// A larger buffer is given back before the next response.
const KEPT_BYTES: usize = 4096;

/// The values of a response's `Set-Cookie` headers.
#[derive(Debug, Default)]
pub(super) struct SetCookies {
    /// Each with a line feed behind it, which no header value can hold.
    lines: Vec<u8>,
}

impl SetCookies {
    pub(super) fn clear(&mut self) {
        if self.lines.capacity() > KEPT_BYTES {
            self.lines = Vec::new();
        }
        self.lines.clear();
    }

    /// Takes one value; drops what is too long or too much.
    pub(super) fn add(&mut self, value: &[u8]) {
        let room = MAX_RESPONSE_BYTES - self.lines.len();
        if value.len() <= MAX_SET_COOKIE_BYTES && value.len() < room && !value.contains(&b'\n') {
            self.lines.extend_from_slice(value);
            self.lines.push(b'\n');
        }
    }

    /// In the order of the headers. What is not UTF-8 is left out.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .filter_map(|line| std::str::from_utf8(line).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_their_order_and_within_bounds() {
        let mut cookies = SetCookies::default();
        let long = vec![b'x'; MAX_SET_COOKIE_BYTES + 1];
        for value in [&b"a=1; Path=/"[..], b"b=2", b"", &long, b"c=\xff", b"d=1\ne=2", b"f=\xc3\xbc"] {
            cookies.add(value);
        }
        assert_eq!(cookies.iter().collect::<Vec<_>>(), ["a=1; Path=/", "b=2", "f=\u{fc}"]);
        (0..10_000).for_each(|_| cookies.add(&long[1..]));
        assert_eq!(cookies.iter().count(), 3 + 15);
        assert!(cookies.lines.len() <= MAX_RESPONSE_BYTES);
        cookies.clear();
        assert_eq!((cookies.iter().count(), cookies.lines.capacity()), (0, 0));
    }
}
