//! The trees that hold the host's settings, below a root that tests replace, and the only place that writes to them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{AccessFlags, access};

/// Longest value that is read, in bytes; `ip_local_reserved_ports` may be long.
const MAX_VALUE_BYTES: u64 = 1 << 18;

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
}

/// `/`, or a tree in its form.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// A path below the root; `relative` has no leading slash.
    pub(crate) fn join(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// Of a key's file.
    pub(crate) fn file(&self, key: &Key) -> PathBuf {
        match key {
            Key::Sysctl(name) => self.join("proc/sys").join(name.replace('.', "/")),
            Key::HugePages => self.join("sys/kernel/mm/transparent_hugepage/enabled"),
            Key::Module(name) => self.join("sys/module").join(name),
            Key::Limit(name) => self.join("proc/self/limits").join(name),
        }
    }

    /// A small file's text.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn text(&self, relative: &str) -> io::Result<String> {
        read_bounded(&self.join(relative))
    }

    /// Whether any process goes by this name.
    pub(crate) fn runs(&self, name: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.join("proc")) else { return false };
        entries.filter_map(Result::ok).any(|entry| {
            let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
            is_process && read_bounded(&entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        })
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_VALUE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

impl Values for Root {
    fn read(&self, key: &Key) -> io::Result<String> {
        if matches!(key, Key::Module(_)) {
            return Ok(if self.file(key).exists() { LOADED } else { NOT_LOADED }.to_owned());
        }
        let text = read_bounded(&self.file(key))?;
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
