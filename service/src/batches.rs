//! Work of many callers done together: while some of it is under way the rest waits, and then goes in one piece.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Something that can be done for several callers at once.
pub(crate) trait Work: Send + Sync + Sized + 'static {
    type Item: Send;
    type Answer: Send;
    /// What a batch has so far, as far as it decides what may still join.
    type Batch: Default + Send;

    /// Whether this item still fits; an empty batch takes any. Those behind one that does not wait, too.
    fn joins(batch: &mut Self::Batch, item: &Self::Item) -> bool;

    /// Does the work and answers everybody.
    fn perform(&self, batch: Vec<Waiting<Self>>) -> impl Future<Output = ()> + Send;
}

/// An item and who waits for it.
pub(crate) struct Waiting<W: Work> {
    pub(crate) item: W::Item,
    pub(crate) since: Instant,
    answer: oneshot::Sender<W::Answer>,
}

impl<W: Work> Waiting<W> {
    /// A caller that has gone is no loss.
    pub(crate) fn answer(self, answer: W::Answer) {
        let _ = self.answer.send(answer);
    }
}

/// Batches of one kind of work.
pub(crate) struct Batches<W: Work> {
    work: W,
    /// How many may be under way at a time.
    most: usize,
    queue: Mutex<Queue<W>>,
}

struct Queue<W: Work> {
    waiting: VecDeque<Waiting<W>>,
    under_way: usize,
}

impl<W: Work> Batches<W> {
    pub(crate) fn new(work: W, most: usize) -> Arc<Self> {
        Arc::new(Self { work, most, queue: Mutex::new(Queue { waiting: VecDeque::new(), under_way: 0 }) })
    }

    pub(crate) fn work(&self) -> &W {
        &self.work
    }

    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        // Each critical section leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this done with others. `None`: it was given up, since the work panicked.
    pub(crate) async fn perform(self: &Arc<Self>, item: W::Item) -> Option<W::Answer> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { item, since: Instant::now(), answer });
            if queue.under_way < self.most {
                queue.under_way += 1;
                // A task of its own: it is there for the others, too, when this caller goes away.
                tokio::spawn(Arc::clone(self).work_off());
            }
        }
        answered.await.ok()
    }

    /// A batch at a time, until nothing waits.
    async fn work_off(self: Arc<Self>) {
        // Should the work panic, another one may still begin.
        let mut place = Place { batches: &self, is_held: true };
        loop {
            // All that can run now runs first, so that what it wants joins this batch.
            tokio::task::yield_now().await;
            let Some(batch) = place.take() else { return };
            self.work.perform(batch).await;
        }
    }
}

/// One of those that may be under way.
struct Place<'a, W: Work> {
    batches: &'a Batches<W>,
    is_held: bool,
}

impl<W: Work> Place<'_, W> {
    /// The next batch; `None` gives the place up.
    fn take(&mut self) -> Option<Vec<Waiting<W>>> {
        let mut queue = self.batches.queue();
        let mut so_far = W::Batch::default();
        let fit = queue.waiting.iter().take_while(|waiting| W::joins(&mut so_far, &waiting.item)).count();
        if fit == 0 {
            queue.under_way -= 1;
            self.is_held = false;
            return None;
        }
        Some(queue.waiting.drain(..fit).collect())
    }
}

impl<W: Work> Drop for Place<'_, W> {
    fn drop(&mut self) {
        if self.is_held {
            self.batches.queue().under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{Mutex as AsyncMutex, Semaphore};

    /// Adds one; remembers the batches, and goes on when it is let.
    struct Increment {
        batches: AsyncMutex<Vec<Vec<u32>>>,
        go: Semaphore,
    }

    impl Work for Increment {
        type Item = u32;
        type Answer = u32;
        type Batch = usize;

        fn joins(batch: &mut usize, item: &u32) -> bool {
            *batch += 1;
            *batch == 1 || (*batch <= 3 && *item != 99)
        }

        async fn perform(&self, batch: Vec<Waiting<Self>>) {
            self.go.acquire().await.unwrap().forget();
            self.batches.lock().await.push(batch.iter().map(|waiting| waiting.item).collect());
            for waiting in batch {
                let answer = waiting.item + 1;
                assert_ne!(answer, 1000, "the test's own");
                waiting.answer(answer);
            }
        }
    }

    fn batches(most: usize) -> Arc<Batches<Increment>> {
        Batches::new(Increment { batches: AsyncMutex::default(), go: Semaphore::new(0) }, most)
    }

    #[tokio::test]
    async fn what_comes_together_is_done_together_within_the_bound() {
        let batches = batches(1);
        batches.work().go.add_permits(100);
        let wanted = [1, 2, 3, 4, 99, 5].map(|item| batches.perform(item));
        assert_eq!(futures_util::future::join_all(wanted).await, [2, 3, 4, 5, 100, 6].map(Some));
        assert_eq!(*batches.work().batches.lock().await, [vec![1, 2, 3], vec![4], vec![99, 5]]);
        assert_eq!(batches.perform(7).await, Some(8), "and again, after it had come to rest");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_under_way_and_the_rest_waits_even_for_callers_that_have_gone() {
        let batches = batches(2);
        for item in 0..9 {
            let wanted = tokio::time::timeout(std::time::Duration::from_millis(1), batches.perform(item));
            assert!(wanted.await.is_err());
        }
        assert_eq!(batches.queue().under_way, 2);
        batches.work().go.add_permits(100);
        assert_eq!(batches.perform(10).await, Some(11));
        let done: Vec<u32> = batches.work().batches.lock().await.concat();
        let mut sorted = done.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]);
    }

    #[tokio::test]
    async fn work_that_panics_gives_up_its_own_only() {
        let batches = batches(1);
        batches.work().go.add_permits(100);
        assert_eq!(batches.perform(999).await, None);
        assert_eq!(batches.perform(1).await, Some(2));
    }
}
