//! The routes, and the bounds on who may ask.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Sleep, timeout};

use super::{State, clients, prometheus, status};
use crate::metrics::{ShardSnapshot, SnapshotError, Sources};

/// Connections at once; the next ones wait in the kernel's backlog. A few scrapers and probes.
const CONNECTIONS_MAX: usize = 64;

/// A connection older than this is closed, so that silent ones cannot fill [`CONNECTIONS_MAX`] for
/// good. Scrapers reconnect.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);

/// How long the shards may take to answer. Probes commonly give up after a few seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How long open requests may hold up the end.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(1);

pub async fn serve(
    listener: StdTcpListener,
    state: watch::Receiver<State>,
    stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    let inner = TcpListener::from_std(listener)?;
    let listener = Bounded { inner, free: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/v1/status", get(v1_status))
        .route("/v1/clients", get(v1_clients))
        .route("/v1/clients/{address}", get(v1_client))
        .with_state(state);
    let (drain, drained) = oneshot::channel::<()>();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async {
        let _ = drained.await;
    });
    let server = tokio::spawn(server.into_future());
    // A dropped handle is no reason to end: the thread then lives as long as the process.
    if stop.await.is_err() {
        return server.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    }
    let _ = drain.send(());
    let _ = timeout(STOP_TIME_MAX, server).await;
    Ok(())
}

/// Why the broker is not (or not known to be) healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("starting")]
    Starting,
    #[error("stopping")]
    Stopping,
    #[error("{0}")]
    Shard(#[from] crate::metrics::SnapshotError),
    #[error("the shards do not answer within {} s", ANSWER_TIME_MAX.as_secs())]
    Timeout,
    /// All of them.
    #[error("{0}")]
    LogDirsOffline(String),
}

async fn snapshots(state: &watch::Receiver<State>) -> Result<Vec<ShardSnapshot>, Unhealthy> {
    ask(state, |sources| (sources.snapshots)()).await
}

async fn ask<T, F>(
    state: &watch::Receiver<State>,
    question: impl FnOnce(&Sources) -> F,
) -> Result<T, Unhealthy>
where
    F: Future<Output = Result<T, SnapshotError>>,
{
    let state = state.borrow().clone();
    match state {
        State::Starting => Err(Unhealthy::Starting),
        State::Stopping => Err(Unhealthy::Stopping),
        State::Serving(sources) => match timeout(ANSWER_TIME_MAX, question(&sources)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Unhealthy::Timeout),
        },
    }
}

/// Always 200, so that a scrape shows a broker that starts; a shard that cannot be asked has no
/// series, and `odradek_up` is 0.
async fn metrics(Extract(state): Extract<watch::Receiver<State>>) -> Response {
    let answer = snapshots(&state).await;
    match prometheus::encode(answer.ok()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(Extract(state): Extract<watch::Receiver<State>>) -> Response {
    match snapshots(&state).await.and_then(health) {
        Ok(text) => text.into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn v1_status(Extract(state): Extract<watch::Receiver<State>>) -> Response {
    let text = status::json(&snapshots(&state).await);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn v1_clients(Extract(state): Extract<watch::Receiver<State>>) -> Response {
    json(ask(&state, |sources| (sources.clients)()).await.map(clients::list))
}

async fn v1_client(Extract(state): Extract<watch::Receiver<State>>, Path(address): Path<String>) -> Response {
    let Ok(address) = address.parse::<SocketAddr>() else {
        return (StatusCode::BAD_REQUEST, format!("{address} is not ADDRESS:PORT\n")).into_response();
    };
    let measured = ask(&state, |sources| (sources.client_metrics)(address)).await;
    json(measured.map(|measured| clients::describe(&measured)))
}

fn json(answer: Result<String, Unhealthy>) -> Response {
    match answer {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// A broker with a log directory left serves what is in it, and says what is not: to take it out of
/// service, or to restart it, would make the failure of one disk that of all.
fn health(snapshots: Vec<ShardSnapshot>) -> Result<String, Unhealthy> {
    let mut text = "ok\n".to_string();
    let Some(first) = snapshots.first() else { return Ok(text) };
    let mut any_online = false;
    for at in 0..first.log_dirs.len() {
        // What fails on one shard is offline on all, a message later.
        let dirs = snapshots.iter().filter_map(|snapshot| snapshot.log_dirs.get(at));
        match dirs.clone().find_map(|dir| Some((dir, dir.offline.as_ref()?))) {
            None => any_online = true,
            Some((dir, reason)) => text.push_str(&format!("log directory offline: {}: {reason}\n", dir.path)),
        }
    }
    match any_online {
        true => Ok(text),
        false => Err(Unhealthy::LogDirsOffline(text.lines().skip(1).collect::<Vec<_>>().join("\n"))),
    }
}

/// Accepts while fewer than [`CONNECTIONS_MAX`] connections are open.
struct Bounded {
    inner: TcpListener,
    free: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let permit = self.free.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (inner, address) = Listener::accept(&mut self.inner).await;
        let deadline = Box::pin(tokio::time::sleep(CONNECTION_AGE_MAX));
        (BoundedStream { inner, deadline, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that gives its place back when closed, and ends at its deadline.
struct BoundedStream {
    inner: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(())); // Nothing read: the end of the stream.
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
