//! What can go wrong with a cluster, each with what to do about it.

use std::error::Error;
use std::fmt::Write as _;

use kube::core::Status;

/// Why something was not done in the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(
        "no kubeconfig, so no cluster is known: {tried}\nhelp: name one with KUBECONFIG, or let the provider's tool write \
         ~/.kube/config; `kubectl config view` shows what kubectl sees"
    )]
    NoKubeconfig { tried: String },
    #[error("the kubeconfig {files}: {problem}\nhelp: correct it, or name another with KUBECONFIG")]
    Kubeconfig { files: String, problem: String },
    #[error(
        "the kubeconfig {files} has no context `{context}`; it has {known}\nhelp: name one of them with --context"
    )]
    UnknownContext { files: String, context: String, known: String },
    #[error(
        "the kubeconfig {files} says no current context; it has {known}\nhelp: name one with --context, or set it with \
         `kubectl config use-context NAME`"
    )]
    NoContext { files: String, known: String },
    #[error(
        "cannot reach the cluster at {server} ({context}): {problem}\nhelp: see that the cluster runs and that this host \
         reaches it; `kubectl cluster-info` asks the same server"
    )]
    Unreachable { server: String, context: String, problem: String },
    #[error(
        "the cluster at {server} ({context}) does not know who asks: {problem}\nhelp: log in again with the provider's \
         tool, or name another context with --context"
    )]
    Unauthorized { server: String, context: String, problem: String },
    #[error(
        "not allowed in the cluster ({context}):{missing}\nhelp: ask whoever runs the cluster for a role with these \
         rights, or name another context with --context; nothing was changed"
    )]
    NoRights { context: String, missing: String },
    #[error(
        "may not {verb} {resource} {place}: {message}\nhelp: ask whoever runs the cluster for the verb `{verb}` on \
         `{resource}`; `kubectl auth can-i {verb} {resource}` tells when you have it"
    )]
    Forbidden { verb: String, resource: String, place: String, message: String },
    #[error(
        "the namespace {namespace} forbids what the pods need ({needs}): {found}\nhelp: `kubectl label --overwrite \
         namespace {namespace} pod-security.kubernetes.io/enforce=privileged` allows it; or name another namespace \
         (deploy.kubernetes.namespace){other_path}; nothing was changed"
    )]
    PodSecurity { namespace: String, needs: String, found: String, other_path: &'static str },
    #[error(
        "others have set fields that scalekit would set otherwise:{conflicts}\nhelp: agree with them, or take the fields \
         over with --force-conflicts; nothing was changed"
    )]
    Conflicts { conflicts: String },
    #[error("{object} cannot be as it is wanted: {message}\nhelp: {help}")]
    Invalid { object: String, message: String, help: &'static str },
    #[error("the cluster knows no {kind} ({api_version})\nhelp: scalekit needs Kubernetes 1.33 or newer")]
    UnknownKind { kind: String, api_version: String },
    #[error("cannot {what}: {message}")]
    Api { what: String, message: String },
    #[error("cannot {what}: no answer within {seconds} s")]
    Slow { what: String, seconds: u64 },
    #[error(
        "nothing of `{instance}` is in the namespace {namespace} ({context})\nhelp: `scalekit deploy --target k8s` brings \
         it up; --context names another cluster"
    )]
    Nothing { instance: String, namespace: String, context: String },
    #[error("{0}")]
    NotReady(String),
    #[error("these are still there after {seconds} s: {left}\nhelp: {help}")]
    NotGone { left: String, seconds: u64, help: &'static str },
    #[error("no way to the API: {0}")]
    NoAddress(String),
    #[error("interrupted; what was applied so far stays: `scalekit deploy status --target k8s` shows it")]
    Interrupted,
    #[error("interrupted before the load began; its agents are removed again")]
    NoLoad,
}

/// What was asked of the API, for the message of its refusal.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) verb: &'a str,
    /// As in `deployments.apps`.
    pub(super) resource: &'a str,
    pub(super) name: &'a str,
    /// Empty: none.
    pub(super) namespace: &'a str,
}

impl Ask<'_> {
    pub(super) fn what(&self) -> String {
        let Ask { verb, resource, name, namespace } = *self;
        let mut what = format!("{verb} {resource}");
        if !name.is_empty() {
            let _ = write!(what, " {name}");
        }
        if !namespace.is_empty() {
            let _ = write!(what, " in the namespace {namespace}");
        }
        what
    }

    pub(super) fn refused(&self, status: &Status) -> ClusterError {
        let message = message(status);
        if status.is_forbidden() {
            let place = match self.namespace {
                "" => "in the cluster".to_owned(),
                namespace => format!("in the namespace {namespace}"),
            };
            let (verb, resource) = (self.verb.to_owned(), self.resource.to_owned());
            return ClusterError::Forbidden { verb, resource, place, message };
        }
        ClusterError::Api { what: self.what(), message }
    }
}

/// What the server says, in a line.
pub(super) fn message(status: &Status) -> String {
    match status.message.trim() {
        "" => format!("status {}, {}", status.code, status.reason),
        text => text.replace('\n', " "),
    }
}

/// An error with what caused it; the outer ones of a client say little.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many repeat their cause.
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}
