//! The local target: starts the processes of a deployment in order, each when the one before is ready.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::profile::{Profile, Servers};

use super::DeployError;
use super::cap::Cap;
use super::plan::{Part, Plan};
use super::planning;
use super::process::{self, Started};
use super::state::{Deployment, Member, Role, save};

/// How long a process may take to finish its work after it was asked to end.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(30);

/// Whether the processes outlive this command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// They end with it, even when it is killed.
    Command,
    /// They stay until `deploy down`.
    Detached,
}

/// What to bring up.
pub(crate) struct Request<'a> {
    pub(crate) profile: &'a Profile,
    /// Where its Redis and MongoDB are, as far as it says.
    pub(crate) servers: &'a Servers,
    /// Of the deployment; created.
    pub(crate) dir: &'a Path,
    /// This program.
    pub(crate) binary: &'a Path,
    pub(crate) lifetime: Lifetime,
    /// Set when the user wants out.
    pub(crate) stop: &'a AtomicBool,
}

/// A deployment that this command started, and must end or leave. Nothing starts a process of it again: what is measured
/// must not be replaced unseen.
pub(crate) struct Running {
    pub(crate) deployment: Deployment,
    processes: Vec<Started>,
    plan: Plan,
}

impl Running {
    /// Ends all processes, those first that depend on the others; goes on after one that cannot be ended.
    pub(crate) async fn stop(mut self) -> Result<(), DeployError> {
        stop_all(&mut self.processes, self.deployment.cap.as_ref()).await
    }

    /// Leaves them running, to a supervisor that takes them over.
    ///
    /// # Errors
    /// There is no supervisor; they run all the same.
    pub(crate) async fn leave(self, binary: &Path) -> Result<(), DeployError> {
        // Who wanted the load to end early still wants this.
        let never = AtomicBool::new(false);
        super::supervised::hand_over(&self.plan, binary, &never).await.map(drop)
    }
}

async fn stop_all(processes: &mut Vec<Started>, cap: Option<&Cap>) -> Result<(), DeployError> {
    let mut result = Ok(());
    while let Some(mut process) = processes.pop() {
        result = result.and(process.stop(STOP_GRACE).await);
    }
    match cap {
        Some(cap) => result.and(cap.release().await.map_err(DeployError::from)),
        None => result,
    }
}

/// Brings everything up, or nothing: after an error, what was started has been ended. What outlives this command is
/// recorded before, so that it can always be found.
///
/// # Errors
/// The part that did not come up, with the end of its log.
pub(crate) async fn up(request: &Request<'_>) -> Result<Running, DeployError> {
    let plan = planning::plan(request, None).await?;
    let (mut processes, mut deployment) = (Vec::new(), plan.deployment.clone());
    let up = match bring_up(request, &plan, &mut deployment, &mut processes).await {
        Ok(()) if request.lifetime == Lifetime::Detached => save(&deployment),
        result => result,
    };
    match up {
        Ok(()) => Ok(Running { deployment, processes, plan }),
        Err(error) => {
            // The first error is the one that tells what to do.
            let _ = stop_all(&mut processes, deployment.cap.as_ref()).await;
            Err(error)
        }
    }
}

async fn bring_up(
    request: &Request<'_>,
    plan: &Plan,
    deployment: &mut Deployment,
    processes: &mut Vec<Started>,
) -> Result<(), DeployError> {
    for part in &plan.parts {
        let process = start(part, None, request.lifetime == Lifetime::Command)?;
        // Owned by the list from here on, so that it is ended whatever happens.
        processes.push(process);
        let process = processes.last_mut().expect("pushed just above");
        let mut member = Member::new(part, process.identity.clone());
        let url = part.readiness.wait(process, plan.ready_timeout, Some(request.stop)).await?;
        member.is_ready = true;
        deployment.processes.push(member);
        if let Some(url) = url {
            deployment.roles.insert(0, Role { name: part.name().to_owned(), url });
        }
    }
    Ok(())
}

/// Starts the process of a part. `last`: where it listened before, if that is known.
pub(super) fn start(part: &Part, last: Option<&str>, die_with_us: bool) -> Result<Started, DeployError> {
    part.readiness.prepare()?;
    let mut spec = part.spec.clone();
    if let Some(last) =
        last.filter(|last| spec.listen.as_deref().is_some_and(|listen| is_one_of(last, listen)))
    {
        // Whoever was told of it finds it there again.
        spec.listen = Some(last.to_owned());
    }
    process::start(&spec, die_with_us)
}

/// Whether `listen` takes any port of this address.
fn is_one_of(address: &str, listen: &str) -> bool {
    let ip = listen.strip_suffix(":0");
    ip.is_some() && ip == address.rsplit_once(':').map(|(ip, _)| ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_where_any_port_will_do() {
        for (listen, expected) in [
            ("127.0.0.1:0", true),
            ("0.0.0.0:0", false),
            ("127.0.0.1:81", false),
            ("127.0.0.1:80", false),
            ("[::1]:0", false),
        ] {
            assert_eq!(is_one_of("127.0.0.1:80", listen), expected, "{listen}");
        }
        assert!(is_one_of("[::1]:80", "[::1]:0"));
    }
}
