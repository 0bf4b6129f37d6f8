//! `scalekit report`: what a run left behind, in another form.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::path::Path;

use anyhow::Context as _;

use super::use_color;
use crate::args::{Global, ReportArgs, ReportFormat};
use crate::exit::ExitStatus;
use crate::report::{self, INTERVAL_LOG, PendingFile, Report};

pub(super) fn report(global: &Global, args: &ReportArgs) -> anyhow::Result<ExitStatus> {
    let report = report::read(&args.report)?;
    let output = args.output.as_deref();
    let implied = if global.json { ReportFormat::Json } else { ReportFormat::Text };
    match args.format.unwrap_or(implied) {
        ReportFormat::Text => {
            let color = use_color(global.color, output.is_none() && io::stdout().is_terminal());
            emit(output, report::text(&report, color).as_bytes())?;
        }
        ReportFormat::Json => emit(output, format!("{}\n", serde_json::to_string(&report)?).as_bytes())?,
        format => {
            let folder =
                if args.report.is_dir() { Some(args.report.as_path()) } else { args.report.parent() };
            let log = folder.unwrap_or(Path::new("")).join(INTERVAL_LOG);
            let merged = report::read_log(&log, requests(&report))?;
            if format == ReportFormat::Hlog {
                let file = File::open(&log).with_context(|| format!("cannot read {}", log.display()))?;
                emit(output, file)?;
            } else {
                emit(output, report::hgrm(&merged.unwrap_or_else(report::empty_histogram)).as_bytes())?;
            }
        }
    }
    Ok(ExitStatus::Done)
}

/// How many requests the report has latencies of.
fn requests(report: &Report) -> u64 {
    let metric = report.metrics.get(report::MERGED);
    metric.and_then(|metric| metric.distribution.as_ref()).map_or(0, report::Distribution::samples)
}

/// Writes to stdout, or to a file that is there whole or not at all.
fn emit(output: Option<&Path>, mut content: impl io::Read) -> anyhow::Result<()> {
    let Some(path) = output else {
        return match io::copy(&mut content, &mut io::stdout().lock()) {
            // A closed pipe is the reader's choice.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to stdout")
            }
            _ => Ok(()),
        };
    };
    write_file(path, content).with_context(|| {
        format!("cannot write {}\nhelp: name a file in a writable folder with -o", path.display())
    })
}

fn write_file(path: &Path, mut content: impl io::Read) -> io::Result<()> {
    // What a link points to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&path) {
        // A pipe or a device is written to, not replaced.
        Ok(found) if !found.is_file() => {
            let mut file = fs::OpenOptions::new().write(true).open(&path)?;
            io::copy(&mut content, &mut file)?;
            file.flush()
        }
        _ => {
            let mut file = PendingFile::create(&path)?;
            io::copy(&mut content, &mut file)?;
            file.finish()
        }
    }
}
