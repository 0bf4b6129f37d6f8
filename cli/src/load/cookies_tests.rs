//! What is kept, what is sent back, and what is not.

use proptest::prelude::*;

use super::super::set_cookies::MAX_SET_COOKIE_BYTES;
use super::*;

fn target(url: &str) -> Target {
    Target { tls: url.starts_with("https"), ..Target::parse("http://127.0.0.1:1/").unwrap() }
}

/// A user of one site.
struct User {
    jar: Jar,
    target: Target,
    host: String,
}

impl User {
    fn of(url: &str) -> Self {
        let host = url.split_once("://").unwrap().1.to_owned();
        Self { jar: Jar::default(), target: target(url), host }
    }

    /// The request as it is sent.
    fn send(&mut self, path: &str, headers: &str) -> String {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nA: b\r\n{headers}\r\nCookie: body", self.host);
        self.jar.begin(&self.target, request.as_bytes());
        let mut out = Vec::new();
        match self.jar.header() {
            Some(header) => header.apply(request.as_bytes(), &mut out),
            None => out.extend_from_slice(request.as_bytes()),
        }
        String::from_utf8(out).unwrap()
    }

    /// The cookies that are sent.
    fn cookies(&mut self, path: &str) -> String {
        let request = self.send(path, "");
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "Cookie: body");
        let found: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("Cookie: ")).collect();
        assert!(found.len() <= 1, "{head}");
        found.concat()
    }

    /// A response to the last request.
    fn receive(&mut self, values: &[&str]) {
        let mut set = SetCookies::default();
        values.iter().for_each(|value| set.add(value.as_bytes()));
        self.jar.take(&set);
    }

    /// One exchange.
    fn visit(&mut self, path: &str, values: &[&str]) {
        self.cookies(path);
        self.receive(values);
    }
}

#[test]
fn cookies_go_where_they_belong() {
    let mut user = User::of("http://shop.example:8080");
    user.visit(
        "/account/login?next=/cart",
        &[
            "plain=1",
            "root=2; Path=/; HttpOnly; SameSite=Lax",
            "deep=3; Path=/account/orders",
            "secure=4; Path=/; Secure",
            "wide=5; Domain=example; Path=/",
            "foreign=6; Domain=other.example; Path=/",
            "quoted=\"7 8\"; Path=/",
        ],
    );
    for (path, expected) in [
        ("/account/me", "plain=1; root=2; quoted=\"7 8\"; wide=5"),
        ("/account/orders/1?a=b", "deep=3; plain=1; root=2; quoted=\"7 8\"; wide=5"),
        ("/accounts", "root=2; quoted=\"7 8\"; wide=5"),
        ("/", "root=2; quoted=\"7 8\"; wide=5"),
    ] {
        assert_eq!(user.cookies(path), expected, "{path}");
    }
    // Another virtual host on the same server.
    user.host = "www.shop.example".into();
    assert_eq!(user.cookies("/account/orders"), "wide=5");
    user.host = "elsewhere.test".into();
    assert_eq!(user.cookies("/account/orders"), "");
}

#[test]
fn secure_ones_go_over_tls_alone() {
    let mut user = User::of("https://shop.example");
    user.visit("/", &["a=1; Secure", "b=2"]);
    assert_eq!(user.cookies("/"), "a=1; b=2");
    user.target.tls = false;
    assert_eq!(user.cookies("/"), "b=2");
}

