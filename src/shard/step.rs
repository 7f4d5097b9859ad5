//! How long the shard's tasks hold their executor.
//!
//! A task runs from one wait to the next, and for so long nothing else runs on its core: neither
//! another connection nor a commit. Every task that a serving shard starts is spawned through here,
//! so that the longest of these steps is known. It is wall time: what the kernel ran on the core in
//! between counts too, as it does for whoever waited. Two clock readings a step, some 20 ns.

use crate::metrics::ShardMetrics;
use crate::shard::Shard;
use crate::shard::clock::Clock;
use crate::shard::store::Store;
use crate::types::Mono;
use glommio::task::JoinHandle;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long a step of a loop over many partitions may last; half of what a step may, since the last
/// turn before it is over may take a while.
const STEP_MAX: Duration = Duration::from_micros(300);

/// Lets others run in a loop over many partitions.
pub struct Pace {
    clock: Clock,
    step_begun: Mono,
}

impl Pace {
    pub fn new(clock: &Clock) -> Pace {
        Pace { clock: clock.clone(), step_begun: clock.mono() }
    }

    /// Called in every turn of the loop, which has no other waits: some 10 ns.
    pub async fn give_way(&mut self) {
        if self.clock.mono().since(self.step_begun) >= STEP_MAX {
            glommio::executor().yield_task_queue_now().await;
            self.step_begun = self.clock.mono();
        }
    }
}

/// Tells `record` how long each step of `future` took.
async fn measured<F: Future>(now: impl Fn() -> Mono, record: impl Fn(Duration), future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let begun = now();
        let polled = future.as_mut().poll(cx);
        record(now().since(begun));
        polled
    })
    .await
}

/// A step that lasts longer is told at the debug level, with the task's type: where to look.
const STEP_TOLD: Duration = Duration::from_millis(5);

/// The future, with its steps in the shard's metrics.
pub fn timed<F: Future>(
    clock: &Clock,
    metrics: &Rc<RefCell<ShardMetrics>>,
    future: F,
) -> impl Future<Output = F::Output> + use<F> {
    let (clock, metrics) = (clock.clone(), metrics.clone());
    let record = move |step: Duration| {
        metrics.borrow_mut().stalled(step);
        if step >= STEP_TOLD {
            let (task, held_us) = (std::any::type_name::<F>(), step.as_micros() as u64);
            tracing::debug!(task, held_us, "a task held its core");
        }
    };
    measured(move || clock.mono(), record, future)
}

impl Shard {
    /// Starts a task of this shard.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        glommio::spawn_local(timed(&self.clock, &self.metrics, future)).detach()
    }
}

impl Store {
    /// Starts a task of this store, with the share of commits whoever asks for it.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let task = timed(&self.clock, &self.metrics, future);
        glommio::spawn_local_into(task, self.queue).expect("the queue lives as long as the executor").detach()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_step_is_what_runs_between_two_waits() {
        let now = Cell::new(Mono(0));
        let pass = |time| now.set(now.get().after(time));
        let steps = RefCell::new(Vec::new());
        let ms = Duration::from_millis;
        let work = async {
            pass(ms(3));
            let mut waited = false;
            poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
            pass(ms(5));
        };
        let mut task = pin!(measured(|| now.get(), |step| steps.borrow_mut().push(step), work));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(task.as_mut().poll(&mut cx).is_pending());
        pass(ms(1000)); // Others run, or nobody does.
        assert!(task.as_mut().poll(&mut cx).is_ready());
        assert_eq!(*steps.borrow(), [ms(3), ms(5)]);
    }
}
