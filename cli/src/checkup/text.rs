//! Rows as a table for people, within 100 columns.

use std::fmt::Write as _;

use super::counted;
use super::row::{Row, Status, Unit};

const WIDTH: usize = 100;
const INDENT: usize = 4;

/// Whether the states are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Colored,
}

/// The table. A row that is fine takes a line; another one says beneath it what it means and what lifts it.
pub(crate) fn text(rows: &[Row], paint: Paint) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            [
                status(row.status),
                row.check.clone(),
                row.setting.clone().unwrap_or_else(|| quantity(row.value, row.unit)),
                quantity(row.limit, row.unit),
                row.counter.clone(),
            ]
        })
        .collect();
    let head = ["STATUS", "CHECK", "NOW", "LIMIT", "COUNTER"].map(str::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(&cells);
        cells.map(|cells| cells[column].chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = line(&head, widths);
    for (row, cells) in rows.iter().zip(&cells) {
        text.push_str(&painted(&line(cells, widths), row.status, paint));
        if row.status == Status::Ok {
            continue;
        }
        wrapped(&mut text, &row.message);
        let lift = row.lift();
        if !lift.is_empty() && row.status != Status::Unknown {
            wrapped(&mut text, &format!("lifted by: {lift}"));
        }
    }
    text
}

fn status(status: Status) -> String {
    match status {
        Status::Ok => "ok".to_owned(),
        Status::Warn => "warn".to_owned(),
        Status::WillFail { at_users } => format!("will fail at {}", counted(at_users, "user")),
        Status::Unknown => "unknown".to_owned(),
    }
}

/// The cells of a row, the counter on a line of its own if it does not fit.
fn line(cells: &[String; 5], widths: [usize; 4]) -> String {
    let [status, check, now, limit, counter] = cells;
    let [first, second, third, fourth] = widths;
    let mut text = format!("{status:<first$}  {check:<second$}  {now:>third$}  {limit:>fourth$}");
    if text.chars().count() + 2 + counter.chars().count() <= WIDTH {
        let _ = writeln!(text, "  {counter}");
    } else {
        text = format!("{}\n", text.trim_end());
        wrapped(&mut text, counter);
    }
    text
}

fn painted(line: &str, status: Status, paint: Paint) -> String {
    let color = match status {
        _ if paint == Paint::Plain => return line.to_owned(),
        Status::Ok => "32",
        Status::Warn => "33",
        Status::WillFail { .. } => "31",
        Status::Unknown => "36",
    };
    let words = line.find("  ").unwrap_or(0);
    format!("\u{1b}[{color}m{}\u{1b}[0m{}", &line[..words], &line[words..])
}

/// Words in lines of at most [`WIDTH`], indented from the second on.
pub(crate) fn paragraph(words: &str) -> String {
    let mut text = String::new();
    wrapped(&mut text, words);
    text.get(INDENT..).unwrap_or_default().to_owned()
}

/// Adds words in lines of at most [`WIDTH`], indented; a word that is longer stays whole.
fn wrapped(text: &mut String, words: &str) {
    let mut used = 0;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > WIDTH - INDENT {
            text.push('\n');
            used = 0;
        }
        if used == 0 {
            text.push_str(&" ".repeat(INDENT));
        } else {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
    }
    text.push('\n');
}

/// A number as it is read: `1.5 GiB`, `12.0%`, `4096`.
fn quantity(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match unit {
        Unit::Count | Unit::Pages | Unit::Rate if value.fract() == 0.0 => format!("{value:.0}"),
        Unit::Count | Unit::Pages | Unit::Rate => format!("{value:.1}"),
        Unit::Share => format!("{:.1}%", value * 100.0),
        Unit::Bytes => {
            let units = ["B", "KiB", "MiB", "GiB", "TiB"];
            let power = units.iter().skip(1).take_while({
                let mut size = value;
                move |_| {
                    let is_larger = size >= 1024.0;
                    size /= 1024.0;
                    is_larger
                }
            });
            let power = power.count();
            let scaled = value / 1024_f64.powi(i32::try_from(power).unwrap_or(0));
            let digits = usize::from(power > 0);
            format!("{scaled:.digits$} {}", units[power])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_at_a_glance() {
        for (value, unit, expected) in [
            (None, Unit::Count, "-"),
            (Some(4096.0), Unit::Count, "4096"),
            (Some(0.5), Unit::Rate, "0.5"),
            (Some(0.125), Unit::Share, "12.5%"),
            (Some(512.0), Unit::Bytes, "512 B"),
            (Some(1024.0), Unit::Bytes, "1.0 KiB"),
            (Some(1.5 * 1024.0 * 1024.0 * 1024.0), Unit::Bytes, "1.5 GiB"),
            (Some(1e18), Unit::Bytes, "909494.7 TiB"),
        ] {
            assert_eq!(quantity(value, unit), expected);
        }
    }

    #[test]
    fn a_row_that_is_not_fine_says_what_it_means_and_what_lifts_it() {
        let fine = Row::of("one", "a.b", Unit::Count).counts(Some(1), Some(2)).ok("never shown");
        let bad = Row::of("another", "c.d", Unit::Count)
            .lifted_by(&["nofile"], &["deploy.x"], "raise it")
            .counts(Some(3), Some(4))
            .fails(7, "no room");
        let text = text(&[fine.clone(), bad.clone()], Paint::Plain);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["STATUS", "CHECK", "NOW", "LIMIT", "COUNTER"]);
        assert_eq!(lines[1], ["ok", "one", "1", "2", "a.b"]);
        assert_eq!(lines[2], ["will", "fail", "at", "7", "users", "another", "3", "4", "c.d"]);
        let ends: Vec<usize> = text.lines().take(3).map(|line| line.rfind("  ").unwrap()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "the columns are aligned: {text}");
        assert!(text.ends_with("\n    no room\n    lifted by: nofile, deploy.x: raise it\n"), "{text}");
        assert!(!text.contains("never shown") && !text.contains('\u{1b}'));
        let colored = super::text(&[fine, bad], Paint::Colored);
        assert!(colored.contains("\u{1b}[31mwill fail at 7 users\u{1b}[0m"), "{colored}");
    }

    proptest! {
        #[test]
        fn lines_are_within_the_width(words in "([a-z]{1,30} ?){0,60}", counter in "[a-z]{1,90}", value in any::<u32>()) {
            let row = Row::of("check of something", counter, Unit::Count).counts(Some(value.into()), None);
            let row = row.lifted_by(&[], &["deploy.x"], &words).warn(words.clone());
            let text = text(&[row], Paint::Plain);
            let longest = words.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
            let allowed = WIDTH.max(longest + INDENT);
            prop_assert!(text.lines().all(|line| line.chars().count() <= allowed), "{}", text);
        }
    }
}
