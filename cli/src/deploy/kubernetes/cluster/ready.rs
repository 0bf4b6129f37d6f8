//! Whether a workload is as it was asked for: pure, from what its object says. Only a status that is about the newest
//! generation counts; until the controller has looked, an old one says that all is well.

use kube::core::DynamicObject;
use serde_json::Value;

use super::kinds::{DAEMON_SET, DEPLOYMENT, JOB, Kind, STATEFUL_SET};

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done(String),
    Waiting(String),
    /// It will not get there by itself.
    Failed(String),
}

use Progress::{Done, Failed, Waiting};

pub(super) fn progress(kind: Kind, object: &DynamicObject) -> Progress {
    if object.metadata.deletion_timestamp.is_some() {
        return Failed("is being removed".to_owned());
    }
    let facts = Facts(object);
    if kind != JOB && facts.status("observedGeneration") < object.metadata.generation.unwrap_or_default() {
        return Waiting("its controller has not looked at it yet".to_owned());
    }
    match kind {
        DEPLOYMENT => deployment(&facts),
        STATEFUL_SET => stateful_set(&facts),
        DAEMON_SET => daemon_set(&facts),
        JOB => job(&facts),
        _ => Done(String::new()),
    }
}

struct Facts<'a>(&'a DynamicObject);

impl Facts<'_> {
    fn at(&self, path: &str) -> &Value {
        self.0.data.pointer(path).unwrap_or(&Value::Null)
    }

    /// A count of the status; those that are zero are left out of it.
    fn status(&self, name: &str) -> i64 {
        self.at(&format!("/status/{name}")).as_i64().unwrap_or(0)
    }

    fn wanted(&self) -> i64 {
        self.at("/spec/replicas").as_i64().unwrap_or(1)
    }

    /// A condition that holds, and what it says.
    fn condition(&self, kind: &str, status: &str) -> Option<(String, String)> {
        let conditions = self.at("/status/conditions").as_array()?;
        let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == status)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some((text("reason"), text("message")))
    }
}

fn deployment(facts: &Facts<'_>) -> Progress {
    if facts.at("/spec/paused") == true {
        return Failed("is paused: `kubectl rollout resume` lets it go on".to_owned());
    }
    if let Some((_, message)) =
        facts.condition("Progressing", "False").filter(|(reason, _)| reason == "ProgressDeadlineExceeded")
    {
        return Failed(format!("makes no progress: {message}"));
    }
    let wanted = facts.wanted();
    let (all, new, available) =
        (facts.status("replicas"), facts.status("updatedReplicas"), facts.status("availableReplicas"));
    if new < wanted {
        return Waiting(format!("{new} of {wanted} new pods are there{}", failure(facts)));
    }
    if all > new {
        return Waiting(format!("{} old pods are still there", all - new));
    }
    if available < new {
        return Waiting(format!("{available} of {wanted} pods are ready{}", failure(facts)));
    }
    Done(format!("{available} of {wanted} pods are ready"))
}

/// Why pods cannot be made.
fn failure(facts: &Facts<'_>) -> String {
    facts.condition("ReplicaFailure", "True").map(|(_, message)| format!(": {message}")).unwrap_or_default()
}

fn stateful_set(facts: &Facts<'_>) -> Progress {
    let wanted = facts.wanted();
    let (ready, new) = (facts.status("readyReplicas"), facts.status("updatedReplicas"));
    if ready < wanted {
        return Waiting(format!("{ready} of {wanted} pods are ready"));
    }
    // Pods are renewed by whoever deletes them.
    if facts.at("/spec/updateStrategy/type") == "OnDelete" {
        return Done(format!("{ready} of {wanted} pods are ready"));
    }
    let kept = facts.at("/spec/updateStrategy/rollingUpdate/partition").as_i64().unwrap_or(0);
    if kept > 0 {
        let renewed = (wanted - kept).max(0);
        return match new < renewed {
            true => Waiting(format!("{new} of {renewed} pods are renewed")),
            false => Done(format!("{ready} of {wanted} pods are ready, {kept} of them left as they were")),
        };
    }
    let (current, update) = (facts.at("/status/currentRevision"), facts.at("/status/updateRevision"));
    if current != update && new < wanted {
        return Waiting(format!("{new} of {wanted} pods are renewed"));
    }
    Done(format!("{ready} of {wanted} pods are ready"))
}

fn daemon_set(facts: &Facts<'_>) -> Progress {
    let wanted = facts.status("desiredNumberScheduled");
    let (new, available) = (facts.status("updatedNumberScheduled"), facts.status("numberAvailable"));
    if facts.at("/spec/updateStrategy/type") != "OnDelete" && new < wanted {
        return Waiting(format!("{new} of {wanted} nodes have the new pod"));
    }
    if available < wanted {
        return Waiting(format!("the pods of {available} of {wanted} nodes are ready"));
    }
    Done(format!("the pods of {available} of {wanted} nodes are ready"))
}

