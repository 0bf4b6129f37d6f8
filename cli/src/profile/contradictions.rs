//! What is fine by itself and cannot work together.

use super::error::ProfileError;
use super::in_cluster;
use super::resolve::Resolver;
use super::types::{Backend, DeployMode, DeployTarget, Profile, ScenarioKind};
use super::units::Span;

/// Metrics that only the bundled service and its audit give.
const OF_THE_SERVICE: [&str; 6] =
    ["acked_writes", "lost_writes", "duplicated_writes", "db_ops", "db_iops", "journal_backlog"];
/// Metrics that say something only when there are writes.
const OF_WRITES: [&str; 3] = ["acked_writes", "lost_writes", "duplicated_writes"];

type Checked = Result<(), ProfileError>;

/// Checks the profile as a whole; takes away inherited criteria that cannot be measured, and notes it.
pub(super) fn check(resolver: &Resolver<'_>, profile: &mut Profile) -> Checked {
    backend(resolver, profile)?;
    mode(resolver, profile)?;
    cap(resolver, profile)?;
    in_cluster::check(resolver, profile)?;
    request(resolver, profile)?;
    times(resolver, profile)?;
    connections(resolver, profile)?;
    let load = &profile.load;
    if load.scenario != ScenarioKind::Transactions {
        let why = "only the bundled service's scenario `transactions` can measure it";
        return unmeasurable(resolver, profile, &OF_THE_SERVICE, &["load", "scenario"], why);
    }
    if load.transactions.reads == 0 && load.transactions.writes == 0 {
        let path = ["load", "transactions", "writes"];
        return Err(resolver.error(&path, "no reads and no writes leave nothing to do", "set one above 0"));
    }
    if load.transactions.writes == 0 {
        let path = ["load", "transactions", "writes"];
        return unmeasurable(resolver, profile, &OF_WRITES, &path, "there are no writes to measure");
    }
    Ok(())
}

fn backend(resolver: &Resolver<'_>, profile: &Profile) -> Checked {
    let deploy = &profile.deploy;
    if deploy.backend == Backend::Embedded && deploy.shards != 1 {
        let message =
            format!("the backend `embedded` has one journal and one worker, found {}", deploy.shards);
        let help = "set it to 1, or deploy.backend to redis-mongo (or -p redis-mongo)";
        return Err(resolver.error(&["deploy", "shards"], message, help));
    }
    let urls = [
        ("redis_url", deploy.redis_url.is_some()),
        ("cache_url", deploy.cache_url.is_some()),
        ("mongo_url", deploy.mongo_url.is_some()),
        ("redis_url_file", deploy.redis_url_file.is_some()),
        ("cache_url_file", deploy.cache_url_file.is_some()),
        ("mongo_url_file", deploy.mongo_url_file.is_some()),
        ("backend_ca", deploy.backend_ca.is_some()),
    ];
    for (key, is_set) in urls {
        let path = ["deploy", key];
        if deploy.backend == Backend::Embedded && is_set {
            let message = "has no use with the backend `embedded`";
            let help = format!("set deploy.backend to redis-mongo (or -p redis-mongo), or {key} to null");
            return Err(resolver.error(&path, message, help));
        }
        let by_file = format!("{key}_file");
        if is_set && urls.contains(&(by_file.as_str(), true)) {
            let message = format!("is set, and so is deploy.{by_file}");
            return Err(resolver.error(
                &path,
                message,
                format!("set one of the two to null: {key} or {by_file}"),
            ));
        }
    }
    Ok(())
}

/// Direct mode has no Redis: a URL of one is a mistake where the mode is set or above, and falls away below.
fn mode(resolver: &Resolver<'_>, profile: &mut Profile) -> Checked {
    let deploy = &mut profile.deploy;
    if deploy.mode != DeployMode::Direct {
        return Ok(());
    }
    let set_in = resolver.source_of(&["deploy", "mode"]);
    for (key, url) in [("redis_url", &mut deploy.redis_url), ("cache_url", &mut deploy.cache_url)] {
        let path = ["deploy", key];
        if url.take().is_none() {
            continue;
        }
        if resolver.source_of(&path) <= set_in {
            let message = "has no use in the mode `direct`, which has neither journal nor cache";
            return Err(resolver.error(&path, message, format!("take {key} away, or set it to null")));
        }
        profile
            .notes
            .push(format!("the inherited deploy.{key} does not apply: the mode `direct` has no Redis"));
    }
    Ok(())
}

