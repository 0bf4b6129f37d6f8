//! What a deployment would change, found out by a dry run of all of it: whatever the cluster would refuse is known
//! before anything is changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::core::{DynamicObject, GroupVersion, Status};
use serde_json::Value;

use super::connect::Cluster;
use super::error::{Ask, ClusterError, message};
use super::kinds::{self, JOB, KINDS, Kind, NAMESPACE, SECRET, VOLUME_CLAIM};
use super::namespace::{self, Place};
use super::rights;
use crate::deploy::kubernetes::{self, FIELD_MANAGER};
use crate::profile::{Monitor, Profile};

/// What becomes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Create,
    Update,
    /// Removed and made anew: a Job cannot be changed.
    Replace,
    Same,
}

/// One object.
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) wanted: DynamicObject,
    pub(super) live: Option<DynamicObject>,
    /// As the cluster would have it; `None` where nobody could ask, since the namespace is not there.
    pub(super) outcome: Option<DynamicObject>,
    pub(crate) change: Change,
}

/// All of them, in order.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Of an earlier deployment, and not wanted any more.
    pub(crate) unwanted: Vec<(Kind, DynamicObject)>,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
    pub(super) selector: String,
    pub(super) force: bool,
}

/// Whether a plan is made to be carried out: only then a missing namespace is made, since nothing can be tried in one that
/// is not there. If the plan fails, it is removed again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Apply,
    Look,
}

/// The Secret with the passwords of an earlier deployment.
///
/// # Errors
/// It cannot be read.
pub(crate) async fn saved_credentials(
    cluster: &Cluster,
    profile: &Profile,
) -> Result<Option<Secret>, ClusterError> {
    let (api, name) = (cluster.typed::<Secret>(), kubernetes::credentials_name(profile));
    cluster.must("get", SECRET, &name, api.get_opt(&name)).await
}

/// # Errors
/// Missing rights, a namespace that forbids the pods, conflicts with other managers of fields, objects that the cluster
/// refuses.
pub(crate) async fn plan(
    cluster: &Cluster,
    profile: &Profile,
    objects: Vec<DynamicObject>,
    purpose: Purpose,
    force: bool,
) -> Result<Plan, ClusterError> {
    let mut plan = Plan {
        steps: Vec::new(),
        unwanted: Vec::new(),
        notes: Vec::new(),
        selector: kubernetes::selector(profile),
        force,
    };
    let (namespaces, objects) = known(cluster, profile, objects, &mut plan.notes).await?;
    let place = namespace::find(cluster).await?;
    let mut kinds: Vec<_> = objects.iter().map(|(kind, _)| *kind).collect();
    if matches!(place, Place::Missing) {
        kinds.push(NAMESPACE);
    }
    rights::check(cluster, rights::needed(&kinds)).await?;
    if let Place::There(live) = &place {
        namespace::check_labels(live, &objects)?;
        if !is_ours(live) {
            plan.notes.push(format!(
                "the namespace {} is not scalekit's; its labels stay as they are",
                cluster.namespace
            ));
        }
    }
    // Of a namespace that somebody else made, and of one that cannot be seen, nothing is touched.
    let namespaces = match &place {
        Place::There(live) if is_ours(live) && rights::has(cluster, ("patch", NAMESPACE)).await? => {
            namespaces
        }
        Place::Missing => namespaces,
        _ => Vec::new(),
    };
    if !matches!(place, Place::Missing) {
        try_all(cluster, namespaces, objects, &mut plan).await?;
        return Ok(plan);
    }
    if purpose == Purpose::Look {
        let all = namespaces.into_iter().chain(objects);
        plan.steps = all.map(|(kind, wanted)| Step::new(kind, wanted)).collect();
        return Ok(plan);
    }
    for (_, wanted) in &namespaces {
        namespace::create(cluster, wanted).await?;
    }
    match try_all(cluster, Vec::new(), objects, &mut plan).await {
        Ok(()) => {
            plan.steps.splice(0..0, namespaces.into_iter().map(|(kind, wanted)| Step::new(kind, wanted)));
            Ok(plan)
        }
        Err(error) => {
            if let Err(stuck) = namespace::remove(cluster).await {
                tracing::warn!("the namespace {} was made and stays: {stuck}", cluster.namespace);
            }
            Err(error)
        }
    }
}

