//! A wake-up for tasks of one shard: no lock, no atomic, never leaves the core.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Remembers one signal for one waiting task (like a semaphore of one). A signal without a waiter
/// is kept, so that none is lost between a check and the wait.
#[derive(Debug, Default)]
pub struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn notify(&self) {
        self.set.set(true);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Resolves once [`notify`](Self::notify) was called since the last time. One task waits.
    pub async fn notified(&self) {
        poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Wakes every waiting task at once. Bounded by the number of tasks that wait.
#[derive(Debug, Default)]
pub struct Broadcast {
    generation: Cell<u64>,
    next_waiter: Cell<u64>,
    /// In the order in which they came.
    wakers: RefCell<BTreeMap<u64, Waker>>,
}

impl Broadcast {
    pub fn notify_all(&self) {
        self.generation.set(self.generation.get() + 1);
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_values().for_each(Waker::wake);
    }

    /// Resolves at the next [`notify_all`](Self::notify_all) after this call.
    pub fn notified(&self) -> Notified<'_> {
        Notified { broadcast: self, seen: self.generation.get(), waiter: None }
    }
}

/// A wait for a [`Broadcast`]; given up, it leaves nothing behind.
#[derive(Debug)]
pub struct Notified<'a> {
    broadcast: &'a Broadcast,
    seen: u64,
    waiter: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let broadcast = self.broadcast;
        if broadcast.generation.get() != self.seen {
            return Poll::Ready(());
        }
        let waiter = *self.waiter.get_or_insert_with(|| {
            let next = broadcast.next_waiter.get();
            broadcast.next_waiter.set(next + 1);
            next
        });
        broadcast.wakers.borrow_mut().insert(waiter, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.filter(|_| self.broadcast.generation.get() == self.seen) {
            self.broadcast.wakers.borrow_mut().remove(&waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_waits_is_woken_and_who_gives_up_leaves_nothing() {
        let broadcast = Broadcast::default();
        let mut waiting = broadcast.notified();
        for _ in 0..100 {
            assert!((&mut waiting).now_or_never().is_none());
            assert!(broadcast.notified().now_or_never().is_none());
        }
        assert_eq!(broadcast.wakers.borrow().len(), 1);
        let seen_later = broadcast.notified();
        broadcast.notify_all();
        assert!((&mut waiting).now_or_never().is_some());
        assert!(seen_later.now_or_never().is_some(), "it was called before");
        assert!(broadcast.notified().now_or_never().is_none());
        assert!(broadcast.wakers.borrow().is_empty());
    }
}
