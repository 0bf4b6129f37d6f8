//! The host's settings as values of files, and the only place that writes to them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{AccessFlags, access};

use crate::profile::{is_key, is_module};
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
    HugePages(HugePagesFile),
    /// A kernel module: `loaded` or `not loaded`.
    Module(String),
    /// A resource limit, which belongs to processes and so has no file.
    Limit(&'static str),
}

/// A setting of transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HugePagesFile {
    Enabled,
    /// What a page fault does for a huge page.
    Defrag,
    /// How many small pages that nobody uses khugepaged may fill up for a huge one.
    MaxPtesNone,
}

impl HugePagesFile {
    const ALL: [Self; 3] = [Self::Enabled, Self::Defrag, Self::MaxPtesNone];

    /// Its text in journals and tables.
    fn name(self) -> &'static str {
        match self {
            Self::Enabled => "transparent_hugepage",
            Self::Defrag => "transparent_hugepage/defrag",
            Self::MaxPtesNone => "transparent_hugepage/khugepaged/max_ptes_none",
        }
    }

    fn place(self) -> &'static str {
        match self {
            Self::Enabled => "sys/kernel/mm/transparent_hugepage/enabled",
            Self::Defrag => "sys/kernel/mm/transparent_hugepage/defrag",
            Self::MaxPtesNone => "sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
        }
    }
}

/// Begins the text of [`Key::Module`].
const MODULE: &str = "module ";
pub(crate) const LOADED: &str = "loaded";
const NOT_LOADED: &str = "not loaded";

impl Key {
    /// What [`Key::name`] gave; `None` for what leads elsewhere, as a journal could say.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if let Some(module) = name.strip_prefix(MODULE) {
            return is_module(module).then(|| Self::Module(module.to_owned()));
        }
        let huge_pages = HugePagesFile::ALL.into_iter().find(|file| file.name() == name);
        let sysctl = || is_key(name).then(|| Self::Sysctl(name.to_owned()));
        huge_pages.map(Self::HugePages).or_else(sysctl)
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sysctl(name) => name.clone(),
            Self::HugePages(file) => file.name().to_owned(),
            Self::Module(name) => format!("{MODULE}{name}"),
            Self::Limit(name) => format!("limit {name}"),
        }
    }

    /// Where the host keeps it.
    pub(crate) fn place(&self) -> PathBuf {
        match self {
            Self::Sysctl(name) => Path::new("proc/sys").join(name.replace('.', "/")),
            Self::HugePages(file) => file.place().into(),
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

impl Root {
    /// Whether the kernel holds the module itself; one without parameters then has no directory below /sys/module.
    fn has_built_in(&self, key: &Key) -> bool {
        let Key::Module(name) = key else { return false };
        let release = self.known("proc/sys/kernel/osrelease").unwrap_or_default();
        let list = self.known(format!("lib/modules/{}/modules.builtin", release.trim())).unwrap_or_default();
        let plain = |name: &str| name.replace('-', "_");
        list.lines().any(|line| {
            let file = line.trim().rsplit('/').next().and_then(|file| file.split_once(".ko"));
            file.is_some_and(|(built_in, _)| plain(built_in) == plain(name))
        })
    }
}

impl Values for Root {
    fn read(&self, key: &Key) -> io::Result<String> {
        if matches!(key, Key::Module(_)) {
            let is_here = self.file(key).exists() || self.has_built_in(key);
            return Ok(if is_here { LOADED } else { NOT_LOADED }.to_owned());
        }
        let text = read_at_once(&self.file(key))?;
        Ok(match key {
            Key::Sysctl(_) | Key::Module(_) | Key::Limit(_) => normal(&text),
            // `always [madvise] never`
            Key::HugePages(_) => {
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

/// All of a file, asked for with one read: the kernel answers a second one with the end, so a long set of ports that is
/// read in parts would be cut short (`proc_do_large_bitmap`).
fn read_at_once(path: &Path) -> io::Result<String> {
    // Every second port takes some 190 KiB.
    let mut buffer = vec![0; 256 << 10];
    let length = File::open(path)?.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_here_loaded_or_built_in() {
        let builtin = "kernel/net/netfilter/nf_conntrack.ko\nkernel/crypto/sha256-generic.ko\n";
        let (_dir, root) = Root::of(&[
            ("proc/sys/kernel/osrelease", "6.12.1-x\n"),
            ("lib/modules/6.12.1-x/modules.builtin", builtin),
            ("sys/module/tcp_bbr/refcnt", "0\n"),
        ]);
        for (name, expected) in [
            ("nf_conntrack", LOADED),
            ("sha256_generic", LOADED),
            ("tcp_bbr", LOADED),
            ("nf_conn", NOT_LOADED),
            ("sha256", NOT_LOADED),
        ] {
            assert_eq!(root.read(&Key::Module(name.to_owned())).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_name_is_a_key_that_gives_it_back_or_none() {
        for name in [
            "net.core.somaxconn",
            "module nf_conntrack",
            "transparent_hugepage",
            "transparent_hugepage/khugepaged/max_ptes_none",
        ] {
            assert_eq!(Key::parse(name).map(|key| key.name()).as_deref(), Some(name));
        }
        for name in [
            "/etc/shadow",
            "net./etc/shadow",
            "module ../x",
            "module ",
            "transparent_hugepage/x",
            "limit nofile",
        ] {
            assert_eq!(Key::parse(name), None, "{name}");
        }
    }
}
