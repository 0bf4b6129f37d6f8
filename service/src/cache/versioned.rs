//! A document's state as far as the cache knows it: a base and the merges on top of it, each under the version
//! of its journal entry. Changes may arrive in any order, and more than once; the state is the same.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::operation::Change;

/// Merges kept apart before the oldest are folded into the base.
pub(super) const MAX_PATCHES: usize = 32;

/// What is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versioned {
    base: Option<Base>,
    /// In the order of their versions, all newer than the base.
    patches: Vec<Patch>,
}

#[derive(Clone, Debug, PartialEq)]
struct Base {
    version: i64,
    /// `None`: there is no such document.
    json: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq)]
struct Patch {
    version: i64,
    json: Bytes,
}

/// A change to the cached state; documents are JSON objects as text.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheChange {
    /// This is the document from now on.
    Set(Bytes),
    /// Top-level fields to set, or to remove where null.
    Merge(Bytes),
    Remove,
}

impl CacheChange {
    /// The change in the form that the cache keeps; `json` is the client's own text of the document.
    #[must_use]
    pub fn new(change: &Change, json: Option<Bytes>) -> Self {
        match (change, json) {
            (Change::Insert(_) | Change::Replace(_), Some(json)) => Self::Set(json),
            (Change::Merge(_), Some(json)) => Self::Merge(json),
            _ => Self::Remove,
        }
    }
}

impl Versioned {
    /// What a read of the database found.
    #[must_use]
    pub fn stored(version: i64, json: Option<Bytes>) -> Self {
        Self { base: Some(Base { version, json }), patches: Vec::new() }
    }

    /// The newest version in it.
    #[must_use]
    pub fn version(&self) -> i64 {
        let base = self.base.as_ref().map_or(i64::MIN, |base| base.version);
        self.patches.last().map_or(base, |patch| patch.version)
    }

    /// Applies one write of the journal.
    pub fn apply(&mut self, version: i64, change: CacheChange) {
        match change {
            CacheChange::Set(json) => self.rebase(version, Some(json)),
            CacheChange::Remove => self.rebase(version, None),
            CacheChange::Merge(json) => self.patch(version, json),
        }
    }

    /// Adopts what another one knows: a fill from the database, or a newer state.
    pub fn absorb(&mut self, other: Self) {
        if let Some(base) = other.base {
            self.rebase(base.version, base.json);
        }
        for patch in other.patches {
            self.patch(patch.version, patch.json);
        }
    }

    /// The document, if it is known: `Some(None)` means known to be absent, `None` that the base is missing.
    #[must_use]
    pub fn document(&self) -> Option<Option<Bytes>> {
        let base = self.base.as_ref()?;
        if self.patches.is_empty() {
            return Some(base.json.clone());
        }
        Some(Some(merged(base.json.as_ref(), self.patches.iter().map(|patch| &patch.json))))
    }

    /// Bytes held, for cache bounds.
    #[must_use]
    pub fn weight(&self) -> usize {
        let base = self.base.as_ref().and_then(|base| base.json.as_ref()).map_or(0, Bytes::len);
        base + self.patches.iter().map(|patch| patch.json.len() + 40).sum::<usize>() + 64
    }

    /// An equal version is another write of the same journal entry: the later call is the later write.
    fn rebase(&mut self, version: i64, json: Option<Bytes>) {
        if self.base.as_ref().is_some_and(|base| base.version > version) {
            return;
        }
        self.patches.retain(|patch| patch.version > version);
        self.base = Some(Base { version, json });
    }

    fn patch(&mut self, version: i64, json: Bytes) {
        if self.base.as_ref().is_some_and(|base| base.version > version) {
            return;
        }
        let at = self.patches.partition_point(|patch| patch.version <= version);
        if at > 0 && self.patches[at - 1] == (Patch { version, json: json.clone() }) {
            return;
        }
        self.patches.insert(at, Patch { version, json });
        if self.patches.len() > MAX_PATCHES
            && let Some(base) = &mut self.base
        {
            let oldest = self.patches.remove(0);
            base.json = Some(merged(base.json.as_ref(), std::iter::once(&oldest.json)));
            base.version = oldest.version;
        }
    }