#[test]
fn cookies_are_replaced_and_deleted() {
    let mut user = User::of("http://127.0.0.1:8080");
    user.visit("/", &["a=1", "b=2", "c=3"]);
    user.visit("/", &["b=4", "c=; Max-Age=0", "d=5; Max-Age=3600"]);
    assert_eq!(user.cookies("/"), "a=1; b=4; d=5");
    user.visit("/", &["a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "b=; Max-Age=-1", "unknown=; Max-Age=0"]);
    assert_eq!(user.cookies("/"), "d=5");
    // Of another path it is another cookie.
    user.visit("/", &["d=; Path=/x; Max-Age=0"]);
    assert_eq!(user.cookies("/x"), "d=5");
    user.jar.clear();
    assert_eq!(user.cookies("/"), "");
}

#[test]
fn a_header_of_the_profiles_own_comes_first_and_wins() {
    let mut user = User::of("http://shop.example");
    user.visit("/", &["session=1", "lang=en"]);
    for (given, expected) in [
        ("Cookie: lang=de; x=y\r\nC: d\r\n", "Cookie: lang=de; x=y; session=1\r\nC: d\r\n"),
        ("cookie: lang=de;session=0\r\n", "cookie: lang=de;session=0\r\n"),
        ("Cookie: \r\n", "Cookie:session=1; lang=en \r\n"),
    ] {
        let sent = user.send("/", given);
        assert!(sent.ends_with(&format!("A: b\r\n{expected}\r\nCookie: body")), "{sent}");
        assert_eq!(sent.matches("ession=").count(), 1, "{sent}");
    }
    let sent = user.send("/", "C: d\r\n");
    let expected = "Host: shop.example\r\nCookie: session=1; lang=en\r\nA: b\r\nC: d\r\n\r\n";
    assert!(sent.contains(expected), "{sent}");
}

#[test]
fn what_is_malformed_is_ignored() {
    let mut user = User::of("http://shop.example");
    let long = format!("long={}", "x".repeat(MAX_SET_COOKIE_BYTES));
    user.visit(
        "/",
        &[
            "",
            "=nameless",
            ";",
            "no equals sign",
            &long,
            "huge=1; Max-Age=99999999999999999999999999",
            "age=2; Max-Age=x",
            "date=3; Expires=never",
            "path=4; Path=relative",
            "domain=5; Domain=",
            "late=6; Expires=Fri, 31 Dec 9999 23:59:59 GMT",
        ],
    );
    assert_eq!(user.cookies("/"), "huge=1; age=2; date=3; path=4; domain=5; late=6");
    // A request of no URL sends none and takes none.
    user.host = "[".into();
    user.visit("/", &["a=1"]);
    assert_eq!(user.cookies("/"), "");
}

#[test]
fn a_jar_is_bounded_in_number_and_in_bytes() {
    let mut user = User::of("http://shop.example");
    for number in 0..10_000 {
        user.visit("/", &[&format!("n{number}=1; Path=/{number}")]);
    }
    assert_eq!(user.jar.store.iter_any().count(), MAX_COOKIES);
    assert_eq!(user.cookies("/0/1"), "n0=1", "the first ones stay");
    // Those that expired make room.
    user.jar.clear();
    for number in 0..MAX_COOKIES {
        user.visit("/", &[&format!("n{number}=1; Max-Age=1")]);
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    user.visit("/", &["later=2"]);
    assert_eq!((user.cookies("/").as_str(), user.jar.store.iter_any().count()), ("later=2", 1));

    let big = "x".repeat(4000);
    let junk = "; y=z".repeat(15);
    for number in 0..256 {
        user.visit("/", &[&format!("n{number}={big}{junk}")]);
        user.visit("/", &[&format!("later={big}")]);
    }
    let held: usize = user.jar.store.iter_any().map(size).sum();
    assert!((MAX_JAR_BYTES - 5000..=MAX_JAR_BYTES).contains(&held), "{held}");
    assert!(user.cookies("/").len() <= MAX_JAR_BYTES + 2 * MAX_COOKIES);
    assert!(!user.cookies("/").contains("y=z"));
}

proptest! {
    #[test]
    fn no_text_panics_or_breaks_the_request(
        values in prop::collection::vec("[ -~\u{80}-\u{2000}\t]{0,60}|[a-c]{0,2}=[ -~]{0,8}(; (Path|Domain|Max-Age|Expires|Secure)=?[ -~]{0,12}){0,3}", 1..12),
        path in "/[a-z%./]{0,12}",
        host in "[a-z.]{1,10}|127\\.0\\.0\\.1:80|\\[::1\\]:8",
    ) {
        let mut user = User::of(&format!("http://{host}"));
        let texts: Vec<&str> = values.iter().map(String::as_str).collect();
        user.visit(&path, &texts);
        user.visit("/", &texts);
        let sent = user.send(&path, "");
        prop_assert!(sent.ends_with("\r\n\r\nCookie: body"));
        let head = sent.split("\r\n\r\n").next().unwrap();
        prop_assert!(head.lines().count() <= 4 && !head.contains('\0'));
        prop_assert!(user.jar.store.iter_any().count() <= 2 * values.len());
    }
}