type Objects = Vec<(Kind, DynamicObject)>;

/// The namespace, and the others with their kinds, without those of a kind that the cluster lacks and may lack.
async fn known(
    cluster: &Cluster,
    profile: &Profile,
    objects: Vec<DynamicObject>,
    notes: &mut Vec<String>,
) -> Result<(Objects, Objects), ClusterError> {
    let (mut namespaces, mut rest) = (Vec::new(), Vec::new());
    for object in objects {
        let types = object.types.clone().unwrap_or_default();
        let unknown =
            || ClusterError::UnknownKind { kind: types.kind.clone(), api_version: types.api_version.clone() };
        let kind = Kind::of(&object).ok_or_else(unknown)?;
        if kind == NAMESPACE {
            namespaces.push((kind, object));
        } else if !kubernetes::wants_kind(&object) || has_kind(cluster, kind).await? {
            rest.push((kind, object));
        } else if profile.deploy.kubernetes.monitor == Monitor::Always {
            return Err(unknown());
        } else {
            notes.push(format!(
                "skipped {}: the cluster knows no {} ({})",
                kinds::title(kind, &object),
                kind.kind,
                kind.api_version()
            ));
        }
    }
    Ok((namespaces, rest))
}

async fn has_kind(cluster: &Cluster, kind: Kind) -> Result<bool, ClusterError> {
    let version = GroupVersion::gv(kind.group, kind.version);
    let call = kube::discovery::pinned_group(&cluster.client, &version);
    let what = || format!("ask which kinds {} has", kind.api_version());
    match cluster.ask(what, call).await? {
        Ok(group) => Ok(group.recommended_kind(kind.kind).is_some()),
        Err(status) if status.is_not_found() => Ok(false),
        Err(status) => Err(ClusterError::Api { what: what(), message: message(&status) }),
    }
}

/// Whether the namespace was made by scalekit.
fn is_ours(namespace: &DynamicObject) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(kubernetes::MANAGED_BY)).is_some_and(|by| by == FIELD_MANAGER)
}

impl Step {
    fn new(kind: Kind, wanted: DynamicObject) -> Self {
        Self { kind, wanted, live: None, outcome: None, change: Change::Create }
    }
}

async fn try_all(
    cluster: &Cluster,
    namespaces: Objects,
    objects: Objects,
    plan: &mut Plan,
) -> Result<(), ClusterError> {
    namespace::check_pods(cluster, &objects).await?;
    let mut conflicts = String::new();
    for (kind, wanted) in namespaces.into_iter().chain(objects) {
        let name = kinds::name(&wanted).to_owned();
        let live = cluster.get(kind, &name).await?;
        let api = cluster.api(kind);
        let params = params(plan.force).dry_run();
        let ask_name = kind.full_name();
        let namespace = if kind.namespaced { cluster.namespace.as_str() } else { "" };
        let ask = Ask { verb: "patch", resource: &ask_name, name: &name, namespace };
        let answer = cluster.ask(|| ask.what(), api.patch(&name, &params, &Patch::Apply(&wanted))).await?;
        let step = match answer {
            Ok(outcome) => {
                let change = match &live {
                    None => Change::Create,
                    Some(live) if same(live, &outcome) => Change::Same,
                    Some(_) => Change::Update,
                };
                Step { kind, wanted, live, outcome: Some(outcome), change }
            }
            Err(status) if kind == JOB && live.is_some() && status.is_invalid() => {
                Step { kind, wanted, live, outcome: None, change: Change::Replace }
            }
            Err(status) if is_conflict(&status) => {
                describe_conflicts(&mut conflicts, &kinds::title(kind, &wanted), &status);
                continue;
            }
            Err(status) => return Err(refused(kind, &wanted, live.is_some(), &status, &ask)),
        };
        plan.steps.push(step);
    }
    if !conflicts.is_empty() {
        return Err(ClusterError::Conflicts { conflicts });
    }
    plan.unwanted = unwanted(cluster, plan).await?;
    Ok(())
}

