//! Agents in the cluster, for one bench: a Job is made, waited for, reached by forwarded ports and removed. Only what
//! coordinates the load passes these; the load itself goes from the pods to the service.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use tokio::time::Instant;

use super::connect::Cluster;
use super::error::{Ask, ClusterError};
use super::follow::{Follow, Seen};
use super::forward::{Forward, forward};
use super::kinds::{JOB, POD, SECRET};
use super::{apply, status, trouble};
use crate::deploy::kubernetes::{self, AGENT_PORT, AGENTS, COMPONENT};
use crate::profile::Profile;

const TICK: Duration = Duration::from_millis(100);
/// For the pods to be gone.
const GONE_PATIENCE: Duration = Duration::from_secs(60);

/// Agents that are ready. They have to be removed: dropped, only the Job's own deadline ends them.
pub(crate) struct Fleet {
    cluster: Cluster,
    name: String,
    forwards: Vec<Forward>,
}

/// How many agents, and how long they may live at most.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) count: u16,
    pub(crate) lifetime: Duration,
}

impl Fleet {
    /// # Errors
    /// Another bench has agents there, the cluster refuses them, they are not ready in time, or the interruption. Nothing
    /// stays of it then.
    pub(crate) async fn raise(
        cluster: &Cluster,
        profile: &Profile,
        size: Size,
        token: &str,
        stop: &AtomicBool,
    ) -> Result<Self, ClusterError> {
        let name = kubernetes::name_of(profile, AGENTS);
        let mut fleet = Self { cluster: cluster.clone(), name, forwards: Vec::new() };
        let uid = fleet.make_job(profile, size).await?;
        match fleet.fill(profile, size, &uid, token, stop).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                if let Err(stuck) = fleet.remove().await {
                    tracing::warn!(
                        "agents may be left in the cluster, for {:?} at most: {stuck}",
                        size.lifetime
                    );
                }
                Err(error)
            }
        }
    }

    async fn make_job(&self, profile: &Profile, size: Size) -> Result<String, ClusterError> {
        let seconds = i64::try_from(size.lifetime.as_secs()).unwrap_or(i64::MAX);
        let job = kubernetes::agents_job(profile, size.count, seconds);
        let (api, params) = (self.cluster.typed::<Job>(), PostParams::default());
        let resource = JOB.full_name();
        let ask =
            Ask { verb: "create", resource: &resource, name: &self.name, namespace: &self.cluster.namespace };
        let made = self.cluster.ask(|| ask.what(), api.create(&params, &job)).await?;
        match made {
            Ok(job) => Ok(job.metadata.uid.unwrap_or_default()),
            Err(refused) if refused.is_already_exists() => Err(ClusterError::Api {
                what: format!("make the agents of {}", kubernetes::instance(profile)),
                message: format!(
                    "the Job {0} is there already\nhelp: wait for the bench that it is of; if there is none any more, \
                     `kubectl delete job {0} -n {1}`",
                    self.name, self.cluster.namespace
                ),
            }),
            Err(refused) => Err(ask.refused(&refused)),
        }
    }

    async fn fill(
        &mut self,
        profile: &Profile,
        size: Size,
        job_uid: &str,
        token: &str,
        stop: &AtomicBool,
    ) -> Result<(), ClusterError> {
        let secret = kubernetes::agents_secret(profile, job_uid, token);
        let (api, params) = (self.cluster.typed::<Secret>(), PostParams::default());
        self.cluster.must("create", SECRET, &self.name, api.create(&params, &secret)).await?;
        for pod in self.ready(profile, size, stop).await? {
            self.forwards.push(forward(&self.cluster, &pod, AGENT_PORT).await?);
        }
        Ok(())
    }

    /// The names of its pods, once all are ready.
    async fn ready(
        &self,
        profile: &Profile,
        size: Size,
        stop: &AtomicBool,
    ) -> Result<Vec<String>, ClusterError> {
        let labels = format!("{},{COMPONENT}={AGENTS}", status::pods_selector(profile));
        let mut follow = Follow::start(&self.cluster, &[POD], &labels);
        let patience = profile.deploy.kubernetes.ready_timeout;
        let deadline = Instant::now() + patience;
        let mut ready = BTreeSet::new();
        let mut problem = None;
        while problem.is_none() {
            if stop.load(Ordering::Relaxed) {
                return Err(ClusterError::NoLoad);
            }
            if Instant::now() >= deadline {
                problem = Some(format!(
                    "not ready after {} s (deploy.kubernetes.ready_timeout)",
                    patience.as_secs()
                ));
                continue;
            }
            let seen = tokio::select! {
                seen = follow.next() => seen,
                () = tokio::time::sleep(TICK) => continue,
            };
            let pods = match seen {
                Some(Seen::All(_, pods)) => {
                    ready.clear();
                    pods
                }
                Some(Seen::Is(_, pod)) => vec![*pod],
                Some(Seen::Gone(_, pod)) => {
                    ready.remove(pod.metadata.name.as_deref().unwrap_or_default());
                    continue;
                }
                Some(Seen::Failed(error)) => return Err(error),
                None => return Err(ClusterError::NotReady("nothing is followed any more".to_owned())),
            };
            for pod in pods.iter().filter_map(typed) {
                problem = problem.or_else(|| trouble::hopeless(&pod));
                let name = pod.metadata.name.clone().unwrap_or_default();
                match trouble::is_well(&pod) {
                    true => ready.insert(name),
                    false => ready.remove(&name),
                };
            }
            if ready.len() >= usize::from(size.count) {
                return Ok(ready.into_iter().collect());
            }
        }
        drop(follow);
        let found = trouble::find(&self.cluster, &labels, &[(JOB, self.name.clone())]).await;
        Err(ClusterError::NotReady(format!(
            "{} of {} agents are ready: {}\n{}\nhelp: mend the cause, or ask for fewer with --agents; they are removed again",
            ready.len(),
            size.count,
            problem.unwrap_or_default(),
            found.join("\n")
        )))
    }

    /// Where each is reached from here.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.forwards.iter().map(|forward| forward.address.to_string()).collect()
    }

    /// # Errors
    /// The cluster does not remove them; they end with the Job's own deadline then.
    pub(crate) async fn remove(self) -> Result<(), ClusterError> {
        let Self { cluster, name, forwards } = self;
        drop(forwards);
        let api = cluster.typed::<Secret>();
        let params = DeleteParams::default();
        let call = async {
            match api.delete(&name, &params).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                other => other.map(drop),
            }
        };
        cluster.must("delete", SECRET, &name, call).await?;
        let Some(job) = cluster.get(JOB, &name).await? else { return Ok(()) };
        apply::delete(&cluster, JOB, &job).await?;
        let deadline = Instant::now() + GONE_PATIENCE;
        while cluster.get(JOB, &name).await?.is_some_and(|now| now.metadata.uid == job.metadata.uid) {
            if Instant::now() >= deadline {
                return Err(ClusterError::NotGone {
                    left: format!("Job {name}"),
                    seconds: GONE_PATIENCE.as_secs(),
                    help: "a node that is away keeps its pods: see `kubectl get nodes`",
                });
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }
}

fn typed(pod: &DynamicObject) -> Option<Pod> {
    pod.clone().try_parse().ok()
}
