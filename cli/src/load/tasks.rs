//! The futures of one HTTP/2 connection, polled by its user's events alone: no runtime, no other thread.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Says that a future wants to be polled.
#[derive(Debug)]
struct Signal(AtomicBool);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that is polled only when it has been woken.
pub(super) struct Task<T> {
    future: BoxedFuture<T>,
    signal: Arc<Signal>,
    waker: Waker,
}

impl<T> Task<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::boxed(Box::pin(future))
    }

    fn boxed(future: BoxedFuture<T>) -> Self {
        let signal = Arc::new(Signal(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&signal));
        Self { future, signal, waker }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.signal.0.load(Ordering::Relaxed)
    }

    /// Polls it, if it has been woken.
    pub(super) fn poll(&mut self) -> Poll<T> {
        if !self.signal.0.swap(false, Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }
}

/// What hyper spawns for a connection.
#[derive(Default)]
pub(super) struct Tasks {
    running: Vec<Task<()>>,
    spawned: Spawner,
}

/// hyper's executor: it only puts futures on the connection's list.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Mutex<Vec<BoxedFuture<()>>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

impl Tasks {
    pub(super) fn spawner(&self) -> Spawner {
        self.spawned.clone()
    }

    /// Polls those that want to be, each once.
    pub(super) fn poll(&mut self) {
        let mut spawned = self.spawned.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.running.extend(spawned.drain(..).map(Task::boxed));
        drop(spawned);
        self.running.retain_mut(|task| task.poll().is_pending());
    }

    pub(super) fn is_woken(&self) -> bool {
        self.running.iter().any(Task::is_woken)
            || !self.spawned.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
