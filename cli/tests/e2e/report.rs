//! `latency.hgrm`, `latency.hlog` and `scalekit report`: what other tools read agrees with the report.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::sandbox::{Output, Sandbox, read_json, wait_for};
use crate::web::WebServer;

const TOTAL: &str = "http_req_total_duration";

/// The sums of a log's intervals, by tag, and how many each has; decoded by the crate's own reader alone.
fn sums(log: &Path) -> BTreeMap<String, (Histogram<u64>, usize)> {
    let text = fs::read(log).unwrap();
    let mut sums: BTreeMap<String, (Histogram<u64>, usize)> = BTreeMap::new();
    let mut started = None;
    for entry in IntervalLogIterator::new(&text) {
        match entry.unwrap() {
            LogEntry::StartTime(at) => started = Some(at),
            LogEntry::BaseTime(_) => panic!("intervals count from the start"),
            LogEntry::Interval(interval) => {
                let bytes = BASE64.decode(interval.encoded_histogram()).unwrap();
                let histogram: Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                // Micro- and milliseconds.
                assert!((interval.max() - histogram.max() as f64 / 1000.0).abs() < 0.001);
                let tag = interval.tag().unwrap().as_str().to_owned();
                let (sum, count) = sums.entry(tag).or_insert_with(|| (Histogram::new_from(&histogram), 0));
                assert_eq!(interval.start_timestamp().as_secs(), *count as u64, "a line a second");
                sum.add(histogram).unwrap();
                *count += 1;
            }
        }
    }
    assert!(started.unwrap().as_secs() > 1_700_000_000, "seconds since 1970");
    sums
}

/// The log's intervals add up to what the report says of the whole.
fn expect_agreement(folder: &Path) {
    let report = read_json(&folder.join("report.json"));
    let sums = sums(&folder.join("latency.hlog"));
    assert_eq!(sums.keys().collect::<Vec<_>>(), ["http_req_duration", TOTAL]);
    for (name, (sum, intervals)) in &sums {
        let metric = &report["metrics"][name.as_str()];
        assert_eq!(*intervals, report["series"].as_array().unwrap().len(), "{name}");
        let buckets: Vec<_> =
            sum.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value())).collect();
        let distribution: Vec<(u64, u64)> = serde_json::from_value(metric["distribution"].clone()).unwrap();
        assert_eq!(buckets, distribution, "{name}");
        let value = |statistic: &str| metric["values"][statistic].as_f64().unwrap();
        assert_eq!(sum.len() as f64, report["metrics"]["http_reqs"]["values"]["count"]);
        assert_eq!(sum.max() as f64 / 1000.0, value("max"), "{name}");
        for (statistic, quantile) in [("med", 0.5), ("p(95)", 0.95), ("p(99)", 0.99), ("p(99.9)", 0.999)] {
            let (found, expected) = (sum.value_at_quantile(quantile) as f64 / 1000.0, value(statistic));
            assert!((found - expected).abs() <= expected / 1000.0, "{name} {statistic}: {found}, {expected}");
        }
    }
}

fn report(sandbox: &Sandbox, source: &Path, flags: &[&str]) -> Output {
    sandbox.scalekit(&[&["report", source.to_str().unwrap()], flags].concat())
}

/// A run with a warm-up, which is in neither file, and a measured part that ends within a second.
fn bench(sandbox: &Sandbox, url: &str) -> Output {
    let profile = sandbox.profile("logged", "");
    let load = ["--vus", "10", "--warmup", "600ms", "--duration", "1500ms", "--think", "20ms"];
    sandbox.scalekit(&[&["bench", "-p", &profile, "--url", url], &load[..]].concat())
}

#[test]
fn what_other_tools_read_agrees_with_the_report() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let run = bench(&sandbox, &server.url).expect(0);
    let folder = sandbox.folders().remove(0);
    expect_agreement(&folder);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["latency.hgrm", "latency.hlog", "report.json", "summary.txt"]);

    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let rows = read("latency.hgrm");
    let requests = read_json(&folder.join("report.json"))["metrics"]["http_reqs"]["values"]["count"].clone();
    assert!(rows.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"), "{rows}");
    assert!(rows.contains(&format!("Total count    = {:12}]\n", requests.as_f64().unwrap())), "{rows}");

    for source in [folder.clone(), folder.join("report.json")] {
        for (flags, file) in [
            (&[][..], "summary.txt"),
            (&["--format", "text"], "summary.txt"),
            (&["--json"], "report.json"),
            (&["--format", "json"], "report.json"),
            (&["--format", "hgrm"], "latency.hgrm"),
            (&["--format", "hlog"], "latency.hlog"),
        ] {
            let printed = report(&sandbox, &source, flags).expect(0);
            assert_eq!(printed.stdout, read(file), "{flags:?}");
            let written = [flags, &["-o", "converted"]].concat();
            let silent = report(&sandbox, &source, &written).expect(0);
            assert_eq!(silent.stdout, "");
            assert_eq!(fs::read_to_string(sandbox.path("converted")).unwrap(), read(file), "{flags:?}");
        }
    }
    assert!(run.stdout.starts_with(read("summary.txt").trim_end()), "{}", run.stdout);
}

