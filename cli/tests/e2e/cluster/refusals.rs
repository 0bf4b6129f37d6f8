//! What is refused before anything is changed.

use std::fs;

use serde_json::json;

use super::{Bench, NAMESPACE, profile_text};
use crate::api_server::kubeconfig;
use crate::sandbox::free_port;

#[test]
fn without_a_kubeconfig_it_says_where_it_looked() {
    let bench = Bench::new();
    let mut command = bench.command(&["deploy"]);
    command.env_remove("KUBECONFIG");
    bench.sandbox.run(command).expect(1).says(&[
        "no kubeconfig",
        "KUBECONFIG is not set",
        "home/.kube/config",
        "help: ",
    ]);
    let mut command = bench.command(&["deploy"]);
    command.env("KUBECONFIG", "/nowhere/one:/nowhere/two");
    bench
        .sandbox
        .run(command)
        .expect(1)
        .says(&["KUBECONFIG names /nowhere/one and /nowhere/two", "does not exist"]);
    let broken = bench.sandbox.path("broken");
    fs::write(&broken, "contexts: [\n").unwrap();
    let mut command = bench.command(&["deploy"]);
    command.env("KUBECONFIG", &broken);
    bench.sandbox.run(command).expect(1).says(&["broken", "help: correct it"]);
}

#[test]
fn contexts_are_those_of_all_files_and_an_unknown_one_is_named() {
    let bench = Bench::new();
    bench.run(&["deploy", "--context", "nope"]).expect(1).says(&[
        "no context `nope`",
        "it has test, other",
        "--context",
    ]);
    // The first file says which is current, and a file that is missing is none.
    let first = bench.sandbox.path("first");
    let text = kubeconfig("http://127.0.0.1:1", "")
        .replace("name: test,", "name: dead,")
        .replace("name: other,", "name: dead-too,");
    let text =
        text.replace("current-context: test", "current-context: dead").replace("name: double,", "name: far,");
    let text = text.replace("cluster: double", "cluster: far");
    fs::write(&first, text).unwrap();
    let files = format!("{}:/nowhere:{}", first.display(), bench.kubeconfig);
    for (context, reached) in [(None, false), (Some("other"), true)] {
        let mut words = vec!["deploy", "--diff"];
        words.extend(context.iter().flat_map(|name| ["--context", name]));
        let mut command = bench.command(&words);
        command.env("KUBECONFIG", &files);
        let output = bench.sandbox.run(command);
        match reached {
            true => drop(output.expect(122)),
            false => drop(output.expect(1).says(&[
                "cannot reach the cluster at http://127.0.0.1:1",
                "context dead",
                "help: ",
            ])),
        }
    }
}

#[test]
fn a_cluster_that_is_away_is_told_at_once() {
    let bench = Bench::new();
    let file = bench.sandbox.path("away");
    let port = free_port();
    fs::write(&file, kubeconfig(&format!("http://127.0.0.1:{port}"), "")).unwrap();
    for action in [&["deploy"][..], &["deploy", "status"], &["deploy", "logs"], &["deploy", "down"]] {
        let mut command = bench.command(action);
        command.env("KUBECONFIG", &file);
        bench.sandbox.run(command).expect(1).says(&[
            "cannot reach the cluster",
            &port.to_string(),
            "refused",
            "kubectl cluster-info",
        ]);
    }
}

#[test]
fn a_server_that_does_not_know_the_user_or_is_not_trusted_is_told_apart() {
    let bench = Bench::new();
    let text = fs::read_to_string(&bench.kubeconfig).unwrap();
    let file = bench.sandbox.path("changed");
    let stranger = text.replace("token: a-token-of-the-test", "token: another");
    let authority = text.lines().find(|line| line.contains("certificate-authority-data")).unwrap();
    let untrusting = text.replace(authority.split("certificate-authority-data: ").nth(1).unwrap(), "''}}");
    for (changed, words) in [
        (stranger, ["does not know who asks", "log in again"]),
        (untrusting, ["cannot reach the cluster at https://127.0.0.1:", "certificate"]),
    ] {
        fs::write(&file, changed).unwrap();
        let mut command = bench.command(&["deploy"]);
        command.env("KUBECONFIG", &file);
        bench.sandbox.run(command).expect(1).says(&words);
    }
}

#[test]
fn missing_rights_are_named_all_at_once_and_nothing_is_changed() {
    let bench = Bench::new();
    bench.server.world().forbidden =
        vec![("patch", "deployments"), ("create", "secrets"), ("create", "namespaces")];
    bench.run(&["deploy"]).expect(1).says(&[
        "not allowed in the cluster (context test)",
        "patch deployments.apps in the namespace assessment",
        "create secrets in the namespace assessment",
        "create namespaces\n",
        "nothing was changed",
    ]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.server.get("namespaces", "", NAMESPACE).is_none());
}

