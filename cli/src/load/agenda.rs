//! What a thread's users do next, and when: iterations that are due, arrivals that wait for a user, steps that follow each
//! other. It knows the time only from its callers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clock::{Nanos, nanos};
use super::exchange::Times;
use super::pacer::Pacer;
use super::plan::{Plan, Share};
use super::scenario::Job;

/// The users of one thread, by slot.
pub(super) struct Agenda<'a> {
    plan: &'a Plan,
    /// Of an iteration.
    steps: usize,
    pacer: Pacer,
    users: Vec<User>,
    /// What is due when, and whose it is.
    due: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// In the open model: users without an iteration, and the next arrival of this thread's.
    idle: Vec<u32>,
    arrivals: ArrivalCursor,
    /// Iterations that may still be started. Each thread has one at first ([`Plan::worker_threads`]).
    quota: Option<u64>,
    /// How long an arrival waits for a user.
    timeout: Nanos,
    measure_start: Nanos,
    end: Nanos,
    dropped: u64,
}

/// A request to be sent now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) slot: u32,
    pub(super) job: Job,
    pub(super) due: Nanos,
}

/// Where a user is.
#[derive(Clone, Copy, Debug)]
struct User {
    /// Its index in the whole run.
    number: u32,
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

impl<'a> Agenda<'a> {
    /// For a thread's `share` of the users. Arrivals and iterations are dealt out as users are.
    pub(super) fn new(plan: &'a Plan, share: Share) -> Self {
        let pacer = Pacer::new(plan);
        let user = |number| User { number, job: Job::default(), intended: 0, started: 0 };
        let users: Vec<User> = share.of(plan.users).map(user).collect();
        let first_due = |(slot, user): (u32, &User)| Some(Reverse((pacer.first_due(user.number)?, slot)));
        let due = (0u32..).zip(&users).filter_map(first_due).collect();
        // The first ones stand on top: as few connections are used as the load needs.
        let idle = if pacer.is_open() { (0..users.len() as u32).rev().collect() } else { Vec::new() };
        let (first, stride) = (u64::from(share.first), u64::from(share.step));
        let measure_start = nanos(plan.warmup);
        Self {
            plan,
            steps: plan.scenario.step_names().len(),
            arrivals: ArrivalCursor::new(&pacer, first, stride),
            pacer,
            users,
            due,
            idle,
            quota: plan.iterations.map(|all| share.among(all)),
            timeout: nanos(plan.timeout),
            measure_start,
            end: measure_start.saturating_add(nanos(plan.duration)),
            dropped: 0,
        }
    }

    /// The run-wide numbers of the users, by slot.
    pub(super) fn users(&self) -> impl ExactSizeIterator<Item = u32> {
        self.users.iter().map(|user| user.number)
    }

    /// The step that a user is at.
    pub(super) fn step(&self, slot: u32) -> u16 {
        self.users[slot as usize].job.step
    }

    /// When something is due next, as far as that is known.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        // Without a free user an arrival waits for the end of a request, which is an event.
        let arrival = self.arrivals.at.filter(|_| !self.idle.is_empty());
        due.into_iter().chain(arrival).min()
    }

    /// Whether all iterations that were asked for are over.
    pub(super) fn is_exhausted(&self) -> bool {
        self.quota == Some(0) && self.due.is_empty()
    }

    /// Iterations due within the measured part that were not started.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What is to be started now.
    pub(super) fn start(&mut self, now: Nanos) -> Option<Start> {
        if now >= self.end {
            return None;
        }
        let (due, slot) = self.next_due(now).or_else(|| self.next_arrival(now))?;
        let user = &mut self.users[slot as usize];
        let job = user.job;
        if job.step == 0 {
            (user.intended, user.started) = (due, now);
            self.quota = self.quota.map(|left| left.saturating_sub(1));
            if self.quota == Some(0) {
                // What is left are iterations that nobody asked for; those under way go on.
                let users = &self.users;
                self.due.retain(|Reverse((_, slot))| users[*slot as usize].job.step > 0);
                self.arrivals.at = None;
            }
        }
        Some(Start { slot, job, due })
    }

    /// The same, if it is this user's turn.
    pub(super) fn start_of(&mut self, slot: u32, now: Nanos) -> Option<Start> {
        let Reverse((_, first)) = self.due.peek()?;
        if *first == slot { self.start(now) } else { None }
    }

    fn next_due(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        let Reverse((due, _)) = self.due.peek()?;
        if *due > now {
            return None;
        }
        self.due.pop().map(|Reverse(next)| next)
    }

    fn next_arrival(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        // One that no user was free for in all that time has failed its user: it is not sent any more.
        while let Some(at) = self.arrivals.at
            && at.saturating_add(self.timeout) < now
        {
            self.dropped += u64::from(at >= self.measure_start);
            self.arrivals.advance(&self.pacer);
        }
        let at = self.arrivals.at.filter(|&at| at <= now)?;
        let slot = self.idle.pop()?;
        self.arrivals.advance(&self.pacer);
        Some((at, slot))
    }

    /// The time to start anything is over: counts what was due and has not been started.
    pub(super) fn drop_rest(&mut self) {
        for Reverse((due, slot)) in std::mem::take(&mut self.due) {
            if self.users[slot as usize].job.step == 0 {
                self.drop_between(due, self.end);
            }
        }
        while let Some(at) = self.arrivals.at.take()
            && at < self.end
        {
            self.dropped += u64::from(at >= self.measure_start);
            self.arrivals.advance(&self.pacer);
        }
    }

    /// Counts what a user misses of the measured part that starts nothing from `due`, when its next iteration was due, to
    /// `until`.
    fn drop_between(&mut self, due: Nanos, until: Nanos) {
        let in_warmup = self.pacer.missed(due, until.min(self.measure_start));
        self.dropped += self.pacer.missed(due, until) - in_warmup;
    }

    /// A request is over: on to the user's next step, or to the end of its iteration. Returns how long the iteration took if
    /// it is over and of the measured part.
    pub(super) fn go_on(&mut self, slot: u32, times: &Times) -> Option<Nanos> {
        let user = &mut self.users[slot as usize];
        let step = usize::from(user.job.step);
        let connected = times.connected.is_some();
        if step + 1 < self.steps {
            user.job.step += 1;
            let pause = self.plan.scenario.think_time(step);
            self.due.push(Reverse((times.ended.saturating_add(nanos(pause)), slot)));
            return None;
        }
        let over = self.pacer.iteration_end(times.ended, connected);
        let measured = user.intended >= self.measure_start;
        let took = measured.then(|| over.saturating_sub(user.started));
        user.job = Job { iteration: user.job.iteration.wrapping_add(1), step: 0 };
        let User { number, intended, .. } = *user;
        if self.quota == Some(0) {
            return took;
        }
        if self.pacer.is_open() {
            self.idle.push(slot);
            return took;
        }
        let due = self.pacer.next_due(number, intended, over, connected);
        if !connected && let Some(wanted) = self.pacer.next_due(number, intended, over, true) {
            // Of its schedule, what it leaves out because nobody listens.
            self.drop_between(wanted, due.map_or(self.end, |due| due.min(self.end)));
        }
        if let Some(due) = due.filter(|&due| due < self.end) {
            self.due.push(Reverse((due, slot)));
        }
        took
    }
}
