//! Connection tracking: entries against their limit, and what was dropped for it.

use serde::Serialize;

use super::text::{number, sum};
use crate::root::Root;

/// Of one network namespace; all unknown where the module is not loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Conntrack {
    pub(crate) entries: Option<u64>,
    pub(crate) max: Option<u64>,
    /// Packets dropped, the table being full.
    pub(crate) dropped: Option<u64>,
    /// Entries removed before their time, the table being full.
    pub(crate) early_dropped: Option<u64>,
    /// Entries that could not be inserted; lost races count too.
    pub(crate) insert_failed: Option<u64>,
}

impl Conntrack {
    /// `stat` is the text of the process's `net/stat/nf_conntrack`. The two files below `/proc/sys/net` show the
    /// network namespace of the reading thread, so it must be in the process's.
    pub(super) fn read(root: &Root, stat: Option<&str>) -> Self {
        let sysctl = |name: &str| number(&root.known(format!("/proc/sys/net/netfilter/{name}"))?);
        let counted = |name| processors(stat?, name);
        Self {
            entries: sysctl("nf_conntrack_count"),
            max: sysctl("nf_conntrack_max"),
            dropped: counted("drop"),
            early_dropped: counted("early_drop"),
            insert_failed: counted("insert_failed"),
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
    fn without_the_module_nothing_is_known() {
        let (_dir, empty) = Root::of(&[]);
        assert_eq!(Conntrack::read(&empty, None), Conntrack::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            prop_assert_eq!(processors(&format!("entries drop\n1 {}", text.replace('\n', "z")), "gone"), None);
        }
    }
}