fn job(facts: &Facts<'_>) -> Progress {
    if let Some((reason, message)) = facts.condition("Failed", "True") {
        return Failed(format!("failed: {message} ({reason})"));
    }
    if facts.condition("Complete", "True").is_some() {
        return Done("completed".to_owned());
    }
    if facts.at("/spec/suspend") == true {
        return Failed("is suspended".to_owned());
    }
    Waiting(format!("{} pods run, {} failed", facts.status("active"), facts.status("failed")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(kind: Kind, spec: Value, status: Value) -> Progress {
        let whole = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a", "generation": 2},
            "spec": spec, "status": status,
        });
        progress(kind, &serde_json::from_value(whole).unwrap())
    }

    fn is_done(progress: &Progress) -> bool {
        matches!(progress, Done(_))
    }

    /// The trap of conditions: they are about what was there before, until the controller has looked.
    #[test]
    fn a_status_of_an_earlier_generation_says_nothing() {
        let well = json!({
            "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
            "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1,
            "conditions": [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True"}],
        });
        for kind in [DEPLOYMENT, STATEFUL_SET, DAEMON_SET] {
            for (observed, done) in [(json!(null), false), (json!(1), false), (json!(2), true)] {
                let mut status = well.clone();
                status["observedGeneration"] = observed.clone();
                assert_eq!(is_done(&of(kind, json!({}), status)), done, "{} {observed}", kind.kind);
            }
        }
    }

    #[test]
    fn a_deployment_is_done_with_all_new_pods_available_and_no_old_ones() {
        for (all, new, available, expected) in [
            (2, 1, 2, Some("1 of 2 new pods")),
            (3, 2, 2, Some("1 old pods")),
            (2, 2, 1, Some("1 of 2 pods are ready")),
            (2, 2, 2, None),
        ] {
            let status = json!({
                "observedGeneration": 2, "replicas": all, "updatedReplicas": new, "availableReplicas": available,
            });
            let progress = of(DEPLOYMENT, json!({"replicas": 2}), status);
            match (&progress, expected) {
                (Waiting(text), Some(expected)) => assert!(text.contains(expected), "{text}"),
                (Done(_), None) => {}
                other => panic!("{other:?}"),
            }
        }
        let conditions =
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        let status = json!({"observedGeneration": 2, "conditions": conditions});
        assert!(matches!(of(DEPLOYMENT, json!({}), status), Failed(_)));
        let refused = json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
        let status = json!({"observedGeneration": 2, "conditions": refused});
        assert!(
            matches!(of(DEPLOYMENT, json!({}), status), Waiting(text) if text.contains("exceeded quota"))
        );
        assert!(matches!(
            of(DEPLOYMENT, json!({"paused": true}), json!({"observedGeneration": 2})),
            Failed(_)
        ));
        assert!(is_done(&of(DEPLOYMENT, json!({"replicas": 0}), json!({"observedGeneration": 2}))));
    }

    #[test]
    fn a_stateful_set_is_done_at_its_new_revision_or_at_its_partition() {
        let of = |spec: Value, ready: u32, new: u32, current: &str| {
            let status = json!({
                "observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": new,
                "currentRevision": current, "updateRevision": "b",
            });
            is_done(&of(STATEFUL_SET, spec, status))
        };
        let plain = json!({"replicas": 2});
        assert!(!of(plain.clone(), 1, 2, "b"));
        assert!(!of(plain.clone(), 2, 1, "a"));
        assert!(of(plain.clone(), 2, 2, "a"));
        assert!(of(plain, 2, 0, "b"), "counts of a set that was never renewed are left out");
        let partition = json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
        assert!(!of(partition.clone(), 3, 0, "a"));
        assert!(of(partition, 3, 1, "a"));
        assert!(of(json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}}), 1, 0, "a"));
    }

    #[test]
    fn a_daemon_set_is_done_on_all_nodes_and_a_job_when_it_says_so() {
        for (wanted, new, available, done) in
            [(2, 1, 2, false), (2, 2, 1, false), (2, 2, 2, true), (0, 0, 0, true)]
        {
            let status = json!({
                "observedGeneration": 2, "desiredNumberScheduled": wanted, "updatedNumberScheduled": new,
                "numberAvailable": available,
            });
            assert_eq!(is_done(&of(DAEMON_SET, json!({}), status)), done);
        }
        let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "reason": "BackoffLimitExceeded"}]});
        assert!(is_done(&of(JOB, json!({}), condition("Complete"))));
        assert!(
            matches!(of(JOB, json!({}), condition("Failed")), Failed(text) if text.contains("BackoffLimitExceeded"))
        );
        assert!(matches!(of(JOB, json!({}), json!({"active": 1})), Waiting(_)));
    }
}
