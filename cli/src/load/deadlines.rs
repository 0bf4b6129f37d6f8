//! The requests in flight in the order in which they time out. All share one timeout, so that is the order in
//! which they began: a doubly linked list gives insertion, removal and the next deadline in constant time and
//! with memory for each user, not for each request.

use super::clock::Nanos;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    deadline: Nanos,
    linked: bool,
}

/// Deadlines of users `0..n`, at most one each.
#[derive(Debug)]
pub(super) struct Deadlines {
    links: Vec<Link>,
    first: u32,
    last: u32,
    len: usize,
}

impl Deadlines {
    pub(super) fn new(users: usize) -> Self {
        let link = Link { previous: NONE, next: NONE, deadline: 0, linked: false };
        Self { links: vec![link; users], first: NONE, last: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The earliest deadline and its user.
    pub(super) fn first(&self) -> Option<(Nanos, u32)> {
        self.links.get(self.first as usize).map(|link| (link.deadline, self.first))
    }

    /// Adds a user's deadline, which must not be earlier than any other in the list.
    pub(super) fn push(&mut self, user: u32, deadline: Nanos) {
        debug_assert!(!self.links[user as usize].linked, "one request a user at a time");
        let previous = self.last;
        self.links[user as usize] = Link { previous, next: NONE, deadline, linked: true };
        match self.links.get_mut(previous as usize) {
            Some(link) => link.next = user,
            None => self.first = user,
        }
        self.last = user;
        self.len += 1;
    }

    /// Removes a user's deadline; nothing happens if it has none.
    pub(super) fn remove(&mut self, user: u32) {
        let Link { previous, next, linked, .. } = self.links[user as usize];
        if !linked {
            return;
        }
        self.links[user as usize].linked = false;
        match self.links.get_mut(previous as usize) {
            Some(link) => link.next = next,
            None => self.first = next,
        }
        match self.links.get_mut(next as usize) {
            Some(link) => link.previous = previous,
            None => self.last = previous,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_queue_with_removal(steps in prop::collection::vec((any::<bool>(), 0u32..8), 0..200)) {
            let mut deadlines = Deadlines::new(8);
            let mut model: VecDeque<(Nanos, u32)> = VecDeque::new();
            for (now, (push, user)) in steps.into_iter().enumerate() {
                let present = model.iter().any(|&(_, u)| u == user);
                if push && !present {
                    deadlines.push(user, now as Nanos);
                    model.push_back((now as Nanos, user));
                } else {
                    deadlines.remove(user);
                    model.retain(|&(_, u)| u != user);
                }
                prop_assert_eq!(deadlines.first(), model.front().copied());
                prop_assert_eq!(deadlines.len(), model.len());
            }
            while let Some((_, user)) = deadlines.first() {
                prop_assert_eq!(model.pop_front().map(|(_, u)| u), Some(user));
                deadlines.remove(user);
            }
            prop_assert!(model.is_empty());
        }
    }
}
