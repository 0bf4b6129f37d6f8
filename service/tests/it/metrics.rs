//! `/metrics`: a strict reader of its format, and what its numbers do when something happens.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use reqwest::Method;
use scalekit_service::worker::BatchSettings;
use serde_json::json;

use crate::harness::{Harness, Kind, Options, Process, answer, eventually, on_both};

on_both!(the_numbers_do_what_they_say, what_waits_shows);

/// The series of one scrape by their full names, labels in order.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(harness: &Harness, process: &Process) -> Self {
        let scraped = answer(harness.client.get(process.url("/metrics"))).await.expect(200);
        let kind = scraped.header("content-type");
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self(parse(&scraped.text).unwrap_or_else(|error| panic!("{error}\n{}", scraped.text)))
    }

    /// 0 for a series that is not there yet.
    fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }
}

/// OpenMetrics 1.0, as far as this service may use it; anything else is an error.
fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it must end with # EOF and a line feed")?;
    let mut series = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut family, mut kind, mut unit, mut help) = (String::new(), String::new(), String::new(), false);
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let [keyword, name, text] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                return Err(format!("no comment of the format: {line}"));
            };
            if name != family {
                if !seen.insert(name.to_owned()) {
                    return Err(format!("{name} is declared twice, or its lines are not together"));
                }
                (family, kind, unit, help) = (name.to_owned(), String::new(), String::new(), false);
            }
            match keyword {
                "TYPE" if ["counter", "gauge", "histogram", "info"].contains(&text) => kind = text.into(),
                "UNIT" if name.ends_with(&format!("_{text}")) => unit = text.into(),
                "HELP" if text.ends_with('.') => help = true,
                _ => return Err(format!("bad declaration: {line}")),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
        let value: f64 = value.parse().map_err(|error| format!("{line}: {error}"))?;
        let (base, labels) = match name.split_once('{') {
            Some((base, labels)) => (base, labels.strip_suffix('}').ok_or("an open brace")?),
            None => (name, ""),
        };
        let suffix =
            base.strip_prefix(family.as_str()).ok_or_else(|| format!("{line} is not of {family}"))?;
        let expected: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => return Err(format!("{family} has no type before its samples")),
        };
        if !expected.contains(&suffix) || !help {
            return Err(format!("{line}: {kind} {family} (help: {help}, unit: {unit:?})"));
        }
        if kind != "gauge" && (value < 0.0 || !value.is_finite()) {
            return Err(format!("{line}: only gauges may go down"));
        }
        check_labels(labels).map_err(|error| format!("{line}: {error}"))?;
        if series.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
    }
    check_histograms(body, &series)?;
    Ok(series)
}

fn check_labels(labels: &str) -> Result<(), String> {
    let mut names = HashSet::new();
    // No value of ours holds a quote or a comma but as its end.
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once("=\"").ok_or("a label without a value")?;
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !plain
            || name.is_empty()
            || !names.insert(name)
            || value.trim_end_matches('"').contains(['"', '\n', '\\'])
        {
            return Err(format!("label {name:?} = {value:?}"));
        }
    }
    Ok(())
}

