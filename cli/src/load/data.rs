//! A data file: rows that the iterations take in turn.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::PlanError;

/// Bytes of a data file.
const MAX_DATA_BYTES: u64 = 64 * 1024 * 1024;

/// A CSV file with a line of names, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Table")]
pub(crate) struct Data {
    columns: Vec<String>,
    /// Row by row; whole rows, and at least one.
    cells: Vec<Box<str>>,
}

/// What comes from another machine, and may be anything.
#[derive(Deserialize)]
struct Table {
    columns: Vec<String>,
    cells: Vec<Box<str>>,
}

impl TryFrom<Table> for Data {
    type Error = DataError;

    fn try_from(Table { columns, cells }: Table) -> Result<Self, DataError> {
        if cells.is_empty() {
            return Err(DataError::Empty);
        }
        if columns.is_empty() || cells.len() % columns.len() != 0 {
            return Err(DataError::Ragged { columns: columns.len(), cells: cells.len() });
        }
        Ok(Self { columns, cells })
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error("{0}")]
    Csv(#[from] csv::Error),
    #[error("it has no row below the line of column names")]
    Empty,
    #[error("it is larger than {} MiB", MAX_DATA_BYTES >> 20)]
    TooLarge,
    #[error("its {cells} cells make no whole rows of {columns} columns")]
    Ragged { columns: usize, cells: usize },
    #[error("two columns are named `{0}`")]
    Twice(String),
}

impl Data {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or as [`Data::parse`].
    pub(crate) fn read(path: &Path) -> Result<Self, PlanError> {
        let name = || path.display().to_string();
        let file = File::open(path).map_err(|source| PlanError::OpenData { path: name(), source })?;
        Self::parse(file).map_err(|source| PlanError::Data { path: name(), source })
    }

    /// # Errors
    /// It is no CSV (RFC 4180) with equally long rows, has no row, or is too large.
    pub(crate) fn parse(input: impl Read) -> Result<Self, DataError> {
        let mut limited = input.take(MAX_DATA_BYTES + 1);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(&mut limited);
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            return Err(DataError::Twice(twice.1.clone()));
        }
        let mut cells = Vec::new();
        let mut row = csv::StringRecord::new();
        while reader.read_record(&mut row)? {
            cells.extend(row.iter().map(Box::<str>::from));
        }
        drop(reader);
        if limited.limit() == 0 {
            return Err(DataError::TooLarge);
        }
        Table { columns, cells }.try_into()
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// Rows are taken in turn, and from the start again after the last.
    pub(super) fn cell(&self, sequence: u64, column: usize) -> &str {
        let rows = self.cells.len() / self.columns.len();
        // Below the number of rows.
        let row = (sequence % rows as u64) as usize;
        &self.cells[row * self.columns.len() + column]
    }

    /// The first cell of a column that `is_bad`, with its line in the file (if no cell has line breaks).
    pub(super) fn find(&self, column: usize, is_bad: impl Fn(&str) -> bool) -> Option<(usize, &str)> {
        let cells = self.cells.iter().skip(column).step_by(self.columns.len());
        cells.enumerate().find(|(_, cell)| is_bad(cell)).map(|(row, cell)| (row + 2, &**cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_in_turn() {
        let data = Data::parse("a, b\n1,\"x,y\"\n2,z\n".as_bytes()).unwrap();
        assert_eq!(data.columns(), ["a", "b"]);
        let b = data.column("b").unwrap();
        assert_eq!([0, 1, 2, u64::MAX].map(|n| data.cell(n, b)), ["x,y", "z", "x,y", "z"]);
        assert_eq!(data.find(b, |cell| cell == "z"), Some((3, "z")));
    }

    #[test]
    fn a_table_travels_and_a_forged_one_is_refused() {
        let data = Data::parse("a,b\n1,2\n".as_bytes()).unwrap();
        let text = serde_json::to_string(&data).unwrap();
        assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), data);
        for (columns, cells, part) in [
            (r#"["a"]"#, "[]", "no row"),
            ("[]", r#"["1"]"#, "no whole rows"),
            (r#"["a", "b"]"#, r#"["1", "2", "3"]"#, "no whole rows"),
        ] {
            let forged = format!(r#"{{"columns": {columns}, "cells": {cells}}}"#);
            let error = serde_json::from_str::<Data>(&forged).unwrap_err().to_string();
            assert!(error.contains(part), "{forged}: {error}");
        }
    }

    #[test]
    fn bad_files_are_refused() {
        for (text, part) in [
            ("", "no row"),
            ("a,b\n", "no row"),
            ("a,b\n1\n", "found record with 1 fields"),
            ("a,a\n1,2\n", "two columns are named `a`"),
        ] {
            let error = Data::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        let endless = std::io::repeat(b'a');
        assert!(matches!(Data::parse(endless), Err(DataError::TooLarge | DataError::Empty)));
    }
}
