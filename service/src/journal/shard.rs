//! Which of the journals a document belongs to. All writes of a document go through one of them, so that they are
//! applied in order.

use super::PlacedName;
use crate::contract::operation_of;
use crate::operation::DocumentKey;

/// Most journals of one service.
pub const MAX_SHARDS: u16 = 64;

/// The shard of a document, below `shards`, which is at least 1. It depends on nothing but the key and never changes:
/// entries of another version of this program wait in the journals, too. An id that derives from a request's place in
/// the journals is in the shard that it names.
#[must_use]
pub fn shard_of(key: &DocumentKey, shards: u16) -> u16 {
    if shards <= 1 {
        return 0;
    }
    if let Some(name) = placed(key.id())
        && name.id.shard < shards
    {
        return name.id.shard;
    }
    let shard = crc32fast::hash(key.as_bytes()) % u32::from(shards.max(1));
    u16::try_from(shard).expect("a remainder is below its divisor")
}

/// The operation that such an id derives from.
#[must_use]
pub fn placed(id: &str) -> Option<PlacedName> {
    operation_of(id)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By zlib's crc32 of `collection NUL id`, not by this code.
    #[test]
    fn the_shard_of_a_document_is_fixed_for_ever() {
        for (collection, id, of_64, of_7) in [
            ("orders", "1", 41, 2),
            ("orders", "2", 19, 1),
            ("items", "item-00000042", 56, 6),
            ("ünïcode", "日本", 9, 2),
            ("c", &"x".repeat(200), 43, 6),
        ] {
            let key = DocumentKey::new(collection, id);
            assert_eq!((shard_of(&key, 64), shard_of(&key, 7), shard_of(&key, 1)), (of_64, of_7, 0), "{key}");
        }
    }

    #[test]
    fn an_id_that_names_its_shard_is_there() {
        let of = |id: &str, shards| shard_of(&DocumentKey::new("orders", id), shards);
        let id = "5.1795000000000.7.2.00000000000000ab-03";
        assert_eq!((of(id, 64), of(id, 6), of(id, 1)), (5, 5, 0));
        assert!(of(id, 5) < 5, "one that there is");
        assert_eq!(of(&id.replace("-03", "-3"), 64), 39, "by its checksum, which zlib gives");
    }

    #[test]
    fn shards_get_about_as_many_documents_each() {
        let mut counts = [0; MAX_SHARDS as usize];
        for n in 0..64_000 {
            counts[usize::from(shard_of(&DocumentKey::new("orders", &format!("k{n:06}-00")), MAX_SHARDS))] +=
                1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
