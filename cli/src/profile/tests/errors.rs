//! What is wrong with a profile is said with its place, its key and what was expected.

use super::*;

/// Each wrong text, where the error points, and what it says.
#[test]
fn errors_name_place_key_and_expectation() {
    for (text, expected) in [
        (
            "load:\n  think_time: 800\n",
            "x.yaml:2:15: load.think_time: expected a duration such as 800ms or 30s, found 800\n\
             help: the unit is missing: write 800ms, 800s, 800m or 800h",
        ),
        ("load:\n  thnik_time: 8s\n", "x.yaml:2:3: load: unknown key `thnik_time`"),
        ("laod: {}\n", "did you mean `load`?"),
        ("load:\n  thnik_time: 8s\n", "expected one of `url`, `scenario`"),
        ("deploy: {backend: mongo}\n", "x.yaml:1:19: deploy.backend: unknown value `mongo`"),
        ("deploy: {database_ops: 100}\n", "write 100/s or 100/min"),
        (
            "deploy: {database_iops: 0/s}\n",
            "x.yaml:1:25: deploy.database_iops: expected 1 to 1000000, found 0\nhelp: use at least 1",
        ),
        ("deploy: {database_iops: many}\n", "deploy.database_iops: expected a rate such as 100/s"),
        ("deploy: {database_device: ''}\n", "x.yaml:1:27: deploy.database_device: expected"),
        ("deploy: {cap: {iops: 0/s}}\n", "x.yaml:1:22: deploy.cap.iops: expected 1 to 1000000, found 0"),
        ("deploy: {cap: {required: true}}\n", "x.yaml:1:26: deploy.cap.required: there is no cap to prove"),
        (
            "deploy: {cap: {iops: 100/s}}\n",
            "x.yaml:1:22: deploy.cap.iops: the backend `embedded` keeps journal and database in one process",
        ),
        (
            "deploy: {backend: redis-mongo, mongo_url: 'mongodb://h', cap: {iops: 100/s}}\n",
            "deploy.cap.group: expected a path, found none: scalekit did not start that MongoDB",
        ),
        (
            "deploy: {backend: redis-mongo, mongo_url: 'mongodb://h', cap: {iops: 100/s, group: /sys/fs/cgroup/x}}\n",
            "deploy.cap.directory: expected a path, found none",
        ),
        (
            "deploy: {target: k8s, backend: redis-mongo, mongo_url: 'mongodb://h', cap: {iops: 100/s}}\n",
            "deploy.cap.iops: in a cluster only the MongoDB that scalekit starts there can be capped",
        ),
        (
            "deploy: {backend: redis-mongo, cap: {iops: 100/s, directory: /srv}}\n",
            "x.yaml:1:62: deploy.cap.directory: has no use without deploy.mongo_url",
        ),
        ("deploy: {target: cloud}\n", "x.yaml:1:18: deploy.target: unknown value `cloud`"),
        (
            "deploy: {target: k8s, listen: '0.0.0.0:80'}\n",
            "x.yaml:1:31: deploy.listen: is an address of this host, and the target is `k8s`\n\
             help: take it away, and set deploy.kubernetes.port",
        ),
        (
            "deploy: {kubernetes: {port: 80}}\n",
            "x.yaml:1:29: deploy.kubernetes.port: expected 1024 to 65535, found 80",
        ),
        (
            "deploy: {kubernetes: {namespace: My_Space}}\n",
            "x.yaml:1:34: deploy.kubernetes.namespace: expected 1 to 63 lower-case letters",
        ),
        (
            "deploy: {kubernetes: {name: a234567890123456789012345678901}}\n",
            "deploy.kubernetes.name: expected 1 to 30 lower-case letters",
        ),
        ("deploy: {kubernetes: {image: 'a b'}}\n", "deploy.kubernetes.image: expected an image such as"),
        (
            "deploy: {kubernetes: {node_cidrs: [10.0.0.0]}}\n",
            "node_cidrs: expected a network such as 10.0.0.0/8",
        ),
        ("deploy: {kubernetes: {node_cidrs: ['10.0.0.0/33']}}\n", "found \"10.0.0.0/33\""),
        (
            "deploy: {kubernetes: {node_selector: {'-ssd': x}}}\n",
            "deploy.kubernetes.node_selector.-ssd: expected a label",
        ),
        (
            "deploy: {kubernetes: {node_selector: {ssd: 'a b'}}}\n",
            "x.yaml:1:44: deploy.kubernetes.node_selector.ssd: expected a label's value",
        ),
        (
            "deploy: {kubernetes: {cpu: {request: 0.5}}}\n",
            "x.yaml:1:38: deploy.kubernetes.cpu.request: expected",
        ),
        ("deploy: {kubernetes: {cpu: {request: 500x}}}\n", "expected processors such as 500m or 2"),
        ("deploy: {kubernetes: {cpu: {request: 8}}}\n", "x.yaml:1:38: deploy.kubernetes.cpu.request"),
        (
            "deploy: {kubernetes: {cpu: {request: '8'}}}\n",
            "deploy.kubernetes.cpu.request: 8 is more than deploy.kubernetes.cpu.limit, 7500m",
        ),
        (
            "deploy: {kubernetes: {memory: {database: 512MiB}}}\n",
            "deploy.kubernetes.memory.database: expected 1GiB to 1024GiB, found 512MiB",
        ),
        (
            "deploy: {target: k8s, backend: redis-mongo, kubernetes: {memory: {journal: 1GiB}}}\n",
            "x.yaml:1:76: deploy.kubernetes.memory.journal: three quarters of 1GiB do not take one and a half times \
             the backlog, 1GiB (deploy.limits.max_backlog_bytes)\nhelp: set it to 2GiB or more",
        ),
        (
            "deploy: {target: k8s, kubernetes: {replicas: 2}}\n",
            "x.yaml:1:46: deploy.kubernetes.replicas: the backend `embedded` is one process, found 2 pods",
        ),
        (
            "deploy: {target: k8s, kubernetes: {node_port: 30001}}\n",
            "deploy.kubernetes.node_port: is of the path `nodeport`, and deploy.kubernetes.path is another",
        ),
        (
            "deploy: {target: k8s, kubernetes: {ingress: {host: a.example}}}\n",
            "deploy.kubernetes.ingress.host: is of the path `ingress`",
        ),
        (
            "deploy: {target: k8s, kubernetes: {node_cidrs: []}}\n",
            "deploy.kubernetes.node_cidrs: with the path `host` the API comes from its node's address",
        ),
        (
            "deploy: {target: k8s, tls: {cert: c, key: k}, kubernetes: {path: ingress}}\n",
            "deploy.tls.cert: the ingress controller ends TLS",
        ),
        (
            "deploy: {target: k8s, database_device: /dev/sdb}\n",
            "deploy.database_device: is a path of this host",
        ),
        (
            "deploy: {target: k8s, backend: redis-mongo, mongo_url: 'mongodb://h', database_iops: 100/s}\n",
            "deploy.database_iops: nobody in the cluster can read the device of a MongoDB outside of it",
        ),
        (
            "deploy: {target: k8s, backend: redis-mongo, mode: direct, database_iops: 100/s}\n",
            "deploy.database_iops: in the mode `direct` no process runs beside the database",
        ),
        (
            "deploy: {target: k8s, api_threads: 9, kubernetes: {cpu: {class: guaranteed}}}\n",
            "deploy.api_threads: 9 threads on 4 cores of their own",
        ),
        (
            "deploy: {worker: {batch_max_bytes: 8}}\n",
            "deploy.worker.batch_max_bytes: expected a size such as 4MiB",
        ),
        ("deploy: {shards: 65}\n", "x.yaml:1:18: deploy.shards: expected 1 to 64, found 65"),
        (
            "deploy: {shards: 2}\n",
            "x.yaml:1:18: deploy.shards: the backend `embedded` has one journal and one worker, found 2\n\
             help: set it to 1, or deploy.backend to redis-mongo",
        ),
        // What waits longer could leave the cache before it is in the database.
        (
            "deploy: {limits: {max_backlog_age: 6m}}\n",
            "deploy.limits.max_backlog_age: expected 1s to 5m, found 6m",
        ),
        ("load: {vus: 0}\n", "x.yaml:1:13: load.vus: expected 1 to 1000000, found 0"),
        ("load: {vus: -4}\n", "x.yaml:1:13: load.vus: expected a whole number, found -4"),
        ("load: {vus: many}\n", "load.vus: expected a whole number, found string \"many\""),
        ("load:\n  vus: 5\n  vus: 6\n", "duplicate key `vus`"),
        ("load: 5\n", "x.yaml:1:7: load: expected a section of keys, found integer `5`"),
        ("load: {duration: 25h}\n", "load.duration: expected 1s to 24h, found 25h"),
        ("load: {http: 3}\n", "x.yaml:1:14: load.http: expected auto, 1.1 or 2, found integer `3`"),
        ("load: {http: spdy}\n", "load.http: expected auto, 1.1 or 2, found string \"spdy\""),
        ("load: {local_ips: [127.0.0.2, here]}\n", "load.local_ips: expected an IP address, or a range"),
        ("load: {local_ips: 127.0.0.2}\n", "x.yaml:1:19: load.local_ips: expected a"),
        ("load: {agents: []}\n", "x.yaml:1:16: load.agents: expected 1 to 100 agents, found 0"),
        (
            "load:\n  agents: ['10.0.0.1:7420', '10.0.0.2']\n",
            "x.yaml:2:29: load.agents.1: expected HOST:PORT, found \"10.0.0.2\"",
        ),
        (
            "load: {agents: ['Node:1', 'h:1', ' node:1']}\n",
            "x.yaml:1:34: load.agents.2: the agent node:1 is named twice",
        ),
        ("load: {agents: 'h:1'}\n", "x.yaml:1:16: load.agents: expected a list"),
        ("load: {agents_token: secret}\n", "unknown key `agents_token`"),
        ("load: {connection_reuse: maybe}\n", "load.connection_reuse: expected a boolean"),
        ("load: {tls: {ca: ''}}\n", "load.tls.ca: expected the path of a file"),
        ("load: {url: ftp://x}\n", "expected a URL such as http://host:port, found \"ftp://x\""),
        ("deploy: {listen: here}\n", "x.yaml:1:18: deploy.listen: expected an address and port"),
        ("load: {transactions: {writes: 65}}\n", "expected 0 to 64, found 65"),
        ("load: {request: {headers: {'a b': c}}}\n", "load.request.headers.a b: expected a header name"),
        ("criteria: {http_reqs: p(95)<1}\n", "criteria.http_reqs: expected a"),
        ("criteria: {http_reqs: [{threshold: a, abort: b}]}\n", "unknown key `abort`"),
        ("criteria:\n  a: [b>1]\n  a: [c>1]\n", "duplicate key `a`"),
        (
            "load:\n\tvus: 3\n",
            "x.yaml:2:1: found character that cannot start any token, while scanning for the next token\n\
             help: correct the YAML: indent with spaces",
        ),
        ("load:\n  vus: 5\n  thnik_time: 8s\n", "x.yaml:3:3: load: unknown key `thnik_time`"),
        (
            "criteria:\n  http_reqs: count>1\n",
            "x.yaml:2:14: criteria.http_reqs: expected a list, found string",
        ),
        ("description: 'a\nload: {}\n", "help: correct the YAML"),
        ("load: [\n", "x.yaml:1:7: load: expected a section of keys, found a list"),
        ("extends: lcal\n", "x.yaml:1:10: extends: there is no profile `lcal`\nhelp: did you mean `local`?"),
        ("extends: ./x.yaml\n", "x.yaml:1:10: extends: `./x.yaml` extends this profile in turn"),
        ("extends: none.yaml\n", "none.yaml: cannot read the profile"),
        ("load: {scenario: request}\n", "x.yaml:1:18: load.scenario: `request` needs a URL"),
        ("deploy: {redis_url: 'redis://h'}\n", "x.yaml:1:21: deploy.redis_url: has no use with the backend"),
        ("load: {think_time: 30s}\n", "load.think_time: 30s of thinking leaves no second iteration"),
        ("load: {warmup: 1h}\n", "load.warmup: 1h to warm up for 30s"),
        ("deploy: {drain_timeout: 5s}\n", "deploy.drain_timeout: 5s ends before a request does"),
        ("deploy: {limits: {max_connections: 9}}\n", "load.vus: 1200 users need a connection each"),
        ("load: {transactions: {reads: 0, writes: 0}}\n", "leave nothing to do"),
        ("load: {rate: 100/s, pacing: 1s}\n", "load.pacing: cannot go with load.rate"),
        ("load: {rate: 100/s, think_time: 1s}\n", "load.think_time: cannot go with load.rate"),
        ("load: {stages: ['30s:100'], duration: 1m}\n", "load.duration: cannot go with load.stages"),
        ("load: {stages: ['30s:100'], vus: 5}\n", "load.vus: cannot go with load.stages"),
        ("load: {stages: ['30s:100', '1m:5/s']}\n", "1m:5/s is of another kind than 30s:100"),
        ("load: {stages: ['0s:100']}\n", "load.stages: 0s:100 has no length"),
        ("load: {stages: ['30s:0']}\n", "a highest target of 1 to 1000000, found 0"),
        ("load: {stages: ['3s:9'], warmup: 3s}\n", "more than the warm-up (3s)"),
        ("load: {stages: ['30:100']}\n", "expected a stage such as 30s:100"),
        ("load: {iterations: 0}\n", "load.iterations: expected 1 to"),
        ("load: {steps: [{path: /}]}\n", "`transactions` has no use for load.steps"),
        ("load: {scenario: steps, url: 'http://h'}\n", "`steps` needs load.steps"),
        ("load: {scenario: steps, steps: [{path: /}]}\n", "`steps` needs a URL"),
        (
            "load: {scenario: steps, url: 'http://h', steps: [{name: a}, {name: a}]}\n",
            "load.steps.1.name: two steps are named \"a\"",
        ),
        (
            "load: {scenario: steps, url: 'http://h', steps: [{method: get}]}\n",
            "load.steps.0.method: expected an HTTP method",
        ),
        (
            "load: {scenario: steps, url: 'http://h', steps: [{checks: {status: [20]}}]}\n",
            "expected a status such as 200 or a range",
        ),
        (
            "load: {scenario: request, url: 'http://h'}\ncriteria: {lost_writes: [count==0]}\n",
            "x.yaml:2:26: criteria.lost_writes: `count==0` can never pass: only the bundled service",
        ),
    ] {
        let error = load_text(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n{error}\n  lacks\n{expected}");
        assert!(error.contains("\nhelp: "), "{error}");
    }
}

#[test]
fn errors_from_the_command_line_name_the_flag() {
    let mut flags = Layer::default();
    flags.load.section().vus = Some(Whole(0)).into();
    let error = load("local", flags).unwrap_err().to_string();
    assert!(error.starts_with("--vus: load.vus: expected 1 to 1000000, found 0"), "{error}");

    let mut flags = Layer::default();
    flags.deploy.section().api_threads = Some(Whole(0)).into();
    let error = load("local", flags).unwrap_err().to_string();
    assert!(error.starts_with("--threads: deploy.api_threads: expected 1 to 1024, found 0"), "{error}");

    let mut flags = Layer::default();
    flags.deploy.section().redis_url = Some(ServerUrl::from("redis://h")).into();
    let error = load("local", flags).unwrap_err().to_string();
    assert!(error.starts_with("--redis-url: deploy.redis_url: has no use"), "{error}");

    let error = load("lcoal", Layer::default()).unwrap_err().to_string();
    assert!(error.contains("lcoal: there is no such profile\nhelp: did you mean `local`?"), "{error}");
    assert!(threshold_flag("p(95)").is_err() && threshold_flag("=x").is_err());
    assert_eq!(threshold_flag("a=p(95)<=5").unwrap().expression, "p(95)<=5");
}

/// The same profile goes from a laptop to a cluster: what belongs to a host only, falls away.
#[test]
fn an_address_of_a_host_does_not_keep_a_profile_from_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    fs::write(&file, "deploy: {listen: '127.0.0.1:8080'}\n").unwrap();
    let mut layer = Layer::default();
    layer.deploy.section().target = Some(DeployTarget::K8s).into();
    let profile = load(file.to_str().unwrap(), layer.clone()).unwrap();
    assert!(profile.notes[0].contains("deploy.listen does not apply"), "{:?}", profile.notes);
    assert!(
        load("default", layer.clone()).unwrap().notes.is_empty(),
        "nobody asked for the default's address"
    );
    layer.deploy.section().listen = Some("127.0.0.1:8080".to_owned()).into();
    assert!(load("default", layer).is_err(), "both were typed");
}
