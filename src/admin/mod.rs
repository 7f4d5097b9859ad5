//! Metrics and health over HTTP, on one ordinary thread that is never on the data path.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | Prometheus (OpenMetrics) text, every series with `shard=` |
//! | `/healthz` | 200 `ok` while serving; 503 and a reason while starting or stopping, or when a shard does not answer or its log directory is offline |
//! | `/v1/status` | the same in JSON, with a few figures per shard |
//! | `/v1/clients` | connected clients, in JSON; `/v1/clients/ADDRESS:PORT`: what one measures of itself |
//!
//! It knows the shards only as functions that ask them ([`Sources`]); what they answer is a
//! copy. The socket is bound before the broker says that it is ready, so that a taken port is an
//! error of the start. Absent on purpose: authentication (the default address is local).

mod clients;
mod prometheus;
mod server;
mod status;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use crate::config::HostPort;
use crate::metrics::Sources;

/// What the broker is doing, as the admin plane sees it.
#[derive(Clone)]
enum State {
    Starting,
    Serving(Sources),
    Stopping,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot listen on {listen} for metrics ({error}): choose another --admin-listen, or none")]
    Bind { listen: HostPort, error: io::Error },
    #[error("the admin thread cannot be started: {0}")]
    Thread(io::Error),
}

/// The running admin thread. Dropping it leaves the thread to the end of the process.
pub struct AdminHandle {
    address: SocketAddr,
    state: watch::Sender<State>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Binds, and answers "starting" from then on.
pub fn start(listen: &HostPort) -> Result<AdminHandle, AdminError> {
    let bind = |error| AdminError::Bind { listen: listen.clone(), error };
    let listener = TcpListener::bind((listen.host.as_str(), listen.port)).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    tracing::info!(%address, "metrics and health are served");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(AdminError::Thread)?;

    let (state, watched) = watch::channel(State::Starting);
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("admin".to_string()).spawn(move || {
        if let Err(error) = runtime.block_on(server::serve(listener, watched, stopped)) {
            tracing::error!(%error, "the admin plane ended; the broker goes on without it");
        }
        // Whatever still runs belongs to clients that did not hang up.
        runtime.shutdown_background();
    });
    Ok(AdminHandle { address, state, stop, thread: thread.map_err(AdminError::Thread)? })
}

impl AdminHandle {
    /// The address really bound: the configured port may be 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shards serve and can be asked.
    pub fn serving(&self, sources: Sources) {
        self.state.send_replace(State::Serving(sources));
    }

    /// The shards are stopping: health turns bad before the port closes, and nobody asks them.
    pub fn stopping(&self) {
        self.state.send_replace(State::Stopping);
    }

    /// Ends the thread, within [`server::STOP_TIME_MAX`].
    pub fn stop(self) {
        self.stopping();
        let _ = self.stop.send(()); // Gone if the thread ended by itself.
        if self.thread.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
