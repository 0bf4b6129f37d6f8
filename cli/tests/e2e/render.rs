//! `scalekit deploy --target k8s --render`: what a cluster would be asked for, without one. Its containers' command lines and
//! files are then run here, with paths and addresses of this machine: a real Redis has to take its own, and the service
//! has to be content with it.

use std::fs;
use std::path::Path;

use scalekit_service::testing::MongoServer;
use serde_json::Value;

use crate::sandbox::{Running, Sandbox, free_port, wait_for};
use crate::web;

fn documents(text: &str) -> Vec<Value> {
    text.split("---\n").skip(1).map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Command and arguments of an object's first container.
fn words(objects: &[Value], kind: &str, name: &str) -> Vec<String> {
    let container = &find(objects, kind, name)["spec"]["template"]["spec"]["containers"][0];
    let list = |key: &str| container[key].as_array().cloned().unwrap_or_default();
    let words = list("command").into_iter().chain(list("args"));
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn objects_are_printed_without_a_cluster_and_always_alike() {
    let sandbox = Sandbox::new();
    let render = ["deploy", "--target", "k8s", "--render"];
    let mut command = sandbox.command(&render);
    command.env("KUBECONFIG", "/no/such/kubeconfig");
    let first = sandbox.run(command).expect(0);
    let objects = documents(&first.stdout);
    assert_eq!(objects[0]["kind"], "Namespace");
    assert!(words(&objects, "StatefulSet", "default-service").contains(&"all".to_owned()));
    assert_eq!(sandbox.scalekit(&render).expect(0).stdout, first.stdout);
    assert!(!sandbox.state().exists(), "nothing is remembered of it");

    let redis_mongo = sandbox.scalekit(&[&render[..], &["-p", "redis-mongo"]].concat()).expect(0);
    let redis_mongo =
        redis_mongo.prints(&["kubectl -n assessment create secret generic redis-mongo-credentials"]);
    assert!(documents(&redis_mongo.stdout).iter().all(|object| object["kind"] != "Secret"));

    sandbox.scalekit(&["deploy", "--render"]).expect(104).says(&["--render", "--target k8s"]);
    let refused = sandbox.scalekit(&["deploy", "--target", "cloud", "--render"]).expect(104);
    refused.says(&["--target", "expected local or k8s", "cloud"]);
    let flags =
        ["--redis-url", "redis://u:s3cret@h", "--mongo-url", "mongodb://u:s3cret@h", "-p", "redis-mongo"];
    let outside = sandbox.scalekit(&[&render[..], &flags].concat()).expect(0);
    assert!(!outside.stdout.contains("s3cret") && outside.stdout.contains("URL-OF-YOUR-REDIS"));
    sandbox.expect_clean();
}

/// A Redis of the cluster, started here by its own command line.
fn redis(sandbox: &Sandbox, objects: &[Value], component: &str, port: u16) -> Running {
    let dir = sandbox.path(component);
    fs::create_dir(&dir).unwrap();
    let auth = sandbox.path(&format!("{component}-auth.conf"));
    fs::write(&auth, "requirepass secret").unwrap();
    let mut words = words(objects, "StatefulSet", &format!("redis-mongo-{component}"));
    assert_eq!(words.remove(0), "redis-server");
    let at = words.iter().position(|word| word == "/data").unwrap();
    words[at] = dir.display().to_string();
    words[0] = auth.display().to_string();
    words.extend(["--port".to_owned(), port.to_string(), "--bind".to_owned(), "127.0.0.1".to_owned()]);
    sandbox.start(sandbox.program("redis-server", &words))
}

/// A process of the service, by its own command line and the profile of the ConfigMap.
fn service(sandbox: &Sandbox, objects: &[Value], role: &str, secrets: &Path) -> (Running, String) {
    let config = find(objects, "ConfigMap", "redis-mongo-profile");
    let address = format!("127.0.0.1:{}", free_port());
    let profile = config["data"]["profile.yaml"].as_str().unwrap();
    assert!(profile.contains("/run/scalekit/credentials/redis-url"), "{profile}");
    let profile = profile
        .replace("/run/scalekit/credentials", secrets.to_str().unwrap())
        .replace("0.0.0.0:8080", &address);
    let file = sandbox.path(&format!("{role}.yaml"));
    fs::write(&file, profile).unwrap();
    let mut words = words(objects, "Deployment", &format!("redis-mongo-{role}"));
    let at = words.iter().position(|word| word == "/etc/scalekit/profile.yaml").unwrap();
    words[at] = file.display().to_string();
    let mut command = sandbox.command(&words);
    command.env("SCALEKIT_WORKER_NAME", "redis-mongo-worker-5d8f9c7b6-x2x4k");
    (sandbox.start(command), format!("http://{address}"))
}

#[test]
fn the_rendered_containers_work_together() {
    let sandbox = Sandbox::new();
    let rendered =
        sandbox.scalekit(&["deploy", "--target", "k8s", "--render", "-p", "redis-mongo"]).expect(0);
    let objects = documents(&rendered.stdout);
    let (journal_port, cache_port) = (free_port(), free_port());
    let _journal = redis(&sandbox, &objects, "journal", journal_port);
    let _cache = redis(&sandbox, &objects, "cache", cache_port);
    let mongo_dir = sandbox.path("mongo");
    fs::create_dir(&mongo_dir).unwrap();
    let mongo = MongoServer::start(&mongo_dir);
    let answers = |port: u16| {
        let url = format!("redis://:secret@127.0.0.1:{port}");
        redis::Client::open(url).ok()?.get_connection().ok().map(drop)
    };
    for port in [journal_port, cache_port] {
        wait_for("Redis with its password", || answers(port));
        // The password is asked for.
        let nobody = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let refused = nobody.get_connection().and_then(|mut link| redis::cmd("PING").query::<()>(&mut link));
        assert!(refused.unwrap_err().to_string().contains("NOAUTH"));
    }
    let secrets = sandbox.path("secrets");
    fs::create_dir(&secrets).unwrap();
    for (name, url) in [
        ("redis-url", format!("redis://:secret@127.0.0.1:{journal_port}")),
        ("cache-url", format!("redis://:secret@127.0.0.1:{cache_port}")),
        ("mongo-url", mongo.url()),
    ] {
        fs::write(secrets.join(name), url).unwrap();
    }
    // The service refuses a journal that could lose what it acknowledges.
    let (_worker, worker) = service(&sandbox, &objects, "worker", &secrets);
    let (_api, api) = service(&sandbox, &objects, "api", &secrets);
    for base in [&worker, &api] {
        for path in ["/healthz", "/readyz"] {
            wait_for(path, || web::try_request(base, "GET", path, "").filter(|(status, _)| *status == 200));
        }
    }
    let (status, accepted) = web::request(&api, "POST", "/v1/orders", r#"{"a": 1}"#);
    assert_eq!(status, 202, "{accepted}");
    let accepted: Value = serde_json::from_str(&accepted).unwrap();
    assert_eq!(accepted["durability"], "fsync");
    let path = format!("/v1/writes/{}", accepted["write_id"].as_str().unwrap());
    wait_for("the write to be stored", || {
        web::request(&api, "GET", &path, "").1.contains("stored").then_some(())
    });
}
