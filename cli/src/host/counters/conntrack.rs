//! Connection tracking: entries against their limit, and what was dropped for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::Serialize;

use super::text::{number, sum};
use crate::root::Root;

/// Of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Conntrack {
    /// Whether connections can be tracked at all: without the module no table can be full.
    pub(crate) is_tracked: Option<bool>,
    pub(crate) entries: Option<u64>,
    pub(crate) max: Option<u64>,
    /// Packets dropped, the table being full.
    pub(crate) dropped: Option<u64>,
    /// Entries removed before their time, the table being full.
    pub(crate) early_dropped: Option<u64>,
    /// Entries that could not be inserted; lost races count too.
    pub(crate) insert_failed: Option<u64>,
}

/// Below `/proc/sys/net`, which shows the network namespace of the thread that opens a file there.
const ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

impl Conntrack {
    /// `stat` is the text of the process's `net/stat/nf_conntrack`. The reading thread must be in the process's
    /// network namespace.
    pub(super) fn read(root: &Root, stat: Option<&str>) -> Self {
        let is_tracked = match root.text(MAX) {
            Ok(_) => Some(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                root.path("/proc/sys/net").is_dir().then_some(false)
            }
            Err(_) => None,
        };
        let value = |path: &str| number(&root.known(path)?);
        Self { is_tracked, entries: value(ENTRIES), max: value(MAX), ..Self::of_stat(stat) }
    }

    /// Without the two values that only a thread in the namespace can read.
    pub(super) fn of_stat(stat: Option<&str>) -> Self {
        let counted = |name| processors(stat?, name);
        Self {
            dropped: counted("drop"),
            early_dropped: counted("early_drop"),
            insert_failed: counted("insert_failed"),
            ..Self::default()
        }
    }
}

/// The table of the namespace that a thread left: behind NAT it is that one which fills, with connections of
/// containers that have nothing in their own. A file below `/proc/sys/net` stays with the namespace in which it was
/// opened.
#[derive(Debug)]
pub(super) struct Outer {
    entries: File,
    max: File,
}

impl Outer {
    /// Before the thread moves; `None` without the module.
    pub(super) fn open(root: &Root) -> Option<Self> {
        let open = |path: &str| File::open(root.path(path)).ok();
        Some(Self { entries: open(ENTRIES)?, max: open(MAX)? })
    }

    /// `stat` is the text of that namespace's `net/stat/nf_conntrack`.
    pub(super) fn read(&self, stat: Option<&str>) -> Conntrack {
        let value = |file: &File| {
            let mut bytes = [0; 32];
            let size = file.read_at(&mut bytes, 0).ok()?;
            number(std::str::from_utf8(bytes.get(..size)?).ok()?)
        };
        Conntrack {
            is_tracked: Some(true),
            entries: value(&self.entries),
            max: value(&self.max),
            ..Conntrack::of_stat(stat)
        }
    }
}

/// A column by its name, added up over the processors' lines, which are in hexadecimal. Kernels keep the places of
/// columns and rename those that are gone.
fn processors(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let place = lines.next()?.split_whitespace().position(|found| found == name)?;
    sum(lines.map(|line| u64::from_str_radix(line.split_whitespace().nth(place)?, 16).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4_19: &str = "entries  searched found new invalid ignore delete delete_list insert insert_failed drop \
        early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        000000ff  00000000 00000000 00000000 00000021 00000000 00000000 00000000 00000000 00000003 00000010 00000001 \
        00000000  00000000 00000000 00000000 00000000\n";
    const V6_18: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop \
        early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000001  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000002 00000003 \
        00000000  00000000 00000000 00000000 00000000\n\
        00000001  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 0000000a 00000003 \
        00000000  00000000 00000000 00000000 00000000\n";

    #[test]
    fn columns_of_each_kernel_are_added_up() {
        for (text, dropped, early, failed) in [(V4_19, 16, 1, 3), (V6_18, 12, 6, 2)] {
            assert_eq!(processors(text, "drop"), Some(dropped));
            assert_eq!(processors(text, "early_drop"), Some(early));
            assert_eq!(processors(text, "insert_failed"), Some(failed));
        }
        assert_eq!(processors(V6_18, "searched"), None);
        assert_eq!(processors("drop\n", "drop"), None, "no processor tells");
    }

    #[test]
    fn without_the_module_nothing_can_be_full_and_without_proc_nothing_is_known() {
        let (_dir, empty) = Root::of(&[]);
        assert_eq!(Conntrack::read(&empty, None), Conntrack::default());
        assert!(Outer::open(&empty).is_none());
        let (_dir, without) = Root::of(&[("proc/sys/net/ipv4/tcp_tw_reuse", "2")]);
        let none = Conntrack { is_tracked: Some(false), ..Conntrack::default() };
        assert_eq!(Conntrack::read(&without, None), none);
    }

    #[test]
    fn the_outer_table_is_read_again_from_its_beginning() {
        let (_dir, root) = Root::of(&[(ENTRIES, "40\n"), (MAX, "100\n")]);
        let outer = Outer::open(&root).unwrap();
        let found =
            Conntrack { is_tracked: Some(true), entries: Some(40), max: Some(100), ..Conntrack::default() };
        assert_eq!(outer.read(None), found);
        std::fs::write(root.path(ENTRIES), "41\n").unwrap();
        let later = outer.read(Some(V4_19));
        assert_eq!((later.entries, later.dropped), (Some(41), Some(16)));
        assert_eq!(Conntrack::read(&root, None), Conntrack { entries: Some(41), ..found });
    }

    proptest! {
        #[test]
        fn a_column_is_the_sum_of_all_processors_wherever_it_is(
            counts in proptest::collection::vec(any::<u32>(), 1..8), place in 0_usize..5
        ) {
            let row = |cell: &str| {
                let cells: Vec<&str> = (0..5).map(|at| if at == place { cell } else { "0000000f" }).collect();
                format!("{}\n", cells.join(" "))
            };
            let text: String = counts.iter().map(|count| row(&format!("{count:08x}"))).collect();
            let expected = counts.iter().copied().map(u64::from).sum();
            prop_assert_eq!(processors(&format!("{}{text}", row("drop")), "drop"), Some(expected));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[ 0-9a-gé\n]{0,300}") {
            let digits = text.chars().filter(char::is_ascii_hexdigit).count();
            // A number is there only if one is in the text.
            let found = processors(&format!("drop\n{text}"), "drop");
            prop_assert!(found.is_none_or(|_| digits > 0));
        }
    }
}
