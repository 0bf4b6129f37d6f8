//! What is known to go wrong in clusters.

use std::fs;

use super::*;

#[test]
fn no_pod_has_more_rights_than_it_needs() {
    // Container by container: what needs more than the strictest level, and why it is no mistake.
    let privileged = ["tune"];
    let root = ["tune", "cap"];
    for (variant, profile) in variants() {
        for object in all(&profile) {
            let Some(spec) = pod_spec(&object) else { continue };
            let name = key(&object).1;
            assert_eq!(spec.automount_service_account_token, Some(false), "{variant}: {name}");
            // SCALEKIT_… of a Service named scalekit would be taken for flags.
            assert_eq!(spec.enable_service_links, Some(false), "{variant}: {name}");
            let pod = spec.security_context.clone().unwrap();
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                let what = format!("{variant}: {name}/{}", container.name);
                let own = container.security_context.clone().unwrap();
                assert_eq!(own.read_only_root_filesystem, Some(true), "{what}");
                assert_eq!(own.privileged == Some(true), privileged.contains(&&*container.name), "{what}");
                let runs_as_root = own.run_as_user.or(pod.run_as_user) == Some(0);
                assert_eq!(runs_as_root, root.contains(&&*container.name), "{what}");
                if !runs_as_root {
                    assert_eq!(own.run_as_non_root.or(pod.run_as_non_root), Some(true), "{what}");
                    assert_eq!(own.allow_privilege_escalation, Some(false), "{what}");
                    assert_eq!(own.capabilities.unwrap().drop.unwrap(), ["ALL"], "{what}");
                    let seccomp = own.seccomp_profile.or(pod.seccomp_profile.clone()).unwrap();
                    assert_eq!(seccomp.type_, "RuntimeDefault", "{what}");
                }
                let resources = container.resources.clone().unwrap();
                for list in [resources.requests.unwrap(), resources.limits.unwrap()] {
                    assert!(list.contains_key("cpu") && list.contains_key("memory"), "{what}");
                }
                let image = container.image.clone().unwrap();
                let pinned = image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest");
                assert!(pinned && !image.contains("bitnami"), "{what}: {image}");
            }
        }
    }
}

#[test]
fn the_namespace_allows_the_nodes_network_and_warns_of_it() {
    let labels = all(&base_profile())[0].metadata.labels.clone().unwrap();
    for (mode, level) in [("enforce", "privileged"), ("warn", "restricted"), ("audit", "restricted")] {
        assert_eq!(labels[&format!("pod-security.kubernetes.io/{mode}")], level);
    }
}

#[test]
fn the_api_is_on_its_nodes_network_and_can_be_replaced_there() {
    for (variant, profile) in variants().into_iter().filter(|(variant, _)| *variant != "embedded") {
        let on_host = profile.deploy.kubernetes.path == TrafficPath::Host;
        let api: Deployment = find(&profile, "Deployment", "api");
        let spec = api.spec.unwrap();
        // A second pod would wait for the first one's port for good.
        let rolling = spec.strategy.unwrap().rolling_update.unwrap();
        assert_eq!(
            serde_json::json!([rolling.max_surge, rolling.max_unavailable]),
            serde_json::json!([0, 1])
        );
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.host_network, on_host.then_some(true), "{variant}");
        // Without it, no name of a Service would resolve.
        assert_eq!(pod.dns_policy, on_host.then(|| "ClusterFirstWithHostNet".to_owned()), "{variant}");
        assert_eq!(pod.topology_spread_constraints.unwrap()[0].topology_key, "kubernetes.io/hostname");
        let container = &pod.containers[0];
        let port = &container.ports.as_ref().unwrap()[0];
        assert_eq!((port.container_port, port.host_port), (8080, on_host.then_some(8080)), "{variant}");
        let path = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
            probe.clone().unwrap().http_get.unwrap().path.unwrap()
        };
        // Readiness looks at Redis and the backlog; liveness must not, or an outage of theirs restarts all.
        assert_eq!(path(&container.startup_probe), "/healthz");
        assert_eq!(path(&container.readiness_probe), "/readyz");
        assert_eq!(path(&container.liveness_probe), "/healthz");
        // The image has no shell that could sleep.
        let sleep = container.lifecycle.clone().unwrap().pre_stop.unwrap().sleep.unwrap().seconds;
        let request = i64::try_from(profile.deploy.limits.request_timeout.as_secs()).unwrap();
        assert!(pod.termination_grace_period_seconds.unwrap() > sleep + request, "{variant}");
    }
}