#[test]
fn an_interrupted_run_has_its_logs() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("partial", "load: {duration: 10m}");
    let mut run = sandbox.start(sandbox.command(&["bench", "-p", &profile, "--url", &server.url]));
    run.wait_to_say("measuring");
    let log = || sandbox.folders().first().map(|folder| folder.join(".latency.hlog.tmp"));
    wait_for("the log to be begun", || log().filter(|log| log.exists()));
    wait_for("requests of every user", || (server.received().len() > 40).then_some(()));
    assert!(!sandbox.folders()[0].join("latency.hlog").exists(), "it is not whole yet");
    run.signal(Signal::SIGINT);
    run.wait().expect(105);
    let folder = sandbox.folders().remove(0);
    expect_agreement(&folder);
    assert!(!folder.join(".latency.hlog.tmp").exists());
    report(&sandbox, &folder, &["--format", "hgrm"]).expect(0);
}

#[test]
fn a_log_that_cannot_be_kept_costs_no_measurement() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("unkept", "load: {duration: 10m}");
    let mut run = sandbox.start(sandbox.command(&["bench", "-p", &profile, "--url", &server.url]));
    run.wait_to_say("measuring");
    wait_for("requests", || (server.received().len() > 40).then_some(()));
    // Without it, the log cannot be put in its place.
    let folder = sandbox.folders().remove(0);
    fs::remove_file(folder.join(".latency.hlog.tmp")).unwrap();
    run.signal(Signal::SIGINT);
    run.wait().expect(105).says(&["note: latency.hlog could not be written: "]);
    assert!(folder.join("latency.hgrm").exists());
    report(&sandbox, &folder, &["--format", "text"]).expect(0);
    report(&sandbox, &folder, &["--format", "hlog"]).expect(104).says(&["latency.hlog", "no interval log"]);
}

#[test]
fn a_log_that_is_missing_or_damaged_is_said_to_be() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    bench(&sandbox, &server.url).expect(0);
    let folder = sandbox.folders().remove(0);
    let log = folder.join("latency.hlog");
    let whole = fs::read_to_string(&log).unwrap();
    let intervals = whole.lines().filter(|line| line.starts_with("Tag=")).count();
    assert!(intervals >= 4, "{whole}");
    let without_last_lines: String = whole.split_inclusive('\n').take(6).collect();
    for (content, words) in [
        (whole[..whole.len() / 2].to_owned(), &["latency.hlog: line ", "damaged", "ends early"][..]),
        (whole.replace("HISTFAAA", "HISTF"), &["latency.hlog: line 5", "damaged"]),
        (without_last_lines, &["latency.hlog", "holds", "requests in the report"]),
        (String::new(), &["latency.hlog: line 1", "ends early"]),
    ] {
        fs::write(&log, content).unwrap();
        for format in ["hgrm", "hlog"] {
            let refused = report(&sandbox, &folder, &["--format", format, "-o", "out"]).expect(104);
            refused.says(words).says(&["help: "]);
            assert!(!sandbox.path("out").exists());
        }
    }
    fs::remove_file(&log).unwrap();
    for format in ["hgrm", "hlog"] {
        report(&sandbox, &folder, &["--format", format])
            .expect(104)
            .says(&["latency.hlog", "no interval log"]);
    }
    // What does not need it does not miss it.
    report(&sandbox, &folder, &[]).expect(0);
    report(&sandbox, &folder, &["-o", "no/such/folder/file"]).expect(1).says(&["no/such/folder/file", "-o"]);
    report(&sandbox, &folder, &["--format", "html"]).expect(2);
    report(&sandbox, &sandbox.path("home"), &[]).expect(104).says(&["report.json", "no report"]);
    let report = read_json(&folder.join("report.json"));
    assert_ne!(report["verdict"], Value::Null);
}

#[test]
fn a_pipe_is_written_to_and_not_replaced() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    bench(&sandbox, &server.url).expect(0);
    let folder = sandbox.folders().remove(0);
    let pipe = sandbox.path("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    report(&sandbox, &folder, &["-o", "pipe"]).expect(0);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap(), fs::read_to_string(folder.join("summary.txt")).unwrap());
}
