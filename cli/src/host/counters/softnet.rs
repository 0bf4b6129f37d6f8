//! `net/softnet_stat`: packets that each processor took off the network, in hexadecimal columns.

use serde::Serialize;

use super::text::sum;

/// Over all processors. The columns are 32 bits wide and wrap (`net/core/net-procfs.c`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Softnet {
    pub(crate) processed: Option<u64>,
    /// Dropped since a processor's backlog was full.
    pub(crate) dropped: Option<u64>,
    /// Times that a processor had packets left when its budget was over.
    pub(crate) squeezed: Option<u64>,
}

impl Softnet {
    /// The first three columns mean the same in each kernel; later ones were added over time (10 to 15).
    pub(super) fn parse(text: &str) -> Self {
        let column = |place: usize| {
            sum(text
                .lines()
                .map(|line| u32::from_str_radix(line.split_whitespace().nth(place)?, 16).ok().map(u64::from)))
        };
        Self { processed: column(0), dropped: column(1), squeezed: column(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn processors_are_added_up_in_each_kernels_form() {
        let v4_19 = "0000000a 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n";
        let v6_18 = "0de8501c 00004c6f 00000023 00000000 00000000 00000000 00000000 00000000 00000000 00000000 \
                     00000000 00000000 00000000 00000000 00000000\n00000001 00000001 00000001 0 0 0 0 0 0 0 0 0 1 0 0\n";
        let some = |processed, dropped, squeezed| Softnet {
            processed: Some(processed),
            dropped: Some(dropped),
            squeezed: Some(squeezed),
        };
        assert_eq!(Softnet::parse(v4_19), some(10, 1, 2));
        assert_eq!(Softnet::parse(v6_18), some(0x0de8_501d, 0x4c70, 0x24));
        assert_eq!(Softnet::parse(""), Softnet::default());
        assert_eq!(Softnet::parse("0000000a\n"), Softnet { processed: Some(10), ..Softnet::default() });
        assert_eq!(Softnet::parse("zz 1 1").processed, None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            prop_assert!(Softnet::parse(&text).processed <= Some(u64::from(u32::MAX) * 300));
        }
    }
}
