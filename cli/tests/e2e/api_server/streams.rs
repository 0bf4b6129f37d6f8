//! Answers that go on: watches and logs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::json;

use super::answers::{Asked, Shared, not_found};
use super::world::is_selected;

const POLL: Duration = Duration::from_millis(10);

/// What happened since a version, as it happens.
pub(super) fn watch(world: &Shared, asked: &Asked) -> Response {
    let from: u64 = asked.query("resourceVersion").parse().unwrap();
    let (forgets, cuts) = {
        let mut world = world.lock().unwrap();
        let (forgets, cuts) = (world.forget_watches > 0, world.cut_watches > 0);
        if forgets {
            world.forget_watches -= 1;
        } else if cuts {
            world.cut_watches -= 1;
        }
        (forgets, cuts)
    };
    if forgets {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
            "reason": "Expired", "message": format!("too old resource version: {from}"),
        });
        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
        return Body::from(line).into_response();
    }
    let seconds: u64 = asked.query("timeoutSeconds").parse().unwrap_or(300);
    let place = Place {
        world: Arc::clone(world),
        resource: asked.resource.clone(),
        namespace: asked.namespace.clone(),
        labels: asked.query("labelSelector").to_owned(),
        from,
        until: Instant::now() + Duration::from_secs(seconds),
        cuts,
        said_bookmark: asked.query("allowWatchBookmarks") != "true",
    };
    Body::from_stream(stream::unfold(place, Place::next)).into_response()
}

struct Place {
    world: Shared,
    resource: String,
    namespace: Option<String>,
    labels: String,
    from: u64,
    until: Instant,
    cuts: bool,
    said_bookmark: bool,
}

impl Place {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let lines = self.lines();
            if !lines.is_empty() {
                return Some((Ok(lines.into()), self));
            }
            if self.cuts || Instant::now() >= self.until {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn lines(&mut self) -> String {
        let world = self.world.lock().unwrap();
        let mut text = String::new();
        for change in world.history.iter().filter(|change| change.version > self.from) {
            let is_meant = change.resource == self.resource
                && self.namespace.as_ref().is_none_or(|namespace| *namespace == change.namespace)
                && is_selected(&change.object, &self.labels);
            if is_meant {
                text.push_str(&format!("{}\n", json!({"type": change.kind, "object": change.object})));
            }
        }
        self.from = world.version();
        if !self.said_bookmark {
            self.said_bookmark = true;
            let object = json!({
                "kind": "Any", "apiVersion": "v1", "metadata": {"resourceVersion": self.from.to_string()},
            });
            text.push_str(&format!("{}\n", json!({"type": "BOOKMARK", "object": object})));
        }
        text
    }
}

/// Each container says who it is, and then a line each tenth of a second.
pub(super) fn log(world: &Shared, asked: &Asked) -> Response {
    let pod = world.lock().unwrap().get("pods", asked.namespace(), asked.named()).cloned();
    if pod.is_none() {
        return not_found(asked);
    }
    let container = asked.query("container").to_owned();
    let before = if asked.query("previous") == "true" { " of before" } else { "" };
    let lines = format!("early{before}\nline one{before} of {container}\nline two{before} of {container}\n");
    let tail: usize = asked.query("tailLines").parse().unwrap_or(usize::MAX);
    let all: Vec<&str> = lines.lines().collect();
    let text: String = all[all.len().saturating_sub(tail)..].iter().map(|line| format!("{line}\n")).collect();
    if asked.query("follow") != "true" {
        return text.into_response();
    }
    let follow = stream::unfold((0, text), |(number, text)| async move {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let next = format!("live {number}\n");
        Some((Ok::<_, Infallible>(Bytes::from(text)), (number + 1, next)))
    });
    Body::from_stream(follow).into_response()
}
