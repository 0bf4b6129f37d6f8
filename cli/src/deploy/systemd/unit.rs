//! The text of a unit of systemd. Pure.

use std::fmt::Write as _;

/// What no process of a deployment needs. Each line takes something away; what one needs all the same comes after.
const HARDENING: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
LimitNOFILE=1048576
LimitCORE=0
";

/// One service.
pub(super) struct Unit<'a> {
    pub(super) target: &'a str,
    pub(super) user: &'a str,
    pub(super) description: &'a str,
    /// Units that have to run first, and end later.
    pub(super) after: &'a [String],
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Below /var/lib.
    pub(super) state: Option<String>,
    /// Names and files of what only its user may read.
    pub(super) credentials: Vec<(String, String)>,
    pub(super) stop_seconds: u64,
    /// Lines that differ from [`HARDENING`], and others of its own.
    pub(super) more: Vec<String>,
    /// What it reads beside; in a comment, so that a unit's text tells whether it has to be started anew.
    pub(super) version: String,
}

impl Unit<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "# Written by `scalekit deploy --systemd`, which also replaces it.\n# {}\n",
            self.version
        );
        let _ = write!(
            text,
            "[Unit]\nDescription={}\nPartOf={}\nWants=network-online.target\nAfter=network-online.target",
            self.description.replace('%', "%%"),
            self.target
        );
        for unit in self.after {
            let _ = write!(text, " {unit}");
        }
        // It never gives up: the pause between two starts is bounded, and so is the harm.
        let _ = write!(
            text,
            "\nStartLimitIntervalSec=0\n\n[Service]\nType=exec\nUser={0}\nGroup={0}\nExecStart={1}\n",
            self.user,
            self.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
        );
        text.push_str("Restart=on-failure\nRestartSec=1s\n");
        text.push_str("# Known since systemd 254; an older one says so, and starts it again each second.\n");
        text.push_str("RestartSteps=5\nRestartMaxDelaySec=30s\n");
        let _ = writeln!(text, "TimeoutStopSec={}s", self.stop_seconds);
        if let Some(state) = &self.state {
            let _ = writeln!(text, "StateDirectory={state}\nStateDirectoryMode=0700");
        }
        for (name, file) in &self.credentials {
            let _ = writeln!(text, "LoadCredential={name}:{}", file.replace('%', "%%"));
        }
        text.push_str(HARDENING);
        for line in &self.more {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// What a credential's path is to a command line. `%d` is systemd's word for the directory.
pub(super) fn credential(name: &str) -> String {
    format!("\u{0}/{name}")
}

/// A word of a command line, with nothing in it that systemd would take for its own.
pub(super) fn quoted(word: &str) -> String {
    if let Some(credential) = word.strip_prefix('\u{0}') {
        return format!("%d{credential}");
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:=@,+%$\\".contains(c);
    if !word.is_empty() && escaped.chars().all(is_plain) { escaped } else { format!("\"{escaped}\"") }
}

pub(super) fn target(name: &str, description: &str, units: &[String]) -> String {
    format!(
        "# Written by `scalekit deploy --systemd`, which also replaces it.\n[Unit]\nDescription={}\nWants={}\n\n\
         [Install]\nWantedBy=multi-user.target\n# {name}\n",
        description.replace('%', "%%"),
        units.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_word_is_taken_for_systemds_own() {
        for (word, expected) in [
            ("--port", "--port"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("50%d", "50%%d"),
            ("$HOME", "$$HOME"),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("a;b", "\"a;b\""),
        ] {
            assert_eq!(quoted(word), expected);
        }
        assert_eq!(quoted(&credential("redis-url")), "%d/redis-url");
    }
}
