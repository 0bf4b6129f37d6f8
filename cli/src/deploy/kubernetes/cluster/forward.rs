//! A port of this host that leads to one of a pod, through the API. For counters, not for load: all of it passes the
//! API server of Kubernetes.

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connect::Cluster;
use super::error::{ClusterError, chain};
use super::kinds::POD;

/// Connections at a time; more wait.
const MOST: usize = 64;

/// Forwards until it is dropped.
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

/// # Errors
/// No port is free here, or the cluster does not forward.
pub(crate) async fn forward(cluster: &Cluster, pod: &str, port: u16) -> Result<Forward, ClusterError> {
    let api = cluster.typed::<Pod>();
    // Once now, so that a lacking right is known before anybody connects.
    cluster.must("create", POD, pod, api.portforward(pod, &[port])).await?;
    let failed = |error: std::io::Error| ClusterError::Api {
        what: format!("forward a port to the pod {pod}"),
        message: error.to_string(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (cluster, pod) = (cluster.clone(), pod.to_owned());
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            if open.len() >= MOST {
                open.join_next().await;
            }
            let Ok((stream, _)) = listener.accept().await else { return };
            let (cluster, pod) = (cluster.clone(), pod.clone());
            open.spawn(async move {
                if let Err(problem) = connection(&cluster, &pod, port, stream).await {
                    tracing::warn!("the pod {pod} is not reached: {problem}");
                }
            });
            while open.try_join_next().is_some() {}
        }
    });
    Ok(Forward { address, _task: task })
}

async fn connection(cluster: &Cluster, pod: &str, port: u16, mut stream: TcpStream) -> Result<(), String> {
    let api = cluster.typed::<Pod>();
    let mut forwarder = api.portforward(pod, &[port]).await.map_err(|error| chain(&error))?;
    let mut remote = forwarder.take_stream(port).ok_or("the port is not forwarded")?;
    // Either side hanging up is the normal end.
    let _ = copy_bidirectional(&mut stream, &mut remote).await;
    drop(remote);
    forwarder.join().await.map_err(|error| chain(&error))
}
