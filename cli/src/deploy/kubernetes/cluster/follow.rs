//! Objects as they change: listed once, then watched. A watch that ends is taken up where it was, one whose place is
//! forgotten begins with a new list.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ListParams, WatchParams};
use kube::core::{DynamicObject, WatchEvent};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::Kind;

/// After which the server ends a watch; a client asks for less than the five minutes that connections often live.
const WATCH_SECONDS: u32 = 240;
/// A watch that says nothing for longer is dead, since its server ends it before.
const IDLE: Duration = Duration::from_secs(270);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
/// Changes that wait for whoever looks at them; beyond it the watch waits, too.
const QUEUE: usize = 256;

/// What was seen.
pub(super) enum Seen {
    /// All that is there now.
    All(Kind, Vec<DynamicObject>),
    Is(Kind, Box<DynamicObject>),
    Gone(Kind, Box<DynamicObject>),
    /// This kind is not followed any more.
    Failed(ClusterError),
}

/// Follows some kinds by labels until it is dropped.
pub(super) struct Follow {
    receiver: mpsc::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Follow {
    pub(super) fn start(cluster: &Cluster, kinds: &[Kind], labels: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for kind in kinds {
            let watched = Watched {
                cluster: cluster.clone(),
                kind: *kind,
                labels: labels.to_owned(),
                sender: sender.clone(),
            };
            tasks.spawn(async move {
                // The receiver is gone: nobody looks any more.
                let _ = watched.run().await;
            });
        }
        Self { receiver, _tasks: tasks }
    }

    /// The next thing seen; it may be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Seen> {
        self.receiver.recv().await
    }
}

struct Watched {
    cluster: Cluster,
    kind: Kind,
    labels: String,
    sender: mpsc::Sender<Seen>,
}

type Sent = Result<(), mpsc::error::SendError<Seen>>;

impl Watched {
    async fn run(&self) -> Sent {
        let mut back_off = BACK_OFF_FIRST;
        loop {
            match self.list().await {
                Ok((objects, version)) => {
                    self.sender.send(Seen::All(self.kind, objects)).await?;
                    let began = Instant::now();
                    self.watch(version).await?;
                    // One that ends at once each time is not asked for at once each time.
                    if began.elapsed() > BACK_OFF_MOST {
                        back_off = BACK_OFF_FIRST;
                    }
                }
                // It may come back: whoever waits has a bound.
                Err(ClusterError::Unreachable { .. } | ClusterError::Slow { .. }) => {}
                Err(error) => return self.sender.send(Seen::Failed(error)).await,
            }
            pause(&mut back_off).await;
        }
    }

    async fn list(&self) -> Result<(Vec<DynamicObject>, String), ClusterError> {
        let api = self.cluster.api(self.kind);
        let params = ListParams::default().labels(&self.labels);
        let listed = self.cluster.must("list", self.kind, "", api.list(&params)).await?;
        let version = listed.metadata.resource_version.unwrap_or_default();
        let items = listed.items.into_iter().map(|mut object| {
            object.types = Some(self.kind.types());
            object
        });
        Ok((items.collect(), version))
    }

    /// Until the place in the history is forgotten, or the server says something that is not understood.
    async fn watch(&self, mut version: String) -> Sent {
        let api = self.cluster.api(self.kind);
        let params = WatchParams::default().labels(&self.labels).timeout(WATCH_SECONDS);
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let stream = match tokio::time::timeout(IDLE, api.watch(&params, &version)).await {
                Ok(Ok(stream)) => stream,
                // A list says what is wrong, or what is there.
                Ok(Err(kube::Error::Api(_))) => return Ok(()),
                Ok(Err(_)) | Err(_) => {
                    pause(&mut back_off).await;
                    continue;
                }
            };
            let mut stream = std::pin::pin!(stream);
            while let Ok(Some(Ok(event))) = tokio::time::timeout(IDLE, stream.next()).await {
                back_off = BACK_OFF_FIRST;
                let (object, is_gone) = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                    WatchEvent::Deleted(object) => (object, true),
                    WatchEvent::Bookmark(bookmark) => {
                        version = bookmark.metadata.resource_version;
                        continue;
                    }
                    // Mostly 410: the place is forgotten.
                    WatchEvent::Error(_) => return Ok(()),
                };
                if let Some(newer) = &object.metadata.resource_version {
                    version.clone_from(newer);
                }
                let object = Box::new(object);
                let seen = if is_gone { Seen::Gone(self.kind, object) } else { Seen::Is(self.kind, object) };
                self.sender.send(seen).await?;
            }
            pause(&mut back_off).await;
        }
    }
}

async fn pause(back_off: &mut Duration) {
    tokio::time::sleep(*back_off).await;
    *back_off = (*back_off * 2).min(BACK_OFF_MOST);
}
