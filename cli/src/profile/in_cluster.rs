//! What is fine on a host and cannot be in a cluster.

use super::error::ProfileError;
use super::kubernetes::{CpuClass, Kubernetes, Memory, TrafficPath};
use super::resolve::Resolver;
use super::types::{Backend, Deploy, DeployMode, DeployTarget, Profile};
use super::units::Size;

type Checked = Result<(), ProfileError>;

const TARGET: [&str; 2] = ["deploy", "target"];

pub(super) fn check(resolver: &Resolver<'_>, profile: &mut Profile) -> Checked {
    if profile.deploy.target != DeployTarget::K8s {
        return Ok(());
    }
    listen(resolver, profile)?;
    let deploy = &profile.deploy;
    device(resolver, deploy)?;
    pods(resolver, deploy)?;
    traffic(resolver, &deploy.kubernetes, deploy.tls.is_some())?;
    journal(resolver, deploy)
}

/// An address of a host: a mistake where the target is set or above, and without meaning below.
fn listen(resolver: &Resolver<'_>, profile: &mut Profile) -> Checked {
    let path = ["deploy", "listen"];
    let (set_in, target_in) = (resolver.source_of(&path), resolver.source_of(&TARGET));
    if set_in <= target_in {
        let message = "is an address of this host, and the target is `k8s`";
        let help = "take it away, and set deploy.kubernetes.port";
        return Err(resolver.error(&path, message, help));
    }
    // What the base says is nobody's wish.
    if set_in.is_some_and(|index| index + 1 < resolver.sources.len()) {
        let port = profile.deploy.kubernetes.port;
        profile.notes.push(format!(
            "the inherited deploy.listen does not apply in a cluster: the API listens on port {port} \
             (deploy.kubernetes.port)"
        ));
    }
    Ok(())
}

fn device(resolver: &Resolver<'_>, deploy: &Deploy) -> Checked {
    if deploy.database_device.is_some() {
        let message = "is a path of this host; in a cluster, MongoDB's pod reads its own volume";
        return Err(resolver.error(
            &["deploy", "database_device"],
            message,
            "take it away, or set it to null",
        ));
    }
    let elsewhere = deploy.mongo_url.is_some() || deploy.mongo_url_file.is_some();
    if deploy.database_iops_per_s.is_some() && deploy.backend == Backend::RedisMongo {
        let path = ["deploy", "database_iops"];
        if elsewhere {
            let message = "nobody in the cluster can read the device of a MongoDB outside of it";
            let help =
                "set it to null, or deploy.mongo_url to null, so that the cluster has a MongoDB of its own";
            return Err(resolver.error(&path, message, help));
        }
        if deploy.mode == DeployMode::Direct {
            let message =
                "in the mode `direct` no process runs beside the database that could read its device";
            return Err(resolver.error(&path, message, "set it to null, or the mode to write-behind"));
        }
    }
    Ok(())
}

fn pods(resolver: &Resolver<'_>, deploy: &Deploy) -> Checked {
    let wanted = &deploy.kubernetes;
    let path = ["deploy", "kubernetes", "replicas"];
    if deploy.backend == Backend::Embedded && wanted.replicas > 1 {
        let message = format!("the backend `embedded` is one process, found {} pods", wanted.replicas);
        return Err(resolver.error(&path, message, "set it to 1, or deploy.backend to redis-mongo"));
    }
    if wanted.cpu.class == CpuClass::Guaranteed
        && let Some(threads) = deploy.api_threads
        && threads > u32::from(wanted.cpu.cores)
    {
        let path = ["deploy", "api_threads"];
        let message = format!("{threads} threads on {} cores of their own", wanted.cpu.cores);
        let help = "set it to null (a thread for each core), or raise deploy.kubernetes.cpu.cores";
        return Err(resolver.error(&path, message, help));
    }
    Ok(())
}

fn traffic(resolver: &Resolver<'_>, wanted: &Kubernetes, has_tls: bool) -> Checked {
    let key = |key| ["deploy", "kubernetes", key];
    // What belongs to another path may be inherited from below that which names the path.
    let misplaced = |path: &[&str]| resolver.source_of(path) <= resolver.source_of(&key("path"));
    if wanted.path != TrafficPath::Nodeport && wanted.node_port.is_some() && misplaced(&key("node_port")) {
        let message = "is of the path `nodeport`, and deploy.kubernetes.path is another";
        return Err(resolver.error(&key("node_port"), message, "take it away, or set the path to nodeport"));
    }
    if wanted.path == TrafficPath::Host && wanted.node_cidrs.is_empty() {
        let message =
            "with the path `host` the API comes from its node's address, which nothing would let in";
        return Err(resolver.error(&key("node_cidrs"), message, "name the nodes' networks"));
    }
    if wanted.path != TrafficPath::Ingress {
        let set = [("host", wanted.ingress.host.is_some()), ("class", wanted.ingress.class.is_some())];
        for (name, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
            let path = ["deploy", "kubernetes", "ingress", name];
            if misplaced(&path) {
                let message = "is of the path `ingress`, and deploy.kubernetes.path is another";
                return Err(resolver.error(&path, message, "take it away, or set the path to ingress"));
            }
        }
    } else if has_tls {
        let message = "the ingress controller ends TLS, and speaks plain HTTP to the service";
        let help = "set deploy.tls to null and give the controller the certificate, or choose another path";
        return Err(resolver.error(&["deploy", "tls", "cert"], message, help));
    }
    Ok(())
}

/// A journal that is full before the API refuses would refuse in its place, and less kindly.
fn journal(resolver: &Resolver<'_>, deploy: &Deploy) -> Checked {
    let own = deploy.redis_url.is_none() && deploy.redis_url_file.is_none();
    if deploy.backend == Backend::Embedded || deploy.mode == DeployMode::Direct || !own {
        return Ok(());
    }
    let (memory, backlog) = (deploy.kubernetes.memory.journal, deploy.limits.max_backlog_bytes);
    if Memory::redis_data(memory) < backlog / 2 * 3 {
        let message = format!(
            "three quarters of {} do not take one and a half times the backlog, {} \
             (deploy.limits.max_backlog_bytes)",
            Size(memory),
            Size(backlog)
        );
        let help =
            format!("set it to {} or more, or bound the backlog lower", Size(backlog.saturating_mul(2)));
        return Err(resolver.error(&["deploy", "kubernetes", "memory", "journal"], message, help));
    }
    Ok(())
}
