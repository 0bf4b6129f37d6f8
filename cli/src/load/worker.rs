//! One generator thread: an epoll loop that starts what is due, moves what is in flight, and gives up what takes
//! too long. Nothing in it waits for anything but events, and nothing on the way of a request allocates.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::clock::{Clock, Nanos, nanos};
use super::connection::{Connection, Io, Step};
use super::deadlines::Deadlines;
use super::effort::Effort;
use super::exchange::{Exchange, Times};
use super::harvest::{Counts, Harvest, Shared};
use super::ledger::{Fate, UserLedger};
use super::outcome::{Failure, Outcome};
use super::pacer::Pacer;
use super::plan::Plan;
use super::recorder::Recorder;
use super::scenario::{Job, RequestSource};
use super::series::{Interval, IntervalRecorder, second_of};

const TIMER_TOKEN: u64 = u64::MAX;
const EVENTS_AT_ONCE: usize = 256;
/// After so many starts in a row, responses get their turn.
const STARTS_AT_ONCE: usize = 64;
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
    due: BinaryHeap<Reverse<(Nanos, u32)>>,
    in_flight: Deadlines,
    unfinished_reads: VecDeque<u32>,
    pacer: Pacer,
    /// In the open model: users without an iteration, and the next arrival of this thread's.
    idle: Vec<u32>,
    arrivals: ArrivalCursor,
    users: Vec<User>,
    /// Iterations that this thread may still start.
    quota: Option<u64>,
    plan: &'a Plan,
    /// Of an iteration.
    steps: usize,
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
    intervals: SyncSender<(usize, Interval)>,
}

/// Where a user is.
#[derive(Clone, Copy, Debug, Default)]
struct User {
    job: Job,
    /// Of the iteration that is under way.
    intended: Nanos,
    started: Nanos,
}

/// A thread's way through the arrivals of the open model, which are dealt out to the threads in turn.
#[derive(Clone, Copy, Debug)]
struct ArrivalCursor {
    number: u64,
    stride: u64,
    /// When that arrival is due; `None` after the last.
    at: Option<Nanos>,
}

impl ArrivalCursor {
    fn new(pacer: &Pacer, first: u64, stride: u64) -> Self {
        Self { number: first, stride, at: pacer.arrival(first) }
    }

    fn advance(&mut self, pacer: &Pacer) {
        self.number += self.stride;
        self.at = pacer.arrival(self.number);
    }
}

