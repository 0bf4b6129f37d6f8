//! The cap on the database's disk, by a container that runs before MongoDB: it finds the pod's control group on the node,
//! limits it, and has a probe show that the limit holds. No runtime class and no file of the node's is needed for it.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, HostPathVolumeSource, ObjectFieldSelector,
    SecurityContext, Volume,
};

use super::common::{DATA, container, mount, resources, strings};
use super::images;
use crate::profile::Profile;

const GROUPS: &str = "groups";
const GROUP_ROOT: &str = "/host/cgroup";
const TERMINATION_FILE: &str = "/dev/termination-log";

/// `None` where the profile asks for no cap. `directory` is where the data volume is mounted.
pub(super) fn init(profile: &Profile, directory: &str) -> Option<Container> {
    let cap = &profile.deploy.cap;
    let iops = cap.iops_per_s?;
    let mut args = strings(["cap", "apply", "--iops"]);
    args.push(format!("{iops}/s"));
    args.extend(strings(["--directory", directory, "--cgroup-root", GROUP_ROOT]));
    args.extend(strings(["--pod-uid", "$(POD_UID)", "--result-file", TERMINATION_FILE]));
    if !cap.required {
        args.push("--unproven".to_owned());
    }
    let uid =
        ObjectFieldSelector { field_path: "metadata.uid".to_owned(), api_version: Some("v1".to_owned()) };
    Some(Container {
        args: Some(args),
        env: Some(vec![EnvVar {
            name: "POD_UID".to_owned(),
            value: None,
            value_from: Some(EnvVarSource { field_ref: Some(uid), ..EnvVarSource::default() }),
        }]),
        resources: Some(resources("50m", "500m", 64 << 20)),
        // The group's files are root's. Root writes into the volume, which is another user's, only past its permissions.
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(strings(["ALL"])),
                add: Some(strings(["DAC_OVERRIDE"])),
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount(DATA, directory, false), mount(GROUPS, GROUP_ROOT, false)]),
        ..container("cap", images::scalekit(profile))
    })
}

/// The node's control groups.
pub(super) fn volume() -> Volume {
    let source =
        HostPathVolumeSource { path: "/sys/fs/cgroup".to_owned(), type_: Some("Directory".to_owned()) };
    Volume { name: GROUPS.to_owned(), host_path: Some(source), ..Volume::default() }
}
