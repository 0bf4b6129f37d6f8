//! Settings that hold after the next boot: files below /etc, written whole or not at all, and journaled.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::journal::{Journal, JournalError, What};
use super::plan::Row;
use super::status::{Status, refused_write};
use super::values::Key;
use crate::root::Root;

const SYSCTLS: &str = "etc/sysctl.d/99-zz-scalekit.conf";
/// Huge pages are no sysctl; systemd-tmpfiles writes them at boot.
const TMPFILES: &str = "etc/tmpfiles.d/99-zz-scalekit.conf";
const MODULES: &str = "etc/modules-load.d/scalekit.conf";
const LIMITS: &str = "etc/security/limits.d/99-zz-scalekit.conf";
/// For every service and login that systemd starts.
const SYSTEMD: [&str; 2] =
    ["etc/systemd/system.conf.d/99-zz-scalekit.conf", "etc/systemd/user.conf.d/99-zz-scalekit.conf"];
const HEADER: &str = "# Written by `scalekit tune --persist`; `scalekit tune rollback` takes it back.\n";

/// One file, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Persisted {
    pub(crate) path: PathBuf,
    #[serde(skip)]
    pub(crate) text: String,
    pub(crate) status: Status,
}

/// The files that make the rows, modules and limits (name and value) hold after a boot.
pub(crate) fn files(root: &Root, rows: &[Row], modules: &[String], limits: &[(&str, u64)]) -> Vec<Persisted> {
    let mut files = Vec::new();
    let mut add = |relative: &str, lines: String| {
        if !lines.is_empty() {
            let text = format!("{HEADER}{lines}");
            files.push(Persisted { path: root.path(relative), text, status: Status::Planned });
        }
    };
    let sysctls = rows.iter().filter_map(|row| match (&row.key, &row.status) {
        (Key::Sysctl(key), Status::Planned | Status::Raised) => Some((key, &row.wanted, row)),
        // What holds now may hold only until the next boot.
        (Key::Sysctl(key), Status::Already | Status::KeptHigher) => Some((key, row.now.as_ref()?, row)),
        _ => None,
    });
    add(
        SYSCTLS,
        sysctls.map(|(key, value, row)| format!("# {}\n{key} = {value}\n", row.reasons.why)).collect(),
    );
    let huge_pages = rows.iter().filter_map(|row| match (&row.key, &row.status) {
        (Key::HugePages, Status::Planned | Status::Raised) => Some(&row.wanted),
        // Without a mongod nothing is asked for.
        (Key::HugePages, Status::Already) => row.now.as_ref().filter(|now| **now == row.wanted),
        _ => None,
    });
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    add(TMPFILES, huge_pages.map(|mode| format!("w {file} - - - - {mode}\n")).collect());
    add(MODULES, modules.iter().map(|name| format!("{name}\n")).collect());
    let of_each =
        |make: &dyn Fn(&str, u64) -> String| limits.iter().map(|(name, value)| make(name, *value)).collect();
    // `*` is not root.
    add(LIMITS, of_each(&|name, value| format!("* - {name} {value}\nroot - {name} {value}\n")));
    for relative in SYSTEMD {
        let lines: String = of_each(&|name, value| format!("DefaultLimit{}={value}\n", name.to_uppercase()));
        let lines = if lines.is_empty() { lines } else { format!("[Manager]\n{lines}") };
        add(relative, lines);
    }
    files
}

/// Writes the files, each journaled before.
///
/// # Errors
/// A journal that cannot be written.
pub(crate) fn write(
    files: &mut [Persisted],
    is_root: bool,
    journal: &mut Journal,
) -> Result<(), JournalError> {
    for file in files {
        let prior = match fs::read_to_string(&file.path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                file.status = refused_write(&error, is_root);
                continue;
            }
        };
        if prior.as_ref() == Some(&file.text) {
            file.status = Status::Already;
            continue;
        }
        let (path, ours) = (file.path.clone(), file.text.clone());
        let change = journal.change(What::File { path, prior, ours })?;
        file.status = match write_atomically(&file.path, &file.text) {
            Ok(()) => Status::Raised,
            Err(error) => {
                // The last step may fail after the file was replaced.
                if fs::read_to_string(&file.path).ok().as_ref() != Some(&file.text) {
                    journal.settled(change)?;
                }
                refused_write(&error, is_root)
            }
        };
    }
    Ok(())
}

/// Replaces a file by rename; it is on the device when this returns.
///
/// # Errors
/// As the system says; the file is then as it was.
pub(crate) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    // No ending that the readers of these directories would take.
    let draft = path.with_extension("scalekit-draft");
    let written = File::options().write(true).create(true).truncate(true).mode(0o644).open(&draft).and_then(
        |mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)
        },
    );
    if let Err(error) = written {
        // The draft may not even be there.
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// Files that set one of the keys after ours at boot, as `FILE sets KEY`. systemd reads by name across directories;
/// `/etc/sysctl.conf` is read last by procps, and by systemd through a link named 99-sysctl.conf, which comes before ours.
pub(crate) fn beaten_by(root: &Root, rows: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    let mut files = vec![root.path("etc/sysctl.conf")];
    for dir in ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d"]
    {
        let entries = fs::read_dir(root.path(dir)).into_iter().flatten().filter_map(Result::ok);
        let ours = Path::new(SYSCTLS).file_name().unwrap_or_default();
        files.extend(entries.filter(|entry| entry.file_name().as_os_str() > ours).map(|entry| entry.path()));
    }
    for file in files {
        let is_conf = file.extension().is_some_and(|ending| ending == "conf");
        let text = if is_conf { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        for (name, _) in text.lines().filter_map(|line| line.split_once('=')) {
            let name = name.trim().trim_start_matches('-').replace('/', ".");
            if rows.iter().any(|row| row.key.name() == name) {
                found.push(format!("{} sets {name}", file.display()));
            }
        }
    }
    found
}
