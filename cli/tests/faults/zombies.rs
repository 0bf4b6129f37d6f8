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
    eventually("it works", async || {
        (deployment.worker().stats().await.worker.unwrap().stored > 100).then_some(())
    })
    .await;
    // Its next bulk is on its way, and does not arrive. This is the limit of its write concern.
    proxy.hold_at(Way::ToServer, b"wtimeout");
    let held = tokio::time::timeout(Duration::from_secs(30), proxy.held(Way::ToServer)).await;
    assert!(held.is_ok(), "it never wrote");
    deployment.worker().running.signal(Signal::SIGSTOP);
    let second = deployment.serve("worker", "w2", 0, deployment.direct);
    let taken_over = deployment.newest().await;
    eventually("it is taken over", async || deployment.are_gone(&taken_over).await.then_some(())).await;
    assert!(second.stats().await.worker.unwrap().stored > 0, "by the other one");
    deployment.hands.accepts(100).await;
    // The batch arrives late, and the worker that sent it believes that it owns the shard.
    proxy.set(Way::ToServer, Mode::Forward);
    tokio::time::sleep(Duration::from_millis(200)).await;
    deployment.worker().running.signal(Signal::SIGCONT);
    deployment.hands.accepts(200).await;
    load.stop().await;
    deployment.expect_no_violation().await;
    let late = deployment.worker().stats().await.worker.unwrap();
    assert!(late.superseded > 0, "its bulk did arrive: {late:?}");
}