impl<'a> Worker<'a> {
    /// Sets up the thread's part, with everything that can fail and everything that allocates.
    pub(super) fn new(
        plan: &'a Plan,
        index: usize,
        clock: Clock,
        shared: &'a Shared,
        stop: &'a AtomicBool,
        intervals: SyncSender<(usize, Interval)>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER_TOKEN))?;
        let source = RequestSource::new(plan).map_err(io::Error::other)?;
        let pacer = Pacer::new(plan);
        let threads = plan.worker_threads();
        // Users are dealt out in turn, so that each thread's starts are spread as the whole run's are.
        // Fewer than a thousand threads, by the plan's check.
        let share = plan.share.part(index as u32, threads as u32);
        let connections: Vec<Connection> = (0u32..)
            .zip(share.of(plan.users))
            .map(|(slot, user)| Connection::new(user, slot, &plan.target, &plan.connecting))
            .collect();
        let measure_start = nanos(plan.warmup);
        let first_due = |(slot, c): (u32, &Connection)| Some(Reverse((pacer.first_due(c.user())?, slot)));
        let due = (0u32..).zip(&connections).filter_map(first_due).collect();
        let count = connections.len();
        // The first ones stand on top: as few connections are used as the load needs.
        let idle = if pacer.is_open() { (0..count as u32).rev().collect() } else { Vec::new() };
        // Arrivals and iterations are dealt out like users.
        let (first, stride) = (u64::from(share.first), u64::from(share.step));
        Ok(Self {
            index,
            io: Io {
                epoll,
                clock,
                target: &plan.target,
                connecting: &plan.connecting,
                source,
                buffer: vec![0; BUFFER_BYTES].into(),
            },
            timer,
            armed: None,
            ledgers: vec![UserLedger::default(); count],
            online: vec![false; count],
            online_count: 0,
            due,
            idle,
            arrivals: ArrivalCursor::new(&pacer, first, stride),
            users: vec![User::default(); count],
            quota: plan.iterations.map(|all| all.saturating_sub(first).div_ceil(stride)),
            plan,
            steps: plan.scenario.step_names().len(),
            in_flight: Deadlines::new(count),
            unfinished_reads: VecDeque::with_capacity(count),
            connections,
            pacer,
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
        let mut events = [EpollEvent::empty(); EVENTS_AT_ONCE];
        let interrupted = loop {
            let now = self.io.clock.now();
            self.keep_time(now);
            if self.stop.load(Ordering::Relaxed) || self.shared.abort.load(Ordering::Relaxed) {
                break true;
            }
            if now >= self.end {
                self.drop_rest();
            }
            if (now >= self.end || self.is_exhausted()) && self.in_flight.len() == 0 {
                break false;
            }
            let timeout = self.arm(now)?;
            let count = match self.io.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            // Events come first: a connection that the server closed meanwhile must not be used again.
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
            if self.intervals.try_send((self.index, interval)).is_err() {
                self.counts.series_gaps += 1;
            }
            self.shared.board.post(self.index, now, self.measure_start, &self.recorder, &self.counts);
        }
    }

    /// Sets the timer to the next thing to do; returns how long to wait for events at most.
    fn arm(&mut self, now: Nanos) -> io::Result<EpollTimeout> {
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        let deadline = self.in_flight.first().map(|(deadline, _)| deadline);
        // Without a free user an arrival waits for the end of a request, which is an event.
        let arrival = self.arrivals.at.filter(|_| !self.idle.is_empty());
        let next = due.into_iter().chain(deadline).chain(arrival).min().unwrap_or(Nanos::MAX);
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
            self.take(slot, step);
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

    /// Whether all iterations that were asked for are over.
    fn is_exhausted(&self) -> bool {
        self.quota == Some(0) && self.due.is_empty()
    }

    fn start_due(&mut self) {
        for _ in 0..STARTS_AT_ONCE {
            let now = self.io.clock.now();
            let Some((due, slot)) = self.next_start(now) else { return };
            let user = &mut self.users[slot as usize];
            let job = user.job;
            if job.step == 0 {
                (user.intended, user.started) = (due, now);
                self.quota = self.quota.map(|left| left.saturating_sub(1));
            }
            self.in_flight.push(slot, now.saturating_add(self.timeout));
            let step = self.connections[slot as usize].begin(&mut self.io, job, due, now);
            self.take(slot, step);
            if job.step == 0 && self.quota == Some(0) {
                // What is left are iterations that nobody asked for; those under way go on.
                let users = &self.users;
                self.due.retain(|Reverse((_, slot))| users[*slot as usize].job.step > 0);
                self.arrivals.at = None;
            }
        }
    }

    /// What is to be started now: when it was due, and whose it is.
    fn next_start(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        if now >= self.end {
            return None;
        }
        if let Some(&Reverse((due, slot))) = self.due.peek()
            && due <= now
        {
            self.due.pop();
            return Some((due, slot));
        }
        // One that no user was free for in all that time has failed its user: it is not sent any more.
        while let Some(at) = self.arrivals.at
            && at.saturating_add(self.timeout) < now
        {
            self.counts.dropped += u64::from(at >= self.measure_start);
            self.arrivals.advance(&self.pacer);
        }
        let at = self.arrivals.at.filter(|&at| at <= now)?;
        let slot = self.idle.pop()?;
        self.arrivals.advance(&self.pacer);
        Some((at, slot))
    }

    /// The time to start anything is over: counts what was due and has not been started.
    fn drop_rest(&mut self) {
        for Reverse((due, slot)) in self.due.drain() {
            let is_start = self.users[slot as usize].job.step == 0;
            self.counts.dropped += u64::from(is_start && due < self.end);
        }
        while let Some(at) = self.arrivals.at.take()
            && at < self.end
        {
            self.counts.dropped += u64::from(at >= self.measure_start);
            self.arrivals.advance(&self.pacer);
        }
    }

    fn take(&mut self, slot: u32, step: Step) {
        match step {
            Step::Pending => {}
            Step::Again if self.unfinished_reads.contains(&slot) => {}
            Step::Again => self.unfinished_reads.push_back(slot),
            Step::Done(exchange) => self.settle(slot, &exchange),
        }
    }

    /// A request is over: record it, and find out when its user goes on.
    fn settle(&mut self, slot: u32, exchange: &Exchange) {
        let Exchange { times, outcome, .. } = exchange;
        self.in_flight.remove(slot);
        let fate = outcome.fate(self.io.source.acknowledgement(), exchange.bytes_sent > 0);
        self.ledgers[slot as usize].push(fate);
        self.set_online(slot, matches!(outcome, Outcome::Response(_)));
        match outcome {
            Outcome::Failed(Failure::NoFreePort) => self.counts.no_free_port += 1,
            Outcome::Failed(Failure::TooManyFiles) => self.counts.too_many_files += 1,
            _ => {}
        }
        self.requests += 1;
        self.failed += u64::from(outcome.failed());
        let measured = times.intended >= self.measure_start;
        let step = self.users[slot as usize].job.step;
        if measured {
            let checks = self.plan.scenario.checks(usize::from(step)).iter();
            let status = outcome.status();
            let met = checks.map(|check| check.is_met(status, exchange.body_has));
            self.recorder.record(exchange, step, met);
        }
        self.advance_series(times.ended);
        // Seconds of the measured part hold measured requests only, so that they add up to the totals.
        if measured || times.ended < self.measure_start {
            self.interval.record(times, step, outcome.failed());
        }
        self.go_on(slot, times);
    }

    /// The user's next step, or the end of its iteration.
    fn go_on(&mut self, slot: u32, times: &Times) {
        let user = &mut self.users[slot as usize];
        let step = usize::from(user.job.step);
        let connected = times.connected.is_some();
        if step + 1 < self.steps {
            user.job.step += 1;
            let pause = self.plan.scenario.think_time(step);
            self.due.push(Reverse((times.ended.saturating_add(nanos(pause)), slot)));
            return;
        }
        let over = self.pacer.iteration_end(times.ended, connected);
        if user.intended >= self.measure_start {
            self.recorder.record_iteration(over.saturating_sub(user.started));
        }
        user.job = Job { iteration: user.job.iteration.wrapping_add(1), step: 0 };
        if self.quota == Some(0) {
            return;
        }
        if self.pacer.is_open() {
            self.idle.push(slot);
        } else if let Some(due) =
            self.pacer.next_due(self.connections[slot as usize].user(), user.intended, over, connected)
            && due < self.end
        {
            self.due.push(Reverse((due, slot)));
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
        for (connection, ledger) in self.connections.iter_mut().zip(&mut self.ledgers) {
            if let Some(sent) = connection.abort() {
                self.counts.aborted += 1;
                ledger.push(if sent { Fate::Unknown } else { Fate::NotSent });
            }
        }
        Harvest {
            shares: self.effort.finish(ended),
            recorder: self.recorder,
            ledgers: self.ledgers,
            last_interval: self.interval.finish(self.online_count),
            counts: self.counts,
            ended,
            interrupted,
        }
    }
}
