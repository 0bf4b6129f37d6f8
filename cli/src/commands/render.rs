//! `scalekit deploy --render`: what a cluster would be asked for, as YAML for `kubectl apply -f -`.

use super::print;
use crate::deploy::kubernetes;
use crate::exit::ExitStatus;
use crate::profile::{DeployTarget, Profile, flag_error};

pub(super) fn render(profile: &Profile) -> anyhow::Result<ExitStatus> {
    if profile.deploy.target != DeployTarget::K8s {
        let message = "there is nothing to render for the target `local`, which is processes on this host";
        return Err(
            flag_error("--render", message, "add --target k8s, or --systemd for units of this host").into()
        );
    }
    print(&kubernetes::render(profile)?)?;
    Ok(ExitStatus::Done)
}
