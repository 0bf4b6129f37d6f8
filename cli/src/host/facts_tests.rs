//! What a machine is like, read from trees and from this host.

use super::*;

#[test]
fn only_a_program_that_none_but_root_wrote_is_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (program, exe) = (dir.path().join("mongod"), dir.path().join("exe"));
    fs::write(&program, "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink(&program, &exe).unwrap();
    let set = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    set(0o755);
    assert_eq!(roots_program(&exe).is_some(), nix::unistd::geteuid().is_root());
    set(0o775);
    assert!(roots_program(&exe).is_none());
    assert!(roots_program(&program).is_none(), "no link that names it");
}

#[test]
fn the_mongod_that_runs_counts_before_the_one_on_path() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can have a program that root wrote; a running mongod is NOT asked");
        return;
    }
    let double = "#!/bin/sh\necho db version v6.0.3\n";
    let (_dir, root) = Root::of(&[("proc/77/comm", "mongod\n"), ("opt/mongod", double)]);
    fs::set_permissions(root.path("opt/mongod"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(root.path("opt/mongod"), root.path("proc/77/exe")).unwrap();
    let link = |space: &str, target: &str| {
        let path = root.path(space);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    for (process, space) in ["self", "77"].iter().flat_map(|process| [(process, "mnt"), (process, "user")]) {
        link(&format!("proc/{process}/ns/{space}"), &format!("{space}:[1]"));
    }
    // A process that another test is just starting may hold the file open, and then it cannot be run.
    let deadline = Instant::now() + VERSION_TIMEOUT;
    while mongod(&root) != Some(6) {
        assert!(Instant::now() < deadline, "{:?}", mongod(&root));
    }
    // A container's root is not the host's.
    link("proc/77/ns/mnt", "mnt:[2]");
    assert_ne!(mongod(&root), Some(6));
}

#[test]
fn a_namespace_that_anything_holds_has_an_entrance() {
    let namespace = Namespace { id: "net:[77]".to_owned(), is_first: Some(false), boot: String::new() };
    let (_dir, root) = Root::of(&[("proc/12/comm", "x\n"), ("proc/12/fd/0", ""), ("proc/12/ns/uts", "")]);
    assert_eq!(namespace.entrance(&root), None);
    for (link, expected) in [("proc/12/fd/5", "proc/12/fd/5"), ("proc/12/ns/net", "proc/12/ns/net")] {
        std::os::unix::fs::symlink("net:[77]", root.path(link)).unwrap();
        let found = namespace.entrance(&root).unwrap();
        assert_eq!(found, format!("nsenter --net={}", root.path(expected).display()));
    }
    fs::write(root.path("proc/12/mountinfo"), "40 30 0:4 net:[77] /netns/x rw - nsfs nsfs rw\n").unwrap();
    let found = namespace.entrance(&root).unwrap();
    assert!(found.ends_with("proc/12/root/netns/x"), "{found}");
    fs::create_dir_all(root.path("run/netns")).unwrap();
    fs::write(root.path("run/netns/blue"), "").unwrap();
    let inode = fs::metadata(root.path("run/netns/blue")).unwrap().ino();
    let named = Namespace { id: format!("net:[{inode}]"), ..namespace };
    assert_eq!(named.entrance(&root).as_deref(), Some("ip netns exec blue"));
}

#[test]
fn a_container_is_told_by_its_marks() {
    assert!(!is_container(&Root::of(&[("proc/1/environ", "HOME=/\0TERM=linux\0")]).1));
    for mark in [("run/.containerenv", ""), ("proc/1/environ", "HOME=/\0container=podman\0")] {
        let (_dir, root) = Root::of(&[mark]);
        assert!(is_container(&root), "{mark:?}");
    }
}

#[test]
fn a_mongod_tells_its_version_in_time_or_not_at_all() {
    assert_eq!(version("db version v8.0.4\nBuild Info: {}\n"), Some(8));
    assert_eq!(version("mongod"), None);
    assert_eq!(
        output_of(Command::new("echo").arg("db version v7.0.1")).as_deref(),
        Some("db version v7.0.1\n")
    );
    assert_eq!(output_of(&mut Command::new("/no/such/program")), None);
}
