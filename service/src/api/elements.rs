//! BSON as it is written: elements, and documents whose length is known at their end (<https://bsonspec.org/spec.html>).

/// Types of elements.
pub(super) mod kind {
    pub(in super::super) const DOUBLE: u8 = 0x01;
    pub(in super::super) const STRING: u8 = 0x02;
    pub(in super::super) const DOCUMENT: u8 = 0x03;
    pub(in super::super) const ARRAY: u8 = 0x04;
    pub(in super::super) const BOOLEAN: u8 = 0x08;
    pub(in super::super) const NULL: u8 = 0x0A;
    pub(in super::super) const INT32: u8 = 0x10;
    pub(in super::super) const INT64: u8 = 0x12;
}

/// Opens an element: its type, to be corrected by the value at the place that is returned, and its name.
pub(super) fn element(out: &mut Vec<u8>, name: &str) -> usize {
    let at = out.len();
    out.push(kind::NULL);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    at
}

/// Begins a document or a list.
pub(super) fn open(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    at
}

/// Ends what was opened at this place; `None` beyond 2 GiB.
pub(super) fn close(out: &mut Vec<u8>, at: usize) -> Option<()> {
    out.push(0);
    let length = i32::try_from(out.len() - at).ok()?;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Some(())
}

/// Completes an element with a text; `None` beyond 2 GiB.
pub(super) fn text(out: &mut Vec<u8>, at: usize, text: &str) -> Option<()> {
    let length = i32::try_from(text.len() + 1).ok()?;
    out[at] = kind::STRING;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Some(())
}

/// Completes an element with a whole number, in the smallest type that holds it.
pub(super) fn integer(out: &mut Vec<u8>, at: usize, value: i64) {
    match i32::try_from(value) {
        Ok(small) => {
            out[at] = kind::INT32;
            out.extend_from_slice(&small.to_le_bytes());
        }
        Err(_) => {
            out[at] = kind::INT64;
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}