/// Buckets rise with `le`, end with +Inf, and that is the count.
fn check_histograms(body: &str, series: &BTreeMap<String, f64>) -> Result<(), String> {
    let mut last: Option<(String, f64, f64)> = None;
    for line in body.lines().filter(|line| line.contains("_bucket{")) {
        let (name, value) = line.rsplit_once(' ').ok_or("no value")?;
        let value: f64 = value.parse().map_err(|_| line)?;
        let at = name.find("le=\"").ok_or(line)?;
        let le = name[at + 4..].split('"').next().unwrap_or_default();
        let others = format!("{}{}", &name[..at], &name[at + 4 + le.len() + 1..]);
        let le: f64 = if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| line)? };
        if let Some((before, bound, count)) = last.as_ref().filter(|(before, ..)| *before == others)
            && (le <= *bound || value < *count)
        {
            return Err(format!("{before}: {line} after le={bound} with {count}"));
        }
        if le.is_infinite() {
            let labels =
                others.split_once('{').map_or("", |(_, labels)| labels).trim_matches(|c| ",}".contains(c));
            let base = name.split("_bucket{").next().unwrap_or_default();
            let count =
                if labels.is_empty() { format!("{base}_count") } else { format!("{base}_count{{{labels}}}") };
            if series.get(&count) != Some(&value) {
                return Err(format!("{count} is {:?}, its last bucket {value}", series.get(&count)));
            }
        }
        last = Some((others, le, value));
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let head = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n";
    let samples = "a_seconds_sum 1.5\na_seconds_count 2\na_seconds_bucket{le=\"0.1\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\n";
    let good = format!("{head}{samples}# EOF\n");
    assert_eq!(parse(&good).unwrap()["a_seconds_count"], 2.0);
    for (what, bad) in [
        ("no end", good.replace("# EOF\n", "")),
        ("no type", good.replace("# TYPE a_seconds histogram\n", "")),
        ("no help", good.replace("# HELP a_seconds Time.\n", "")),
        ("a unit that is not in the name", good.replace("seconds seconds", "seconds bytes")),
        ("counts that fall", good.replace("le=\"0.1\"} 1", "le=\"0.1\"} 3")),
        ("a count that is not the last bucket", good.replace("count 2", "count 3")),
        ("a series twice", good.replace("a_seconds_sum 1.5\n", "a_seconds_sum 1.5\na_seconds_sum 1.5\n")),
        ("a stranger", good.replace("a_seconds_sum", "b_seconds_sum")),
        ("no number", good.replace("sum 1.5", "sum x")),
        ("a label in capitals", good.replace("{le", "{LE=\"1\",le")),
        (
            "a family in two places",
            good.replace("# EOF\n", "# HELP b_total B.\n# HELP a_seconds Time.\n# EOF\n"),
        ),
    ] {
        assert!(parse(&bad).is_err(), "{what}");
    }
}

const DOCUMENT: &str = "route=\"/v1/{collection}/{id}\"";

