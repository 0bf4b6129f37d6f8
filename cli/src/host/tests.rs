//! Apply, journal, rollback and the files for the next boot, on a copy of the trees' form.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tempfile::TempDir;

use super::facts::{Machine, Namespace, Processes};
use super::journal::{Account, Journal, JournalError, What};
use super::plan::Row;
use super::rollback::Outcome;
use super::status::Status;
use super::values::{Key, Values};
use super::{apply, rollback};
use crate::profile::Reasons;
use crate::root::Root;

/// A host of files, which a kernel's refusals can be given to.
pub(super) struct FakeHost {
    dir: TempDir,
    pub(super) root: Root,
    /// Keys whose writes end at this value, as some kernels do.
    clamped: Vec<(&'static str, u64)>,
    /// Keys that are kept in multiples of this, rounded up, as `nf_conntrack_buckets` is.
    pub(super) rounded: Vec<(&'static str, u64)>,
    /// Keys whose writes are refused; a kernel may have taken a part of the value before it comes to the wrong one.
    pub(super) refused: Vec<(&'static str, Errno, Option<&'static str>)>,
    pub(super) writes: RefCell<Vec<String>>,
}

impl FakeHost {
    pub(super) fn new(values: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (key, value) in values {
            let file = root.file(&Key::parse(key).unwrap());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{value}\n")).unwrap();
        }
        Self {
            dir,
            root,
            clamped: Vec::new(),
            rounded: Vec::new(),
            refused: Vec::new(),
            writes: RefCell::default(),
        }
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.dir.path().join("state/journal.jsonl")
    }

    /// A process that another test is just starting holds the lock for as long as it has not become its program.
    pub(super) fn journal(&self) -> (Journal, Account) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Journal::open(&self.journal_path()) {
                Err(JournalError::InUse(_)) if Instant::now() < deadline => std::thread::yield_now(),
                opened => return opened.unwrap(),
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> String {
        self.read(&Key::parse(key).unwrap()).unwrap()
    }

    /// As another program would.
    pub(super) fn set(&self, key: &str, value: &str) {
        self.root.write(&Key::parse(key).unwrap(), value).unwrap();
    }

    pub(super) fn apply(&self, rows: &mut [Row]) {
        let (mut journal, _) = self.journal();
        apply(rows, &machine(), self, &mut journal).unwrap();
    }

    pub(super) fn roll_back(&self, namespace: &str) -> Vec<(String, Outcome)> {
        self.roll_back_on(&Machine { namespace: namespace_of(namespace, namespace == HERE), ..machine() })
    }

    pub(super) fn roll_back_on(&self, machine: &Machine) -> Vec<(String, Outcome)> {
        let (mut journal, account) = self.journal();
        let undone = rollback(&account, &mut journal, self, machine, &self.root).unwrap();
        undone.into_iter().map(|row| (row.what, row.outcome)).collect()
    }

    pub(super) fn account(&self) -> Account {
        self.journal().1
    }
}

impl Values for FakeHost {
    fn read(&self, key: &Key) -> io::Result<String> {
        self.root.read(key)
    }
    fn write(&self, key: &Key, value: &str) -> io::Result<()> {
        let name = key.name();
        self.writes.borrow_mut().push(name.clone());
        if let Some((_, errno, part)) = self.refused.iter().find(|(refused, ..)| name == *refused) {
            if let Some(part) = part {
                self.root.write(key, part)?;
            }
            return Err((*errno).into());
        }
        let clamped = self.clamped.iter().find(|(clamped, _)| name == *clamped);
        let rounded = self.rounded.iter().find(|(rounded, _)| name == *rounded);
        match (value.parse::<u64>(), clamped, rounded) {
            (Ok(number), Some((_, most)), _) => self.root.write(key, &number.min(*most).to_string())?,
            (Ok(number), _, Some((_, of))) => {
                self.root.write(key, &number.next_multiple_of(*of).to_string())?
            }
            _ => self.root.write(key, value)?,
        }
        // What `dirty_bytes_handler` and `dirty_ratio_handler` do.
        if let Some(twin) = super::known::twin(&name) {
            if name.ends_with("_bytes") && value == "0" {
                return Err(Errno::EINVAL.into());
            }
            self.root.write(&Key::parse(twin).unwrap(), "0")?;
        }
        Ok(())
    }
    fn writable(&self, key: &Key) -> io::Result<()> {
        self.root.writable(key)
    }
}

pub(super) fn machine() -> Machine {
    let namespace = namespace_of(HERE, true);
    let processes = Processes { id: "pid:[1]".to_owned(), is_first: true };
    Machine { ram: 8 << 30, cores: 4, namespace, processes, is_root: true, mongod: None }
}

pub(super) fn namespace_of(id: &str, is_first: bool) -> Namespace {
    Namespace { id: id.to_owned(), is_first: Some(is_first), boot: "this boot".to_owned() }
}

pub(super) fn reasons() -> Reasons {
    let text = |text: &str| text.to_owned();
    Reasons { why: text("why"), risk: text("risk"), proof: text("proof"), source: text("source") }
}

pub(super) fn row(key: &str, now: &str, wanted: &str) -> Row {
    Row {
        key: Key::parse(key).unwrap(),
        now: Some(now.to_owned()),
        wanted: wanted.to_owned(),
        status: Status::Planned,
        scope: super::known::scope(key),
        wish: None,
        reasons: reasons(),
    }
}

pub(super) const SOMAXCONN: &str = "net.core.somaxconn";
pub(super) const SWAP: &str = "vm.swappiness";
pub(super) const HERE: &str = "net:[1]";

#[test]
fn what_is_applied_is_given_back_once() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    let mut rows = [row(SOMAXCONN, "4096", "20000"), row(SWAP, "60", "10")];
    host.apply(&mut rows);
    assert!(rows.iter().all(|row| row.status == Status::Raised), "{rows:?}");
    assert_eq!((host.get(SOMAXCONN), host.get(SWAP)), ("20000".to_owned(), "10".to_owned()));
    // The newest first.
    let expected = [(SWAP.to_owned(), Outcome::Restored), (SOMAXCONN.to_owned(), Outcome::Restored)];
    assert_eq!(host.roll_back(HERE), expected);
    assert_eq!((host.get(SOMAXCONN), host.get(SWAP)), ("4096".to_owned(), "60".to_owned()));
    let writes = host.writes.borrow().len();
    assert_eq!(host.roll_back(HERE), []);
    assert_eq!(host.writes.borrow().len(), writes);
}

#[test]
fn values_that_are_right_are_not_written_and_those_that_moved_are_left() {
    let host = FakeHost::new(&[(SOMAXCONN, "20000"), (SWAP, "30")]);
    let mut rows = [row(SOMAXCONN, "4096", "20000"), row(SWAP, "60", "10")];
    host.apply(&mut rows);
    assert_eq!(rows[0].status, Status::Already);
    assert!(matches!(rows[1].status, Status::Failed { .. }), "{:?}", rows[1].status);
    assert_eq!(*host.writes.borrow(), Vec::<String>::new());
    assert!(host.account().open.is_empty());
}

#[test]
fn what_the_kernel_clamps_or_refuses_is_said_and_can_be_given_back() {
    let mut host =
        FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60"), ("fs.nr_open", "5"), ("fs.file-max", "5")]);
    host.clamped.push((SOMAXCONN, 65_535));
    host.refused.extend([(SWAP, Errno::EINVAL, None), ("fs.nr_open", Errno::EROFS, None)]);
    let mut rows = [
        row(SOMAXCONN, "4096", "70000"),
        row(SWAP, "60", "300"),
        row("fs.nr_open", "5", "6"),
        row("fs.file-max", "5", "6"),
    ];
    host.apply(&mut rows);
    let names = rows.iter().map(|row| row.status.name()).collect::<Vec<_>>();
    assert_eq!(names, ["clamped", "failed", "read-only", "raised"]);
    assert_eq!(rows[0].status, Status::Clamped { got: "65535".to_owned() });
    assert!(matches!(&rows[1].status, Status::Failed { errno } if errno.starts_with("EINVAL")));
    assert_eq!(rows.iter().filter(|row| row.status.is_undone()).count(), 3);
    let expected = [("fs.file-max".to_owned(), Outcome::Restored), (SOMAXCONN.to_owned(), Outcome::Restored)];
    assert_eq!(host.roll_back(HERE), expected);
    assert_eq!(host.get(SOMAXCONN), "4096");
}

#[test]
fn only_what_is_still_ours_is_given_back() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "20000"), row(SWAP, "60", "10")]);
    host.set(SWAP, "33");
    // In another namespace the namespaced key is another one.
    let elsewhere = Outcome::OtherNamespace { namespace: HERE.to_owned(), enter: None };
    let other = Outcome::ChangedByOther { now: "33".to_owned() };
    assert_eq!(host.roll_back("net:[2]"), [(SWAP.to_owned(), other), (SOMAXCONN.to_owned(), elsewhere)]);
    assert_eq!((host.get(SOMAXCONN), host.get(SWAP)), ("20000".to_owned(), "33".to_owned()));
    assert_eq!(host.roll_back(HERE), [(SOMAXCONN.to_owned(), Outcome::Restored)]);
    assert_eq!(host.get(SOMAXCONN), "4096");
}

