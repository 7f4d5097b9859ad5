//! Answers that tasks of a shard wait for: each has a ticket, and comes once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

enum Waiting<A> {
    Asked(Option<Waker>),
    Answered(A),
}

/// Lives: one per shard and kind of answer. Bounded by the requests that wait.
pub struct Answers<A> {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waiting<A>>>,
}

impl<A> Default for Answers<A> {
    fn default() -> Answers<A> {
        Answers { next: Cell::new(0), waiting: RefCell::default() }
    }
}

/// A wait for one answer; given up, it leaves nothing behind.
pub struct Wait<'a, A> {
    answers: &'a Answers<A>,
    number: u64,
}

impl<A> Answers<A> {
    /// The number of the ticket, and the wait for it.
    pub fn ask(&self) -> Wait<'_, A> {
        let number = self.next.get() + 1;
        self.next.set(number);
        self.waiting.borrow_mut().insert(number, Waiting::Asked(None));
        Wait { answers: self, number }
    }

    pub fn complete(&self, number: u64, answer: A) {
        let mut waiting = self.waiting.borrow_mut();
        // The first one counts.
        let Some(place @ Waiting::Asked(_)) = waiting.get_mut(&number) else { return };
        if let Waiting::Asked(waker) = std::mem::replace(place, Waiting::Answered(answer)) {
            drop(waiting);
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl<A> Answers<A> {
    /// Everybody who waits.
    pub fn complete_all(&self, answer: impl Fn() -> A) {
        let numbers: Vec<u64> = self.waiting.borrow().keys().copied().collect();
        numbers.into_iter().for_each(|number| self.complete(number, answer()));
    }
}

impl<A> Wait<'_, A> {
    pub fn number(&self) -> u64 {
        self.number
    }

    pub async fn answer(self) -> A {
        poll_fn(|cx| {
            let mut waiting = self.answers.waiting.borrow_mut();
            match waiting.remove(&self.number) {
                Some(Waiting::Answered(answer)) => Poll::Ready(answer),
                _ => {
                    waiting.insert(self.number, Waiting::Asked(Some(cx.waker().clone())));
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<A> Drop for Wait<'_, A> {
    fn drop(&mut self) {
        self.answers.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn an_answer_reaches_who_asked_and_a_wait_given_up_leaves_nothing() {
        let answers: Answers<&str> = Answers::default();
        let (first, second, third) = (answers.ask(), answers.ask(), answers.ask());
        let number = third.number();
        answers.complete(second.number(), "second");
        assert_eq!(second.answer().now_or_never(), Some("second"));
        assert_eq!(first.answer().now_or_never(), None);
        drop(third);
        answers.complete(number, "too late");
        assert!(answers.waiting.borrow().is_empty());
    }
}