async fn the_numbers_do_what_they_say(kind: Kind) {
    const LIMIT: u32 = 20;
    let options = Options { database_ops_per_s: LIMIT, ..Options::default() };
    let harness = Harness::with(kind, options).await;
    let worker = harness.worker.as_ref().unwrap_or(&harness.api);
    let (before, worker_before) =
        (Scrape::of(&harness, &harness.api).await, Scrape::of(&harness, worker).await);
    for n in 0..5 {
        harness.write("PUT", "/v1/items/1", &json!({ "n": n }).to_string()).await;
    }
    let two = r#"{"writes":[{"collection":"a","op":"insert","document":{}},{"collection":"items","op":"insert","id":"1","document":{}}]}"#;
    for _ in 0..2 {
        harness.send_as("once", "POST", "/v1/transactions", two).await.expect(202);
    }
    for _ in 0..4 {
        harness.get("/v1/items/1").await.expect(200);
    }
    for n in 0..4 {
        harness.get(&format!("/v1/items/absent-{n}")).await.expect(404);
    }
    harness.send("POST", "/v1/items", "{").await.expect(400);
    harness.send("BREW", "/v1/items/1", "").await.expect(405);
    harness.get("/nowhere").await.expect(404);
    harness.drained().await;
    let (after, worker_after) =
        (Scrape::of(&harness, &harness.api).await, Scrape::of(&harness, worker).await);
    let rose = |series: &str| after.get(series) - before.get(series);
    let level = |level: &str| format!("scalekit_cache_hits_total{{level=\"{level}\"}}");
    let timed = |method: &str, route: &str, class: &str| {
        format!(
            "scalekit_http_request_duration_seconds_count{{method=\"{method}\",{route},status=\"{class}\"}}"
        )
    };
    for (series, expected) in [
        ("scalekit_http_requests_total{status=\"202\"}".to_owned(), 7.0),
        ("scalekit_http_requests_total{status=\"404\"}".into(), 5.0),
        ("scalekit_http_requests_total{status=\"405\"}".into(), 1.0),
        (timed("PUT", DOCUMENT, "2xx"), 5.0),
        (timed("GET", DOCUMENT, "2xx"), 4.0),
        (timed("GET", DOCUMENT, "4xx"), 4.0),
        (timed("POST", "route=\"/v1/transactions\"", "2xx"), 2.0),
        (timed("POST", "route=\"/v1/{collection}\"", "4xx"), 1.0),
        (timed("unmatched", "route=\"unmatched\"", "4xx"), 2.0),
        ("scalekit_journal_appended_total".into(), 6.0),
        ("scalekit_journal_repeated_total".into(), 1.0),
        ("scalekit_journal_append_failures_total".into(), 0.0),
        ("scalekit_journal_append_duration_seconds_count".into(), 7.0),
        ("scalekit_accepted_writes_total".into(), 7.0),
        ("scalekit_cache_misses_total".into(), 4.0),
        ("scalekit_cache_errors_total".into(), 0.0),
        ("scalekit_store_reads_total".into(), 4.0),
    ] {
        assert_eq!(rose(&series), expected, "{series}");
    }
    let (near, far) = (rose(&level("l1")), rose(&level("l2")));
    match kind {
        Kind::Embedded => assert_eq!((near, far), (4.0, 0.0)),
        // The first one, and those after what was kept expired.
        Kind::RedisMongo => assert!(near + far == 4.0 && far >= 1.0, "{near} near and {far} far"),
    }
    assert!(rose("scalekit_journal_append_duration_seconds_sum") > 0.0);
    assert!(rose(&timed("PUT", DOCUMENT, "2xx").replace("_count", "_sum")) > 0.0);
    assert!(after.get("scalekit_http_connections") >= 1.0);
    assert_eq!(after.get("scalekit_build_info{version=\"0.1.0\"}"), 1.0);
    // The reads alone are more than go at once.
    assert!(
        rose("scalekit_governor_wait_seconds_count") > 0.0
            && rose("scalekit_governor_wait_seconds_sum") > 0.0
    );
    let limit = f64::from(LIMIT);
    assert_eq!(after.get("scalekit_database_operations_limit"), limit, "of API and worker together");
    assert!(rose("scalekit_database_operations_total") >= 1.0);
    assert!((1.0..=limit).contains(&after.get("scalekit_database_operations_peak")));

    let rose = |series: &str| worker_after.get(series) - worker_before.get(series);
    let batches = rose("scalekit_worker_batches_total");
    assert!(batches >= 1.0);
    assert_eq!(rose("scalekit_worker_dead_total"), 1.0, "the insert over a document that is there");
    let fates = ["stored", "superseded", "coalesced", "dead"]
        .map(|fate| rose(&format!("scalekit_worker_{fate}_total")));
    assert_eq!(fates.iter().sum::<f64>(), 7.0, "each write has one fate: {fates:?}");
    assert_eq!(rose("scalekit_worker_batch_writes_count"), batches);
    assert_eq!(rose("scalekit_worker_apply_duration_seconds_count"), batches);
    assert!(rose("scalekit_worker_batch_writes_sum") >= 2.0);
    assert!(
        rose("scalekit_worker_batch_bytes_count") >= batches
            && rose("scalekit_worker_batch_bytes_sum") > 100.0
    );
    assert!(rose("scalekit_worker_apply_duration_seconds_sum") > 0.0);
    assert_eq!(rose("scalekit_worker_retries_total"), 0.0);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(after.get("process_cpu_seconds_total") > before.get("process_cpu_seconds_total"));
    let started = after.get("process_start_time_seconds");
    assert!(started > now - 3600.0 && started < now + 1.0, "{started} at {now}");
    assert!(after.get("process_resident_memory_bytes") > 1e6);
    assert!(
        after.get("process_open_fds") > 5.0 && after.get("process_open_fds") < after.get("process_max_fds")
    );

    // The same numbers as JSON.
    let stats = harness.stats().await;
    assert_eq!((stats.cache.hits, stats.cache.l1_hits + stats.cache.l2_hits, stats.cache.misses), (4, 4, 4));
    assert_eq!(stats.store.operations_delayed as f64, after.get("scalekit_governor_wait_seconds_count"));
    assert!(stats.store.operations_delayed_ms > 0);
}

async fn what_waits_shows(kind: Kind) {
    // Embedded, the worker holds what it has read; with Redis there is none.
    let batch = BatchSettings { max_writes: 1000, max_bytes: 1 << 20, linger: Duration::from_secs(3) };
    let harness = Harness::without_worker(kind, Options { batch, ..Options::default() }).await;
    for n in 0..3 {
        answer(harness.request(Method::PUT, &format!("/v1/items/{n}")).body("{}")).await.expect(202);
    }
    eventually("the backlog shows", async || {
        let scrape = Scrape::of(&harness, &harness.api).await;
        let entries = scrape.get("scalekit_journal_backlog_entries");
        let age = scrape.get("scalekit_journal_backlog_age_seconds");
        assert!(entries <= 3.0 && age < 60.0, "{entries} entries, {age} s");
        let bytes = scrape.get("scalekit_journal_backlog_bytes");
        (entries == 3.0 && age > 0.0 && bytes > 0.0).then_some(())
    })
    .await;
    let stats = harness.stats().await;
    assert!(stats.journal.backlog_bytes > 0, "{:?}", stats.journal);
}
