//! One generator thread: an epoll loop that starts what is due, moves what is in flight, and gives up what takes
//! too long. Nothing in it waits for anything but events, and nothing on the way of a request over plain HTTP/1.1
//! allocates, but for cookies.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::agenda::{Agenda, Start};
use super::clock::{Clock, Nanos, nanos};
use super::connection::{Connection, Io, Step};
use super::deadlines::Deadlines;
use super::effort::Effort;
use super::exchange::Exchange;
use super::harvest::{Counts, Harvest, Shared, Told};
use super::head::HeadMemo;
use super::ledger::{Fate, UserLedger};
use super::outcome::{Failure, Outcome};
use super::plan::Plan;
use super::recorder::Recorder;
use super::scenario::RequestSource;
use super::series::{IntervalRecorder, second_of};

const TIMER_TOKEN: u64 = u64::MAX;
/// After so many responses in a row, starts get their turn, and the other way round: as many, so that neither piles up.
const AT_ONCE: usize = 64;
/// How soon a stop is noticed and live figures are renewed.
const TICK_MILLIS: u8 = 50;
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) struct Worker<'a> {
    index: usize,
    io: Io<'a>,
    timer: TimerFd,
    armed: Option<Nanos>,
    connections: Vec<Connection>,
    ledgers: Vec<UserLedger>,
    online: Vec<bool>,
    online_count: u32,
    agenda: Agenda<'a>,
    in_flight: Deadlines,
    unfinished_reads: VecDeque<u32>,
    plan: &'a Plan,
    recorder: Recorder,
    interval: IntervalRecorder,
    counts: Counts,
    requests: u64,
    failed: u64,
    timeout: Nanos,
    measure_start: Nanos,
    end: Nanos,
    effort: Effort,
    shared: &'a Shared,
    stop: &'a AtomicBool,
    intervals: SyncSender<Told>,
}

