//! What rises on healthy hosts too.

use super::*;

/// One more at each of these seconds.
fn ticks(at: &[usize]) -> Vec<Option<f64>> {
    (0..SECONDS).map(|second| Some(at.iter().filter(|at| **at <= second).count() as f64)).collect()
}

#[test]
fn what_rises_now_and_then_is_no_cause_of_the_knee() {
    let always: Vec<usize> = (0..SECONDS).step_by(4).collect();
    for (counter, values, before_knee) in [
        ("conntrack.early_dropped", ticks(&always), Some(false)),
        ("tcp.listen_overflows", ticks(&[2, 6, 9, 15, 19, 27]), Some(false)),
        // Nothing before.
        ("tcp.listen_overflows", ticks(&[18]), Some(true)),
        // All the time, and ten times as fast around the knee.
        ("tcp.listen_overflows", line(0.0, 4.0, 18, 40.0), Some(true)),
        ("tcp.listen_overflows", line(0.0, 40.0, 18, 50.0), Some(false)),
        // As fast for long.
        ("tcp.listen_overflows", line(0.0, 0.0, 12, 40.0), Some(false)),
    ] {
        let found = judge(&with(vec![(counter, Counter, values.clone())]), &latency(Some(KNEE)));
        let [finding] = &found.findings[..] else { panic!("{counter}: {:#?}", found.findings) };
        assert_eq!(finding.before_knee, before_knee, "{counter}: {values:?}");
        let at_knee = (15.0..=20.0).contains(&finding.at_s);
        assert_eq!(Some(at_knee), before_knee, "{finding:?}");
        // Without a knee it is a finding either way.
        assert_eq!(judge(&with(vec![(counter, Counter, values)]), &[]).findings.len(), 1);
    }
}

#[test]
fn a_few_dropped_packets_are_no_finding() {
    // Of five thousand packets a second.
    for (counter, a_second, is_found) in [
        ("softnet.dropped", 0.5, false),
        ("softnet.dropped", 0.6, true),
        ("tcp.listen_drops_other", 1.0, false),
        ("tcp.listen_drops_other", 2.0, true),
    ] {
        let series = with(vec![(counter, Counter, line(0.0, 0.0, 18, a_second))]);
        for latency in [latency(Some(KNEE)), Vec::new()] {
            assert_eq!(
                judge(&series, &latency).findings.len(),
                usize::from(is_found),
                "{counter} {a_second}"
            );
        }
    }
}

#[test]
fn a_group_that_takes_its_page_cache_back_is_not_short_of_memory() {
    let stalled = |a_second| ("cgroup.memory_stall_us[/app]", Counter, line(0.0, a_second, 0, a_second));
    let version = |version| ("cgroup.version[/app]", Gauge, flat(version));
    for counter in ["cgroup.memory_max_events[/app]", "cgroup.memory_high_events[/app]"] {
        for (others, is_found) in [
            (vec![stalled(10_000.0), version(2.0)], false),
            (vec![stalled(11_000.0), version(2.0)], true),
            // Not known, as where the kernel has no pressure information.
            (vec![version(2.0)], true),
            (vec![version(1.0)], counter.contains("high")),
        ] {
            let reached = (counter, Counter, line(3.0, 0.0, 18, 40.0));
            let found = judge(&with([vec![reached], others.clone()].concat()), &latency(Some(KNEE)));
            assert_eq!(found.findings.len(), usize::from(is_found), "{counter}: {others:?}");
        }
    }
}

/// A device under a cap of a hundred operations a second that does these each second, from second 18 on.
fn operations(each: &[f64]) -> Columns {
    let mut done = 0.0;
    let value = |second: usize| {
        done += if second < 18 { 10.0 } else { each[(second - 18) % each.len()] };
        Some(done)
    };
    vec![("cgroup.io_writes[/app 254:0]", Counter, (0..SECONDS).map(value).collect())]
}

#[test]
fn a_device_at_its_cap_is_now_above_and_now_below() {
    for (each, expected) in [
        (&[104.0, 93.0, 101.0][..], Some(18.0)),
        (&[93.0, 104.0, 101.0], Some(19.0)),
        (&[94.0], None),
        // A burst, and nothing more.
        (&[3000.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], None),
    ] {
        let found = judge(&with(operations(each)), &latency(Some(KNEE)));
        assert_eq!(found.findings.first().map(|finding| finding.at_s), expected, "{each:?}");
        assert!(found.findings.iter().all(|finding| finding.before_knee == Some(true)));
    }
}

#[test]
fn what_stays_below_its_threshold_or_passes_quickly_is_no_finding() {
    let blip = |rate: f64| {
        let mut values = line(0.0, 0.0, 0, 0.0);
        values[18..].fill(Some(rate));
        values
    };
    for columns in [
        vec![("listener.waiting[0.0.0.0:8080]", Gauge, turning(1.0, 18, 102.0))],
        vec![("process.open_files", Gauge, turning(100.0, 18, 870.0))],
        vec![("cgroup.cpu_throttled[/app]", Counter, line(0.0, 0.0, 18, 2.5))],
        // One second of a whole second's wait.
        vec![("pressure.cpu_some_us", Counter, blip(1e6))],
        // On a machine of which a quarter is busy.
        vec![("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 18, 400_000.0))],
        vec![
            ("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 18, 400_000.0)),
            ("cpu.busy", Counter, line(0.0, 280.0, 0, 280.0)),
        ],
        // Two seconds without a processor's time, and three of a period each.
        vec![("cgroup.cpu_throttled[/app]", Counter, {
            let mut values = line(0.0, 0.0, 17, 9.0);
            let last = values[18];
            values[19..].fill(last);
            values
        })],
        vec![
            ("cgroup.cpu_throttled[/app]", Counter, line(0.0, 0.0, 36, 1.0)),
            ("cgroup.cpu_periods[/app]", Counter, line(0.0, 0.0, 36, 1.0)),
        ],
        vec![("pressure.io_full_us", Counter, line(0.0, 0.0, 18, 200_000.0))],
        vec![("cgroup.io_stall_us[/app]", Counter, line(0.0, 0.0, 31, 900_000.0))],
        // At the cap, for nine seconds.
        vec![("cgroup.io_writes[/app 254:0]", Counter, {
            let mut values = line(0.0, 0.0, 10, 100.0);
            let last = values[18];
            values[19..].fill(last);
            values
        })],
        // Reads have no cap.
        vec![("cgroup.io_reads[/app 254:0]", Counter, line(0.0, 0.0, 18, 9000.0))],
        // Set back by a restart.
        vec![("tcp.listen_overflows", Counter, turning(9.0, 18, 0.0))],
    ] {
        let found = judge(&with(columns.clone()), &latency(Some(KNEE)));
        assert_eq!(found.findings, [], "{columns:?}");
    }
}
