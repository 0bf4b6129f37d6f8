//! The way to a cluster: kubeconfig and context as kubectl has them, and one call to the API, bounded in time.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use kube::{Api, Client, Config};

use super::error::{Ask, ClusterError, chain, message};
use super::kinds::Kind;

/// Of an answer that is no stream.
const CALL_SECONDS: u64 = 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the first answer, which tells whether anybody is there.
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);

/// A cluster that has answered, and the namespace that is worked in.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(super) client: Client,
    pub(crate) server: String,
    /// `context NAME`, or that this runs in the cluster.
    pub(crate) context: String,
    pub(crate) namespace: String,
}

/// Connects, and sees that the API answers.
///
/// # Errors
/// No kubeconfig, an unknown context, a server that is not reached or does not know the user.
pub(crate) async fn connect(context: Option<&str>, namespace: &str) -> Result<Cluster, ClusterError> {
    let (mut config, context) = match kubeconfig()? {
        Some((kubeconfig, files)) => from_kubeconfig(kubeconfig, &files, context).await?,
        None => in_cluster()?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Password and token of a proxy's address are nobody's business.
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config)
        .map_err(|error| ClusterError::Kubeconfig { files: context.clone(), problem: chain(&error) })?;
    let cluster = Cluster { client, server, context, namespace: namespace.to_owned() };
    let hello = tokio::time::timeout(HELLO_TIMEOUT, cluster.client.apiserver_version()).await;
    match hello {
        Ok(Ok(_)) => Ok(cluster),
        // Whoever may not ask for the version may still do the rest.
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Ok(cluster),
        Ok(Err(error)) => Err(cluster.failed(&error, || "ask for the version".to_owned())),
        Err(_) => Err(cluster.unreachable(format!("no answer within {} s", HELLO_TIMEOUT.as_secs()))),
    }
}

/// The files that kubectl would read, merged by its rules, and their names.
fn kubeconfig() -> Result<Option<(Kubeconfig, String)>, ClusterError> {
    let (paths, is_named) = candidates();
    let mut merged = Kubeconfig::default();
    let mut found = Vec::new();
    for path in &paths {
        // As kubectl does: of several, some may be missing.
        if !path.exists() {
            continue;
        }
        let read = Kubeconfig::read_from(path).and_then(|next| merged.clone().merge(next));
        merged = read.map_err(|error| ClusterError::Kubeconfig {
            files: path.display().to_string(),
            problem: chain(&error),
        })?;
        found.push(path.display().to_string());
    }
    if !found.is_empty() {
        return Ok(Some((merged, found.join(", "))));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(None);
    }
    let list: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let tried = match (is_named, list.is_empty()) {
        (true, _) => format!("KUBECONFIG names {}, which does not exist", list.join(" and ")),
        (false, true) => "neither KUBECONFIG nor HOME is set".to_owned(),
        (false, false) => {
            format!("KUBECONFIG is not set, there is no {}, and this is no pod", list.join(" and "))
        }
    };
    Err(ClusterError::NoKubeconfig { tried })
}

