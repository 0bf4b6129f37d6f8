//! Texts with variables, taken apart once before the start: `${seq}`, `${vu}`, `${iter}`, `${uuid}`,
//! `${rand:LOW:HIGH}` and `${data.COLUMN}`. `$${` stands for `${` itself.

use std::io::Write as _;

use super::data::Data;
use super::random::SplitMix64;

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    /// Unlike in any other iteration of the run; from 0, but not without gaps.
    Sequence,
    /// The user's number, from 1.
    User,
    /// The user's own iterations, from 0.
    Iteration,
    /// A random one, version 4.
    Uuid,
    /// A whole number between these two, both included.
    Random { low: u64, high: u64 },
    /// A column of the data file, in the row of this iteration.
    Column(usize),
}

/// What is the matter with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error(
        "`${{{name}}}` is no variable; there are ${{seq}}, ${{vu}}, ${{iter}}, ${{uuid}}, ${{rand:LOW:HIGH}} and ${{data.COLUMN}} (write $${{ for the text ${{ itself)"
    )]
    Unknown { name: String },
    #[error("`${{` without a closing brace (write $${{ for the text ${{ itself)")]
    Open,
    #[error("`${{{name}}}`: expected ${{rand:LOW:HIGH}} with two whole numbers, LOW not above HIGH")]
    Random { name: String },
    #[error("`${{{name}}}`: no data file is given; set load.data (or --data FILE)")]
    NoData { name: String },
    #[error("`${{{name}}}`: the data file has no such column; it has {columns}")]
    NoColumn { name: String, columns: String },
}

/// What the variables stand for in one iteration.
pub(super) struct Values<'a> {
    /// From 0.
    pub(super) user: u32,
    pub(super) iteration: u32,
    /// Of the whole run.
    pub(super) users: u32,
    pub(super) data: Option<&'a Data>,
}

impl Values<'_> {
    fn sequence(&self) -> u64 {
        u64::from(self.iteration) * u64::from(self.users) + u64::from(self.user)
    }
}

impl Template {
    pub(super) fn parse(text: &str, data: Option<&Data>) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                literal.extend_from_slice(before.as_bytes());
                literal.extend_from_slice(b"${");
                rest = after;
                continue;
            }
            literal.extend_from_slice(before.as_bytes());
            let (name, after) = after.split_once('}').ok_or(TemplateError::Open)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Variable(Variable::parse(name, data)?));
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// Whether it is the same in every iteration.
    pub(super) fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The data columns that it uses.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(Variable::Column(column)) => Some(*column),
            _ => None,
        })
    }

    /// Appends the text of one iteration. `random` goes on from one text of a request to the next.
    pub(super) fn render(&self, values: &Values<'_>, random: &mut SplitMix64, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(variable) => variable.render(values, random, out),
            }
        }
    }
}

impl Variable {
    fn parse(name: &str, data: Option<&Data>) -> Result<Self, TemplateError> {
        let owned = || name.to_owned();
        match name {
            "seq" => return Ok(Self::Sequence),
            "vu" => return Ok(Self::User),
            "iter" => return Ok(Self::Iteration),
            "uuid" => return Ok(Self::Uuid),
            _ => {}
        }
        if let Some(range) = name.strip_prefix("rand:") {
            let bounds =
                range.split_once(':').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
            return match bounds {
                Some((low, high)) if low <= high => Ok(Self::Random { low, high }),
                _ => Err(TemplateError::Random { name: owned() }),
            };
        }
        if let Some(column) = name.strip_prefix("data.") {
            let data = data.ok_or_else(|| TemplateError::NoData { name: owned() })?;
            return data.column(column).map(Self::Column).ok_or_else(|| TemplateError::NoColumn {
                name: owned(),
                columns: data.columns().join(", "),
            });
        }
        Err(TemplateError::Unknown { name: owned() })
    }

    fn render(self, values: &Values<'_>, random: &mut SplitMix64, out: &mut Vec<u8>) {
        // Writing into memory does not fail.
        let _ = match self {
            Self::Sequence => write!(out, "{}", values.sequence()),
            Self::User => write!(out, "{}", u64::from(values.user) + 1),
            Self::Iteration => write!(out, "{}", values.iteration),
            Self::Uuid => {
                let bits = u128::from(random.next()) << 64 | u128::from(random.next());
                write!(out, "{}", uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
            }
            Self::Random { low, high } => write!(out, "{}", random.between(low, high)),
            Self::Column(column) => {
                if let Some(data) = values.data {
                    out.extend_from_slice(data.cell(values.sequence(), column).as_bytes());
                }
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> Data {
        Data::parse("name,id\nann,7\nbob,8\n".as_bytes()).unwrap()
    }

    fn rendered(text: &str, user: u32, iteration: u32) -> String {
        let data = data();
        let template = Template::parse(text, Some(&data)).unwrap();
        let mut out = Vec::new();
        let values = Values { user, iteration, users: 10, data: Some(&data) };
        template.render(&values, &mut SplitMix64::of(1, user, iteration, 0), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, user, iteration, expected) in [
            ("plain", 0, 0, "plain"),
            ("", 0, 0, ""),
            ("${seq} ${vu} ${iter}", 3, 2, "23 4 2"),
            ("a$${b}${vu}", 0, 0, "a${b}1"),
            ("$ {} $", 0, 0, "$ {} $"),
            ("${data.name}=${data.id}", 0, 0, "ann=7"),
            ("${data.name}=${data.id}", 1, 0, "bob=8"),
            ("${data.name}", 0, 1, "ann"),
            ("${rand:5:5}", 0, 0, "5"),
        ] {
            assert_eq!(rendered(text, user, iteration), expected, "{text}");
        }
    }

    #[test]
    fn random_ones_differ_from_one_iteration_to_the_next_and_repeat_with_the_seed() {
        let uuid = rendered("${uuid}", 1, 1);
        assert_eq!(uuid::Uuid::parse_str(&uuid).unwrap().get_version_num(), 4);
        assert_eq!(rendered("${uuid}", 1, 1), uuid);
        assert_ne!(rendered("${uuid}", 1, 2), uuid);
        assert_ne!(rendered("${uuid}", 2, 1), uuid);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let data = data();
        for (text, part) in [
            ("${sek}", "`${sek}` is no variable; there are ${seq}"),
            ("${vu", "without a closing brace"),
            ("${rand:2:1}", "LOW not above HIGH"),
            ("${rand:x:1}", "two whole numbers"),
            ("${data.nam}", "no such column; it has name, id"),
        ] {
            let error = Template::parse(text, Some(&data)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Template::parse("${data.name}", None).unwrap_err().to_string();
        assert!(error.contains("no data file is given"), "{error}");
    }

    #[test]
    fn constants_are_known() {
        assert!(Template::parse("a$${b}", None).unwrap().is_constant());
        assert!(!Template::parse("a${vu}", None).unwrap().is_constant());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,60}") {
            if let Ok(template) = Template::parse(&text, None)
                && template.is_constant()
            {
                let mut out = Vec::new();
                let values = Values { user: 0, iteration: 0, users: 1, data: None };
                template.render(&values, &mut SplitMix64::of(1, 0, 0, 0), &mut out);
                prop_assert_eq!(String::from_utf8(out).unwrap(), text.replace("$${", "${"));
            }
        }

        #[test]
        fn random_numbers_keep_their_bounds(low: u64, high: u64, seed: u64) {
            let (low, high) = (low.min(high), low.max(high));
            let number = SplitMix64::of(seed, 1, 2, 3).between(low, high);
            prop_assert!((low..=high).contains(&number));
        }
    }
}
