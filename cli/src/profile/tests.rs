//! Profiles from text to domain type: what is built in, how layers merge, and what errors say.

mod errors;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scalekit_service::server_url::ServerUrl;

use super::units::Span;
use super::*;

/// Writes files into a fresh folder; the first is the profile that is loaded.
fn load_files(files: &[(&str, &str)], overrides: Layer) -> Result<Profile, ProfileError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let path = folder.path().join(files[0].0);
    load(path.to_str().unwrap(), overrides).map_err(|error| ProfileError {
        // The folder's name differs each time.
        place: error.place.replace(&format!("{}/", folder.path().display()), ""),
        ..error
    })
}

fn load_text(text: &str) -> Result<Profile, ProfileError> {
    load_files(&[("x.yaml", text)], Layer::default())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn every_built_in_profile_loads_and_fits_the_schema() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for name in names() {
        let profile = load(name, Layer::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(profile.name, name);
        assert!(!profile.description.is_empty() && !profile.criteria.is_empty(), "{name}");
        assert!(profile.notes.is_empty(), "{name}");
        let value: serde_json::Value = serde_yaml::from_str(built_in(name).unwrap()).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    let wrong = serde_json::json!({ "load": { "vsu": 5 } });
    assert!(!validator.is_valid(&wrong), "the schema must be strict");
}

/// `UPDATE_SCHEMAS=1 cargo test` writes the file anew.
#[test]
fn the_schema_file_is_the_derived_schema() {
    let path = repository().join("profiles/profile.schema.json");
    let derived = format!("{:#}\n", schema());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&path, &derived).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), derived, "run with UPDATE_SCHEMAS=1");
}

#[test]
fn a_file_does_not_take_the_name_of_a_built_in_profile() {
    let dir = tempfile::tempdir().unwrap();
    let text = "description: a stranger's\nextends: host-10k\n";
    fs::write(dir.path().join("host-10k"), "description: a stranger's\n").unwrap();
    let file = dir.path().join("own.yaml");
    fs::write(&file, text.replace("a stranger's", "mine")).unwrap();
    let profile = load(file.to_str().unwrap(), Layer::default()).unwrap();
    assert_eq!(profile.description, "mine");
    assert!(!profile.host.sysctls.is_empty(), "that of the file beside it has none");
}