pub(super) fn params(force: bool) -> PatchParams {
    let params = PatchParams::apply(FIELD_MANAGER);
    if force { params.force() } else { params }
}

/// Why an object cannot be applied.
pub(super) fn refused(
    kind: Kind,
    wanted: &DynamicObject,
    is_there: bool,
    status: &Status,
    ask: &Ask<'_>,
) -> ClusterError {
    let object = kinds::title(kind, wanted);
    if is_conflict(status) {
        let mut conflicts = String::new();
        describe_conflicts(&mut conflicts, &object, status);
        return ClusterError::Conflicts { conflicts };
    }
    if status.is_invalid() || status.code == 400 {
        let help = match is_there {
            true => {
                "some fields cannot be changed: `scalekit deploy down --target k8s` and deploy again (volumes stay); \
                 nothing was changed"
            }
            false => "correct what the message names; nothing was changed",
        };
        return ClusterError::Invalid { object, message: message(status), help };
    }
    if status.is_not_found() {
        return ClusterError::UnknownKind { kind: kind.kind.to_owned(), api_version: kind.api_version() };
    }
    ask.refused(status)
}

/// Somebody else owns a field; other conflicts of writers are none of this kind.
pub(super) fn is_conflict(status: &Status) -> bool {
    status.is_conflict()
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "FieldManagerConflict"))
}

fn describe_conflicts(text: &mut String, object: &str, status: &Status) {
    for cause in status.details.iter().flat_map(|details| &details.causes) {
        let _ = write!(text, "\n  {object}: {} is set otherwise: {}", cause.field, cause.message);
    }
}

/// Objects of the deployment that nobody wants any more. Data, passwords and running load are not among them.
async fn unwanted(cluster: &Cluster, plan: &Plan) -> Result<Vec<(Kind, DynamicObject)>, ClusterError> {
    let wanted: BTreeSet<_> =
        plan.steps.iter().map(|step| (step.kind.kind, kinds::name(&step.wanted).to_owned())).collect();
    let is_applied = |kind: Kind| wanted.iter().any(|(name, _)| *name == kind.kind);
    let mut found = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| *kind != VOLUME_CLAIM) {
        let listed = match cluster.list(kind, &plan.selector).await {
            // A kind that is not used needs no right.
            Err(ClusterError::Forbidden { .. }) if !is_applied(kind) => continue,
            listed => listed?,
        };
        found.extend(
            listed
                .into_iter()
                .filter(|object| {
                    let is_owned =
                        object.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
                    let is_wanted = wanted.contains(&(kind.kind, kinds::name(object).to_owned()));
                    let is_load = component(object) == Some(kubernetes::AGENTS);
                    !is_owned && !is_wanted && !is_load && !is_kept(kind, object)
                })
                .map(|object| (kind, object)),
        );
    }
    Ok(found)
}

/// What `down` without `--purge`, and a deployment without a database, leave: without its passwords, data is of no use.
pub(super) fn is_kept(kind: Kind, object: &DynamicObject) -> bool {
    kind == VOLUME_CLAIM || kind == SECRET && component(object) == Some("credentials")
}

pub(super) fn component(object: &DynamicObject) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(kubernetes::COMPONENT).map(String::as_str)
}

/// Whether two states of an object differ in nothing that anybody wants.
fn same(live: &DynamicObject, outcome: &DynamicObject) -> bool {
    essence(live) == essence(outcome)
}

/// An object without what the cluster keeps about it.
pub(super) fn essence(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(whole) = value.as_object_mut() {
        whole.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"]
        {
            metadata.remove(key);
        }
    }
    value
}