#[test]
fn two_changes_of_one_key_go_back_to_the_first_value() {
    let host = FakeHost::new(&[(SOMAXCONN, "128")]);
    host.apply(&mut [row(SOMAXCONN, "128", "4096")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "20000")]);
    assert!(host.roll_back(HERE).iter().all(|(_, outcome)| *outcome == Outcome::Restored));
    assert_eq!(host.get(SOMAXCONN), "128");
}

#[test]
fn twins_that_zero_each_other_are_given_back_by_the_one_that_held() {
    for (key, wanted, prior, twin, twin_prior) in [
        ("vm.dirty_bytes", "1048576", "0", "vm.dirty_ratio", "20"),
        ("vm.dirty_ratio", "10", "0", "vm.dirty_bytes", "4096"),
        ("vm.dirty_background_bytes", "65536", "0", "vm.dirty_background_ratio", "10"),
        ("vm.dirty_ratio", "10", "20", "vm.dirty_bytes", "0"),
        ("vm.overcommit_kbytes", "65536", "0", "vm.overcommit_ratio", "50"),
        ("vm.overcommit_ratio", "60", "0", "vm.overcommit_kbytes", "4096"),
    ] {
        let host = FakeHost::new(&[(key, prior), (twin, twin_prior)]);
        let mut rows = [row(key, prior, wanted)];
        host.apply(&mut rows);
        assert_eq!((&rows[0].status, host.get(twin)), (&Status::Raised, "0".to_owned()), "{key}");
        assert_eq!(host.roll_back(HERE), [(key.to_owned(), Outcome::Restored)]);
        assert_eq!((host.get(key), host.get(twin)), (prior.to_owned(), twin_prior.to_owned()), "{key}");
    }
}

