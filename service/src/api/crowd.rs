//! Many connections: how many are served at a time, while the others wait for their turn without buffers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// A turn lasts until its request is answered, and between one and two of these at the most: then the next begins beside
/// it. So neither slow clients nor a backend that stands still keep the others out for long.
pub(super) const TURN: Duration = Duration::from_millis(500);
/// New connections that pass those who wait: a probe of `/healthz` comes on one, and has a second or so.
const NEWCOMERS: usize = 64;

/// The connections of a listener, and whose turn it is.
pub(super) struct Crowd {
    /// A permit for each further connection that there may be.
    places: Arc<Semaphore>,
    max_connections: usize,
    most: usize,
    line: Arc<Line>,
    newcomers: Arc<Line>,
}

impl Crowd {
    /// Up to `most` connections are no crowd, and of a crowd so many have their turn at once.
    pub(super) fn new(places: Arc<Semaphore>, max_connections: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            max_connections,
            most,
            line: Line::new(most.clamp(1, Semaphore::MAX_PERMITS)),
            newcomers: Line::new(NEWCOMERS),
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.max_connections.saturating_sub(self.places.available_permits()) > self.most
    }

    /// Waits for a turn; who comes first gets the first.
    pub(super) async fn turn(&self, is_new: bool) -> Turn {
        if is_new && let Ok(permit) = self.newcomers.free.try_acquire() {
            permit.forget();
            return self.newcomers.begin();
        }
        self.line.free.acquire().await.expect("it is never closed").forget();
        self.line.begin()
    }

    /// Ends the turns that last too long. Called each [`TURN`].
    pub(super) fn tick(&self) {
        self.line.tick();
        self.newcomers.tick();
    }
}

/// So many turns at a time.
struct Line {
    free: Semaphore,
    turns: Mutex<Turns>,
}

/// Those that are under way: begun since the last tick, and in the one before it.
#[derive(Default)]
struct Turns {
    tick: u64,
    young: usize,
    old: usize,
}

impl Line {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(most), turns: Mutex::default() })
    }

    /// With a permit that was taken for good.
    fn begin(self: &Arc<Self>) -> Turn {
        let mut turns = self.turns();
        turns.young += 1;
        Turn { line: Arc::clone(self), tick: turns.tick }
    }

    fn tick(&self) {
        let mut turns = self.turns();
        let ended = turns.old;
        *turns = Turns { tick: turns.tick + 1, young: 0, old: turns.young };
        drop(turns);
        self.free.add_permits(ended);
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Each critical section leaves the counts whole.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Over when it is dropped, if it was not before.
pub(super) struct Turn {
    line: Arc<Line>,
    /// When it began.
    tick: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.line.turns();
        match turns.tick - self.tick {
            0 => turns.young -= 1,
            1 => turns.old -= 1,
            // Another one has its place already.
            _ => return,
        }
        drop(turns);
        self.line.free.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn crowd(most: usize) -> Arc<Crowd> {
        Crowd::new(Arc::new(Semaphore::new(10)), 10, most)
    }

    #[test]
    fn so_many_have_their_turn_at_once_and_then_the_next() {
        let crowd = crowd(2);
        let turn = || crowd.turn(false).now_or_never();
        let (first, second) = (turn(), turn());
        assert!(first.is_some() && second.is_some());
        assert!(turn().is_none());
        drop(first);
        let third = turn();
        assert!(third.is_some() && turn().is_none());
        crowd.tick();
        assert!(turn().is_none(), "they may last as long as this");
        drop(second);
        assert!(turn().is_some(), "one that ends late is given back, too");
    }

    #[test]
    fn a_turn_that_lasts_too_long_keeps_nobody_waiting_and_counts_once() {
        let crowd = crowd(1);
        let turn = || crowd.turn(false).now_or_never();
        let stuck = turn();
        crowd.tick();
        assert!(turn().is_none());
        crowd.tick();
        let next = turn();
        assert!(next.is_some());
        drop(stuck);
        assert!(turn().is_none(), "its place went to the next");
        for _ in 0..5 {
            crowd.tick();
        }
        drop(next);
        let last = turn();
        assert!(last.is_some() && turn().is_none(), "there is one place as before");
    }

    #[test]
    fn a_new_connection_passes_those_who_wait_unless_many_do() {
        let crowd = crowd(1);
        let _stuck = crowd.turn(false).now_or_never().unwrap();
        assert!(crowd.turn(false).now_or_never().is_none());
        let turns: Vec<Turn> = std::iter::from_fn(|| crowd.turn(true).now_or_never()).take(1000).collect();
        assert_eq!(turns.len(), NEWCOMERS);
        drop(turns);
        assert!(crowd.turn(true).now_or_never().is_some());
        assert!(crowd.turn(false).now_or_never().is_none(), "the line got none of these");
    }

    #[test]
    fn few_connections_are_no_crowd() {
        let places = Arc::new(Semaphore::new(3));
        let crowd = Crowd::new(Arc::clone(&places), 3, 2);
        let _two = Arc::clone(&places).try_acquire_many_owned(2).unwrap();
        assert!(!crowd.is_there());
        let _third = places.try_acquire().unwrap();
        assert!(crowd.is_there());
    }
}
