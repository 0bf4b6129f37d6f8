//! The main path in a real cluster, where KUBECONFIG_TEST names its kubeconfig; KUBECONFIG_TEST_IMAGE names an image of
//! this version that its nodes can pull.

use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn a_real_cluster_takes_changes_and_gives_back_a_deployment() {
    let (Some(kubeconfig), Some(image)) =
        (std::env::var_os("KUBECONFIG_TEST"), std::env::var("KUBECONFIG_TEST_IMAGE").ok())
    else {
        eprintln!(
            "SKIPPED: KUBECONFIG_TEST and KUBECONFIG_TEST_IMAGE are not set; deploying to a real cluster is NOT tested"
        );
        return;
    };
    let sandbox = Sandbox::new();
    let profile = sandbox.path("scalekit-e2e.yaml");
    let write = |request: &str| {
        let text = format!(
            "extends: default
description: A deployment of a test.
deploy:
  target: k8s
  backend: redis-mongo
  kubernetes:
    ready_timeout: 300s
    namespace: scalekit-e2e
    image: '{image}'
    path: nodeport
    cpu: {{request: {request}, limit: '1'}}
"
        );
        std::fs::write(&profile, text).unwrap();
    };
    let run = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.args(["-p", profile.to_str().unwrap()]).env("KUBECONFIG", &kubeconfig);
        sandbox.run(command)
    };
    write("100m");
    run(&["deploy", "--diff"]).expect(122);
    let up = run(&["deploy"]);
    if up.status != Some(0) {
        // Nothing of it stays in somebody's cluster.
        run(&["deploy", "down", "--purge"]);
        up.expect(0);
        return;
    }
    run(&["deploy", "status"]).expect(0);
    run(&["deploy", "--diff"]).expect(0);
    run(&["deploy"]).expect(0).prints(&["nothing to change"]);
    write("150m");
    let changed = run(&["deploy", "--json"]).expect(0).stdout;
    let changed: Value = serde_json::from_str(&changed).unwrap();
    assert_eq!(changed["changed"], serde_json::json!(["Deployment scalekit-e2e-api"]), "{changed}");
    run(&["deploy", "logs", "api"]).expect(0).prints(&["/api: "]);
    run(&["deploy", "down", "--purge"]).expect(0);
    run(&["deploy", "status"]).expect(1).says(&["nothing of `scalekit-e2e`"]);
}