#[test]
fn a_crash_between_journal_and_write_leaves_nothing_to_give_back() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    host.apply(&mut [row(SWAP, "60", "10")]);
    let (mut journal, _) = host.journal();
    let what = What::Value {
        key: SOMAXCONN.to_owned(),
        prior: "4096".to_owned(),
        ours: "20000".to_owned(),
        namespace: Some(namespace_of(HERE, true)),
        boot: "this boot".to_owned(),
        twin: None,
    };
    journal.change(what).unwrap();
    drop(journal);
    let expected = [(SOMAXCONN.to_owned(), Outcome::NothingToDo), (SWAP.to_owned(), Outcome::Restored)];
    assert_eq!(host.roll_back(HERE), expected);
    assert_eq!(host.get(SOMAXCONN), "4096");
    assert!(host.account().open.is_empty());
}

#[test]
fn a_journal_torn_anywhere_gives_back_what_it_holds_whole() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "20000"), row(SWAP, "60", "10")]);
    let whole = fs::read(host.journal_path()).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    let first_end = ends[0];
    // A change and what was read back, twice.
    assert_eq!(ends.len(), 4);
    for cut in 0..=whole.len() {
        fs::write(host.journal_path(), &whole[..cut]).unwrap();
        let (mut journal, account) = host.journal();
        let complete = usize::from(cut > ends[0]) + usize::from(cut > ends[2]);
        assert_eq!((account.open.len(), account.damaged.len()), (complete, 0), "cut at {cut}");
        // What is appended afterwards stands on a line of its own.
        let file =
            What::File { path: "f".into(), prior: None, access: None, made: Vec::new(), ours: String::new() };
        let id = journal.change(file).unwrap();
        drop(journal);
        let again = host.account();
        assert_eq!((again.open.len(), again.damaged.len()), (complete + 1, 0), "cut at {cut}");
        assert!(again.open.contains_key(&id));
    }
    // Damage amid the file is told, and the rest is given back.
    let mut damaged = whole.clone();
    damaged[5..first_end].fill(b'#');
    fs::write(host.journal_path(), damaged).unwrap();
    assert_eq!(host.account().damaged, [1]);
    assert_eq!(host.roll_back(HERE), [(SWAP.to_owned(), Outcome::Restored)]);
    assert_eq!(host.get(SOMAXCONN), "20000");
}

#[test]
fn a_journal_is_held_by_one() {
    let host = FakeHost::new(&[]);
    let (_held, _) = host.journal();
    let error = Journal::open(&host.journal_path()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn limits_of_a_running_process_are_raised_and_given_back() {
    use super::limits::{Resource, of, raise};
    let host = FakeHost::new(&[]);
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let before = of(pid, Resource::OpenFiles).unwrap();
    // Down first, which anybody may, so that there is something to raise without being root.
    let lowered = std::process::Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile=64:{}", before.1)])
        .status()
        .unwrap();
    assert!(lowered.success());
    let (mut journal, _) = host.journal();
    assert_eq!(raise(pid, Resource::OpenFiles, 128, &machine(), &mut journal).unwrap(), Status::Raised);
    assert_eq!(of(pid, Resource::OpenFiles).unwrap(), (128, before.1));
    assert_eq!(raise(pid, Resource::OpenFiles, 128, &machine(), &mut journal).unwrap(), Status::Already);
    drop(journal);
    assert_eq!(host.roll_back(HERE)[0].1, Outcome::Restored);
    assert_eq!(of(pid, Resource::OpenFiles).unwrap(), (64, before.1));
    let (mut journal, _) = host.journal();
    assert_eq!(raise(pid, Resource::OpenFiles, 128, &machine(), &mut journal).unwrap(), Status::Raised);
    drop(journal);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(host.roll_back(HERE)[0].1, Outcome::Gone);
}