/// And whether KUBECONFIG names them.
fn candidates() -> (Vec<PathBuf>, bool) {
    if let Some(list) = std::env::var_os("KUBECONFIG") {
        let paths: Vec<_> =
            std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        if !paths.is_empty() {
            return (paths, true);
        }
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    (home.map(|home| Path::new(&home).join(".kube/config")).into_iter().collect(), false)
}

async fn from_kubeconfig(
    kubeconfig: Kubeconfig,
    files: &str,
    context: Option<&str>,
) -> Result<(Config, String), ClusterError> {
    let known: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let listed = || match known.as_slice() {
        [] => "none".to_owned(),
        known => known.join(", "),
    };
    let named = context.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty());
    let Some(named) = named.map(str::to_owned) else {
        return Err(ClusterError::NoContext { files: files.to_owned(), known: listed() });
    };
    if !known.contains(&named.as_str()) {
        return Err(ClusterError::UnknownContext {
            files: files.to_owned(),
            context: named,
            known: listed(),
        });
    }
    let options = KubeConfigOptions { context: Some(named.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config
        .map_err(|error| ClusterError::Kubeconfig { files: files.to_owned(), problem: chain(&error) })?;
    Ok((config, format!("context {named}")))
}

fn in_cluster() -> Result<(Config, String), ClusterError> {
    let config = Config::incluster().map_err(|error| ClusterError::NoKubeconfig {
        tried: format!("this is a pod, but its service account is of no use: {}", chain(&error)),
    })?;
    Ok((config, "the cluster that this runs in".to_owned()))
}

impl Cluster {
    /// All objects of a kind in the namespace, or in the cluster if the kind belongs to none.
    pub(super) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let resource = kind.resource();
        match kind.namespaced {
            true => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }

    pub(super) fn typed<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One call. What the API refuses stays with the caller.
    pub(super) async fn ask<T>(
        &self,
        what: impl Fn() -> String,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, Box<kube::core::Status>>, ClusterError> {
        match tokio::time::timeout(Duration::from_secs(CALL_SECONDS), call).await {
            Ok(Ok(value)) => Ok(Ok(value)),
            Ok(Err(kube::Error::Api(status))) if status.code != 401 => Ok(Err(status)),
            Ok(Err(error)) => Err(self.failed(&error, what)),
            Err(_) => Err(ClusterError::Slow { what: what(), seconds: CALL_SECONDS }),
        }
    }

    /// One call whose refusal is an error.
    pub(super) async fn must<T>(
        &self,
        verb: &str,
        kind: Kind,
        name: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        let resource = kind.full_name();
        let namespace = if kind.namespaced { self.namespace.as_str() } else { "" };
        let ask = Ask { verb, resource: &resource, name, namespace };
        self.ask(|| ask.what(), call).await?.map_err(|status| ask.refused(&status))
    }

    /// An object, if it is there.
    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
        let api = self.api(kind);
        let mut found = self.must("get", kind, name, api.get_opt(name)).await?;
        if let Some(object) = &mut found {
            object.types.get_or_insert_with(|| kind.types());
        }
        Ok(found)
    }

    /// All objects of a kind that have these labels; none where the cluster does not have the kind.
    pub(super) async fn list(&self, kind: Kind, labels: &str) -> Result<Vec<DynamicObject>, ClusterError> {
        let api = self.api(kind);
        let mut all = Vec::new();
        let mut params = kube::api::ListParams::default().labels(labels).limit(PAGE);
        loop {
            let call = async {
                match api.list(&params).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
                    other => other.map(Some),
                }
            };
            let Some(page) = self.must("list", kind, "", call).await? else { return Ok(all) };
            all.extend(page.items.into_iter().map(|mut object| {
                // Items of a list do not say what they are.
                object.types = Some(kind.types());
                object
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if all.len() < MOST => params = params.continue_token(&token),
                _ => return Ok(all),
            }
        }
    }

    fn failed(&self, error: &kube::Error, what: impl Fn() -> String) -> ClusterError {
        let (server, context) = (self.server.clone(), self.context.clone());
        match error {
            kube::Error::Api(status) if status.code == 401 => {
                ClusterError::Unauthorized { server, context, problem: message(status) }
            }
            kube::Error::Api(status) => ClusterError::Api { what: what(), message: message(status) },
            kube::Error::Auth(error) => ClusterError::Unauthorized { server, context, problem: chain(error) },
            kube::Error::Service(_) | kube::Error::HyperError(_) => self.unreachable(chain(error)),
            other => ClusterError::Api { what: what(), message: chain(other) },
        }
    }

    fn unreachable(&self, problem: String) -> ClusterError {
        ClusterError::Unreachable { server: self.server.clone(), context: self.context.clone(), problem }
    }
}

const PAGE: u32 = 250;
/// Objects of one kind and one deployment; a listing beyond it is cut.
const MOST: usize = 5_000;
