//! A full disk under Redis: writes are refused, and none is acknowledged that is not kept.

use crate::deployment::{Deployment, Options, SLOW};
use crate::sandbox::Sandbox;
use crate::volume::{Volume, port_if_possible};

/// Under `always` Redis ends itself when it cannot write; it comes back when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_redis_under_always_and_loses_nothing() {
    let Some(port) = port_if_possible("a full disk under `always`") else { return };
    let sandbox = Sandbox::new();
    let volume = Volume::small(&sandbox, "400k");
    let mut redis = volume.redis(&sandbox, port, "always");
    let mut deployment = Deployment::bare(sandbox, Options { redis_port: Some(port), ..SLOW });
    deployment.start_api(deployment.direct);
    deployment.start_worker(deployment.direct);
    let load = deployment.load("always");
    deployment.hands.sees(503, 20).await;
    assert!(redis.has_ended(), "it cannot keep what it promised");
    volume.grow(&deployment.sandbox, "64m");
    redis = volume.redis(&deployment.sandbox, port, "always");
    deployment.hands.accepts(50).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
    assert!(!redis.has_ended());
}

/// Under `everysec` it refuses writes, and takes them again when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_redis_refuse_under_everysec_and_loses_nothing() {
    let Some(port) = port_if_possible("a full disk under `everysec`") else { return };
    let sandbox = Sandbox::new();
    let volume = Volume::small(&sandbox, "400k");
    let mut redis = volume.redis(&sandbox, port, "everysec");
    let options = Options { redis_port: Some(port), durability: "os", ..SLOW };
    let mut deployment = Deployment::bare(sandbox, options);
    deployment.start_api(deployment.direct);
    deployment.start_worker(deployment.direct);
    let load = deployment.load("everysec");
    deployment.hands.sees(503, 20).await;
    let refused: Result<(), _> = deployment.try_redis(&["SET", "probe", "1"]).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("MISCONF")), "the disk is full");
    volume.grow(&deployment.sandbox, "64m");
    deployment.hands.accepts(50).await;
    load.stop().await;
    assert!(!redis.has_ended());
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
}
