//! Whether there is power, and what that means for a request.
//!
//! ```text
//! power   on ──(the chosen operation arrives, or `cut_now`)──► going ──(the broker is dead)──► off
//! answers    at once; flushes after some time            none, they wait                  EIO
//! ```
//!
//! Who uses the file system must not see an error that a lost machine would never have returned: while
//! the power is going nothing is answered, and `EIO` only reaches a process that was killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use fuser::Errno;

use crate::names::Entry;
use crate::volume::Volume;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    Going,
    Off,
}

pub(crate) struct State {
    /// `None` once it was taken for the cut.
    pub(crate) volume: Option<Volume>,
    pub(crate) power: Power,
    /// Changes and flushes that were asked for.
    pub(crate) operations: u64,
    /// The operation that finds the power gone.
    pub(crate) cut_at: Option<u64>,
    /// Open directories, as they were when they were opened.
    pub(crate) listings: BTreeMap<u64, Vec<(OsString, Entry)>>,
    pub(crate) next_listing: u64,
}

/// Clones are of the same.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<(Mutex<State>, Condvar)>);

impl Shared {
    pub(crate) fn new(volume: Volume) -> Shared {
        let state = State {
            volume: Some(volume),
            power: Power::On,
            operations: 0,
            cut_at: None,
            listings: BTreeMap::new(),
            next_listing: 0,
        };
        Shared(Arc::new((Mutex::new(state), Condvar::new())))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("no request panics")
    }

    /// Runs a request, unless the power is gone.
    pub(crate) fn request<T>(
        &self,
        run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>,
    ) -> Result<T, Errno> {
        self.run(self.lock(), run)
    }

    /// The same, for a request that changes or flushes something: the power may go at it.
    pub(crate) fn operation<T>(
        &self,
        run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let mut state = self.lock();
        if state.power == Power::On {
            state.operations += 1;
            if state.cut_at.is_some_and(|at| at <= state.operations) {
                state.power = Power::Going;
                self.0.1.notify_all();
            }
        }
        self.run(state, run)
    }

    fn run<T>(
        &self,
        state: MutexGuard<'_, State>,
        run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let waits = |state: &mut State| state.power == Power::Going;
        let mut state = self.0.1.wait_while(state, waits).expect("no request panics");
        if state.power == Power::Off {
            return Err(Errno::EIO);
        }
        let mut volume = state.volume.take().ok_or(Errno::EIO)?;
        let result = run(&mut state, &mut volume);
        state.volume = Some(volume);
        result.map_err(Errno::from)
    }
}
