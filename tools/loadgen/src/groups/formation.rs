//! Members that become one generation: each joins until all are in the same, and knows it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use glommio::timer::sleep;
use odradek::types::Mono;

use crate::clock;
use crate::connection::{CallError, Connection};
use crate::groups::member::{Member, NONE};

/// Between two heartbeats of a member that waits for the others.
const LOOK: Duration = Duration::from_millis(200);

/// Between two tries of one that was refused.
const RETRY: Duration = Duration::from_millis(50);

/// Lives: one per group, while its members come.
pub struct Formation {
    /// The generation that each member has its assignment of.
    generations: RefCell<Vec<i32>>,
    newest: Cell<i32>,
    /// Members that are in the newest one.
    count: Cell<usize>,
    formed_at: Cell<Option<Mono>>,
    /// Joins that were answered, of all members.
    pub joins: Cell<u64>,
}

impl Formation {
    pub fn new(members: usize) -> Formation {
        Formation {
            generations: RefCell::new(vec![-1; members]),
            newest: Cell::new(-1),
            count: Cell::new(0),
            formed_at: Cell::new(None),
            joins: Cell::new(0),
        }
    }

    /// When the last of all members had its assignment.
    pub fn formed_at(&self) -> Option<Mono> {
        self.formed_at.get()
    }

    pub fn generation(&self) -> i32 {
        self.newest.get()
    }

    fn is_in(&self, member: usize, generation: i32) {
        self.joins.set(self.joins.get() + 1);
        let mut generations = self.generations.borrow_mut();
        let before = std::mem::replace(&mut generations[member], generation);
        if generation > self.newest.get() {
            self.newest.set(generation);
            self.count.set(1);
        } else if generation == self.newest.get() && before != generation {
            self.count.set(self.count.get() + 1);
        }
        if self.count.get() == generations.len() && self.formed_at.get().is_none() {
            self.formed_at.set(Some(clock::now()));
        }
    }

    /// One member's part. Ends when all are in one generation.
    pub async fn take_part(
        &self,
        number: usize,
        member: &mut Member,
        connection: &mut Connection,
        topic: &str,
    ) -> Result<(), CallError> {
        loop {
            if member.join(connection, topic).await? != NONE {
                sleep(RETRY).await;
                continue;
            }
            self.is_in(number, member.generation);
            loop {
                if self.formed_at.get().is_some() {
                    return Ok(());
                }
                sleep(LOOK).await;
                if self.formed_at.get().is_none() && member.heartbeat(connection).await? != NONE {
                    break; // There is another generation to come.
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_formed_when_all_are_in_the_newest_generation() {
        let formation = Formation::new(2);
        formation.is_in(0, 1);
        formation.is_in(1, 2);
        assert_eq!(formation.formed_at(), None);
        formation.is_in(1, 2);
        assert_eq!(formation.formed_at(), None);
        formation.is_in(0, 2);
        assert!(formation.formed_at().is_some());
    }
}
