//! A user's cookies (RFC 6265): kept through an iteration, and forgotten at the start of the next one, as k6 does.

use std::ops::Range;

use cookie_store::{Cookie, CookieStore, StoreAction};
use url::Url;

use super::plan::Target;
use super::set_cookies::SetCookies;

/// Most cookies of a user; RFC 6265, section 6.1, asks for 50 a domain.
const MAX_COOKIES: usize = 64;
/// Most bytes of a user's cookies: names, values, paths and domains. Servers take heads of 8 to 16 KiB.
const MAX_JAR_BYTES: usize = 32 * 1024;

/// What a user keeps, and what of it the request under way takes along. Fixed at the request's start, since a send
/// may be interrupted and goes on with the same bytes.
#[derive(Debug, Default)]
pub(super) struct Jar {
    store: CookieStore,
    /// Of the request; `None`: it is of no URL that can have cookies.
    url: Option<Url>,
    header: CookieHeader,
}

/// A text to be put into a rendered request.
#[derive(Debug, Default)]
pub(super) struct CookieHeader {
    at: usize,
    text: Vec<u8>,
}

impl CookieHeader {
    /// Appends the request with the text in its place.
    pub(super) fn apply(&self, request: &[u8], out: &mut Vec<u8>) {
        // The same request renders to the same bytes, so the place is within it.
        let (before, after) = request.split_at(self.at.min(request.len()));
        out.extend_from_slice(before);
        out.extend_from_slice(&self.text);
        out.extend_from_slice(after);
    }
}

impl Jar {
    /// Forgets everything: a new iteration is a new visitor.
    pub(super) fn clear(&mut self) {
        self.store.clear();
    }

    /// Makes ready for this request: which cookies go with it, and where.
    pub(super) fn begin(&mut self, target: &Target, request: &[u8]) {
        let head = Head::of(request);
        self.header.text.clear();
        self.url = head.url(target, request);
        let Some(url) = &self.url else { return };
        let mut cookies = self.store.matches(url);
        // RFC 6265, section 5.4: longer paths first, and among equals what came first, which is the store's order.
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let given = head.cookies.clone().map_or(&b""[..], |range| &request[range]);
        let text = &mut self.header.text;
        for (name, value) in cookies.iter().map(|cookie| cookie.name_value()) {
            // What the profile sets by hand is meant.
            if names(given).any(|given| given == name.as_bytes()) {
                continue;
            }
            let before: &[u8] = match (&head.cookies, text.is_empty()) {
                (None, true) => b"Cookie: ",
                (Some(range), true) if range.is_empty() => b"",
                _ => b"; ",
            };
            for part in [before, name.as_bytes(), b"=", value.as_bytes()] {
                text.extend_from_slice(part);
            }
        }
        if head.cookies.is_none() && !text.is_empty() {
            text.extend_from_slice(b"\r\n");
        }
        self.header.at = head.cookies.map_or(head.second_line_end, |range| range.end);
    }

    /// What to add to the request, if anything.
    pub(super) fn header(&self) -> Option<&CookieHeader> {
        (!self.header.text.is_empty()).then_some(&self.header)
    }

    /// Takes what the response set; what is malformed, not for this host or too much is dropped.
    pub(super) fn take(&mut self, set: &SetCookies) {
        let Some(url) = &self.url else { return };
        let store = &mut self.store;
        for text in set.iter() {
            let Some(cookie) = parse(text, url) else { continue };
            let (key, size) = (key(&cookie), size(&cookie));
            // One that is there already keeps its place.
            if !contains(store, &key) && !has_room(store, 1, size) {
                drop_expired(store);
                if !has_room(store, 1, size) {
                    continue;
                }
            }
            match store.insert(cookie, url) {
                Ok(StoreAction::ExpiredExisting) => remove(store, &key),
                Ok(StoreAction::UpdatedExisting) if !has_room(store, 0, 0) => remove(store, &key),
                _ => {}
            }
        }
    }
}

