//! What the containers of a deployment log, each line with its origin; on request, as it comes, of pods that come, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::POD;
use super::status;
use crate::deploy::kubernetes::COMPONENT;
use crate::profile::Profile;

/// Lines that wait to be printed; beyond it the streams wait.
const QUEUE: usize = 1024;
/// How often new pods and restarted containers are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Which lines.
pub(crate) struct LogRequest<'a> {
    /// Components, pods or containers; empty: all.
    pub(crate) names: &'a [String],
    /// From the end of each log.
    pub(crate) lines: usize,
    pub(crate) follow: bool,
}

/// One line, and where it comes from: `POD/CONTAINER`.
pub(crate) struct LogLine {
    pub(crate) origin: Arc<str>,
    pub(crate) text: String,
}

/// Gives lines to `take` until all logs are at their end; if they are followed, until `take` says no more or this is
/// dropped.
///
/// # Errors
/// Nothing is there, or the pods cannot be listed.
pub(crate) async fn logs(
    cluster: &Cluster,
    profile: &Profile,
    request: LogRequest<'_>,
    mut take: impl FnMut(LogLine) -> bool,
) -> Result<(), ClusterError> {
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    // Each run of each container once.
    let mut known = BTreeSet::new();
    let mut pods = status::pods(cluster, profile).await?;
    if pods.is_empty() {
        return Err(status::nothing(cluster, profile));
    }
    let mut lines_from_end = Some(request.lines);
    loop {
        for (pod, container, run) in containers(&pods, request.names) {
            if known.insert((pod.clone(), container.clone(), run)) {
                let (cluster, sender) = (cluster.clone(), sender.clone());
                let (follow, tail) = (request.follow, lines_from_end);
                tasks.spawn(async move { read(&cluster, &pod, &container, follow, tail, &sender).await });
            }
        }
        // What comes later is shown from its beginning.
        lines_from_end = None;
        if !request.follow {
            break;
        }
        let next_look = tokio::time::sleep(LOOK);
        tokio::pin!(next_look);
        loop {
            tokio::select! {
                line = lines.recv() => {
                    if !line.is_some_and(&mut take) {
                        return Ok(());
                    }
                }
                () = &mut next_look => break,
            }
        }
        // A server that is away for a while comes back.
        if let Ok(now) = status::pods(cluster, profile).await {
            pods = now;
        }
    }
    drop(sender);
    while let Some(line) = lines.recv().await {
        if !take(line) {
            break;
        }
    }
    Ok(())
}

/// The containers that have begun, with the number of their run.
fn containers(pods: &[Pod], names: &[String]) -> Vec<(String, String, i32)> {
    let mut all = Vec::new();
    for pod in pods {
        let Some(status) = &pod.status else { continue };
        let init = status.init_container_statuses.iter().flatten();
        for container in init.chain(status.container_statuses.iter().flatten()) {
            let state = container.state.as_ref();
            if state.is_some_and(|state| state.running.is_some() || state.terminated.is_some()) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let component = pod.metadata.labels.as_ref().and_then(|labels| labels.get(COMPONENT));
                let is_named = |named: &String| {
                    *named == name || *named == container.name || component.is_some_and(|it| it == named)
                };
                if names.is_empty() || names.iter().any(is_named) {
                    all.push((name, container.name.clone(), container.restart_count));
                }
            }
        }
    }
    all
}

async fn read(
    cluster: &Cluster,
    pod: &str,
    container: &str,
    follow: bool,
    tail: Option<usize>,
    sender: &mpsc::Sender<LogLine>,
) {
    let origin: Arc<str> = format!("{pod}/{container}").into();
    let params = LogParams {
        container: Some(container.to_owned()),
        follow,
        tail_lines: tail.map(|lines| i64::try_from(lines).unwrap_or(i64::MAX)),
        ..LogParams::default()
    };
    let api = cluster.typed::<Pod>();
    let say = |text: String| sender.send(LogLine { origin: Arc::clone(&origin), text });
    let stream = match cluster.must("get", POD, pod, api.log_stream(pod, &params)).await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = say(format!("(no log: {error})")).await;
            return;
        }
    };
    let mut lines = stream.lines();
    while let Some(line) = lines.next().await {
        let text = match line {
            Ok(text) => text,
            Err(error) => {
                let _ = say(format!("(the log ends here: {error})")).await;
                return;
            }
        };
        if say(text).await.is_err() {
            return;
        }
    }
}
