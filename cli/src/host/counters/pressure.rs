//! Pressure stall information: for how long tasks waited for a resource (`Documentation/accounting/psi.rst`).

use serde::Serialize;

use crate::root::Root;

/// Of one resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pressure {
    /// At least one task waited.
    pub(crate) some: Stall,
    /// All that could work waited. Unknown of processors before kernel 5.13.
    pub(crate) full: Stall,
}

/// For how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stall {
    /// Of the last ten seconds, in percent.
    pub(crate) avg10_percent: Option<f64>,
    /// Since the start, in µs.
    pub(crate) total_us: Option<u64>,
}

/// Of the machine, or of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pressures {
    pub(crate) cpu: Pressure,
    pub(crate) memory: Pressure,
    pub(crate) io: Pressure,
}

impl Pressures {
    /// Of the machine; all unknown on kernels that were built or started without it.
    pub(super) fn read(root: &Root) -> Self {
        let of = |name: &str| {
            root.known(format!("/proc/pressure/{name}")).as_deref().map(Pressure::parse).unwrap_or_default()
        };
        Self { cpu: of("cpu"), memory: of("memory"), io: of("io") }
    }
}

impl Pressure {
    pub(super) fn parse(text: &str) -> Self {
        let stall = |name: &str| {
            let field = |key: &str| {
                let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
                line.split_whitespace().find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
            };
            let percent = field("avg10").and_then(|value| value.parse::<f64>().ok());
            Stall {
                avg10_percent: percent.filter(|value| value.is_finite()),
                total_us: field("total").and_then(|value| value.parse().ok()),
            }
        };
        Self { some: stall("some"), full: stall("full") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_lines_are_read_and_a_missing_one_is_unknown() {
        let v5_10 = "some avg10=1.50 avg60=0.10 avg300=0.00 total=12345\n";
        let found = Pressure::parse(v5_10);
        assert_eq!((found.some.avg10_percent, found.some.total_us), (Some(1.5), Some(12345)));
        assert_eq!(found.full, Stall::default());
        let v6_1 = format!("{v5_10}full avg10=0.25 avg60=0.00 avg300=0.00 total=99\n");
        assert_eq!(Pressure::parse(&v6_1).full, Stall { avg10_percent: Some(0.25), total_us: Some(99) });
        for text in ["", "some", "some avg10=NaN total=-1", "sometimes avg10=1 total=1"] {
            assert_eq!(Pressure::parse(text), Pressure::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            let found = Pressure::parse(&format!("some {text}"));
            prop_assert!(found.some.avg10_percent.is_none_or(f64::is_finite));
        }
    }
}
