//! A deployment from its beginning to its end, when nothing goes wrong.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Bench, NAMESPACE, profile_text, titles};
use crate::api_server::Conduct;
use crate::sandbox::wait_for;

#[test]
fn a_deployment_comes_up_is_shown_and_changes_only_what_differs() {
    let bench = Bench::new();
    let facts = bench.json(&["deploy"]);
    assert_eq!((&facts["namespace"], &facts["context"]), (&json!(NAMESPACE), &json!("context test")));
    let created = titles(&facts["created"]);
    for title in
        ["Namespace assessment", "Secret shop-credentials", "Deployment shop-api", "StatefulSet shop-mongo"]
    {
        assert!(created.contains(&title), "no {title} in {created:?}");
    }
    assert!(titles(&facts["skipped"])[0].contains("ServiceMonitor"), "{facts}");
    // It was waited for what was asked for, not for what was there.
    for (resource, name) in
        [("deployments", "shop-api"), ("deployments", "shop-worker"), ("statefulsets", "shop-mongo")]
    {
        let object = bench.get(resource, name);
        assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"], "{name}");
        assert_eq!(object["status"]["availableReplicas"], 1, "{name}");
    }
    let owner = &bench.get("deployments", "shop-api")["metadata"]["managedFields"][0];
    assert_eq!((&owner["manager"], &owner["operation"]), (&json!("scalekit"), &json!("Apply")));
    let password = bench.get("secrets", "shop-credentials")["data"].clone();

    bench.run(&["deploy", "status"]).expect(0).prints(&[
        "shop in the namespace assessment",
        "Deployment shop-api",
        "1 of 1 pods are ready",
        "Pod shop-mongo-0",
    ]);
    bench.run(&["deploy", "--diff"]).expect(0);
    let before = bench.server.world().version();
    bench.run(&["deploy"]).expect(0).prints(&["nothing to change"]);
    assert_eq!(bench.server.world().version(), before, "a deployment that changes nothing writes nothing");

    bench.write(&profile_text().replace("request: 250m", "request: 300m"));
    let diff = bench.run(&["deploy", "--diff"]).expect(122);
    assert!(diff.stdout.contains("-            cpu: 250m\n+            cpu: 300m"), "{}", diff.stdout);
    assert!(!diff.stdout.contains("managedFields") && !diff.stdout.contains("status:"), "{}", diff.stdout);
    assert_eq!(bench.server.world().version(), before, "a look changes nothing");
    let facts = bench.json(&["deploy"]);
    assert_eq!(titles(&facts["changed"]), ["Deployment shop-api"], "{facts}");
    assert!(titles(&facts["created"]).is_empty() && titles(&facts["removed"]).is_empty(), "{facts}");
    let api = bench.get("deployments", "shop-api");
    assert_eq!(api["status"]["observedGeneration"], 2, "the former status was ready, too");
    assert_eq!(bench.get("secrets", "shop-credentials")["data"], password, "passwords are made once");
}

#[test]
fn what_is_not_wanted_any_more_is_removed_and_what_holds_data_is_not() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    // An object of the deployment's from an earlier version, and one of somebody else's.
    for (name, labels) in [
        (
            "shop-former",
            json!({"app.kubernetes.io/instance": "shop", "app.kubernetes.io/managed-by": "scalekit"}),
        ),
        ("other", json!({"app.kubernetes.io/instance": "other"})),
    ] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}});
        bench.server.world().put("configmaps", object);
    }
    let diff = bench.run(&["deploy", "--diff"]).expect(122);
    assert!(
        diff.stdout.contains("--- live/assessment/ConfigMap/shop-former\n+++ /dev/null"),
        "{}",
        diff.stdout
    );
    let facts = bench.json(&["deploy"]);
    assert_eq!(titles(&facts["removed"]), ["ConfigMap shop-former"]);
    assert!(bench.server.get("configmaps", NAMESPACE, "other").is_some());

    let down = bench.run(&["deploy", "down"]).expect(0);
    assert!(
        down.stdout.contains("PersistentVolumeClaim") && down.stdout.contains("namespace assessment stays"),
        "{}",
        down.stdout
    );
    let left = bench.leftovers();
    let is_kept = |name: &String| {
        name.starts_with("persistentvolumeclaims/")
            || name == "secrets/shop-credentials"
            || name == "configmaps/other"
    };
    assert!(left.iter().all(is_kept) && left.len() == 4, "{left:?}");
    // With their passwords, so that the data is of use.
    let password = bench.get("secrets", "shop-credentials")["data"].clone();
    bench.run(&["deploy"]).expect(0);
    assert_eq!(bench.get("secrets", "shop-credentials")["data"], password);
    bench.run(&["deploy", "down", "--purge"]).expect(0);
    assert_eq!(bench.leftovers(), ["configmaps/other"]);
    for action in ["status", "logs", "down"] {
        bench
            .run(&["deploy", action])
            .expect(1)
            .says(&["nothing of `shop` is in the namespace assessment", "scalekit deploy --target k8s"]);
    }
}