#[test]
fn whoever_may_only_work_in_a_namespace_needs_no_right_to_see_it() {
    let bench = Bench::new();
    bench.server.world().add_namespace(NAMESPACE, json!({}));
    bench.server.world().forbidden = vec![
        ("get", "namespaces"),
        ("patch", "namespaces"),
        ("create", "namespaces"),
        ("create", "pods"),
        ("get", "nodes"),
    ];
    bench.run(&["deploy"]).expect(0);
    assert_eq!(bench.server.get("namespaces", "", NAMESPACE).unwrap()["metadata"]["labels"], json!({}));
}

#[test]
fn a_namespace_that_forbids_the_nodes_network_is_named_with_its_label() {
    let bench = Bench::new();
    let level = "pod-security.kubernetes.io/enforce";
    bench.server.world().add_namespace(NAMESPACE, json!({level: "baseline"}));
    bench.run(&["deploy"]).expect(1).says(&[
        "the namespace assessment forbids what the pods need (hostNetwork: true of Deployment shop-api)",
        "its label is pod-security.kubernetes.io/enforce=baseline",
        "kubectl label --overwrite namespace assessment pod-security.kubernetes.io/enforce=privileged",
        "deploy.kubernetes.path: nodeport",
        "nothing was changed",
    ]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    // The remedies do what they promise.
    bench.write(&profile_text().replace("cpu: {", "path: nodeport, cpu: {"));
    bench.run(&["deploy"]).expect(0);
    let live = bench.server.get("namespaces", "", NAMESPACE).unwrap();
    assert_eq!(
        live["metadata"]["labels"],
        json!({level: "baseline"}),
        "a namespace of somebody else's stays as it is"
    );
}

#[test]
fn a_level_that_no_label_shows_is_found_by_a_pod_that_is_tried() {
    let bench = Bench::new();
    {
        let mut world = bench.server.world();
        world.add_namespace(NAMESPACE, json!({}));
        let mut namespace = world.get("namespaces", "", NAMESPACE).unwrap().clone();
        // The default of a cluster is in a file of its API server's, which nobody else sees.
        namespace["metadata"]["annotations"] = json!({"double/default-level": "baseline"});
        world.put("namespaces", namespace);
    }
    bench.run(&["deploy"]).expect(1).says(&[
        "forbids what the pods need",
        "violates PodSecurity \"baseline:latest\"",
        "kubectl label",
    ]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn fields_of_others_are_named_with_their_manager_and_taken_only_on_request() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    let key = ("deployments", NAMESPACE, "shop-api");
    bench.server.world().change_as("kubectl-edit", key, "/spec/replicas", json!(3));
    bench.run(&["deploy"]).expect(1).says(&[
        "Deployment shop-api: .spec.replicas is set otherwise: conflict with \"kubectl-edit\"",
        "--force-conflicts",
        "nothing was changed",
    ]);
    assert_eq!(bench.get("deployments", "shop-api")["spec"]["replicas"], 3);
    bench.run(&["deploy", "--force-conflicts"]).expect(0).prints(&["changed: Deployment shop-api"]);
    assert_eq!(bench.get("deployments", "shop-api")["spec"]["replicas"], 1);
}

#[test]
fn what_cannot_be_changed_is_refused_before_anything_is() {
    let bench = Bench::new();
    bench.run(&["deploy"]).expect(0);
    let version = bench.server.world().version();
    bench.write(&profile_text().replace("cpu: {", "storage: {database: 21GiB}, cpu: {"));
    bench.run(&["deploy"]).expect(1).says(&[
        "StatefulSet shop-mongo cannot be as it is wanted",
        "immutable",
        "deploy down",
    ]);
    assert_eq!(bench.server.world().version(), version);
}

#[test]
fn a_failed_try_takes_the_namespace_away_that_it_was_made_for() {
    let bench = Bench::new();
    // The review of rights knows nothing of it: a webhook, say.
    bench.server.world().refuse_applies_of = Some("networkpolicies");
    bench.run(&["deploy"]).expect(1).says(&["networkpolicies", "denied by a policy of the test"]);
    assert!(bench.server.get("namespaces", "", NAMESPACE).is_none());
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn flags_of_a_cluster_and_commands_of_this_host_do_not_mix() {
    let bench = Bench::new();
    bench.run(&["run"]).expect(104).says(&["deploy.target", "bring", "--target k8s"]);
    for flags in [&["--diff"][..], &["--force-conflicts"], &["--context", "test"]] {
        let mut words = vec!["deploy", "--target", "local"];
        words.extend(flags);
        bench.run(&words).expect(104).says(&[flags[0], "--target k8s"]);
    }
}
