//! `deploy --systemd`: systemd's own tools judge the units. Where it is not what the host was started with, a program in
//! its name notes what it is asked for; files are installed for real, in an /etc that only the test sees.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::cap::{mongod, scalekit};
use crate::sandbox::{SCALEKIT, Sandbox};

/// Of ten; a service without any hardening has 9.6.
const MOST_EXPOSED: &str = "25";

fn has_analyze() -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|dir| dir.join("systemd-analyze").is_file());
    if !found {
        eprintln!("SKIPPED: no systemd-analyze (./test installs it); the units are NOT verified");
    }
    found
}

/// Writes each file that was printed into a directory: those that are units.
fn units(sandbox: &Sandbox, printed: &str) -> Vec<PathBuf> {
    let dir = sandbox.path("units");
    fs::create_dir_all(&dir).unwrap();
    let mut written = Vec::new();
    for file in printed.split("# ==> ").skip(1) {
        let (head, text) = file.split_once("<==\n").unwrap();
        let path = Path::new(head.split(' ').next().unwrap());
        if path.starts_with("/etc/systemd") {
            let path = dir.join(path.file_name().unwrap());
            fs::write(&path, text).unwrap();
            written.push(path);
        }
    }
    written
}

#[test]
fn units_are_sound_and_hardened_by_the_judgement_of_systemd() {
    let sandbox = Sandbox::new();
    let (true, Some(path)) = (has_analyze(), mongod(&sandbox)) else { return };
    for (name, deploy, count) in [
        ("embedded", "deploy: {listen: '127.0.0.1:8080'}", 2),
        ("low-port", "deploy: {listen: '0.0.0.0:80'}", 2),
        ("stack", "deploy: {backend: redis-mongo, listen: '127.0.0.1:8080', cap: {iops: 100/s}}", 6),
        (
            "given",
            "deploy: {backend: redis-mongo, listen: '127.0.0.1:8080', redis_url: 'redis://:hunter2@h', mongo_url: 'mongodb://h'}",
            3,
        ),
    ] {
        let profile = sandbox.profile(name, deploy);
        let args = ["deploy", "--systemd", "--render", "-p", &profile];
        let rendered = sandbox.run(scalekit(&sandbox, &path, &args)).expect(0).stdout;
        assert!(!rendered.contains("hunter2"), "{rendered}");
        for line in [
            "IOReadIOPSMax=/var/lib/scalekit/stack/mongod 100\n",
            " cap apply --own-group --unproven --iops 100/s --directory /var/lib/scalekit/stack/mongod \
             --result-file /run/scalekit-stack-cap.json\n",
        ] {
            assert_eq!(rendered.contains(line), name == "stack", "{line}{rendered}");
        }
        assert_eq!(rendered.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), name == "low-port");
        let units = units(&sandbox, &rendered);
        assert_eq!(units.len(), count, "{units:?}");
        let files: Vec<&str> = units.iter().map(|unit| unit.to_str().unwrap()).collect();
        let verified = sandbox.run(sandbox.program("systemd-analyze", &[&["verify"], &files[..]].concat()));
        // Of an older one, which goes on without; it has nothing else to say.
        let known = ["RestartSteps", "RestartMaxDelaySec"];
        let said: Vec<&str> = verified
            .stderr
            .lines()
            .filter(|line| line.contains("scalekit-") && !known.iter().any(|key| line.contains(key)))
            .collect();
        assert_eq!((verified.status, said), (Some(0), vec![]), "{name}: {}", verified.stderr);
        for service in files.iter().filter(|file| file.ends_with(".service")) {
            let args = ["security", "--offline=true", &format!("--threshold={MOST_EXPOSED}"), service];
            let judged = sandbox.run(sandbox.program("systemd-analyze", &args));
            assert_eq!(judged.status, Some(0), "{service}: {}", judged.stdout);
        }
        fs::remove_dir_all(sandbox.path("units")).unwrap();
    }
}

#[test]
fn what_stands_in_the_way_of_units_is_said() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("any-port", "");
    let render = ["deploy", "--systemd", "--render", "-p", &profile];
    sandbox.scalekit(&render).expect(1).says(&["deploy.listen", "--listen 127.0.0.1:8080"]);
    sandbox
        .scalekit(&["deploy", "--render", "-p", &profile])
        .expect(104)
        .says(&["--systemd", "--target k8s"]);
    if !Path::new("/run/systemd/system").exists() && nix::unistd::geteuid().is_root() {
        let install = ["deploy", "--systemd", "--listen", "127.0.0.1:8080", "-p", &profile];
        sandbox.scalekit(&install).expect(1).says(&["not started with systemd", "--render"]);
    }
    sandbox.expect_clean();
}

