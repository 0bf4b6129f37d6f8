//! The models of load and the steps of an iteration, against servers that log what they see.

use std::sync::Arc;

use super::*;

#[test]
fn the_open_model_sends_what_its_rate_says() {
    let server = Server::answering(OK, Duration::ZERO);
    let plan = Plan { arrivals: Arrivals::Rate(200), users: 20, ..plan(server.address, 0, 1000) };
    let recording = record(&plan);
    // The arrivals at 0, 5, … 995 ms, and no other; what a busy machine is late for is dropped, not forgotten.
    assert_eq!(recording.requests + recording.dropped, 200);
    assert_eq!(recording.requests, server.requests());
    assert_eq!(recording.iterations, recording.requests);
    assert!(recording.requests > 100, "{}", recording.requests);
}

#[test]
fn arrivals_without_a_free_user_wait_and_their_latency_counts_from_when_they_were_due() {
    // 20 a second, each takes 100 ms, and one user: half of them must wait, ever longer.
    let server = Server::answering(OK, millis(100));
    let plan = Plan { arrivals: Arrivals::Rate(20), users: 1, threads: 1, ..plan(server.address, 0, 1000) };
    let recording = record(&plan);
    assert_eq!(recording.requests + recording.dropped, 20);
    assert_eq!(server.connections(), 1);
    assert!(recording.requests >= 3);
    let (total, duration) = (&recording.trends.total, &recording.trends.duration);
    // The last one that was sent waited for all before it.
    let waited = 100 * recording.requests - 50 * (recording.requests - 1);
    assert!(total.max() >= waited * 999, "{} of {waited} ms", total.max());
    assert!(duration.value_at_quantile(0.5) < total.max(), "its own time is shorter");
}

#[test]
fn arrivals_that_wait_longer_than_the_timeout_are_dropped() {
    // Answers the first one at the end only.
    let server = Server::answering(OK, millis(700));
    let plan = Plan {
        arrivals: Arrivals::Rate(100),
        users: 1,
        threads: 1,
        timeout: millis(800),
        ..plan(server.address, 0, 1500)
    };
    let recording = record(&plan);
    assert_eq!(recording.requests + recording.dropped, 150);
    // One user takes at least 700 ms for each, so it starts three at most, and the first one always.
    assert!((147..150).contains(&recording.dropped), "{}", recording.dropped);
}

#[test]
fn a_pace_is_kept_from_the_intended_start() {
    let server = Server::answering(OK, millis(20));
    let plan = Plan { arrivals: Arrivals::Every(millis(50)), ..plan(server.address, 0, 500) };
    let recording = record(&plan);
    // Three users, ten iterations each; the pace does not stretch by the 20 ms of the response.
    assert_eq!(recording.requests + recording.dropped, 30, "{} dropped", recording.dropped);
}

#[test]
fn what_a_pace_leaves_out_where_nobody_listens_is_dropped_not_forgotten() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let arrivals = Arrivals::Every(millis(20));
    let recording = record(&Plan { arrivals, warmup: millis(200), ..plan(address, 0, 500) });
    // Three users, 25 iterations each within the measured part; of which each sends one every 100 ms at most.
    assert_eq!(recording.requests + recording.dropped, 75, "{} dropped", recording.dropped);
    assert!(recording.requests <= 18, "{}", recording.requests);
}

#[test]
fn a_paced_user_that_is_held_up_catches_up_and_says_how_late_it_is() {
    // Each takes twice as long as the pace.
    let server = Server::answering(OK, millis(100));
    let plan =
        Plan { arrivals: Arrivals::Every(millis(50)), users: 1, threads: 1, ..plan(server.address, 0, 1000) };
    let recording = record(&plan);
    assert!((5..=10).contains(&recording.requests), "{}", recording.requests);
    let last = recording.requests - 1;
    assert!(recording.trends.total.max() >= (100 + 50 * last) * 999, "{}", recording.trends.total.max());
}

#[test]
fn stages_of_users_start_and_stop_them() {
    let server = Server::answering(OK, Duration::ZERO);
    let stage = |millis, target| Stage { duration: Duration::from_millis(millis), target };
    let stages = vec![stage(600, 6), stage(400, 6), stage(500, 1)];
    let plan = Plan { users: 6, stages, duration: millis(1500), ..plan(server.address, 20, 0) };
    let recording = record(&plan);
    assert_eq!((server.connections(), recording.users_achieved), (6, 6));
    assert_eq!(recording.requests, server.requests());
    // The first user is there from the start to the end, the last one for less than half of it.
    let of_user = |user| recording.ledger.runs(user).map(|(_, count)| count).sum::<u32>();
    assert!(of_user(0) > of_user(5), "{} and {}", of_user(0), of_user(5));
}

#[test]
fn stages_of_rates_have_as_many_arrivals_as_their_area() {
    let server = Server::answering(OK, Duration::ZERO);
    let stage = |millis, target| Stage { duration: Duration::from_millis(millis), target };
    let stages = vec![stage(1000, 100), stage(500, 100)];
    let arrivals = Arrivals::Rate(100);
    let plan = Plan { users: 10, arrivals, stages, ..plan(server.address, 0, 1500) };
    let recording = record(&plan);
    assert_eq!(recording.requests + recording.dropped, 100);
    assert_eq!(recording.requests, server.requests());
}

