//! Units and files as they are written, and what a profile changes of them.

use std::collections::BTreeMap;

use super::*;
use crate::profile::{Layer, load};
use crate::root::Root;

fn rendered(change: impl FnOnce(&mut Profile)) -> Rendered {
    let mut profile = load("redis-mongo", Layer::default()).unwrap();
    profile.deploy.listen = "127.0.0.1:8080".parse().unwrap();
    profile.deploy.redis_url = Some("redis://:hunter2@h:1".into());
    profile.deploy.mongo_url = Some("mongodb://u:hunter3@h:2".into());
    change(&mut profile);
    let servers = Servers {
        redis: profile.deploy.redis_url.clone(),
        mongo: profile.deploy.mongo_url.clone(),
        ..Servers::default()
    };
    let binary = Path::new("/usr/local/bin/scalekit");
    render(&SystemdRequest { profile: &profile, servers: &servers, dir: Path::new("/d"), binary }).unwrap()
}

fn texts(rendered: &Rendered) -> BTreeMap<String, String> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    rendered.files.iter().map(|file| (name(&file.path), file.text.clone())).collect()
}

#[test]
fn passwords_are_in_files_of_roots_only() {
    let rendered = rendered(|_| ());
    for file in &rendered.files {
        let holds = file.text.contains("hunter");
        assert_eq!(holds, file.is_secret, "{}", file.path.display());
    }
    let texts = texts(&rendered);
    let api = &texts["scalekit-redis-mongo-api.service"];
    assert!(api.contains("--redis-url-file %d/redis-url"), "{api}");
    assert!(api.contains("LoadCredential=redis-url:/etc/scalekit/redis-mongo/redis-url"), "{api}");
    assert!(api.contains("After=network-online.target scalekit-redis-mongo-worker.service\n"), "{api}");
    assert!(api.contains("User=scalekit-redis-mongo\n"), "{api}");
    assert!(texts["scalekit-redis-mongo.conf"].contains("u scalekit-redis-mongo - "));
}

#[test]
fn a_unit_differs_if_what_its_process_reads_does() {
    let before = texts(&rendered(|_| ()));
    let differing = |change: fn(&mut Profile)| -> Vec<String> {
        let after = texts(&rendered(change));
        let units =
            after.iter().filter(|(name, text)| name.ends_with(".service") && before.get(*name) != Some(text));
        units.map(|(name, _)| name.replace("scalekit-redis-mongo-", "")).collect()
    };
    assert_eq!(differing(|_| ()), [""; 0]);
    assert_eq!(differing(|profile| profile.load.vus += 1), [""; 0]);
    assert_eq!(differing(|profile| profile.deploy.worker.batch_max_writes += 1), ["worker.service"]);
    assert_eq!(differing(|profile| profile.deploy.limits.max_connections += 1), ["api.service"]);
}

#[test]
fn names_fit_users_and_units_and_differ() {
    assert_eq!(plain("redis-mongo"), "redis-mongo");
    for name in ["Redis-mongo", "a profile with a name that is long", "größe", ""] {
        let plain = plain(name);
        assert!(plain.len() <= 22 && plain.is_ascii(), "{plain}");
        assert!(plain.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{plain}");
    }
    assert_ne!(plain("Redis-mongo"), plain("redis-mongo"));
}

#[test]
fn any_free_port_is_refused() {
    let profile = load("default", Layer::default()).unwrap();
    let servers = Servers::default();
    let binary = Path::new("/usr/local/bin/scalekit");
    let request = SystemdRequest { profile: &profile, servers: &servers, dir: Path::new("/d"), binary };
    let error = render(&request).unwrap_err().to_string();
    assert!(error.contains("deploy.listen") && error.contains("--listen 127.0.0.1:8080"), "{error}");
}

#[test]
fn files_are_written_once_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let first = rendered(|_| ());
    let installed = install(&root, &first, None).unwrap();
    assert_eq!(installed.written.len(), first.files.len());
    let mode = |path: &str| {
        let metadata = std::fs::metadata(root.path(path)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    assert_eq!(mode("/etc/scalekit/redis-mongo/redis-url"), 0o600);
    assert_eq!(mode("/etc/systemd/system/scalekit-redis-mongo-api.service"), 0o644);
    let before = first.deployment.systemd.as_ref();
    assert_eq!(install(&root, &first, before).unwrap(), Installed::default());
    let other = rendered(|profile| profile.deploy.mode = DeployMode::Direct);
    let installed = install(&root, &other, before).unwrap();
    assert!(installed.removed.contains(&"/etc/systemd/system/scalekit-redis-mongo-worker.service".into()));
    remove(&root, other.deployment.systemd.as_ref().unwrap()).unwrap();
    assert!(!root.path("/etc/scalekit/redis-mongo").exists());
    assert_eq!(std::fs::read_dir(root.path("/etc/systemd/system")).unwrap().count(), 0);
}
