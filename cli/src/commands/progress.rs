//! The progress of a run: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::{Phase, Tick};

/// Redraws a second; more only costs the generator's cores.
const REDRAWS_PER_SECOND: u8 = 5;
/// Between lines, without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows ticks on stderr.
pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
}

impl Progress {
    pub(super) fn new(planned: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let bar = ProgressBar::with_draw_target(
            Some(millis(planned)),
            ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND),
        );
        let style = ProgressStyle::with_template("{prefix:>9} [{bar:30}] {msg}").expect("a fixed template");
        bar.set_style(style.progress_chars("=> "));
        Self::Bar(bar)
    }

    pub(super) fn show(&mut self, tick: &Tick) {
        match self {
            Self::Bar(bar) => {
                bar.set_prefix(phase(tick.phase));
                bar.set_position(millis(tick.elapsed.min(tick.planned)));
                bar.set_message(line(tick));
            }
            Self::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
                    *last = Some(Instant::now());
                    eprintln!("{:>9} {}", phase(tick.phase), line(tick));
                }
            }
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WarmUp => "warm-up",
        Phase::Measuring => "measuring",
        Phase::Draining => "finishing",
    }
}

fn line(tick: &Tick) -> String {
    let p95 = tick.p95.map_or_else(|| "-".into(), |p95| format!("{:.1} ms", p95.as_secs_f64() * 1000.0));
    format!(
        "{:>3}/{} s  {} users  {:.0} requests/s  p(95) {p95}  {} failed of {}",
        tick.elapsed.as_secs(),
        tick.planned.as_secs(),
        tick.users,
        tick.requests_per_second,
        tick.failed,
        tick.requests
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_matters() {
        let tick = Tick {
            phase: Phase::Measuring,
            elapsed: Duration::from_millis(7300),
            planned: Duration::from_secs(35),
            users: 1200,
            requests: 9000,
            failed: 2,
            requests_per_second: 1489.6,
            p95: Some(Duration::from_micros(4240)),
        };
        assert_eq!(line(&tick), "  7/35 s  1200 users  1490 requests/s  p(95) 4.2 ms  2 failed of 9000");
        assert!(line(&Tick { p95: None, ..tick }).contains("p(95) -"));
    }
}
