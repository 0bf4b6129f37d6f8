//! Numbers as the kernel writes them. What is missing or unreadable is `None`, never zero.

use std::str::FromStr;

/// The first word of a text as a number.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

/// The number after a key at the beginning of a line: `nr_periods 4`, `MemTotal:  9 kB`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, rest) = line.split_once([' ', ':', '\t'])?;
        if found == key { number(rest.trim_start_matches(':')) } else { None }
    })
}

/// The number after a word within one line: `inuse 3` of `TCP: inuse 3 orphan 0`.
pub(super) fn after(line: &str, word: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.parse().ok()
}

/// The sum of what each processor counted; `None` without a processor, or if one of them cannot be read.
pub(super) fn sum(values: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    let mut total = None;
    for value in values {
        total = Some(total.unwrap_or(0_u64).wrapping_add(value?));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_unknown() {
        let text = "MemTotal:  9 kB\nnr_periods 4\nbad x\nempty\n";
        for (key, expected) in
            [("MemTotal", Some(9)), ("nr_periods", Some(4)), ("bad", None), ("empty", None), ("Mem", None)]
        {
            assert_eq!(keyed(text, key), expected, "{key}");
        }
        assert_eq!(after("TCP: inuse 3 tw", "inuse"), Some(3));
        assert_eq!(after("TCP: inuse 3 tw", "tw"), None);
        assert_eq!(sum([]), None);
        assert_eq!(sum([Some(1), None]), None);
        assert_eq!(sum([Some(1), Some(2)]), Some(3));
    }
}