#[test]
fn every_profile_file_is_built_in() {
    let mut files: Vec<_> = fs::read_dir(repository().join("profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    files.sort();
    let mut known: Vec<_> = names().collect();
    known.sort_unstable();
    assert_eq!(files, known);
}

#[test]
fn default_is_complete_and_equals_local() {
    let default = load("default", Layer::default()).unwrap();
    let local = load("local", Layer::default()).unwrap();
    assert_eq!((&default.deploy, &default.load), (&local.deploy, &local.load));
    let expressions = |profile: &Profile| -> Vec<_> {
        profile.criteria.iter().map(|spec| (spec.metric.clone(), spec.expression.clone())).collect()
    };
    assert_eq!(expressions(&default), expressions(&local));

    // Every key of the schema stands in default.yaml, `extends` aside.
    let schema = schema();
    let text: serde_json::Value = serde_yaml::from_str(built_in("default").unwrap()).unwrap();
    let section = |name: &str| schema["$defs"][name]["properties"].as_object().unwrap().clone();
    let mut checked = 0;
    for (name, value) in [
        ("HostLayer", &text["host"]),
        ("ProcessLimitsLayer", &text["host"]["limits"]),
        ("DeployLayer", &text["deploy"]),
        ("WorkerLayer", &text["deploy"]["worker"]),
        ("LimitsLayer", &text["deploy"]["limits"]),
        ("TelemetryLayer", &text["deploy"]["telemetry"]),
        ("KubernetesLayer", &text["deploy"]["kubernetes"]),
        ("IngressLayer", &text["deploy"]["kubernetes"]["ingress"]),
        ("CpuLayer", &text["deploy"]["kubernetes"]["cpu"]),
        ("MemoryLayer", &text["deploy"]["kubernetes"]["memory"]),
        ("StorageLayer", &text["deploy"]["kubernetes"]["storage"]),
        ("LoadLayer", &text["load"]),
        ("TransactionsLayer", &text["load"]["transactions"]),
        ("RequestLayer", &text["load"]["request"]),
        ("TlsLayer", &text["load"]["tls"]),
    ] {
        for key in section(name).keys() {
            assert!(value.as_object().unwrap().contains_key(key), "{name}.{key}");
            checked += 1;
        }
    }
    assert!(checked > 30, "the walk found only {checked} keys");
}

#[test]
fn the_experiments_are_what_they_say() {
    let default = load("default", Layer::default()).unwrap();
    assert_eq!(default.load.vus, 1200);
    assert_eq!(default.load.think_time, Duration::from_millis(800));
    assert_eq!(default.deploy.database_ops_per_s, 100);
    assert_eq!(default.deploy.limits.max_connections, 20_000);
    assert_eq!(default.sources, ["profile default"]);
    let seed = load("seed-1200", Layer::default()).unwrap();
    assert_eq!(seed.deploy.backend, Backend::RedisMongo);
    assert_eq!(seed.load.duration, Duration::from_secs(390));
    let of = |metric: &str| -> Vec<_> {
        seed.criteria.iter().filter(|s| s.metric == metric).map(|s| s.expression.as_str()).collect()
    };
    assert_eq!(of("http_req_duration"), ["p(95)<500"]);
    assert_eq!(of("http_reqs"), ["rate>=1000"]);
    assert_eq!(of("lost_writes"), ["count==0"]);
    assert_eq!(seed.sources, ["profile seed-1200", "profile redis-mongo", "profile default"]);
    assert_eq!(load("seed-10k", Layer::default()).unwrap().load.vus, 10_000);
}

#[test]
fn a_device_is_relative_to_the_file_that_names_it_and_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.yaml");
    fs::write(&file, "deploy: {database_iops: 6000/min, database_device: data}\n").unwrap();
    let profile = load(file.to_str().unwrap(), Layer::default()).unwrap();
    let device = dir.path().join("data");
    assert_eq!(
        (profile.deploy.database_iops_per_s, &profile.deploy.database_device),
        (Some(100), &Some(device))
    );
    // As the processes of a deployment read it.
    fs::write(&file, serde_json::to_vec(&profile).unwrap()).unwrap();
    assert_eq!(load(file.to_str().unwrap(), Layer::default()).unwrap().deploy, profile.deploy);
    let default = load("default", Layer::default()).unwrap().deploy;
    assert_eq!((default.database_iops_per_s, default.database_device), (None, None));
}

#[test]
fn layers_merge_child_over_parent() {
    let parent = "load: {vus: 7, think_time: 1s, threads: 3}\n\
                  criteria: {http_reqs: [count>1, count>2], iterations: [count>3]}\n";
    let child = "extends: lib/parent.yaml\nload: {vus: 8, threads: null}\n\
                 criteria: {http_reqs: [rate>4], iterations: null, db_ops: null}\n";
    let mut flags = Layer::default();
    flags.load.section().think_time = Some(Span(Duration::from_secs(2))).into();
    flags.criteria.section().add("checks", "rate>0.5");
    let profile = load_files(&[("child.yaml", child), ("lib/parent.yaml", parent)], flags).unwrap();
    assert_eq!((profile.load.vus, profile.load.threads), (8, None));
    assert_eq!(profile.load.think_time, Duration::from_secs(2));
    let criteria: Vec<_> =
        profile.criteria.iter().map(|spec| format!("{}: {}", spec.metric, spec.expression)).collect();
    assert_eq!(
        criteria,
        [
            "checks: rate>0.5",
            "duplicated_writes: count==0",
            "http_req_failed: rate<0.01",
            "http_req_total_duration: p(95)<500",
            "http_req_total_duration: p(99)<1500",
            "http_reqs: rate>4",
            "lost_writes: count==0",
        ]
    );
    assert_eq!(profile.criteria[0].location, "--threshold");
    assert!(profile.criteria[5].location.ends_with("child.yaml:3:24"), "{}", profile.criteria[5].location);
    assert_eq!(profile.sources.len(), 4);
    assert_eq!(profile.sources[0], "command line");
}

#[test]
fn long_thresholds_are_read() {
    let text = "criteria:\n  http_reqs:\n    - {threshold: rate>5, abortOnFail: true, delayAbortEval: 10s}\n";
    let profile = load_text(text).unwrap();
    let spec = profile.criteria.iter().find(|spec| spec.metric == "http_reqs").unwrap();
    assert!(spec.abort_on_fail);
    assert_eq!(spec.delay_abort_eval, Duration::from_secs(10));
}

#[test]
fn a_null_gives_the_default_back_and_no_text_is_the_default() {
    let profile = load_text("extends: ci\nload: {vus: null}\ndeploy: null\n").unwrap();
    assert_eq!(profile.load.vus, 1200);
    assert_eq!(profile.deploy.drain_timeout, Duration::from_secs(120));
    for empty in ["", "# nothing\n", "criteria: {}\n"] {
        assert_eq!(load_text(empty).unwrap().load, load("default", Layer::default()).unwrap().load);
    }
    assert!(load_text("criteria: null\n").unwrap().criteria.is_empty());
}

#[test]
fn how_users_connect() {
    for (text, version) in
        [("auto", HttpVersion::Auto), ("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2)]
    {
        for quote in ["", "'"] {
            let load = load_text(&format!("load: {{http: {quote}{text}{quote}}}\n")).unwrap().load;
            assert_eq!(load.http, version, "{text}");
            assert_eq!(serde_json::to_value(load.http).unwrap(), text);
        }
    }
    let load =
        load_text("load: {local_ips: [127.0.0.2, 127.0.0.4-127.0.0.5], tls: {ca: a.pem}}\n").unwrap().load;
    assert_eq!(
        load.local_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["127.0.0.2", "127.0.0.4", "127.0.0.5"]
    );
    assert_eq!((load.connection_reuse, load.tls.insecure_skip_verify), (true, false));
    assert_eq!(load.tls.ca.as_deref(), Some("a.pem"));
}

#[test]
fn settings_of_the_host_merge_key_by_key() {
    let load = |text: &str| load_text(&format!("extends: host-100k\nhost:\n{text}"));
    let parent = super::load("host-100k", Layer::default()).unwrap().host;
    let child =
        load("  users: 7\n  sysctls: {net.core.somaxconn: {at_least: 99}, vm.overcommit_memory: null}\n")
            .unwrap()
            .host;
    assert_eq!((parent.users, child.users), (Some(100_000), Some(7)));
    assert_eq!(child.sysctls.len() + 1, parent.sysctls.len());
    let find = |host: &Host| host.sysctls.iter().find(|one| one.key == "net.core.somaxconn").unwrap().clone();
    assert_eq!(find(&child).reasons, find(&parent).reasons);
    assert_eq!(find(&child).wanted, Wanted::AtLeast(Formulas(vec!["99".parse().unwrap()])));
    for (text, part) in [
        (
            "  sysctls: {net.core.x: {at_least: 1, why: a, risk: b, proof: c}}\n",
            "net.core.x: expected `source`",
        ),
        (
            "  sysctls: {net.core.x: {why: a, risk: b, proof: c, source: d}}\n",
            "net.core.x: expected one of at_least",
        ),
        ("  sysctls: {net.core.somaxconn: {equals: 1}}\n", "net.core.somaxconn: expected one of at_least"),
        ("  sysctls: {net.core.somaxconn: {at_least: 1 +}}\n", "found \"1 +\""),
        ("  sysctls: {net.core.somaxconn: {at_least: 1, at_most: 2}}\n", "unknown key `at_most`"),
        ("  sysctls: {net.ipv4.ip_local_reserved_ports: {includes: 9-1}}\n", "ports and ranges"),
        ("  limits: {nofile: {at_least: [1, 2]}}\n", "expected one value"),
        ("  transparent_huge_pages: {mode: sometimes}\n", "by-mongod"),
        ("  modules: {../x: {why: a, risk: b, proof: c, source: d}}\n", "module's name"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.to_string().contains(part), "{text}: {error}");
        assert!(error.place.split(':').count() >= 3, "{error}");
    }
}

#[test]
fn agents_of_the_command_line_win_and_each_has_its_place() {
    let text = "load:\n  agents:\n    - 10.0.0.1:7420\n    - ' [::1]:1'\n";
    let profile = load_text(text).unwrap();
    let seen = |profile: &Profile| -> Vec<_> {
        let agents = profile.load.agents.iter();
        // Without the folder, whose name differs each time.
        let place = |location: &str| location.rsplit('/').next().unwrap().to_owned();
        agents.map(|agent| format!("{} {}", place(&agent.location), agent.address)).collect()
    };
    assert_eq!(seen(&profile), ["x.yaml:3:7 10.0.0.1:7420", "x.yaml:4:7 [::1]:1"]);
    let again = load_text(&serde_json::to_string(&profile).unwrap()).unwrap();
    let addresses = |profile: &Profile| -> Vec<_> {
        profile.load.agents.iter().map(|agent| agent.address.clone()).collect()
    };
    assert_eq!(addresses(&again), addresses(&profile));

    let flags = |agents: &[&str]| {
        let mut flags = Layer::default();
        let agents: Vec<_> = agents.iter().map(|&agent| agent.to_owned()).collect();
        flags.load.section().agents = Some(agents).into();
        flags
    };
    assert_eq!(seen(&load_files(&[("x.yaml", text)], flags(&["h:1"])).unwrap()), ["--agents h:1"]);
    assert_eq!(seen(&load_text("load: {agents: null}\n").unwrap()), <[String; 0]>::default());
    for (agents, expected) in [
        (vec!["h"], "--agents: load.agents.0: expected HOST:PORT, found \"h\""),
        (vec!["h:1", "h:1"], "--agents: load.agents.1: the agent h:1 is named twice"),
        (vec!["h:1"; 101], "--agents: load.agents: expected 1 to 100 agents, found 101"),
    ] {
        let error = load("local", flags(&agents)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn inherited_criteria_that_cannot_be_measured_fall_away_with_a_note() {
    let mut flags = Layer::default();
    flags.load.section().url = Some("http://h:1/".to_owned()).into();
    flags.load.section().scenario = Some(ScenarioKind::Request).into();
    let profile = load("default", flags).unwrap();
    let metrics: Vec<_> = profile.criteria.iter().map(|spec| spec.metric.as_str()).collect();
    assert_eq!(metrics, ["http_req_failed", "http_req_total_duration", "http_req_total_duration"]);
    assert_eq!(profile.notes.len(), 3, "{:?}", profile.notes);

    let profile = load_text("load: {transactions: {writes: 0}}\n").unwrap();
    assert!(profile.criteria.iter().all(|spec| spec.metric != "lost_writes"));
    assert!(profile.criteria.iter().any(|spec| spec.metric == "db_ops"));
}

#[test]
fn chains_are_bounded() {
    let names: Vec<_> = (0..12).map(|depth| format!("{depth}.yaml")).collect();
    let texts: Vec<_> = (0..12).map(|depth| format!("extends: {}.yaml\n", depth + 1)).collect();
    let files: Vec<_> = names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let error = load_files(&files, Layer::default()).unwrap_err().to_string();
    assert!(error.contains("more than 8 profiles"), "{error}");
    let circle = [("a.yaml", "extends: b.yaml"), ("b.yaml", "extends: a.yaml")];
    assert!(load_files(&circle, Layer::default()).unwrap_err().to_string().contains("in turn"));
    let large = format!("# {}\n", "x".repeat(1 << 20));
    assert!(load_text(&large).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn a_resolved_profile_reads_back_as_a_profile() {
    for name in names() {
        let profile = load(name, Layer::default()).unwrap();
        let json = serde_json::to_string(&profile).unwrap();
        let again = load_text(&json).unwrap_or_else(|error| panic!("{name}: {error}\n{json}"));
        assert_eq!((&again.deploy, &again.load), (&profile.deploy, &profile.load), "{name}");
        // Where a key stands differs.
        assert_eq!(serde_json::to_value(&again.host).unwrap(), serde_json::to_value(&profile.host).unwrap());
        assert_eq!(again.criteria.len(), profile.criteria.len());
    }
}

#[test]
fn a_resolved_profile_keeps_secrets_to_itself() {
    let text = "extends: redis-mongo\ndeploy: {redis_url: 'redis://u:hunter2@h:1'}\n\
                load: {request: {headers: {Authorization: Bearer hunter2, Accept: '*/*'}}}\n";
    let profile = load_text(text).unwrap();
    assert_eq!(profile.deploy.redis_url.as_ref().map(ServerUrl::expose), Some("redis://u:hunter2@h:1"));
    let json = serde_json::to_string(&profile).unwrap();
    assert!(!json.contains("hunter2") && json.contains("*/*"), "{json}");
}

#[test]
fn what_a_model_implies_is_filled_in() {
    let load = |text: &str| load_text(text).unwrap().load;
    let second = Duration::from_secs;
    let rate = load("load: {rate: 2000/s}\n");
    assert_eq!((rate.rate_per_s, rate.think_time, rate.vus), (Some(2000), Duration::ZERO, 1200));
    let staged = load("load: {stages: ['30s:100', '10s:50']}\n");
    assert_eq!((staged.vus, staged.duration, staged.warmup), (100, second(40), Duration::ZERO));
    let rates = load("load: {stages: ['30s:100/s'], warmup: 10s, vus: 7}\n");
    assert_eq!((rates.rate_per_s, rates.vus, rates.duration), (Some(100), 7, second(20)));
    let counted = load("load: {iterations: 5}\n");
    assert_eq!((counted.duration, counted.warmup), (second(600), Duration::ZERO));
    let both = load("load: {iterations: 5, duration: 20s}\n");
    assert_eq!((both.iterations, both.duration), (Some(5), second(20)));
}