#[test]
fn the_api_goes_before_the_worker_and_both_before_the_databases() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    bench.server.world().requests.clear();
    bench.run(&["deploy", "down"]).expect(0);
    let requests = bench.server.world().requests.clone();
    let at = |name: &str| {
        let is_it =
            |request: &String| request.starts_with("DELETE") && request.contains(&format!("/{name}?"));
        let plain =
            |request: &String| request.starts_with("DELETE") && request.ends_with(&format!("/{name}"));
        requests
            .iter()
            .position(|request| is_it(request) || plain(request))
            .unwrap_or_else(|| panic!("{name}: {requests:?}"))
    };
    assert!(at("deployments/shop-api") < at("deployments/shop-worker"));
    assert!(at("deployments/shop-worker") < at("statefulsets/shop-mongo"));
    assert!(at("deployments/shop-worker") < at("statefulsets/shop-journal"));
}

#[test]
fn watches_that_end_or_are_forgotten_are_taken_up_again() {
    let bench = Bench::new();
    {
        let mut world = bench.server.world();
        world.forget_watches = 4;
        world.cut_watches = 6;
        world.conduct.insert("api".to_owned(), Conduct::Healthy(Duration::from_secs(2)));
    }
    bench.run(&["deploy"]).expect(0).says(&["waiting:", "Deployment shop-api: 0 of 1 pods are ready"]);
    let world = bench.server.world();
    assert_eq!((world.forget_watches, world.cut_watches), (0, 0));
}

#[test]
fn a_monitor_is_made_where_the_operator_is() {
    let bench = Bench::new();
    bench.server.world().has_monitors = true;
    let facts = bench.json(&["deploy"]);
    assert!(titles(&facts["created"]).iter().any(|title| title.starts_with("ServiceMonitor ")), "{facts}");
    assert!(titles(&facts["skipped"]).is_empty(), "{facts}");
    bench.run(&["deploy", "down"]).expect(0);
    assert!(bench.server.world().names("servicemonitors").is_empty());
}

#[test]
fn a_job_and_a_daemon_set_that_tune_the_nodes_are_waited_for() {
    let bench = Bench::new();
    let tuned = |how: &str| profile_text().replace("cpu: {", &format!("tune: {how}, cpu: {{"));
    bench.write(&tuned("job"));
    bench.run(&["deploy"]).expect(0);
    let job = bench.server.world().list("jobs").pop().unwrap().1;
    assert_eq!(job["status"]["succeeded"], 1, "{job}");
    bench.write(&tuned("daemonset"));
    let facts = bench.json(&["deploy"]);
    assert!(titles(&facts["removed"])[0].starts_with("Job shop-tune"), "{facts}");
    assert_eq!(bench.get("daemonsets", "shop-tune")["status"]["numberAvailable"], 1);
}

#[test]
fn logs_come_with_their_origin_and_go_on_until_interrupted() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    let logs = bench.run(&["deploy", "logs", "-n", "2"]).expect(0).stdout;
    assert!(
        logs.contains("shop-mongo-0/mongod: line two of mongod\n")
            && logs.contains("/api: line one of api\n"),
        "{logs}"
    );
    assert!(!logs.contains("early"), "{logs}");
    let logs = bench.run(&["deploy", "logs", "worker"]).expect(0).stdout;
    assert!(logs.lines().count() == 3 && logs.lines().all(|line| line.contains("/worker: ")), "{logs}");
    let mut following = bench.start(&["deploy", "logs", "-f", "api"]);
    let printed = |text: &str| wait_for(text, || following_output(&bench).contains(text).then_some(()));
    printed("/api: live 3");
    // A pod that comes later is followed, too.
    bench.write(&profile_text().replace("request: 250m", "request: 300m"));
    bench.run(&["deploy"]).expect(0);
    printed("shop-api-2-0/api: early");
    following.signal(Signal::SIGINT);
    following.wait().expect(0);
}

/// What the command with the third number has printed.
fn following_output(bench: &Bench) -> String {
    std::fs::read_to_string(bench.sandbox.path("3.stdout")).unwrap_or_default()
}

/// The double has no container that could say it; the message is that of `scalekit cap apply`, which `cap.rs` runs for real.
#[test]
fn the_cap_that_a_container_found_is_shown() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    let status = bench.run(&["deploy", "status"]).expect(0).stdout;
    assert!(!status.contains("cap on"), "{status}");
    let facts = json!({
        "iops_per_s": 100, "group": "/host/cgroup/kubepods.slice", "directory": "/data/db", "devices": ["8:0"],
        "capped_per_s": 98.4, "uncapped_per_s": 2000.0, "problem": null,
    });
    let mut pod = bench.get("pods", "shop-mongo-0");
    pod["status"]["initContainerStatuses"] = json!([{
        "name": "cap", "image": "scalekit", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "message": facts.to_string()}},
    }]);
    bench.server.world().put("pods", pod);
    let status = bench.run(&["deploy", "status"]).expect(0);
    status.prints(&["cap on the database's disk: verified 98/s (asked 100/s, without it 2000/s)"]);
    assert_eq!(bench.json(&["deploy", "status"])["cap"], facts);
}
