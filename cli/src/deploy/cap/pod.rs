//! The control group of a Kubernetes pod, by its uid, below the node's control groups.

use std::fs;
use std::path::{Path, PathBuf};

use super::CapError;

/// `kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod….slice` is the
/// deepest that is known (kind), below `blkio` with version 1.
const MAX_DEPTH: usize = 6;
/// A node has some hundred pods, and a few groups for each.
const MAX_DIRECTORIES: usize = 100_000;

/// Finds it. Only with version 2 does its limit bind the containers, each a group below it; with version 1 the probe tells
/// that it does not.
///
/// The kubelet names it `pod` and the uid; with systemd as its driver in a slice's name, where a dash would be a
/// level, so that the uid's are underscores.
///
/// # Errors
/// There is none.
pub(crate) fn of_pod(root: &Path, uid: &str) -> Result<PathBuf, CapError> {
    let names = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    let is_it = |name: &str| {
        let name = name.strip_suffix(".slice").unwrap_or(name);
        !uid.is_empty() && names.iter().any(|of| name == of || name.ends_with(&format!("-{of}")))
    };
    // Version 1 has a hierarchy for each controller, and this is the one that caps.
    let v1 = root.join("blkio");
    let start = if v1.is_dir() { v1 } else { root.to_owned() };
    let mut level = vec![start];
    let mut seen = 0;
    for _ in 0..MAX_DEPTH {
        let mut below = Vec::new();
        for directory in level {
            // Groups come and go.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                seen += 1;
                if seen > MAX_DIRECTORIES || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let name = entry.file_name();
                if is_it(&name.to_string_lossy()) {
                    return Ok(entry.path());
                }
                below.push(entry.path());
            }
        }
        level = below;
    }
    Err(CapError::NoPod { root: root.to_owned(), uid: uid.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3b6c1d0e-5f2a-4f6c-9a51-0c5d8a8c7e11";

    #[test]
    fn a_pod_is_found_under_each_driver() {
        let slice = UID.replace('-', "_");
        for path in [
            format!("kubepods/burstable/pod{UID}"),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"),
            format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice"),
            format!("blkio/kubepods/pod{UID}"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let group = root.path().join(&path);
            fs::create_dir_all(group.join("cri-containerd-1.scope")).unwrap();
            fs::create_dir_all(root.path().join("kubepods/burstable/pod3b6c1d0e")).unwrap();
            assert_eq!(of_pod(root.path(), UID).unwrap(), group);
            for other in ["", "3b6c1d0e-5f2a", "0c5d8a8c7e11"] {
                let error = of_pod(root.path(), other).unwrap_err().to_string();
                assert!(error.contains("--cgroup-root") && error.contains("metadata.uid"), "{error}");
            }
        }
    }
}
