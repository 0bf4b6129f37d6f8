//! The last acknowledged position, on disk. It is not flushed: after a power cut an older one only means that
//! some entries are delivered again, which the store recognises.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::operation::Position;

const SLOT_BYTES: usize = 20;

/// Two slots, written in turn, so that a torn write leaves the other one.
pub(super) struct Checkpoint {
    file: File,
    position: Position,
    next_slot: u64,
}

impl Checkpoint {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("checkpoint");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let slots = [0, 1].map(|slot| read_slot(&file, slot));
        let next_slot = u64::from(slots[0] > slots[1]);
        let position = slots.into_iter().flatten().max().unwrap_or_default();
        Ok(Self { file, position, next_slot })
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn advance(&mut self, position: Position) -> io::Result<()> {
        let mut slot = [0; SLOT_BYTES];
        slot[4..12].copy_from_slice(&position.ms.to_le_bytes());
        slot[12..].copy_from_slice(&position.seq.to_le_bytes());
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&slot, self.next_slot * SLOT_BYTES as u64)?;
        self.next_slot = 1 - self.next_slot;
        self.position = position;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<Position> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let crc = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    (crc == crc32fast::hash(&bytes[4..])).then(|| Position { ms: long(4), seq: long(12) })
}
