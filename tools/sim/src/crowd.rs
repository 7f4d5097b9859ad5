//! The clients of a seed, of whatever kind: how many there are, until when they go on, and what they number.

use crate::world::{Micros, World};
use std::cell::Cell;
use std::rc::Rc;

/// Lives: one per seed, shared by all its clients.
pub struct Crowd {
    pub world: Rc<World>,
    /// What is told apart by its number.
    next: Cell<u64>,
    is_over: Cell<bool>,
    count: Cell<usize>,
}

impl Crowd {
    pub fn new(world: &Rc<World>) -> Crowd {
        Crowd { world: world.clone(), next: Cell::new(0), is_over: Cell::new(false), count: Cell::new(0) }
    }

    pub fn next(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.world.below(of.len() as u64) as usize]
    }

    /// Clients that there are.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Clients come to their ends.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// They are told to.
    pub fn end(&self) {
        self.is_over.set(true);
    }

    /// Somebody who is there until this is done.
    pub async fn attend(&self, client: impl Future<Output = ()>) {
        self.count.set(self.count.get() + 1);
        client.await;
        self.count.set(self.count.get() - 1);
    }

    /// Somebody who does something each time a while has gone by, to the end.
    pub async fn now_and_then(&self, (least, most): (Micros, Micros), act: impl AsyncFn()) {
        self.attend(async {
            while !self.is_over() {
                self.world.sleep(self.world.between(least, most)).await;
                act().await;
            }
        })
        .await;
    }
}
