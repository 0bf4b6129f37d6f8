//! Hundreds of kills in one continuing history.

use std::time::Instant;

use crate::deployment::{Deployment, Options, SLOW};
use crate::kills::kill_before_the_ack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: ./test --long"]
async fn two_hundred_kills_lose_nothing_and_store_nothing_twice() {
    const ROUNDS: usize = 200;
    let start = Instant::now();
    let options = Options { database_ops: 100, batch: 50, own_mongo: true, ..SLOW };
    let mut deployment = Deployment::start(options);
    let load = deployment.load("long");
    let mut random = fastrand::Rng::with_seed(1);
    let mut kills = [0; 4];
    for _ in 0..ROUNDS {
        deployment.hands.accepts(20).await;
        let which = random.usize(..kills.len());
        kills[which] += 1;
        match which {
            0 => kill_before_the_ack(&mut deployment).await,
            1 => deployment.start_api(deployment.direct),
            2 => {
                deployment.kill_redis();
                deployment.restart_redis();
            }
            _ => {
                deployment.kill_mongo();
                deployment.restart_mongo();
            }
        }
    }
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
    let statuses = deployment.hands.log().statuses.clone();
    println!("{ROUNDS} kills {kills:?} in {:?}: {statuses:?}, no violation", start.elapsed());
}