#[test]
fn processors_are_burstable_or_guaranteed() {
    for (variant, profile) in variants() {
        if !["base", "guaranteed"].contains(&variant) {
            continue;
        }
        let api: Deployment = find(&profile, "Deployment", "api");
        let pod = api.spec.unwrap().template.spec.unwrap();
        let resources = pod.containers[0].resources.clone().unwrap();
        let (requests, limits) = (resources.requests.unwrap(), resources.limits.unwrap());
        if variant == "base" {
            assert_eq!((requests["cpu"].0.as_str(), limits["cpu"].0.as_str()), ("500m", "7500m"));
        } else {
            // Whole cores, all alike, and no other container: else the class is not Guaranteed.
            assert_eq!(requests, limits);
            assert!(requests["cpu"].0.parse::<u32>().is_ok());
            assert_eq!((pod.containers.len(), pod.init_containers), (1, None));
        }
    }
}

/// The words after a flag.
fn flag(words: &[String], name: &str) -> Option<String> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).cloned()
}

#[test]
fn the_journals_redis_keeps_all_and_the_caches_forgets() {
    let args = |profile: &Profile, component: &str| -> (bool, Vec<String>) {
        let set: StatefulSet = find(profile, "StatefulSet", component);
        let spec = set.spec.unwrap();
        (
            spec.volume_claim_templates.is_some(),
            spec.template.spec.unwrap().containers[0].args.clone().unwrap(),
        )
    };
    let mut profile = base_profile();
    let (has_volume, journal) = args(&profile, "journal");
    assert!(has_volume, "its file outlives the pod");
    for (name, expected) in [
        ("--maxmemory-policy", "noeviction"),
        ("--appendonly", "yes"),
        ("--appendfsync", "always"),
        ("--save", ""),
    ] {
        assert_eq!(flag(&journal, name).as_deref(), Some(expected));
    }
    assert!(flag(&journal, "--maxclients").is_some(), "{journal:?}");
    // Before the limit of the container kills it, Redis refuses.
    let most: u64 = flag(&journal, "--maxmemory").unwrap().parse().unwrap();
    assert!(
        most < profile.deploy.kubernetes.memory.journal && most > profile.deploy.limits.max_backlog_bytes
    );
    assert!(journal[0].ends_with("redis-auth.conf"), "the password is in a file: {journal:?}");
    profile.deploy.durability = crate::profile::Durability::Os;
    assert_eq!(flag(&args(&profile, "journal").1, "--appendfsync").as_deref(), Some("everysec"));
    let (has_volume, cache) = args(&profile, "cache");
    assert_eq!((has_volume, flag(&cache, "--maxmemory-policy").as_deref()), (false, Some("allkeys-lru")));
}

#[test]
fn mongodb_is_a_replica_set_with_a_key_and_a_cache_of_a_known_size() {
    let set: StatefulSet = find(&base_profile(), "StatefulSet", "mongo");
    let pod = set.spec.unwrap().template.spec.unwrap();
    let start = pod.containers[0].args.clone().unwrap().concat();
    for part in ["exec mongod", "--replSet rs0", "--keyFile", "--wiredTigerCacheSizeGB 0.50"] {
        assert!(start.contains(part), "{part}: {start}");
    }
    // The hook needs the member's name before the cluster publishes it; clients are told the same one.
    let alias = pod.host_aliases.unwrap()[0].hostnames.clone().unwrap()[0].clone();
    assert_eq!(alias, "scalekit-mongo-0.scalekit-mongo.assessment.svc");
    let secret: Secret = find(&base_profile(), "Secret", "credentials");
    let url = String::from_utf8(secret.data.unwrap()["mongo-url"].0.clone()).unwrap();
    assert!(url.contains(&format!("@{alias}:27017/scalekit?")), "the URL names it");
    assert_eq!(pod.init_containers, None, "no cap, since none is asked for");
    let service: Service = find(&base_profile(), "Service", "mongo");
    assert_eq!(service.spec.unwrap().publish_not_ready_addresses, Some(true));
}

#[test]
fn a_cap_is_set_and_proven_before_mongodb_starts() {
    let mut profile = base_profile();
    profile.deploy.cap.iops_per_s = Some(98);
    for required in [true, false] {
        profile.deploy.cap.required = required;
        let set: StatefulSet = find(&profile, "StatefulSet", "mongo");
        let pod = set.spec.unwrap().template.spec.unwrap();
        let cap = &pod.init_containers.unwrap()[0];
        // The command line is one that this binary understands.
        let words = ["scalekit".to_owned()].into_iter().chain(cap.args.clone().unwrap());
        crate::args::parse(words.map(Into::into)).unwrap();
        let args = cap.args.clone().unwrap();
        assert_eq!(flag(&args, "--iops").as_deref(), Some("98/s"));
        assert_eq!(args.contains(&"--unproven".to_owned()), !required, "MongoDB starts only when it holds");
        let mounts: Vec<_> =
            cap.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect();
        assert_eq!(mounts, [flag(&args, "--directory").unwrap(), flag(&args, "--cgroup-root").unwrap()]);
    }
}

