//! What all parts of one seed share.

use crate::transactions::settings::{Mistake, S, Settings};
use crate::transactions::watch::Watch;
use crate::world::{Micros, World};
use odradek::types::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Lives: one per seed.
pub struct Scene {
    pub world: Rc<World>,
    pub settings: Settings,
    pub watch: RefCell<Watch>,
    /// Nothing goes wrong any more.
    pub is_calm: Cell<bool>,
    /// Which run of the whole node it is: what was on its way within it ends with it.
    pub run: Cell<u64>,
}

impl Scene {
    pub fn new(world: &Rc<World>, settings: Settings) -> Rc<Scene> {
        Rc::new(Scene {
            world: world.clone(),
            settings,
            watch: RefCell::new(Watch::new(world.clone(), settings)),
            is_calm: Cell::new(false),
            run: Cell::new(0),
        })
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.world.wall_ms())
    }

    pub fn is_faulty(&self, one_in: u64) -> bool {
        !self.is_calm.get() && one_in != u64::MAX && self.world.one_in(one_in)
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.settings.makes(mistake)
    }

    /// Something is on its way.
    pub async fn travel(&self) {
        self.world.sleep(self.world.below(self.settings.latency_max + 1)).await;
    }

    /// Of what is to be appended, until it is its turn.
    pub async fn wait_for_room(&self) {
        let is_short = self.is_faulty(self.settings.write_fault);
        if is_short {
            self.world.count("partition: no room for long");
        }
        self.pause(if is_short { S } else { self.settings.write_max }).await;
    }

    pub async fn pause(&self, max: Micros) {
        self.world.sleep(self.world.below(max + 1)).await;
    }
}
