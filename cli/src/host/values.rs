//! The host's settings as values of files, and the only place that writes to them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{AccessFlags, access};

use crate::root::Root;

/// Where a value stands.
pub(crate) trait Values {
    /// The value, without the line's end.
    ///
    /// # Errors
    /// As the kernel says; `NotFound` where it has no such setting.
    fn read(&self, key: &Key) -> io::Result<String>;
    /// Sets it with one write, as the kernel demands.
    ///
    /// # Errors
    /// As the kernel says.
    fn write(&self, key: &Key, value: &str) -> io::Result<()>;
    /// Whether a write would be refused outright.
    ///
    /// # Errors
    /// The refusal: EACCES, EPERM or EROFS.
    fn writable(&self, key: &Key) -> io::Result<()>;
}

/// What is set. Its text is what journals and tables hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A kernel setting by its name with dots.
    Sysctl(String),
    HugePages,
    /// A kernel module: `loaded` or `not loaded`.
    Module(String),
    /// A resource limit, which belongs to processes and so has no file.
    Limit(&'static str),
}

/// Text of [`Key::HugePages`].
const HUGE_PAGES: &str = "transparent_hugepage";
/// Begins the text of [`Key::Module`].
const MODULE: &str = "module ";
pub(crate) const LOADED: &str = "loaded";
const NOT_LOADED: &str = "not loaded";

impl Key {
    /// What [`Key::name`] gave.
    pub(crate) fn parse(name: &str) -> Self {
        match name.strip_prefix(MODULE) {
            Some(module) => Self::Module(module.to_owned()),
            None if name == HUGE_PAGES => Self::HugePages,
            None => Self::Sysctl(name.to_owned()),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sysctl(name) => name.clone(),
            Self::HugePages => HUGE_PAGES.to_owned(),
            Self::Module(name) => format!("{MODULE}{name}"),
            Self::Limit(name) => format!("limit {name}"),
        }
    }

    /// Where the host keeps it.
    fn place(&self) -> PathBuf {
        match self {
            Self::Sysctl(name) => Path::new("proc/sys").join(name.replace('.', "/")),
            Self::HugePages => "sys/kernel/mm/transparent_hugepage/enabled".into(),
            Self::Module(name) => Path::new("sys/module").join(name),
            Self::Limit(name) => Path::new("proc/self/limits").join(name),
        }
    }
}

impl Root {
    /// Of a key's file.
    pub(crate) fn file(&self, key: &Key) -> PathBuf {
        self.path(key.place())
    }

    /// Whether any process goes by this name.
    pub(crate) fn runs(&self, name: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.path("proc")) else { return false };
        entries.filter_map(Result::ok).any(|entry| {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let is_process = pid.bytes().all(|byte| byte.is_ascii_digit());
            is_process && self.known(format!("proc/{pid}/comm")).is_some_and(|comm| comm.trim() == name)
        })
    }
}

impl Values for Root {
    fn read(&self, key: &Key) -> io::Result<String> {
        if matches!(key, Key::Module(_)) {
            return Ok(if self.file(key).exists() { LOADED } else { NOT_LOADED }.to_owned());
        }
        let text = self.text(key.place())?;
        Ok(match key {
            Key::Sysctl(_) | Key::Module(_) | Key::Limit(_) => normal(&text),
            // `always [madvise] never`
            Key::HugePages => {
                let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
                chosen.map_or(text.trim(), |(chosen, _)| chosen).to_owned()
            }
        })
    }

    fn write(&self, key: &Key, value: &str) -> io::Result<()> {
        if let Key::Module(name) = key {
            return modprobe(name, value == LOADED);
        }
        // One write: the kernel takes each for a whole value. Truncating means nothing there, but in a copy of the tree.
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.file(key))?;
        file.write_all(format!("{value}\n").as_bytes())
    }

    fn writable(&self, key: &Key) -> io::Result<()> {
        if matches!(key, Key::Module(_)) {
            let is_root = nix::unistd::geteuid().is_root();
            return is_root.then_some(()).ok_or_else(|| nix::errno::Errno::EPERM.into());
        }
        Ok(access(&self.file(key), AccessFlags::W_OK)?)
    }
}

/// Loads a module, or unloads it if nothing uses it.
fn modprobe(name: &str, load: bool) -> io::Result<()> {
    let flag: &[&str] = if load { &[] } else { &["-r"] };
    let output = Command::new("modprobe").args(flag).args(["--", name]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| io::Error::other(format!("modprobe: {}", said.trim())))
}

/// One space between the values of a line, as tabs or spaces mean the same to the kernel.
pub(crate) fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
