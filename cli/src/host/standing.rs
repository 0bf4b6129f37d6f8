//! The limits that services and logins get by what is on disk already, without the files that scalekit writes.

use nix::libc;

use super::dropins::{Dropin, LIMITS_DIRS, directives, dropins, lines_of, systemd_dirs};
use super::limits::Resource;
use super::persist::NAME;
use crate::root::Root;

/// Soft and hard; `RLIM_INFINITY` is no limit.
pub(super) type Pair = (u64, u64);

/// What systemd gives to open files when nothing is configured: `DefaultLimitNOFILE=1024:524288` (systemd 240 and later,
/// systemd-system.conf(5)). Its own limit as process 1 is another one.
const SYSTEMD_FILES: Pair = (1024, 524_288);

/// Whether services here are systemd's.
pub(super) fn has_systemd(root: &Root) -> bool {
    root.known("proc/1/comm").is_some_and(|comm| comm.trim() == "systemd")
        || root.path("usr/lib/systemd/systemd").exists()
}

/// What `manager` (`system` or `user`) of systemd gives to what it starts.
pub(super) fn of_systemd(root: &Root, manager: &str, resource: Resource) -> Option<Pair> {
    let directive = format!("DefaultLimit{}", resource.name().to_uppercase());
    let main = lines_of(&root.path(format!("etc/systemd/{manager}.conf")));
    let others = others(dropins(root, &systemd_dirs(manager)));
    let texts = std::iter::once(main).chain(others.into_iter().map(|file| file.text));
    let set = texts.filter_map(|text| systemd_value(&text, &directive)).next_back();
    set.or(match resource {
        Resource::OpenFiles => Some(SYSTEMD_FILES),
        Resource::Processes => of_first_process(root, resource),
    })
}

/// The last value of a directive such as `DefaultLimitNOFILE`.
pub(super) fn systemd_value(text: &str, directive: &str) -> Option<Pair> {
    let values = directives(text).filter_map(|line| line.split_once('='));
    values.filter(|(name, _)| name.trim() == directive).filter_map(|(_, value)| pair(value.trim())).last()
}

/// `1024:524288`, or one value for both.
fn pair(text: &str) -> Option<Pair> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    Some((number(soft)?, number(hard)?))
}

/// What a login of `domain` (`*` or `root`) gets by `limits.conf` and `limits.d`, or else from who starts it.
pub(super) fn of_logins(root: &Root, domain: &str, resource: Resource) -> Option<Pair> {
    let main = lines_of(&root.path("etc/security/limits.conf"));
    let others = others(dropins(root, LIMITS_DIRS));
    let texts = std::iter::once(main).chain(others.into_iter().map(|file| file.text));
    let started_with = if has_systemd(root) {
        of_systemd(root, "system", resource)
    } else {
        of_first_process(root, resource)
    };
    texts.fold(started_with, |pair, text| pam_value(&text, domain, resource.name(), pair))
}

/// `pair`, as the lines of a file of `limits.d` change it.
pub(super) fn pam_value(text: &str, domain: &str, item: &str, pair: Option<Pair>) -> Option<Pair> {
    let mut pair = pair;
    for line in directives(text) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [of, kind, name, value, ..] = fields[..] else { continue };
        let Some(value) = number(value).filter(|_| of == domain && name == item) else { continue };
        let (soft, hard) = pair.unwrap_or((value, value));
        pair = Some(match kind {
            "soft" => (value, hard),
            "hard" => (soft, value),
            _ => (value, value),
        });
    }
    pair
}

/// By `/proc/1/limits`.
fn of_first_process(root: &Root, resource: Resource) -> Option<Pair> {
    let name = match resource {
        Resource::OpenFiles => "Max open files",
        Resource::Processes => "Max processes",
    };
    let text = root.known("proc/1/limits")?;
    let mut fields = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    Some((number(fields.next()?)?, number(fields.next()?)?))
}

fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "infinity" | "unlimited" | "-1" => Some(libc::RLIM_INFINITY),
        text => text.parse().ok(),
    }
}

/// All but ours.
fn others(files: Vec<Dropin>) -> Vec<Dropin> {
    files.into_iter().filter(|file| file.name != NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_counts_before_what_is_built_in() {
        let limits = "Max processes             96365                unlimited            processes \n";
        let (_dir, root) = Root::of(&[
            ("proc/1/comm", "systemd\n"),
            ("proc/1/limits", limits),
            ("etc/systemd/system.conf", "[Manager]\n#DefaultLimitNOFILE=5\n"),
        ]);
        let infinity = libc::RLIM_INFINITY;
        assert_eq!(of_systemd(&root, "system", Resource::OpenFiles), Some((1024, 524_288)));
        assert_eq!(of_systemd(&root, "system", Resource::Processes), Some((96_365, infinity)));
        assert_eq!(of_logins(&root, "*", Resource::OpenFiles), Some((1024, 524_288)));

        for (path, text) in [
            ("usr/lib/systemd/system.conf.d/10-a.conf", "[Manager]\nDefaultLimitNOFILE=7\n"),
            ("usr/lib/systemd/system.conf.d/20-b.conf", "[Manager]\nDefaultLimitNOFILE=8\n"),
            ("etc/systemd/system.conf.d/20-b.conf", "[Manager]\nDefaultLimitNOFILE = 9:infinity\n"),
            ("etc/systemd/system.conf.d/99-zz-scalekit.conf", "[Manager]\nDefaultLimitNOFILE=1\n"),
            ("etc/security/limits.conf", "* - nofile 100\n@staff hard nofile 7\n"),
            (
                "etc/security/limits.d/10.conf",
                "* soft nofile 50 # half\nroot hard nofile unlimited\n* - nproc 3\n",
            ),
        ] {
            std::fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            std::fs::write(root.path(path), text).unwrap();
        }
        assert_eq!(of_systemd(&root, "system", Resource::OpenFiles), Some((9, infinity)));
        assert_eq!(of_logins(&root, "*", Resource::OpenFiles), Some((50, 100)));
        assert_eq!(of_logins(&root, "root", Resource::OpenFiles), Some((9, infinity)));
        assert_eq!(of_logins(&root, "*", Resource::Processes), Some((3, 3)));
    }
}
