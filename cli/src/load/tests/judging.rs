//! What is told while a run goes on, and what ends it early.

use super::*;

#[test]
fn a_stop_ends_the_run_at_once() {
    // Never answers, so that requests are in flight.
    let server = Server::start(|peer| while peer.request().is_some() {});
    let plan = Plan { timeout: Duration::from_secs(60), ..plan(server.address, 10, 60_000) };
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let mut stopped = None;
    let mut on_tick = |tick: &Tick| {
        assert_eq!((tick.phase, tick.planned), (Phase::Measuring, millis(60_000)));
        if server.requests() == 3 && stopped.is_none() {
            stop.store(true, Ordering::SeqCst);
            stopped = Some(Instant::now());
        }
    };
    let recording = run(&plan, &stop, &mut on_tick).unwrap();
    assert!(stopped.unwrap().elapsed() < Duration::from_secs(10));
    assert!(recording.interrupted);
    assert_eq!((recording.requests, recording.aborted), (0, 3));
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::Unknown, 3)]));
    assert!(recording.measured <= started.elapsed());
    assert!(recording.measured >= millis(100));
}

#[test]
fn a_judge_ends_the_run_by_the_figures_so_far() {
    let server = Server::answering(OK, Duration::ZERO);
    let plan = Plan { warmup: millis(200), ..plan(server.address, 10, 600_000) };
    let mut seen = Vec::new();
    let mut judge = |running: &Running| {
        seen.push(running.clone());
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let watch = Watch { trends: &["http_req_waiting"], judge: &mut judge };
    let recording =
        crate::load::run(&plan, &AtomicBool::new(false), &mut Ticks(&mut |_| {}), Some(watch)).unwrap();
    assert_eq!((recording.cut_short, recording.interrupted), (true, false));
    let [first, second] = &seen[..] else { panic!("{}", seen.len()) };
    assert!(first.requests > 0 && first.requests < second.requests && second.requests <= recording.requests);
    assert!(first.measured >= millis(1000) && second.measured > first.measured);
    assert!(second.measured <= recording.measured, "{:?} of {:?}", second.measured, recording.measured);
    for running in &seen {
        let [told] = &running.trends[..] else { panic!("{:?}", running.trends) };
        assert_eq!((told.name.as_ref(), told.trend.len()), ("http_req_waiting", running.requests));
        assert_eq!((running.failed, running.users, running.users_requested), (0, 3, 3));
    }
    assert!(!recording.heartbeat.is_empty() && recording.withheld.steal_share.is_some());
}

/// A request may end a second before it is recorded itself: neither the figures nor what follows from them take in the
/// next second's.
#[test]
fn the_figures_so_far_are_of_whole_seconds_even_if_all_requests_fail() {
    const TRENDS: [&str; 4] = [
        "http_req_total_duration",
        "http_req_total_duration{expected_response:true}",
        "http_req_total_duration{expected_response:false}",
        "http_req_blocked",
    ];
    let server = Server::answering("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Duration::ZERO);
    let mut seen = Vec::new();
    let mut judge = |running: &Running| {
        seen.push(running.clone());
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let watch = Watch { trends: &TRENDS, judge: &mut judge };
    // No pause, so that a second ends while an answer is awaited, and not between two requests.
    let plan = plan(server.address, 0, 600_000);
    let recording =
        crate::load::run(&plan, &AtomicBool::new(false), &mut Ticks(&mut |_| {}), Some(watch)).unwrap();
    check_consistency(&recording);
    for running in &seen {
        let lengths: Vec<_> = running.trends.iter().map(|told| (&*told.name, told.trend.len())).collect();
        let all = running.requests;
        assert!(all > 0 && running.failed == all, "{} of {all}", running.failed);
        assert_eq!(lengths, TRENDS.into_iter().zip([all, 0, all, all]).collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 2);
}

/// Three users on two threads, and the thread of the second one is done at once.
#[test]
fn a_thread_that_has_ended_holds_nothing_up() {
    #[derive(Default)]
    struct Seconds(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl Observer for Seconds {
        fn tick(&mut self, _: &Tick) {}

        fn second(&mut self, _: Interval) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut told = Seconds::default();
    let judged = std::sync::Arc::new(AtomicBool::new(false));
    let server = {
        let (told, judged) = (told.0.clone(), judged.clone());
        Server::start(move |peer| {
            while let Some((head, _)) = peer.request() {
                if !head.starts_with("GET /2 ") {
                    wait_until("seconds and a judgement", || {
                        told.load(Ordering::SeqCst) >= 2 && judged.load(Ordering::SeqCst)
                    });
                }
                peer.reply(OK);
            }
        })
    };
    let step = Step { path: Some("/${vu}".into()), ..Step::new("s", "GET") };
    let scenario = Scenario::Steps(vec![step]);
    let plan = Plan { scenario, timeout: Duration::from_secs(30), ..plan_of(server.address, 0, 4) };
    let mut judge = |running: &Running| {
        if !judged.swap(true, Ordering::SeqCst) {
            assert_eq!((running.requests, running.trends[0].trend.len()), (2, 2));
        }
        ControlFlow::Continue(())
    };
    let watch = Watch { trends: &["http_req_total_duration"], judge: &mut judge };
    let recording = crate::load::run(&plan, &AtomicBool::new(false), &mut told, Some(watch)).unwrap();
    assert_eq!((recording.requests, recording.failed), (4, 0), "{:?}", recording.by_failure);
    check_consistency(&recording);
    assert_eq!(told.0.load(Ordering::SeqCst), recording.series.len());
}

#[test]
fn a_display_that_panics_does_not_leave_the_run_going() {
    let server = Server::answering(OK, Duration::ZERO);
    let plan = plan(server.address, 10, 3_600_000);
    let started = Instant::now();
    // What panics is the display; the plan is only read.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(&plan, &AtomicBool::new(false), &mut |_| panic!("no terminal"))
            .map(|recording| recording.requests)
    }));
    assert!(outcome.is_err());
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn ticks_tell_what_goes_on() {
    let server = Server::answering(OK, Duration::ZERO);
    let mut ticks = Vec::new();
    let plan = Plan { warmup: millis(300), ..plan(server.address, 10, 2200) };
    let recording = run(&plan, &AtomicBool::new(false), &mut |tick| ticks.push(*tick)).unwrap();
    assert_eq!(ticks[0].phase, Phase::WarmUp);
    let last = ticks.last().unwrap();
    assert_eq!((last.users, last.failed), (3, 0));
    assert!(last.requests_per_second > 0.0 && last.p95.is_some(), "{last:?}");
    assert!(ticks.windows(2).all(|pair| pair[0].requests <= pair[1].requests));
    assert!(last.requests <= recording.ledger.totals().acknowledged);
    assert!(recording.clock_jump_nanos.abs() < 5_000_000_000);
}
