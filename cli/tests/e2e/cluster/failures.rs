//! Deployments that do not become ready: why, and what is left.

use nix::sys::signal::Signal;

use super::{Bench, profile_text};
use crate::api_server::Conduct;

/// Deploys, with the pods of a component as `conduct` says, and gives what was said.
fn fails(component: &str, conduct: Conduct, words: &[&str]) {
    let bench = Bench::new();
    bench.server.world().conduct.insert(component.to_owned(), conduct);
    bench.write(&profile_text().replace("ready_timeout: 20s", "ready_timeout: 2s"));
    let output = bench.run(&["deploy"]).expect(1);
    output.says(words).says(&[
        "the deployment is not ready",
        "created: Namespace assessment",
        "scalekit deploy status --target k8s",
    ]);
    // What is half there shows.
    bench.run(&["deploy", "status"]).expect(1).prints(&["NOT READY", &format!("shop-{component}")]);
    // And can be removed.
    bench.run(&["deploy", "down", "--purge"]).expect(0);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_with_what_to_do() {
    fails(
        "api",
        Conduct::ImagePull,
        &[
            "cannot pull the image registry.test/scalekit:1 (ImagePullBackOff)",
            "deploy.kubernetes.image",
            "deploy.kubernetes.image_pull_secret",
            "event of Pod shop-api-1-0: Failed: Failed to pull image: not found (3 times)",
        ],
    );
}

#[test]
fn a_port_that_is_taken_on_the_node_is_named() {
    fails(
        "api",
        Conduct::PortTaken,
        &[
            "not ready after 2 s (deploy.kubernetes.ready_timeout)",
            "didn't have free ports",
            "port 8080 on the node is taken",
            "deploy.kubernetes.port",
            "FailedScheduling",
        ],
    );
}

#[test]
fn a_node_without_room_and_a_claim_without_a_volume_are_told_apart() {
    fails(
        "worker",
        Conduct::NoMemory,
        &["Insufficient memory", "request less (deploy.kubernetes.cpu and memory)"],
    );
    fails(
        "journal",
        Conduct::Unbound,
        &[
            "unbound immediate",
            "PersistentVolumeClaim",
            "is Pending",
            "no storage class is set",
            "kubectl delete pod shop-journal-0 -n assessment",
            "deploy.kubernetes.storage.class",
        ],
    );
}

#[test]
fn a_container_that_ends_again_and_again_shows_its_last_lines() {
    fails(
        "worker",
        Conduct::Crash,
        &[
            "CrashLoopBackOff",
            "it ended with status 1, 4 times",
            "| line two of before of worker",
            "Deployment shop-worker: 0 of 1 pods are ready",
        ],
    );
}

#[test]
fn an_interrupted_wait_leaves_what_was_applied_and_says_so() {
    let bench = Bench::new();
    bench.server.world().conduct.insert("api".to_owned(), Conduct::NoMemory);
    let mut waiting = bench.start(&["deploy"]);
    waiting.wait_to_say("Deployment shop-api: 0 of 1 pods are ready");
    waiting.signal(Signal::SIGINT);
    waiting.wait().expect(105).says(&["interrupted", "scalekit deploy status --target k8s"]);
    bench.run(&["deploy", "status"]).expect(1).prints(&["Deployment shop-api", "NOT READY"]);
    // The cause is mended, and the same command goes on.
    bench.server.world().conduct.clear();
    bench.run(&["deploy"]).expect(0);
}
