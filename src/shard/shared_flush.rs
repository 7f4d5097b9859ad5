//! One flush for many who wait for one: those who come while a flush is under way share the next.
//!
//! ```text
//! first  ├─ flush ─┤
//! second     ├─────┼─ flush ─┤   leads the next: it began after the second, the third and the fourth came
//! third        ├───┼─────────┤
//! fourth          ├┼─────────┤
//! ```
//!
//! Flushes of a file system cost the same for one file as for a thousand, so that ten thousand segments
//! that end in one second take some hundred of them.

use crate::shard::event::Broadcast;
use glommio::sync::Semaphore;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Lives: one per shard and file system.
#[derive(Debug)]
pub struct SharedFlush {
    /// Held by the flush under way.
    turn: Semaphore,
    /// The flush that has not begun.
    next: RefCell<Option<Rc<Round>>>,
}

/// A flush, and those who wait for it beside the one who carries it out.
#[derive(Debug, Default)]
struct Round {
    outcome: RefCell<Option<Result<(), Failure>>>,
    ended: Broadcast,
}

/// An error for each who waits.
#[derive(Clone, Debug)]
struct Failure {
    kind: io::ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Failure {
    fn error(&self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

impl Default for SharedFlush {
    fn default() -> SharedFlush {
        SharedFlush { turn: Semaphore::new(1), next: RefCell::new(None) }
    }
}

/// Whoever carries a flush out owes the others an outcome, even when it is given up.
struct Lead<'a> {
    shared: &'a SharedFlush,
    round: Rc<Round>,
}

impl Lead<'_> {
    /// Nobody joins any more.
    fn begin(&self) {
        let mut next = self.shared.next.borrow_mut();
        next.take_if(|next| Rc::ptr_eq(next, &self.round));
    }

    fn end(&self, outcome: Result<(), Failure>) {
        self.round.outcome.borrow_mut().get_or_insert(outcome);
        self.round.ended.notify_all();
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.begin();
        let (kind, text) = (io::ErrorKind::Interrupted, "the flush was given up".to_owned());
        self.end(Err(Failure { kind, code: None, text }));
    }
}

impl SharedFlush {
    /// Returns once a flush that began after this call has ended. All who share one flush the same file
    /// system: it is the first one's `flush` that is carried out.
    pub async fn flush<F: Future<Output = io::Result<()>>>(
        &self,
        flush: impl FnOnce() -> F,
    ) -> io::Result<()> {
        let joined = self.next.borrow().clone();
        if let Some(round) = joined {
            let ended = round.ended.notified();
            if round.outcome.borrow().is_none() {
                ended.await;
            }
            let outcome = round.outcome.borrow().clone();
            return outcome.expect("it ended with one").map_err(|failure| failure.error());
        }
        let lead = Lead { shared: self, round: Rc::default() };
        *self.next.borrow_mut() = Some(lead.round.clone());
        let _turn = self.turn.acquire_permit(1).await?;
        lead.begin();
        let result = flush().await;
        lead.end(result.as_ref().copied().map_err(Failure::of));
        result
    }
}

impl Failure {
    fn of(error: &io::Error) -> Failure {
        Failure { kind: error.kind(), code: error.raw_os_error(), text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::channel::oneshot;
    use std::cell::Cell;

    /// Flushes that end when the test says so.
    #[derive(Default)]
    struct Device {
        begun: Cell<usize>,
        under_way: RefCell<Vec<oneshot::Sender<io::Result<()>>>>,
    }

    impl Device {
        async fn flush(&self) -> io::Result<()> {
            self.begun.set(self.begun.get() + 1);
            let (sender, ended) = oneshot::channel();
            self.under_way.borrow_mut().push(sender);
            ended.await.expect("the test ends it")
        }

        fn end(&self, result: io::Result<()>) {
            assert!(self.under_way.borrow_mut().remove(0).send(result).is_ok());
        }
    }

    #[test]
    fn who_comes_during_a_flush_shares_the_next() {
        let (shared, device) = (SharedFlush::default(), Device::default());
        let mut first = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut first).now_or_never().is_none());
        let mut later: Vec<_> = (0..3).map(|_| Box::pin(shared.flush(|| device.flush()))).collect();
        assert!(later.iter_mut().all(|flush| flush.now_or_never().is_none()));
        assert_eq!(device.begun.get(), 1);
        device.end(Ok(()));
        assert!(later.iter_mut().all(|flush| flush.now_or_never().is_none()), "that one began before them");
        assert!((&mut first).now_or_never().unwrap().is_ok());
        drop(first);
        assert!(later.iter_mut().all(|flush| flush.now_or_never().is_none()));
        assert_eq!(device.begun.get(), 2);
        let mut last = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut last).now_or_never().is_none());
        device.end(Ok(()));
        for flush in &mut later {
            assert!(flush.now_or_never().unwrap().is_ok());
        }
        drop(later);
        assert!((&mut last).now_or_never().is_none(), "it came while the second was under way");
        assert_eq!(device.begun.get(), 3);
        device.end(Ok(()));
        assert!((&mut last).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn an_error_reaches_all_who_share_it() {
        let (shared, device) = (SharedFlush::default(), Device::default());
        let mut first = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut first).now_or_never().is_none());
        let mut later: Vec<_> = (0..2).map(|_| Box::pin(shared.flush(|| device.flush()))).collect();
        assert!(later.iter_mut().all(|flush| flush.now_or_never().is_none()));
        device.end(Ok(()));
        assert!(first.now_or_never().unwrap().is_ok());
        assert!(later.iter_mut().all(|flush| flush.now_or_never().is_none()));
        device.end(Err(io::Error::from_raw_os_error(libc::EIO)));
        for flush in later {
            assert_eq!(flush.now_or_never().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
        }
    }

    #[test]
    fn who_shares_a_flush_that_is_given_up_is_told() {
        let (shared, device) = (SharedFlush::default(), Device::default());
        let mut first = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut first).now_or_never().is_none());
        let mut leader = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut leader).now_or_never().is_none());
        let mut follower = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut follower).now_or_never().is_none());
        drop(leader);
        assert_eq!(follower.now_or_never().unwrap().unwrap_err().kind(), io::ErrorKind::Interrupted);
        let mut next = Box::pin(shared.flush(|| device.flush()));
        assert!((&mut next).now_or_never().is_none());
        device.end(Ok(()));
        assert!(first.now_or_never().unwrap().is_ok());
        assert!((&mut next).now_or_never().is_none());
        assert_eq!(device.begun.get(), 2);
    }
}
