//! Keeps passwords out of messages: drivers are not trusted to.

/// `text` without the password of `url`, as it is written there and as it is meant.
pub(super) fn hidden(text: &str, url: &str) -> String {
    let Some(written) = password(url) else { return text.to_owned() };
    let form = format!("p={}", written.replace('+', "%2B").replace('&', "%26"));
    let meant = url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, meant)| meant.into_owned());
    let mut text = text.replace(written, "***");
    if let Some(meant) = meant.filter(|meant| !meant.is_empty()) {
        text = text.replace(&meant, "***");
    }
    text
}

/// What stands between the first `:` and the last `@` of the part with the hosts. A password with an unescaped `/`
/// would end there; so anything up to the last `@` counts.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (credentials, _) = rest.rsplit_once('@')?;
    let (_, password) = credentials.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_password_is_hidden_however_it_is_written() {
        for (text, url, expected) in [
            ("cannot use s3cret here", "redis://u:s3cret@h:1", "cannot use *** here"),
            ("p@ss and p%40ss", "mongodb://u:p%40ss@h,h2/db", "*** and ***"),
            ("a/b", "redis://:a/b@h", "***"),
            ("a+b", "redis://:a+b@h", "***"),
            ("nothing", "redis://h:1", "nothing"),
            ("nothing", "redis://u@h:1", "nothing"),
            ("nothing", "junk", "nothing"),
        ] {
            assert_eq!(hidden(text, url), expected, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_plain_password_is_left(password in "[a-zA-Z0-9!$*._~-]{4,20}", before in "[ ]{0,3}", after in "[ ]{0,3}") {
            let url = format!("redis://user:{password}@host:6379");
            prop_assume!(!"***".contains(&password));
            let text = hidden(&format!("{before}{password}{after}"), &url);
            prop_assert!(!text.contains(&password), "{}", text);
        }
    }
}
