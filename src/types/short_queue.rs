//! A queue that mostly holds one element at a time, and then has no memory of its own: with many of them
//! each look at it would be one at memory that no cache has.

use std::collections::VecDeque;

/// Invariant: nothing is in `rest` while there is no `first`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortQueue<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Default for ShortQueue<T> {
    fn default() -> ShortQueue<T> {
        ShortQueue { first: None, rest: VecDeque::new() }
    }
}

impl<T> ShortQueue<T> {
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub fn back(&self) -> Option<&T> {
        if self.rest.is_empty() { self.first.as_ref() } else { self.rest.back() }
    }

    pub fn push_back(&mut self, element: T) {
        match self.first {
            None => self.first = Some(element),
            Some(_) => self.rest.push_back(element),
        }
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let front = self.first.take();
        if !self.rest.is_empty() {
            self.first = self.rest.pop_front();
        }
        front
    }

    /// All of them, oldest first; none are left.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.first.take().into_iter().chain(self.rest.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// `None` takes one out, `Some(None)` all.
        #[test]
        fn it_is_a_queue(steps in proptest::collection::vec(any::<Option<Option<u8>>>(), 0..60)) {
            let (mut queue, mut model) = (ShortQueue::default(), VecDeque::new());
            for step in steps {
                match step {
                    Some(Some(element)) => {
                        queue.push_back(element);
                        model.push_back(element);
                    }
                    Some(None) => prop_assert_eq!(queue.drain().collect::<Vec<_>>(), model.drain(..).collect::<Vec<_>>()),
                    None => prop_assert_eq!(queue.pop_front(), model.pop_front()),
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!((queue.front(), queue.back()), (model.front(), model.back()));
            }
        }
    }
}
