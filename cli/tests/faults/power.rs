//! A power cut under Redis. A killed process does not test a flush, since the kernel still has what it wrote; here the
//! file system is shut down, so that what was not flushed is gone. Only the device's own cache is beyond this.

use std::time::Duration;

use scalekit_service::testing::checker::Violation;

use crate::deployment::{Deployment, Options, SLOW};
use crate::sandbox::Sandbox;
use crate::volume::{Volume, port_if_possible};

async fn power_cut(port: u16, fsync: &str, durability: &'static str) -> Vec<Violation> {
    let sandbox = Sandbox::new();
    let volume = Volume::on_a_disk(&sandbox);
    let redis = volume.redis(&sandbox, port, fsync);
    let mut deployment = Deployment::bare(sandbox, Options { redis_port: Some(port), durability, ..SLOW });
    deployment.start_api(deployment.direct);
    deployment.start_worker(deployment.direct);
    let load = deployment.load("power");
    deployment.hands.accepts(500).await;
    volume.cut_power();
    drop(redis);
    volume.restore_power(&deployment.sandbox);
    let _redis = volume.redis(&deployment.sandbox, port, fsync);
    deployment.hands.accepts(50).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.judge(Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_always_acknowledged_survives_a_power_cut() {
    let Some(port) = port_if_possible("a power cut under `always`") else { return };
    assert_eq!(power_cut(port, "always", "fsync").await, []);
}

/// The control: if this lost nothing, the cut would be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everysec_acknowledged_does_not() {
    let Some(port) = port_if_possible("a power cut under `everysec`") else { return };
    let violations = power_cut(port, "everysec", "os").await;
    let lost = violations.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count();
    assert!(lost > 0, "the last second is lost: {violations:?}");
}
