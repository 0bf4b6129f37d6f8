//! Bounds that hold on any machine, however slow or busy it is.

use super::*;

/// What the samples of a trend add up to at most, in µs: each counts as the upper end of its bucket.
pub(super) fn upper_sum(trend: &Trend) -> f64 {
    let highest = |value| trend.highest_equivalent(value) as f64;
    trend
        .iter_recorded()
        .map(|bucket| highest(bucket.value_iterated_to()) * bucket.count_at_value() as f64)
        .sum()
}

/// The same at least.
fn lower_sum(trend: &Trend) -> f64 {
    let lowest = |value| trend.lowest_equivalent(value) as f64;
    trend
        .iter_recorded()
        .map(|bucket| lowest(bucket.value_iterated_to()) * bucket.count_at_value() as f64)
        .sum()
}

/// The upper bound of all durations, whatever the machine does: a user's measured iterations do not overlap, and only
/// the last of them reaches over the end.
pub(super) fn check_user_time(plan: &Plan, recording: &Recording) {
    let iteration = &recording.trends.iteration;
    // The longest one reaches over the end at most by its own length; a microsecond each for the rounding.
    let there_is = recording.measured.as_micros() as f64 + iteration.max() as f64;
    let accounted = lower_sum(iteration) - iteration.len() as f64;
    assert!(
        accounted <= f64::from(plan.users) * there_is,
        "{accounted} µs of {} times {there_is}",
        plan.users
    );
    // From the intended start: what was late is in it.
    let trends = &recording.trends;
    if recording.steps.len() == 1 && plan.arrivals == Arrivals::Think {
        let parts = lower_sum(&trends.blocked) + lower_sum(&trends.duration) + lower_sum(&trends.lag);
        let rounding = 2.0 * recording.requests as f64;
        assert!(parts <= upper_sum(&trends.total) + rounding, "{parts} µs in parts");
    }
}

/// What follows from the time-out if every request was sent whole and met it, exactly.
pub(super) fn expect_time_outs(plan: &Plan, recording: &Recording) {
    let (timeout, trends) = (plan.timeout.as_micros() as f64, &recording.trends);
    // It counts from the moment at which the generator turned to the request: later than it was due, and before
    // there was a connection, with which k6's duration begins.
    let bucket = trends.total.lowest_equivalent(plan.timeout.as_micros() as u64);
    assert!(trends.total.min() >= bucket, "gave up after {} µs", trends.total.min());
    let waited = upper_sum(&trends.blocked) + upper_sum(&trends.duration) + recording.requests as f64;
    assert!(waited >= timeout * recording.requests as f64, "{waited} µs of {} requests", recording.requests);
}

/// Runs a test, by its whole name, in a process of its own, where no other test takes memory; true in that process, where
/// it is to go on.
pub(super) fn alone(test: &str) -> bool {
    const MARK: &str = "SCALEKIT_TEST_ALONE";
    if std::env::var_os(MARK).is_some_and(|name| name == *test) {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(MARK, test).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{test} alone:\n{stdout}\n{stderr}");
    false
}

/// Does something, and tells by how much this process's anonymous memory grew meanwhile at most, as seen every few
/// milliseconds.
pub(super) fn growth_during<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let anonymous = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    };
    let (before, over) = (anonymous(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = before;
            while !over.load(Ordering::SeqCst) {
                most = most.max(anonymous());
                std::thread::sleep(millis(5));
            }
            most.max(anonymous()) - before
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::SeqCst);
        let growth = watch.join().unwrap();
        outcome.map_or_else(|panic| std::panic::resume_unwind(panic), |value| (value, growth))
    })
}

/// Waits until a condition holds that does not depend on how fast this machine is.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(millis(5));
    }
}