#[test]
fn every_command_line_is_one_of_this_binary() {
    let mut seen = 0;
    for (_, profile) in variants() {
        for spec in all(&profile).iter().filter_map(pod_spec) {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                if !container.image.as_ref().unwrap().contains("scalekit") {
                    continue;
                }
                assert_eq!(container.command, None, "the image's entry point is the binary");
                let words = ["scalekit".to_owned()].into_iter().chain(container.args.clone().unwrap());
                crate::args::parse(words.map(Into::into)).unwrap();
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn a_policy_lets_in_the_nodes_since_pods_on_their_network_are_no_pods_to_it() {
    let cidrs = |profile: &Profile, component: &str| {
        let policy: NetworkPolicy = find(profile, "NetworkPolicy", component);
        let rules = policy.spec.unwrap().ingress.unwrap();
        let from = rules[0].from.clone().unwrap();
        from.into_iter().filter_map(|peer| peer.ip_block).map(|block| block.cidr).collect::<Vec<_>>()
    };
    let mut profile = base_profile();
    for component in ["journal", "cache", "mongo"] {
        assert_eq!(cidrs(&profile, component), profile.deploy.kubernetes.node_cidrs, "{component}");
    }
    profile.deploy.kubernetes.path = TrafficPath::Nodeport;
    for component in ["journal", "cache", "mongo"] {
        assert!(cidrs(&profile, component).is_empty(), "{component}: all are pods");
    }
}

#[test]
fn no_budget_holds_a_drain_up() {
    let mut budgets = 0;
    for (_, profile) in variants() {
        for object in all(&profile).iter().filter(|object| key(object).0 == "PodDisruptionBudget") {
            let budget: PodDisruptionBudget = serde_json::from_value(value(object)).unwrap();
            let spec = budget.spec.unwrap();
            assert_eq!(spec.min_available, None);
            assert_eq!(serde_json::to_value(spec.max_unavailable).unwrap(), 1);
            budgets += 1;
        }
    }
    assert!(budgets > 10, "{budgets}");
}

#[test]
fn a_worker_has_time_for_its_last_batch_and_a_name_of_its_own() {
    let mut profile = base_profile();
    profile.deploy.worker.linger = std::time::Duration::from_secs(60);
    let worker: Deployment = find(&profile, "Deployment", "worker");
    let pod = worker.spec.unwrap().template.spec.unwrap();
    let least = profile.deploy.worker.linger + profile.deploy.limits.request_timeout;
    let grace = u64::try_from(pod.termination_grace_period_seconds.unwrap()).unwrap();
    assert!(grace > least.as_secs(), "{grace}");
    let name = &pod.containers[0].env.as_ref().unwrap()[0];
    assert_eq!(name.name, "SCALEKIT_WORKER_NAME");
    assert_eq!(name.value_from.clone().unwrap().field_ref.unwrap().field_path, "metadata.name");
    assert_eq!(pod.host_network, None, "only the API has to be on the node's network");
}

#[test]
fn nodes_are_tuned_from_their_own_namespaces_and_never_back() {
    for (variant, kind) in [("tuned", "DaemonSet"), ("everything else", "Job")] {
        let profile = variants().into_iter().find(|(name, _)| *name == variant).unwrap().1;
        let objects = all(&profile);
        let object = objects.iter().find(|object| key(object).0 == kind).unwrap();
        let pod = pod_spec(object).unwrap();
        assert_eq!((pod.host_network, pod.host_pid), (Some(true), Some(true)), "{variant}");
        let tune = pod.init_containers.iter().flatten().chain(&pod.containers).next().unwrap();
        assert_eq!(tune.args.as_ref().unwrap()[..2], ["tune", "--yes"], "{variant}");
        // What is there when a pod ends stays: others rely on it by then.
        assert!(tune.lifecycle.is_none() && !value(object).to_string().contains("rollback"), "{variant}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("host.yaml");
        let config: ConfigMap = find(&profile, "ConfigMap", "tune");
        fs::write(&file, &config.data.unwrap()["host.yaml"]).unwrap();
        let read = load(file.to_str().unwrap(), Layer::default()).unwrap();
        assert_eq!(read.users(), profile.users(), "{variant}");
        assert_eq!(read.host.sysctls.len(), profile.host.sysctls.len(), "{variant}");
    }
}
