//! A double of a cluster's API server, with controllers whose conduct the test chooses. It is a double because no real
//! cluster can run on the machine of the tests; where one is to be had, KUBECONFIG_TEST names it, and the tests that need
//! no faults run there, too. It follows the API's documentation in what the client relies on: server-side apply with
//! owners of fields, conflicts and dry runs, lists and watches by labels from a version on, 410 for forgotten versions,
//! deletion with its propagation, logs, events, and reviews of access.

mod answers;
mod apply;
mod controllers;
mod forward;
mod streams;
mod tls;
mod world;
mod writes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

pub(crate) use controllers::Conduct;
pub(crate) use world::World;

use crate::sandbox::Sandbox;

const TICK: Duration = Duration::from_millis(10);

/// Runs until it is dropped.
pub(crate) struct ApiServer {
    address: SocketAddr,
    certificate: String,
    world: Arc<Mutex<World>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (listener, certificate) = tls::TlsListener::new(listener);
        let world = Arc::new(Mutex::new(World::new()));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&world);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let router = axum::Router::new().fallback(answers::answer).with_state(Arc::clone(&shared));
                let control = async {
                    loop {
                        tokio::time::sleep(TICK).await;
                        controllers::step(&mut shared.lock().unwrap());
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    () = control => {}
                }
            });
        });
        Self { address, certificate, world, stop: Some(stop), thread: Some(thread) }
    }

    /// What is in the cluster; nothing happens there while this is held.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// An object, if it is there.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.world().get(resource, namespace, name).cloned()
    }

    /// Writes a kubeconfig for it, with the contexts `test` (the current one) and `other`, and gives its path.
    pub(crate) fn kubeconfig(&self, sandbox: &Sandbox) -> String {
        let path = sandbox.path("kubeconfig");
        std::fs::write(&path, kubeconfig(&format!("https://{}", self.address), &self.certificate)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What the double knows its user by.
const TOKEN: &str = "a-token-of-the-test";

/// The text of a kubeconfig, with the authority's certificate, if there is one.
pub(crate) fn kubeconfig(server: &str, certificate: &str) -> String {
    let authority = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!(
        "apiVersion: v1
kind: Config
current-context: test
clusters:
- {{name: double, cluster: {{server: '{server}', certificate-authority-data: '{authority}'}}}}
users:
- {{name: tester, user: {{token: {TOKEN}}}}}
contexts:
- {{name: test, context: {{cluster: double, user: tester}}}}
- {{name: other, context: {{cluster: double, user: tester}}}}
"
    )
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}