/// A cap is on a process of its own: the embedded database is one with its journal, and of a MongoDB that somebody else
/// started only they know the group.
fn cap(resolver: &Resolver<'_>, profile: &Profile) -> Checked {
    let deploy = &profile.deploy;
    let cap = &deploy.cap;
    let error = |key, message: &str, help: &str| Err(resolver.error(&["deploy", "cap", key], message, help));
    let is_elsewhere = deploy.mongo_url.is_some() || deploy.mongo_url_file.is_some();
    if cap.iops_per_s.is_none() {
        return match cap.required {
            true => error("required", "there is no cap to prove", "set deploy.cap.iops, or this to false"),
            false => Ok(()),
        };
    }
    if deploy.backend == Backend::Embedded {
        let message = "the backend `embedded` keeps journal and database in one process, so that a cap on the one would \
                       hold up the other, and with it each acknowledgement";
        return error(
            "iops",
            message,
            "set deploy.backend to redis-mongo (or -p redis-mongo), or this to null",
        );
    }
    if deploy.target == DeployTarget::K8s && is_elsewhere {
        let message = "in a cluster only the MongoDB that scalekit starts there can be capped, and deploy.mongo_url names another";
        return error("iops", message, "set it to null, or deploy.mongo_url to null");
    }
    for (key, path) in [("group", &cap.group), ("directory", &cap.directory)] {
        match (is_elsewhere, path) {
            (true, None) => {
                let message =
                    "expected a path, found none: scalekit did not start that MongoDB, and cannot know it";
                let help = match key {
                    "group" => {
                        "set it to the directory of the control group that the MongoDB of deploy.mongo_url is in, such as \
                         /sys/fs/cgroup/system.slice/mongod.service, or deploy.cap.iops to null"
                    }
                    _ => {
                        "set it to a directory on the disk of the database's files, or deploy.cap.iops to null"
                    }
                };
                return error(key, message, help);
            }
            (false, Some(_)) => {
                let message =
                    "has no use without deploy.mongo_url: the MongoDB that is started here gets its own";
                return error(key, message, "set it to null, or deploy.mongo_url");
            }
            _ => {}
        }
    }
    Ok(())
}

fn request(resolver: &Resolver<'_>, profile: &Profile) -> Checked {
    let load = &profile.load;
    let name = match load.scenario {
        ScenarioKind::Transactions => "transactions",
        ScenarioKind::Request => "request",
        ScenarioKind::Steps => "steps",
    };
    if load.scenario != ScenarioKind::Transactions && load.url.is_none() {
        let message = format!("`{name}` needs a URL, and load.url is not set");
        let help = "set load.url (or --url), or use the scenario `transactions`";
        return Err(resolver.error(&["load", "scenario"], message, help));
    }
    if (load.scenario == ScenarioKind::Steps) == load.steps.is_empty() {
        let message = if load.steps.is_empty() {
            "`steps` needs load.steps, and there are none".to_owned()
        } else {
            format!("`{name}` has no use for load.steps")
        };
        return Err(resolver.error(
            &["load", "scenario"],
            message,
            "set load.scenario to steps, and list them in load.steps",
        ));
    }
    Ok(())
}

fn times(resolver: &Resolver<'_>, profile: &Profile) -> Checked {
    let (load, deploy) = (&profile.load, &profile.deploy);
    if load.think_time >= load.duration {
        let message = format!(
            "{} of thinking leaves no second iteration in a duration of {}",
            Span(load.think_time),
            Span(load.duration)
        );
        return Err(resolver.error(&["load", "think_time"], message, "think shorter or measure longer"));
    }
    if load.warmup > load.duration.saturating_mul(60) {
        let message = format!("{} to warm up for {} of measuring", Span(load.warmup), Span(load.duration));
        return Err(resolver.error(&["load", "warmup"], message, "warm up shorter or measure longer"));
    }
    if deploy.limits.request_timeout > deploy.drain_timeout {
        let message = format!(
            "{} ends before a request does, which may take {} (deploy.limits.request_timeout)",
            Span(deploy.drain_timeout),
            Span(deploy.limits.request_timeout)
        );
        return Err(resolver.error(&["deploy", "drain_timeout"], message, "drain longer"));
    }
    if deploy.worker.linger >= deploy.drain_timeout {
        let message = format!(
            "{} is not shorter than deploy.drain_timeout, {}: the last batch would never leave",
            Span(deploy.worker.linger),
            Span(deploy.drain_timeout)
        );
        return Err(resolver.error(&["deploy", "worker", "linger"], message, "linger shorter"));
    }
    Ok(())
}

fn connections(resolver: &Resolver<'_>, profile: &Profile) -> Checked {
    let most = profile.deploy.limits.max_connections;
    if profile.load.url.is_none() && profile.load.vus > most {
        let message = format!("{} users need a connection each, the service takes {most}", profile.load.vus);
        let help = "raise deploy.limits.max_connections, or set it to null to follow the users";
        return Err(resolver.error(&["load", "vus"], message, help));
    }
    Ok(())
}

/// A threshold that can never be evaluated can never pass. One that comes from the layer that made it so, or
/// from a layer above, is a mistake; one inherited from below was written for another situation and falls away.
fn unmeasurable(
    resolver: &Resolver<'_>,
    profile: &mut Profile,
    metrics: &[&str],
    cause: &[&str],
    why: &str,
) -> Checked {
    let cause_source = resolver.source_of(cause);
    let mut fallen = Vec::new();
    for spec in &profile.criteria {
        if !metrics.contains(&spec.metric.as_str()) {
            continue;
        }
        // The top layer is 0: a greater index is further below.
        let inherited = resolver.source_of(&["criteria", &spec.metric]) > cause_source;
        if !inherited {
            let message = format!("criteria.{}: `{}` can never pass: {why}", spec.metric, spec.expression);
            let help = format!("take the threshold away, or change {}", cause.join("."));
            return Err(ProfileError::new(spec.location.clone(), message, help));
        }
        fallen.push(spec.metric.clone());
    }
    profile.criteria.retain(|spec| !fallen.contains(&spec.metric));
    fallen.dedup();
    for metric in fallen {
        profile.notes.push(format!("the inherited criteria for {metric} do not apply: {why}"));
    }
    Ok(())
}
