//! What accepted requests and their parts are called, by where in the journal they are.

use std::fmt;
use std::str::FromStr;

use crate::contract::MAX_OPERATIONS_PER_REQUEST;
use crate::operation::Position;

/// Names what of one accepted request is in one shard: the shard, the entry's position, the place in the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId {
    pub shard: u16,
    pub position: Position,
    pub place: u16,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.shard, self.position.ms, self.position.seq, self.place)
    }
}

impl FromStr for WriteId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit())).ok_or(());
        let id = Self {
            shard: next()?.parse().map_err(drop)?,
            position: Position { ms: next()?.parse().map_err(drop)?, seq: next()?.parse().map_err(drop)? },
            place: next()?.parse().map_err(drop)?,
        };
        if parts.next().is_some() { Err(()) } else { Ok(id) }
    }
}

/// The operation id of a part of a request that came without one: where it is, and a number that nobody can guess, so that
/// neither can ids of documents be that derive from it. Its text is `shard.ms.seq.place.salt`, the salt as 16 hexadecimal
/// digits. It says where to look for its documents, so nothing has to be remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedName {
    pub id: WriteId,
    pub salt: u64,
}

impl fmt::Display for PlacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.id, self.salt)
    }
}

impl FromStr for PlacedName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, salt) = text.rsplit_once('.').ok_or(())?;
        let is_salt = salt.len() == 16 && salt.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let salt = u64::from_str_radix(salt, 16).ok().filter(|_| is_salt).ok_or(())?;
        Ok(Self { id: id.parse()?, salt })
    }
}

/// Names one accepted request: a part for each shard that it wrote to. Its text form, `shard.ms.seq.place` with `+`
/// between the parts, is the `write_id` that clients get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteIds {
    first: WriteId,
    others: Box<[WriteId]>,
}

impl WriteIds {
    #[must_use]
    pub fn one(id: WriteId) -> Self {
        Self { first: id, others: Box::default() }
    }

    /// `None` for none at all.
    #[must_use]
    pub fn new(ids: &[WriteId]) -> Option<Self> {
        let (&first, others) = ids.split_first()?;
        Some(Self { first, others: others.into() })
    }

    pub fn iter(&self) -> impl Iterator<Item = WriteId> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// The part in the lowest shard.
    #[must_use]
    pub fn first(&self) -> WriteId {
        self.first
    }

    /// The version that writes to this shard have.
    #[must_use]
    pub fn version(&self, shard: u16) -> Option<i64> {
        self.iter().find(|id| id.shard == shard).map(|id| id.position.version())
    }
}

impl fmt::Display for WriteIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.others.iter().try_for_each(|id| write!(f, "+{id}"))
    }
}

impl FromStr for WriteIds {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let ids: Vec<WriteId> =
            text.splitn(MAX_OPERATIONS_PER_REQUEST + 1, '+').map(str::parse).collect::<Result<_, ()>>()?;
        let apart = ids.iter().zip(ids.iter().skip(1)).all(|(one, next)| one.shard < next.shard);
        if apart { Self::new(&ids).ok_or(()) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_ids_round_trip_and_reject_everything_else() {
        let id = WriteId { shard: 3, position: Position { ms: 1_795_000_000_000, seq: 7 }, place: 2 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "0.1.2", "0.1.2.3.4", "0.-1.2.3", "a.b.c.d", "0.1.2.70000", "+0.1.2.3", "0..2.3"]
        {
            assert_eq!(bad.parse::<WriteId>(), Err(()), "{bad}");
            assert_eq!(bad.parse::<WriteIds>(), Err(()), "{bad}");
        }
        let ids = WriteIds::new(&[id, WriteId { shard: 5, ..id }]).unwrap();
        assert_eq!(ids.to_string(), "3.1795000000000.7.2+5.1795000000000.7.2");
        assert_eq!(ids.to_string().parse(), Ok(ids));
        let name = PlacedName { id, salt: 0xab };
        assert_eq!(name.to_string(), "3.1795000000000.7.2.00000000000000ab");
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in [
            "",
            "1.1.1.1",
            "1.1.1.1.1",
            "1.1.1.1.1.00000000000000ab",
            "1.1.1.1.00000000000000AB",
            "1.1.1.1.+0000000000000ab",
        ] {
            assert_eq!(bad.parse::<PlacedName>(), Err(()), "{bad}");
        }
        for bad in ["1.1.1.1+", "+1.1.1.1", "1.1.1.1+1.1.1.1", "2.1.1.1+1.1.1.1"] {
            assert_eq!(bad.parse::<WriteIds>(), Err(()), "{bad}");
        }
    }
}
