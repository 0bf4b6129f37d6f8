//! A worker that stands still until another has taken over, and then goes on where it was.

use std::time::Duration;

use nix::sys::signal::Signal;
use scalekit_service::testing::proxy::{Mode, Proxy, Way};

use crate::deployment::{Deployment, Options, Wiring, eventually};
use crate::sandbox::Sandbox;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_batch_of_a_worker_that_stood_still_is_harmless() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    deployment.start_api(deployment.direct);
    let proxy = Proxy::start(deployment.direct.mongo).await;
    deployment.start_worker(Wiring { mongo: proxy.port(), ..deployment.direct });
    let load = deployment.load("zombie");
    deployment.hands.accepts(100).await;
    // Its next batch is on its way, and does not arrive.
    proxy.set(Way::ToServer, Mode::Hold);
    eventually("it holds a batch", async || (deployment.waiting().await.1 > 0).then_some(())).await;
    deployment.worker().running.signal(Signal::SIGSTOP);
    let second = deployment.serve("worker", "w2", 0, deployment.direct);
    let taken_over = deployment.newest().await;
    deployment.gone(&taken_over).await;
    assert!(second.stats().await.worker.unwrap().stored > 0, "by the other one");
    deployment.hands.accepts(100).await;
    // The batch arrives late, and the worker that sent it believes that it owns the shard.
    proxy.set(Way::ToServer, Mode::Forward);
    tokio::time::sleep(Duration::from_millis(200)).await;
    deployment.worker().running.signal(Signal::SIGCONT);
    deployment.hands.accepts(200).await;
    load.stop().await;
    deployment.expect_no_violation().await;
    let zombie = deployment.worker().stats().await.worker.unwrap();
    let late = zombie.superseded + zombie.stored;
    assert!(late > 0, "its batch did arrive: {zombie:?}");
}
