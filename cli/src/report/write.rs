//! Writes a run's folder.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::distribution::Distribution;
use super::hgrm::hgrm;
use super::hlog_read::MERGED;
use super::model::Report;
use super::pending::PendingFile;

/// Names of the files that every run has.
const REPORT: &str = "report.json";
const SUMMARY: &str = "summary.txt";
const PERCENTILES: &str = "latency.hgrm";
/// Written while the run lasts, the others at its end.
pub(crate) const INTERVAL_LOG: &str = "latency.hlog";

/// The results cannot be kept: exit status 1, before the run when it shows then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("{path}: cannot write the results: {error}\nhelp: name a writable folder with --out")]
    Io { path: PathBuf, error: io::Error },
    #[error("expected a run id of letters, digits and -, found {0:?}")]
    RunId(String),
}

/// The folder of one run: it exists and is writable.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

/// Creates the run's folder and proves that it can be written to, so that a run does not end in finding out.
///
/// # Errors
/// When the folder exists already, cannot be created or cannot be written to.
pub(crate) fn prepare(out: &Path, run_id: &str) -> Result<RunFolder, WriteError> {
    let clean = run_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if run_id.is_empty() || run_id.len() > 64 || !clean {
        return Err(WriteError::RunId(run_id.to_owned()));
    }
    let path = out.join(run_id);
    let failed = |error| WriteError::Io { path: path.clone(), error };
    fs::create_dir_all(out).map_err(failed)?;
    fs::create_dir(&path).map_err(failed)?;
    let folder = RunFolder { path: path.clone() };
    if let Err(error) = folder.write("probe", b"writable\n") {
        // Best effort: the error is what counts.
        let _ = fs::remove_dir(&path);
        return Err(error);
    }
    fs::remove_file(path.join("probe")).map_err(failed)?;
    Ok(folder)
}

impl RunFolder {
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the report, its summary and its percentiles; returns the report's path.
    pub(crate) fn write_report(&self, report: &Report, summary: &str) -> Result<PathBuf, WriteError> {
        let json = serde_json::to_vec(report)
            .map_err(|error| WriteError::Io { path: self.path.join(REPORT), error: error.into() })?;
        let latencies = report.metrics.get(MERGED).and_then(|metric| metric.distribution.as_ref());
        let latencies = latencies.map_or_else(super::empty_histogram, Distribution::histogram);
        self.write(SUMMARY, summary.as_bytes())?;
        self.write(PERCENTILES, hgrm(&latencies).as_bytes())?;
        // Last: where it is, the rest is too.
        self.write(REPORT, &[json.as_slice(), b"\n"].concat())?;
        Ok(self.path.join(REPORT))
    }

    /// Writes one file of the run atomically.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), WriteError> {
        let mut file = self.create(name)?;
        let written = file.write_all(content).and_then(|()| file.finish());
        written.map_err(|error| WriteError::Io { path: self.path.join(name), error })
    }

    /// Begins a file of the run that is there once it is finished.
    pub(crate) fn create(&self, name: &str) -> Result<PendingFile, WriteError> {
        let path = self.path.join(name);
        PendingFile::create(&path).map_err(|error| WriteError::Io { path, error })
    }

    /// Takes the folder away if nothing was written to it: the run never started.
    pub(crate) fn discard_if_empty(&self) {
        // Fails when there is something in it, which is what is wanted.
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, read};
    use super::*;

    #[test]
    fn a_report_is_written_whole_and_reads_back() {
        let out = tempfile::tempdir().unwrap();
        let folder = prepare(&out.path().join("deep/reports"), "20261123T150301Z-k3f9x2ab").unwrap();
        let report = fixture::report();
        let path = folder.write_report(&report, "summary\n").unwrap();
        assert_eq!(read(&path).unwrap(), report);
        assert_eq!(read(folder.path()).unwrap(), report);
        let mut files: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["latency.hgrm", "report.json", "summary.txt"]);
        // Written again (a later stage adds to it), it is replaced.
        let changed = Report { validity: vec!["cpu".to_owned()], ..report };
        folder.write_report(&changed, "").unwrap();
        assert_eq!(read(&path).unwrap(), changed);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found_before_the_run() {
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("file");
        fs::write(&file, "").unwrap();
        let error = prepare(&file, "run-1").unwrap_err().to_string();
        assert!(error.contains("--out"), "{error}");
        let folder = prepare(out.path(), "run-1").unwrap();
        assert!(prepare(out.path(), "run-1").is_err(), "a run never writes into another's folder");
        folder.discard_if_empty();
        assert!(!out.path().join("run-1").exists());
        for id in ["", "../x", "a/b", ".", "a b"] {
            assert!(matches!(prepare(out.path(), id), Err(WriteError::RunId(_))), "{id}");
        }
    }
}
