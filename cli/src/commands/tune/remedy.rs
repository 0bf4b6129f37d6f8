//! The commands for who can do what could not be done here.

use std::fmt::Write as _;

use crate::host::{Key, Row, Status};

/// How `scalekit tune` was called.
pub(super) struct Call<'a> {
    pub(super) profile: &'a str,
    pub(super) persist: bool,
    pub(super) pid: Option<i32>,
}

/// Nothing where nothing is stuck; `files`: whether files could not be written.
pub(super) fn remedy<'a>(rows: impl Iterator<Item = &'a Row>, files: bool, call: &Call<'_>) -> String {
    let mut commands = String::new();
    for command in rows.filter_map(|row| command(row, call.pid)) {
        let _ = writeln!(commands, "  {command}");
    }
    if commands.is_empty() && !files {
        return commands;
    }
    let mut again = format!("sudo scalekit tune -p {}", quoted(call.profile));
    if call.persist {
        again.push_str(" --persist");
    }
    if let Some(pid) = call.pid {
        let _ = write!(again, " --pid {pid}");
    }
    let by_hand = if commands.is_empty() { "\n" } else { ", or as root:\n" };
    format!("\nnot possible here; on the node itself `{again} --yes` does it{by_hand}{commands}")
}

fn command(row: &Row, pid: Option<i32>) -> Option<String> {
    let value = &row.wanted;
    match (&row.key, &row.status) {
        (Key::Sysctl(key), Status::ReadOnly { .. }) => Some(format!("sysctl -w {key}='{value}'")),
        (Key::Sysctl(key), Status::NotNamespacedHere) => Some(match value.parse::<u64>() {
            // The host's own value is not known here, and may be higher.
            Ok(_) if !row.is_exact() => {
                format!("[ \"$(sysctl -n {key})\" -ge {value} ] || sysctl -w {key}='{value}'")
            }
            Ok(_) => format!("sysctl -w {key}='{value}'"),
            Err(_) => format!("sysctl -w {key}='{value}'  # where `sysctl {key}` is less"),
        }),
        (Key::HugePages(_), Status::ReadOnly { .. }) => {
            Some(format!("echo {value} > /{}", row.key.place().display()))
        }
        (Key::Module(name), Status::ReadOnly { .. } | Status::Failed { .. }) => {
            Some(format!("modprobe {name}"))
        }
        (Key::Limit(name), Status::ReadOnly { .. }) => {
            let wanted: u64 = value.parse().ok()?;
            let mut pair = row.now.as_deref()?.split(' ').map(|limit| match limit.parse::<u64>() {
                Ok(limit) => limit.max(wanted).to_string(),
                Err(_) => "unlimited".to_owned(),
            });
            Some(format!("prlimit --pid {} --{name}={}:{}", pid?, pair.next()?, pair.next()?))
        }
        _ => None,
    }
}

/// As a word of a shell's line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HugePagesFile, Row};

    fn row(key: Key, status: Status, now: &str, wanted: &str) -> Row {
        Row::of_test(key, status, now, wanted)
    }

    #[test]
    fn each_kind_has_the_command_that_does_it() {
        let read_only = || Status::ReadOnly { errno: "EROFS".to_owned(), remedy: "x".to_owned() };
        let sysctl = |name: &str| Key::Sysctl(name.to_owned());
        let module = || Key::Module("nf_conntrack".to_owned());
        for (row, expected) in [
            (row(sysctl("vm.x"), read_only(), "1", "2"), Some("sysctl -w vm.x='2'")),
            (
                row(sysctl("net.core.netdev_max_backlog"), Status::NotNamespacedHere, "-", "4096"),
                Some(
                    "[ \"$(sysctl -n net.core.netdev_max_backlog)\" -ge 4096 ] || \
                     sysctl -w net.core.netdev_max_backlog='4096'",
                ),
            ),
            (
                row(sysctl("net.ipv4.tcp_mem"), Status::NotNamespacedHere, "-", "1 2 3"),
                Some("sysctl -w net.ipv4.tcp_mem='1 2 3'  # where `sysctl net.ipv4.tcp_mem` is less"),
            ),
            (
                row(Key::HugePages(HugePagesFile::Defrag), read_only(), "never", "defer+madvise"),
                Some("echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag"),
            ),
            (row(module(), read_only(), "not loaded", "loaded"), Some("modprobe nf_conntrack")),
            (
                row(module(), Status::Failed { errno: "x".to_owned() }, "not loaded", "loaded"),
                Some("modprobe nf_conntrack"),
            ),
            (
                row(Key::Limit("nofile"), read_only(), "1024 524288", "65536"),
                Some("prlimit --pid 7 --nofile=65536:524288"),
            ),
            (row(sysctl("vm.x"), Status::Failed { errno: "EINVAL".to_owned() }, "1", "2"), None),
            (row(sysctl("vm.x"), Status::Raised, "1", "2"), None),
        ] {
            assert_eq!(command(&row, Some(7)).as_deref(), expected, "{row:?}");
        }
    }

    #[test]
    fn the_call_is_repeated_as_it_was() {
        let stuck = [row(Key::Sysctl("vm.x".to_owned()), Status::NotNamespacedHere, "1", "2")];
        let call = Call { profile: "my host's.yaml", persist: true, pid: Some(7) };
        let text = remedy(stuck.iter(), false, &call);
        assert!(
            text.contains(r"sudo scalekit tune -p 'my host'\''s.yaml' --persist --pid 7 --yes"),
            "{text}"
        );
        let call = Call { profile: "./a.yaml", persist: false, pid: None };
        assert_eq!(
            remedy([].iter(), true, &call),
            "\nnot possible here; on the node itself `sudo scalekit tune -p ./a.yaml --yes` does it\n"
        );
        assert_eq!(remedy([].iter(), false, &call), "");
    }
}