/// Domain, path and name, by which a cookie is known.
type Key = (String, String, String);

fn key(cookie: &Cookie<'_>) -> Key {
    ((&cookie.domain).into(), (&cookie.path).into(), cookie.name().to_owned())
}

fn contains(store: &CookieStore, (domain, path, name): &Key) -> bool {
    store.contains_any(domain, path, name)
}

fn remove(store: &mut CookieStore, (domain, path, name): &Key) {
    store.remove(domain, path, name);
}

fn drop_expired(store: &mut CookieStore) {
    let expired: Vec<Key> = store.iter_any().filter(|cookie| cookie.is_expired()).map(key).collect();
    expired.iter().for_each(|key| remove(store, key));
}

fn has_room(store: &CookieStore, cookies: usize, bytes: usize) -> bool {
    let held: usize = store.iter_any().map(size).sum();
    store.iter_any().count() + cookies <= MAX_COOKIES && held + bytes <= MAX_JAR_BYTES
}

fn size(cookie: &Cookie<'_>) -> usize {
    let (name, value) = cookie.name_value();
    name.len() + value.len() + cookie.path.len() + cookie.domain().map_or(0, str::len)
}

/// A cookie holds the text that it was made from, so it is made of what matters alone.
fn parse(text: &str, url: &Url) -> Option<Cookie<'static>> {
    let whole = Cookie::parse(text, url).ok()?;
    let (name, value) = whole.name_value();
    let mut text = format!("{name}={value}; Path={}", &*whole.path);
    if let Some(domain) = whole.domain() {
        text += &format!("; Domain={domain}");
    }
    if whole.secure() == Some(true) {
        text += "; Secure";
    }
    let mut cookie = Cookie::parse(text, url).ok()?.into_owned();
    cookie.expires = whole.expires;
    Some(cookie)
}

/// The names in the value of a `Cookie` header.
fn names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b';')
        .filter_map(|pair| pair.split(|&byte| byte == b'=').next())
        .map(<[u8]>::trim_ascii)
}

/// Where in a rendered request that is which concerns cookies.
#[derive(Debug)]
struct Head {
    target: Range<usize>,
    host: Range<usize>,
    /// The value of a header of the profile's own.
    cookies: Option<Range<usize>>,
    /// Every request has a second line: that of its host.
    second_line_end: usize,
}

impl Head {
    fn of(request: &[u8]) -> Self {
        let mut head = Self { target: 0..0, host: 0..0, cookies: None, second_line_end: 0 };
        let mut start = 0;
        for (number, line) in request.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let text = line.trim_ascii_end();
            if text.is_empty() {
                break;
            }
            if number == 0 {
                let mut words = text.split(|&byte| byte == b' ').map(<[u8]>::len);
                let (method, target) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
                head.target = method + 1..method + 1 + target;
            } else if let Some(colon) = text.iter().position(|&byte| byte == b':') {
                let value = text[colon + 1..].trim_ascii_start();
                let range = start + text.len() - value.len()..start + text.len();
                if text[..colon].eq_ignore_ascii_case(b"cookie") {
                    head.cookies = Some(range);
                } else if text[..colon].eq_ignore_ascii_case(b"host") {
                    head.host = range;
                }
            }
            start += line.len();
            if number == 1 {
                head.second_line_end = start;
            }
        }
        head
    }

    /// The host is the one that the request names, which may be another than the one it is sent to.
    fn url(&self, target: &Target, request: &[u8]) -> Option<Url> {
        let text = |range: &Range<usize>| std::str::from_utf8(request.get(range.clone())?).ok();
        let scheme = if target.tls { "https" } else { "http" };
        Url::parse(&format!("{scheme}://{}{}", text(&self.host)?, text(&self.target)?)).ok()
    }
}

#[cfg(test)]
#[path = "cookies_tests.rs"]
mod tests;
