//! What the tasks of a thread count, from the start of the load to the last one's end.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use glommio::Task;
use odradek::types::Mono;

use crate::clock;
use crate::stats::{Board, Stats};

/// How often a thread posts its counts.
const POST_EVERY: Duration = Duration::from_millis(100);

/// What the tasks of one thread, or of several, came to.
#[derive(Default)]
pub struct Tally {
    pub stats: Stats,
    /// Why tasks ended early, if any did.
    pub problems: Vec<String>,
    /// From the start to the end of the last.
    pub seconds: f64,
}

impl Tally {
    /// Starts tasks and waits for all of them; meanwhile their counts are posted.
    pub async fn of<E: Display>(
        tasks: impl Iterator<Item = Task<Result<(), E>>>,
        stats: &Rc<RefCell<Stats>>,
        board: &Board,
        start: Mono,
    ) -> Tally {
        let poster = spawn_poster(stats.clone(), board.clone());
        let tasks: Vec<_> = tasks.collect();
        let mut problems = Vec::new();
        for task in tasks {
            if let Err(error) = task.await {
                problems.push(error.to_string());
            }
        }
        let seconds = clock::now().since(start).as_secs_f64();
        poster.cancel().await;
        board.post(&mut stats.borrow_mut());
        Tally { stats: std::mem::take(&mut *stats.borrow_mut()), problems, seconds }
    }

    /// Takes in another thread's.
    pub fn merge(&mut self, other: Tally) {
        self.stats.merge(&other.stats);
        self.problems.extend(other.problems);
        self.seconds = self.seconds.max(other.seconds);
    }
}

/// The counts of a thread, posted until cancelled.
fn spawn_poster(stats: Rc<RefCell<Stats>>, board: Board) -> Task<()> {
    glommio::spawn_local(async move {
        loop {
            board.post(&mut stats.borrow_mut());
            glommio::timer::sleep(POST_EVERY).await;
        }
    })
}
