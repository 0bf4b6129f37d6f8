//! Objects as YAML that every reader takes alike. kubectl reads YAML 1.1, where a plain `yes`, `on` or `1_000` is no text;
//! a writer of YAML 1.2 leaves them plain. Here a text is plain only when nobody could take it for anything else.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Texts of letters that YAML 1.1 or 1.2 takes for something else, in small letters.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// One document, without a line that begins it.
pub(super) fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => entries(&mut text, map, 0),
        Value::Array(list) if !list.is_empty() => items(&mut text, list, 0),
        scalar => {
            text.push_str(&self::scalar(scalar));
            text.push('\n');
        }
    }
    text
}

/// The cursor is where the first key goes; the others go below it.
fn entries(text: &mut String, map: &Map<String, Value>, indent: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            pad(text, indent);
        }
        text.push_str(&line(key));
        text.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push('\n');
                pad(text, indent + 2);
                entries(text, map, indent + 2);
            }
            Value::Array(list) if !list.is_empty() => {
                text.push('\n');
                pad(text, indent);
                items(text, list, indent);
            }
            Value::String(lines) if is_block(lines) => block(text, lines, indent + 2),
            other => {
                let _ = writeln!(text, " {}", scalar(other));
            }
        }
    }
}

fn items(text: &mut String, list: &[Value], indent: usize) {
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            pad(text, indent);
        }
        text.push('-');
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push(' ');
                entries(text, map, indent + 2);
            }
            Value::Array(list) if !list.is_empty() => {
                text.push(' ');
                items(text, list, indent + 2);
            }
            Value::String(lines) if is_block(lines) => block(text, lines, indent + 2),
            other => {
                let _ = writeln!(text, " {}", scalar(other));
            }
        }
    }
}

fn pad(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => line(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// A text on one line: plain where that is beyond doubt, else with quotes.
fn line(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./@:+=".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || text.strip_prefix("--").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
    let is_word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if begins && text.chars().all(plain) && !text.ends_with(':') && !is_word {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // What YAML takes for no character, or for the end of a line.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a text of several lines reads back as it is when it is written as such.
fn is_block(text: &str) -> bool {
    let printable = |c: char| c == '\n' || (c.is_ascii() && !c.is_ascii_control());
    text.contains('\n')
        && text.chars().all(printable)
        && !text.starts_with([' ', '\n'])
        && !text.ends_with("\n\n")
        && text.lines().all(|line| !line.ends_with(' '))
}

fn block(text: &mut String, lines: &str, indent: usize) {
    text.push_str(if lines.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in lines.lines() {
        if !line.is_empty() {
            pad(text, indent);
            text.push_str(line);
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-z0-9:_. /\\-]{0,8}",
            "[ -~\n]{0,20}",
            any::<String>(),
            prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_it_was(value in any_value()) {
            let text = write(&value);
            let read: Value = serde_yaml::from_str(&text)
                .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }

    #[test]
    fn texts_that_an_older_reader_would_misread_have_quotes() {
        for text in [
            "yes", "No", "ON", "y", "1_000", "0x10", "12:30", "1e3", "", "~", "=", "<<", "-1", "0.1.0", "a:",
            "#a",
        ] {
            assert_eq!(line(text), format!("\"{text}\""));
        }
        for text in ["scalekit:0.1.0", "--appendonly", "/data/db", "redis-server", "app.kubernetes.io/name"] {
            assert_eq!(line(text), text);
        }
    }

    #[test]
    fn lists_and_lines_are_laid_out_as_people_write_them() {
        let value = json!({ "a": [{ "b": 1, "c": ["x"] }, []], "d": {}, "e": "one\n\ntwo\n", "f": "x\ny" });
        let expected = "a:\n- b: 1\n  c:\n  - x\n- []\nd: {}\ne: |\n  one\n\n  two\nf: |-\n  x\n  \"y\"\n";
        assert_eq!(write(&value), expected.replace("\"y\"", "y"));
    }
}