#[test]
fn a_run_ends_after_its_iterations() {
    let server = Server::answering(OK, Duration::ZERO);
    for (iterations, users, arrivals) in [
        (50, 3, Arrivals::Think),
        (2, 3, Arrivals::Think),
        // Fewer than threads.
        (1, 3, Arrivals::Think),
        (1, 3, Arrivals::Rate(500)),
        (50, 3, Arrivals::Rate(500)),
        (7, 3, Arrivals::Every(millis(5))),
    ] {
        let before = server.requests();
        let plan = Plan {
            iterations: Some(iterations),
            users,
            arrivals,
            threads: 2,
            ..plan(server.address, 1, 60_000)
        };
        let recording = record(&plan);
        assert_eq!((recording.iterations, recording.dropped), (iterations, 0), "{arrivals:?}");
        assert_eq!(server.requests() - before, iterations);
        assert!(recording.elapsed < Duration::from_secs(50));
    }
}

#[test]
fn steps_follow_one_another_with_their_own_figures_and_checks() {
    let server = Server::start(|peer| {
        while let Some((head, _)) = peer.request() {
            let reply = match head.split(' ').nth(1) {
                Some("/login") => "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nwelcome ann",
                Some(_) if head.contains("X-Iteration: 0") => "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
                _ => OK,
            };
            if !peer.reply(reply) {
                break;
            }
        }
    });
    let login = Step {
        path: Some("/login".into()),
        checks: vec![Check::Status(vec![200..=200]), Check::BodyContains("welcome".into())],
        ..Step::new("login", "GET")
    };
    let order = Step {
        path: Some("/orders/${vu}".into()),
        headers: vec![("X-Iteration".into(), "${iter}".into())],
        body: "${seq}".into(),
        checks: vec![Check::Status(vec![200..=299])],
        ..Step::new("order", "POST")
    };
    let scenario = Scenario::Steps(vec![login, order]);
    let plan = Plan { scenario, iterations: Some(12), ..plan(server.address, 5, 60_000) };
    let recording = record(&plan);
    assert_eq!((recording.iterations, recording.requests, server.requests()), (12, 24, 24));
    let [login, order] = &recording.steps[..] else { panic!("two steps") };
    assert_eq!((login.name.as_str(), login.requests, login.failed), ("login", 12, 0));
    let counts = |step: &StepRecording| step.checks.iter().map(|c| (c.passes, c.fails)).collect::<Vec<_>>();
    assert_eq!(counts(login), [(12, 0), (12, 0)]);
    // Each user fails its first order. Which one does how many is up to them.
    let users: BTreeSet<_> = server.heads().iter().filter_map(|head| order_of(head)).collect();
    let failed = users.len() as u64;
    assert_eq!((order.requests, order.failed, counts(order)), (12, failed, vec![(12 - failed, failed)]));
    assert!(users.iter().all(|user| ["1", "2", "3"].contains(&user.as_str())), "{users:?}");
    assert_eq!((login.total.len(), order.duration.len()), (12, 12));
    assert_eq!(recording.trends.iteration.len(), 12);
}

fn order_of(head: &str) -> Option<String> {
    Some(head.strip_prefix("POST /orders/")?.split(' ').next()?.to_owned())
}

#[test]
fn the_same_seed_sends_the_same_requests() {
    let sent = |seed| {
        let server = Server::answering(OK, Duration::ZERO);
        let step = Step { path: Some("/${uuid}/${rand:1:1000000}".into()), ..Step::new("s", "GET") };
        let plan = Plan {
            scenario: Scenario::Steps(vec![step]),
            // Which of several users takes an iteration is chance.
            users: 1,
            iterations: Some(9),
            seed,
            ..plan(server.address, 1, 60_000)
        };
        run(&plan, &AtomicBool::new(false), &mut |_| {}).unwrap();
        server.heads().into_iter().collect::<BTreeSet<_>>()
    };
    let paths = |heads: &BTreeSet<String>| {
        heads.iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (one, again, other) = (sent(1), sent(1), sent(2));
    assert_eq!((paths(&one).len(), paths(&one)), (9, paths(&again)));
    assert!(paths(&one).is_disjoint(&paths(&other)));
}

#[test]
fn rows_of_the_data_file_are_taken_in_turn() {
    let server = Server::answering(OK, Duration::ZERO);
    let data = Data::parse("name\nann\nbob\n".as_bytes()).unwrap();
    let step = Step { path: Some("/${data.name}".into()), ..Step::new("s", "GET") };
    let plan = Plan {
        scenario: Scenario::Steps(vec![step]),
        users: 1,
        iterations: Some(5),
        data: Some(Arc::new(data)),
        ..plan(server.address, 1, 60_000)
    };
    plan.check().unwrap();
    run(&plan, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let paths: Vec<_> =
        server.heads().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(paths, ["/ann", "/bob", "/ann", "/bob", "/ann"]);
}
