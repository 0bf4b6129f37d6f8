//! Files of others that win over ours at boot.

use super::dropins::{
    Dropin, LIMITS_DIRS, SYSCTL_DIRS, TMPFILES_DIRS, directives, dropins, lines_of, systemd_dirs,
};
use super::persist::{Kind, Persisted};
use super::values::normal;
use crate::root::Root;

/// What sets one of our keys to another value and wins, as `FILE sets KEY`.
///
/// Of sysctl.d, limits.d and systemd's directories the last file by name wins, of tmpfiles.d the first.
/// `/etc/sysctl.conf` is read last by `sysctl --system`, and by systemd through a link named 99-sysctl.conf, which comes
/// before ours.
pub(crate) fn beaten_by(root: &Root, files: &[Persisted]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let (kind, name) = (file.kind, file.path.file_name().unwrap_or_default().to_string_lossy());
        let others = match kind {
            Kind::Sysctls => dropins(root, SYSCTL_DIRS),
            Kind::HugePages => dropins(root, TMPFILES_DIRS),
            Kind::Logins => dropins(root, LIMITS_DIRS),
            Kind::System => dropins(root, &systemd_dirs("system")),
            Kind::User => dropins(root, &systemd_dirs("user")),
            Kind::Modules => Vec::new(),
        };
        let wins = |other: &Dropin| match kind {
            Kind::HugePages => *other.name < *name,
            _ => *other.name > *name,
        };
        let mut winners: Vec<Dropin> = others.into_iter().filter(wins).collect();
        if kind == Kind::Sysctls {
            let path = root.path("etc/sysctl.conf");
            winners.push(Dropin { text: lines_of(&path), name: "sysctl.conf".to_owned(), path });
        }
        for winner in winners {
            for line in directives(&winner.text) {
                if let Some(key) = file.entries.iter().find_map(|entry| beats(kind, line, &entry.line)) {
                    found.push(format!("{} sets {key}", winner.path.display()));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The key that `line` takes from `ours`.
fn beats(kind: Kind, line: &str, ours: &str) -> Option<String> {
    let key = kind.key(ours);
    let differs = match kind {
        Kind::Sysctls => {
            let (name, value) = line.split_once('=')?;
            let pattern = name.trim().trim_start_matches('-').replace('/', ".");
            let (_, our_value) = ours.split_once('=')?;
            matches_glob(&pattern, &key) && normal(value) != normal(our_value)
        }
        Kind::Logins => {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let our_fields: Vec<&str> = ours.split_whitespace().collect();
            let ([domain, kind, item, value, ..], [our_domain, our_kind, our_item, our_value, ..]) =
                (&fields[..], &our_fields[..])
            else {
                return None;
            };
            let is_same = domain == our_domain && item == our_item && (kind == our_kind || *kind == "-");
            is_same && value != our_value
        }
        Kind::HugePages | Kind::System | Kind::User => kind.key(line) == key && normal(line) != normal(ours),
        Kind::Modules => false,
    };
    differs.then_some(key)
}

/// `*` is any run of letters and `?` any one, as in names of files.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, star_from)) = star else { return false };
                star = Some((star_at, star_from + 1));
                at = star_at + 1;
                from = star_from + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, text, expected) in [
            ("net.core.somaxconn", "net.core.somaxconn", true),
            ("net.*.somaxconn", "net.core.somaxconn", true),
            ("net.core.*", "net.core.somaxconn", true),
            ("net.core.so?axconn", "net.core.somaxconn", true),
            ("*", "", true),
            ("net.ipv4.*", "net.core.somaxconn", false),
            ("net.core", "net.core.somaxconn", false),
            ("net.core.somaxconn.x", "net.core.somaxconn", false),
            ("*a*b*c", "xaxbxb", false),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