/// Steps in an /etc and a /run/systemd of their own; each prints what it was and its status.
fn in_own_etc(sandbox: &Sandbox, steps: &[&str]) -> crate::sandbox::Output {
    let bin = sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let asked = sandbox.path("asked");
    let double = format!(
        "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>{}\n\
         [ \"$1\" = show ] && printf 'ActiveState=active\\nMainPID=7\\nNRestarts=2\\nStateChangeTimestamp=now\\n'\nexit 0\n",
        asked.display()
    );
    for name in ["systemctl", "systemd-sysusers", "journalctl"] {
        fs::write(bin.join(name), &double).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!(
        "set -e\nmount -t tmpfs none /mnt && cp -a /etc /mnt/etc && mount --bind /mnt/etc /etc\n\
         mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/system\n\
         mount -t tmpfs none /opt && touch /opt/scalekit && mount --bind {SCALEKIT} /opt/scalekit\n\
         export PATH={}:$PATH\nset +e\n{}\n",
        bin.display(),
        steps.iter().map(|step| format!("{step}; echo \"-> $?\"")).collect::<Vec<_>>().join("\n")
    );
    sandbox.run(sandbox.program("unshare", &["--mount", "sh", "-c", &script]))
}

#[test]
fn units_are_installed_changed_shown_and_removed() {
    let sandbox = Sandbox::new();
    if in_own_etc(&sandbox, &["true"]).stdout != "-> 0\n" {
        eprintln!("SKIPPED: nothing can be mounted here; the installation of units is NOT tested");
        return;
    }
    let urls = "redis_url: 'redis://:hunter2@h', mongo_url: 'mongodb://h', listen: '127.0.0.1:8080'";
    let one = sandbox.profile("units", &format!("deploy: {{backend: redis-mongo, {urls}}}"));
    let changed = format!("deploy: {{backend: redis-mongo, {urls}, worker: {{linger: 33ms}}}}");
    let changed = format!("extends: quick-base.yaml\n{changed}");
    fs::write(sandbox.path("changed"), changed).unwrap();
    let deploy = format!("/opt/scalekit deploy --systemd -p {one}");
    let output = in_own_etc(
        &sandbox,
        &[
            &deploy,
            "stat -c '%a %n' /etc/scalekit/units/redis-url /etc/systemd/system/scalekit-units-api.service",
            "grep -r hunter2 /etc -l",
            &deploy,
            &format!("cp changed units.yaml; {deploy}"),
            &format!("sed -i s/hunter2/hunter3/ units.yaml; : >asked; {deploy}; grep try-restart asked"),
            &format!("/opt/scalekit deploy -p {one}"),
            &format!("/opt/scalekit deploy status -p {one}"),
            &format!("/opt/scalekit deploy logs api -f -p {one}"),
            &format!("/opt/scalekit deploy down -p {one}"),
            "ls /etc/scalekit /etc/systemd/system /etc/sysusers.d | grep scalekit-",
            &format!("/opt/scalekit deploy status -p {one}"),
        ],
    );
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let steps: Vec<(&str, &str)> =
        output.stdout.split("-> ").map(|step| step.split_once('\n').unwrap_or((step, ""))).collect();
    // Each part has the status of the step before it, and the output of its own.
    let status: Vec<&str> = steps.iter().skip(1).map(|(status, _)| *status).collect();
    let text: Vec<&str> = std::iter::once(output.stdout.split("-> ").next().unwrap())
        .chain(steps.iter().skip(1).map(|(_, text)| *text))
        .collect();
    // Nobody answers for the units, so the status of the deployment is 1, as after its end.
    assert_eq!(status, ["0", "0", "0", "0", "0", "0", "1", "1", "0", "0", "1", "1"], "{said}");
    assert!(text[0].contains("wrote /etc/systemd/system/scalekit-units-api.service"), "{said}");
    assert!(text[1].starts_with("600 ") && text[1].contains("644 "), "{said}");
    assert_eq!(text[2], "/etc/scalekit/units/redis-url\n", "the only place");
    assert!(text[3].contains("nothing to change"), "{said}");
    assert!(
        text[4].contains("scalekit-units-worker.service") && !text[4].contains("units-api.service"),
        "{said}"
    );
    // Another password: whoever reads it starts anew.
    assert!(text[5].contains("wrote /etc/scalekit/units/redis-url\n"), "{said}");
    let restarted = ["worker", "api"].map(|part| format!("try-restart scalekit-units-{part}.service"));
    assert!(restarted.iter().all(|asked| text[5].contains(asked)), "{said}");
    assert!(output.stderr.contains("is deployed as scalekit-units.target of systemd"), "{said}");
    assert!(text[7].contains("scalekit-units-api.service") && text[7].contains("2 restarts"), "{said}");
    assert!(
        text[9].contains("removed:") && text[9].contains("/etc/sysusers.d/scalekit-units.conf"),
        "{said}"
    );
    assert!(output.stderr.contains("nothing is deployed"), "{said}");
    let asked = fs::read_to_string(sandbox.path("asked")).unwrap();
    for expected in [
        "systemd-sysusers /etc/sysusers.d/scalekit-units.conf\nsystemctl daemon-reload",
        "systemctl enable --now scalekit-units.target",
        "journalctl --no-pager --lines 50 --unit scalekit-units-api.service --follow",
        "systemctl disable --now scalekit-units.target",
        "systemctl stop scalekit-units-api.service scalekit-units-worker.service",
    ] {
        assert!(asked.contains(expected), "{expected}: {asked}");
    }
}