    /// For a cache of bytes: version and tag in front of the JSON text.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.weight());
        let parts = self.base.iter().map(|base| (base.version, base.json.as_ref(), b'B'));
        let patches = self.patches.iter().map(|patch| (patch.version, Some(&patch.json), b'P'));
        for (version, json, tag) in parts.chain(patches) {
            out.push(if json.is_none() { b'A' } else { tag });
            out.extend_from_slice(&version.to_le_bytes());
            let json = json.map_or(&[][..], |json| json);
            out.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(json);
        }
        out
    }

    /// The inverse of [`Versioned::encode`]; `None` for bytes that it did not make.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        let mut known = Self::default();
        while !bytes.is_empty() {
            if bytes.len() < 13 {
                return None;
            }
            let header = bytes.split_to(13);
            let version = i64::from_le_bytes(header[1..9].try_into().ok()?);
            let length = u32::from_le_bytes(header[9..].try_into().ok()?) as usize;
            if bytes.len() < length {
                return None;
            }
            let json = bytes.split_to(length);
            match header[0] {
                b'B' => known.base = Some(Base { version, json: Some(json) }),
                b'A' => known.base = Some(Base { version, json: None }),
                b'P' => known.patches.push(Patch { version, json }),
                _ => return None,
            }
        }
        Some(known)
    }
}

/// A base under merges, oldest first. A merge into nothing is the merge itself, without its nulls.
fn merged<'a>(base: Option<&Bytes>, patches: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let object = |json: &Bytes| serde_json::from_slice::<Map<String, Value>>(json).unwrap_or_default();
    let mut document = base.map(object).unwrap_or_default();
    for patch in patches {
        for (field, value) in object(patch) {
            if value.is_null() {
                document.shift_remove(&field);
            } else {
                document.insert(field, value);
            }
        }
    }
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(json: &str) -> Bytes {
        Bytes::copy_from_slice(json.as_bytes())
    }

    fn merge(json: &str) -> CacheChange {
        CacheChange::Merge(text(json))
    }

    #[test]
    fn a_merge_alone_needs_a_base() {
        let mut known = Versioned::default();
        known.apply(5, merge(r#"{"a":1}"#));
        assert_eq!(known.document(), None);
        known.absorb(Versioned::stored(3, Some(text(r#"{"a":0,"b":2}"#))));
        assert_eq!(known.document(), Some(Some(text(r#"{"a":1,"b":2}"#))));
        known.absorb(Versioned::stored(5, Some(text(r#"{"a":9}"#))));
        assert_eq!(known.document(), Some(Some(text(r#"{"a":9}"#))), "the database has caught up");
    }

    #[test]
    fn an_old_fill_does_not_undo_a_newer_write() {
        let mut known = Versioned::default();
        known.apply(9, CacheChange::Remove);
        known.absorb(Versioned::stored(4, Some(text("{}"))));
        assert_eq!(known.document(), Some(None));
    }

    #[test]
    fn a_merge_into_nothing_is_itself_without_nulls() {
        let mut known = Versioned::stored(1, None);
        known.apply(2, merge(r#"{"a":1,"b":null}"#));
        assert_eq!(known.document(), Some(Some(text(r#"{"a":1}"#))));
    }

    #[test]
    fn many_merges_stay_bounded() {
        let mut known = Versioned::stored(0, None);
        for version in 1..200 {
            known.apply(version, merge(&format!(r#"{{"n":{version}}}"#)));
        }
        assert!(known.patches.len() <= MAX_PATCHES);
        assert_eq!(known.document(), Some(Some(text(r#"{"n":199}"#))));
    }

    fn changes() -> impl Strategy<Value = Vec<CacheChange>> {
        let change = prop_oneof![
            (0..9_i32).prop_map(|n| CacheChange::Set(text(&format!(r#"{{"set":{n}}}"#)))),
            (0..4_i32, 0..9_i32).prop_map(|(field, n)| merge(&format!(r#"{{"f{field}":{n}}}"#))),
            (0..4_i32).prop_map(|field| merge(&format!(r#"{{"f{field}":null}}"#))),
            Just(CacheChange::Remove),
        ];
        proptest::collection::vec(change, 1..12)
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_state(changes in changes(), order in proptest::collection::vec(any::<u32>(), 24)) {
            let mut in_order = Versioned::stored(0, None);
            for (version, change) in changes.iter().enumerate() {
                in_order.apply(version as i64 + 1, change.clone());
            }
            // Shuffled, and every second change twice.
            let mut arrivals: Vec<(u32, usize)> = (0..changes.len()).map(|n| (order[n], n)).collect();
            arrivals.extend((0..changes.len()).step_by(2).map(|n| (order[12 + n], n)));
            arrivals.sort_unstable();
            let mut shuffled = Versioned::stored(0, None);
            for (_, n) in arrivals {
                shuffled.apply(n as i64 + 1, changes[n].clone());
            }
            let value = |known: &Versioned| known.document().unwrap().map(|json| serde_json::from_slice::<Value>(&json).unwrap());
            prop_assert_eq!(value(&in_order), value(&shuffled));
            let coded = Versioned::decode(Bytes::from(shuffled.encode())).unwrap();
            prop_assert_eq!(coded, shuffled);
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Versioned::decode(Bytes::from(bytes));
        }
    }
}
