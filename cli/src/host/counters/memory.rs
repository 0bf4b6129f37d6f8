//! `/proc/meminfo`: the machine's memory, in bytes.

use serde::Serialize;

use super::text::keyed;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) total: Option<u64>,
    /// What programs can have without swapping.
    pub(crate) available: Option<u64>,
    pub(crate) swap_total: Option<u64>,
    pub(crate) swap_free: Option<u64>,
}

impl Memory {
    pub(super) fn parse(text: &str) -> Self {
        let bytes = |key| keyed(text, key)?.checked_mul(1024);
        Self {
            total: bytes("MemTotal"),
            available: bytes("MemAvailable"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kibibytes_become_bytes() {
        let text = "MemTotal:       24684096 kB\nMemFree:         1 kB\nMemAvailable:    2048 kB\nSwapTotal:  0 kB\n";
        let found = Memory::parse(text);
        assert_eq!(found.total, Some(24_684_096 * 1024));
        assert_eq!(found.available, Some(2 << 20));
        assert_eq!((found.swap_total, found.swap_free), (Some(0), None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            prop_assert_eq!(Memory::parse(&format!("MemTotal: 18446744073709551615 kB\n{text}")).total, None);
        }
    }
}
