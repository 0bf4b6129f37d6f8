//! Threads for work that no client waits for: the worker, and the embedded store's flushes and compactions.
//! They run at a lower priority, so that on a full machine requests are answered first and the backlog, which
//! is bounded, grows instead.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;

/// With 10 instead of 0 a thread gets about a tenth of another one's share when both want the processor (each step
/// is a factor of 1.25): enough to go on, too little to be felt.
const NICENESS: i32 = 10;
/// Blocking calls at the same time: a store's commits and reads.
const BLOCKING_THREADS: usize = 4;

fn lower_priority() {
    // On Linux this is the calling thread alone, and what it starts later.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "a background thread keeps the priority of the others");
    }
}

/// Runs a future to its end on a thread of its own.
///
/// # Errors
/// The thread or its runtime is refused by the system.
pub(crate) fn spawn<F>(name: &'static str, work: F) -> io::Result<JoinHandle<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(name)
        .on_thread_start(lower_priority)
        .build()?;
    thread::Builder::new().name(name.into()).spawn(move || {
        lower_priority();
        runtime.block_on(work);
    })
}

/// Calls `work` so that threads which it starts inherit the lower priority.
pub(crate) fn call<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let called = scope.spawn(|| {
            lower_priority();
            work()
        });
        called.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn background_threads_are_nicer_and_nobody_else_is() {
        let before = niceness();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = spawn("nice", async move {
            sender.send(niceness()).unwrap();
            let blocking = tokio::task::spawn_blocking(niceness).await.unwrap();
            sender.send(blocking).unwrap();
        });
        thread.unwrap().join().unwrap();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [NICENESS, NICENESS]);
        assert_eq!(call(|| thread::spawn(niceness).join().unwrap()), NICENESS);
        assert_eq!(niceness(), before);
    }
}