impl<'a> Worker<'a> {
    /// Sets up the thread's part, with everything that can fail and everything that allocates.
    pub(super) fn new(
        plan: &'a Plan,
        index: usize,
        clock: Clock,
        shared: &'a Shared,
        stop: &'a AtomicBool,
        intervals: SyncSender<Told>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER_TOKEN))?;
        let source = RequestSource::new(plan).map_err(io::Error::other)?;
        let threads = plan.worker_threads();
        // Users are dealt out in turn, so that each thread's starts are spread as the whole run's are.
        // Fewer than a thousand threads, by the plan's check.
        let agenda = Agenda::new(plan, plan.share.part(index as u32, threads as u32));
        let connections: Vec<Connection> = (0u32..)
            .zip(agenda.users())
            .map(|(slot, user)| Connection::new(user, slot, &plan.target, &plan.connecting))
            .collect();
        let measure_start = nanos(plan.warmup);
        let count = connections.len();
        Ok(Self {
            index,
            io: Io {
                epoll,
                clock,
                target: &plan.target,
                connecting: &plan.connecting,
                source,
                buffer: vec![0; BUFFER_BYTES].into(),
                memo: HeadMemo::default(),
            },
            timer,
            armed: None,
            ledgers: vec![UserLedger::default(); count],
            online: vec![false; count],
            online_count: 0,
            agenda,
            plan,
            in_flight: Deadlines::new(count),
            unfinished_reads: VecDeque::with_capacity(count),
            connections,
            recorder: Recorder::new(&plan.checks_of_steps()),
            interval: IntervalRecorder::new(second_of(0, measure_start), plan.scenario.step_names().len()),
            counts: Counts::default(),
            requests: 0,
            failed: 0,
            timeout: nanos(plan.timeout),
            measure_start,
            end: measure_start.saturating_add(nanos(plan.duration)),
            effort: Effort::default(),
            shared,
            stop,
            intervals,
        })
    }

    /// Runs to the end of the plan, or until stopped. `clock` reads 0 at the start of the run.
    pub(super) fn run(mut self, clock: Clock) -> io::Result<Harvest> {
        self.io.clock = clock;
        // Without it the kernel may delay the tick by 50 µs; the timer itself is exact either way.
        let _ = nix::sys::prctl::set_timerslack(1);
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let interrupted = loop {
            let now = self.io.clock.now();
            self.keep_time(now);
            if self.stop.load(Ordering::Relaxed) || self.shared.abort.load(Ordering::Relaxed) {
                break true;
            }
            if now >= self.end {
                self.agenda.drop_rest();
            }
            if (now >= self.end || self.agenda.is_exhausted()) && self.in_flight.len() == 0 {
                break false;
            }
            let timeout = self.arm(now)?;
            let count = match self.io.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            // Events come first: a connection that the server closed meanwhile must not be used again. Only the one that an
            // event was of goes on at once: what is said of it is known, and its socket is still in the processor's caches.
            for event in &events[..count] {
                self.on_event(event);
            }
            self.resume_reads();
            self.expire();
            self.start_due();
        };
        Ok(self.finish(interrupted))
    }

    /// What depends on the time alone: CPU marks, the series, live figures.
    fn keep_time(&mut self, now: Nanos) {
        if now >= self.measure_start {
            self.effort.begin(now);
        }
        if now >= self.end {
            self.effort.end(now);
        }
        self.advance_series(now);
        let live = &self.shared.live[self.index];
        live.requests.store(self.requests, Ordering::Relaxed);
        live.failed.store(self.failed, Ordering::Relaxed);
    }

    fn advance_series(&mut self, now: Nanos) {
        let second = second_of(now, self.measure_start);
        if let Some(interval) = self.interval.advance(second, self.online_count) {
            self.recorder.absorb(&interval);
            if self.intervals.try_send((self.index, Some(interval))).is_err() {
                self.counts.series_gaps += 1;
            }
            if self.shared.board.is_watched() {
                self.counts.dropped = self.agenda.dropped();
                self.recorder.derive();
                self.shared.board.post(self.index, now, self.measure_start, &self.recorder, &self.counts);
            }
        }
    }

    /// Sets the timer to the next thing to do; returns how long to wait for events at most.
    fn arm(&mut self, now: Nanos) -> io::Result<EpollTimeout> {
        let deadline = self.in_flight.first().map(|(deadline, _)| deadline);
        let next = self.agenda.next_at().into_iter().chain(deadline).min().unwrap_or(Nanos::MAX);
        if next <= now || !self.unfinished_reads.is_empty() {
            return Ok(EpollTimeout::ZERO);
        }
        let already = self.armed.is_some_and(|armed| now < armed && armed <= next);
        if !already && next < now + u64::from(TICK_MILLIS) * 1_000_000 {
            // Epoll's own timeout is no finer than a millisecond.
            let at = Expiration::OneShot(self.io.clock.absolute(next));
            self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            self.armed = Some(next);
        }
        Ok(EpollTimeout::from(TICK_MILLIS))
    }

    fn on_event(&mut self, event: &EpollEvent) {
        if event.data() == TIMER_TOKEN {
            self.armed = None;
            return;
        }
        let (slot, generation) = Connection::parse_token(event.data());
        let connection = &mut self.connections[slot as usize];
        if connection.is_generation(generation) {
            let step = connection.on_event(&mut self.io, event.events());
            if let Some(now) = self.take(slot, step)
                && let Some(start) = self.agenda.start_of(slot, now)
            {
                self.begin(start, now);
            }
        }
    }

    fn resume_reads(&mut self) {
        // Those that are still not done append themselves behind the ones handled here.
        for _ in 0..self.unfinished_reads.len() {
            let Some(slot) = self.unfinished_reads.pop_front() else { return };
            let step = self.connections[slot as usize].resume(&mut self.io);
            self.take(slot, step);
        }
    }

    fn expire(&mut self) {
        while let Some((deadline, slot)) = self.in_flight.first()
            && deadline <= self.io.clock.now()
        {
            let exchange = self.connections[slot as usize].expire(&self.io);
            self.settle(slot, &exchange);
        }
    }

    fn start_due(&mut self) {
        let mut now = self.io.clock.now();
        for _ in 0..AT_ONCE {
            let Some(start) = self.agenda.start(now) else { return };
            now = self.begin(start, now);
        }
    }

    /// Begins a request; returns the time after that.
    fn begin(&mut self, Start { slot, job, due }: Start, now: Nanos) -> Nanos {
        self.in_flight.push(slot, now.saturating_add(self.timeout));
        let connection = &mut self.connections[slot as usize];
        let step = connection.begin(&mut self.io, job, due, now);
        // The end of this send is the start of the next one: one look at the clock for both.
        let after = connection.sent_at().unwrap_or_else(|| self.io.clock.now());
        self.take(slot, step);
        after
    }

    /// Returns when the request ended, if it is over.
    fn take(&mut self, slot: u32, step: Step) -> Option<Nanos> {
        match step {
            Step::Pending => {}
            Step::Again if self.unfinished_reads.contains(&slot) => {}
            Step::Again => self.unfinished_reads.push_back(slot),
            Step::Done(exchange) => {
                self.settle(slot, &exchange);
                return Some(exchange.times.ended);
            }
        }
        None
    }

    /// A request is over: record it, and find out when its user goes on.
    fn settle(&mut self, slot: u32, exchange: &Exchange) {
        let Exchange { times, outcome, .. } = exchange;
        // First: a second that is over is handed on with what was recorded in it, and this request is not of it.
        self.advance_series(times.ended);
        self.in_flight.remove(slot);
        let fate = outcome.fate(self.io.source.acknowledgement(), exchange.bytes_sent > 0);
        self.ledgers[slot as usize].push(fate);
        self.set_online(slot, matches!(outcome, Outcome::Response(_)));
        match outcome {
            Outcome::Failed(Failure::NoFreePort) => {
                self.counts.no_free_port += 1;
                self.counts.no_free_port_at.get_or_insert(times.ended);
            }
            Outcome::Failed(Failure::TooManyFiles) => {
                self.counts.too_many_files += 1;
                self.counts.too_many_files_at.get_or_insert(times.ended);
            }
            _ => {}
        }
        self.requests += 1;
        self.failed += u64::from(outcome.failed());
        let measured = times.intended >= self.measure_start;
        let step = self.agenda.step(slot);
        if measured {
            let checks = self.plan.scenario.checks(usize::from(step)).iter();
            let status = outcome.status();
            let met = checks.map(|check| check.is_met(status, exchange.body_has));
            self.recorder.record(exchange, step, met);
        }
        // Seconds of the measured part hold measured requests only, so that they add up to the totals.
        if measured || times.ended < self.measure_start {
            self.interval.record(times, step, outcome.failed());
        }
        if let Some(took) = self.agenda.go_on(slot, times) {
            self.recorder.record_iteration(took);
        }
    }

    fn set_online(&mut self, slot: u32, online: bool) {
        let before = std::mem::replace(&mut self.online[slot as usize], online);
        match (before, online) {
            (false, true) => {
                self.online_count += 1;
                let all = self.shared.online.fetch_add(1, Ordering::Relaxed) + 1;
                self.shared.peak.fetch_max(all, Ordering::Relaxed);
            }
            (true, false) => {
                self.online_count -= 1;
                self.shared.online.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn finish(mut self, interrupted: bool) -> Harvest {
        let ended = self.io.clock.now();
        // At once: what follows takes time that is none of the run's.
        let shares = self.effort.finish(ended);
        self.counts.dropped = self.agenda.dropped();
        for (connection, ledger) in self.connections.iter_mut().zip(&mut self.ledgers) {
            if let Some(sent) = connection.abort() {
                self.counts.aborted += 1;
                ledger.push(if sent { Fate::Unknown } else { Fate::NotSent });
            }
        }
        let last = self.interval.finish(self.online_count);
        self.recorder.absorb(&last);
        self.recorder.derive();
        // Others may go on for long, and nothing is to wait for this thread.
        self.shared.board.post(self.index, ended, self.measure_start, &self.recorder, &self.counts);
        let last_interval = match self.intervals.try_send((self.index, Some(last))) {
            Ok(()) => {
                // If nobody takes it, the seconds of the others are told at the end.
                let _ = self.intervals.try_send((self.index, None));
                None
            }
            Err(TrySendError::Full((_, last)) | TrySendError::Disconnected((_, last))) => last,
        };
        Harvest {
            shares,
            recorder: self.recorder,
            ledgers: self.ledgers,
            last_interval,
            counts: self.counts,
            ended,
            interrupted,
        }
    }
}
