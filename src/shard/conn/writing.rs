//! Answers of a connection: those at the front that are ready, in one vectored write.

use crate::shard::Shard;
use crate::shard::conn::{CloseReason, Connection, is_disconnect};
use crate::shard::response::{Response, WriteCursor};
use crate::types::limits::{SOCKET_SLICES_MAX, SOCKET_WRITE_SIZE_COLD, SOCKET_WRITE_SIZE_MAX};
use futures::io::AsyncWrite;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

pub async fn write_answers(shard: Rc<Shard>, connection: Rc<Connection>) {
    let mut responses: Vec<Response> = Vec::new();
    loop {
        connection.take_ready(&shard, &mut responses);
        if responses.is_empty() {
            if connection.is_closed() {
                return;
            }
            connection.drained.notify();
            connection.writer.notified().await;
            continue;
        }
        let result;
        (responses, result) = write_in_queue(&shard, &connection, responses).await;
        if let Err(error) = result {
            if !connection.is_closed() && !is_disconnect(&error) {
                connection.close(&CloseReason::Socket(error));
            } else {
                connection.shutdown();
            }
            return;
        }
        let sent: usize = responses.iter().map(Response::size).sum();
        let unpinned: usize = responses.iter().map(Response::pinned_tail).sum();
        responses.clear();
        let mut answers = connection.answers.borrow_mut();
        answers.response_bytes -= sent;
        answers.pinned_tail -= unpinned;
        answers.is_writing = false;
        drop(answers);
        connection.drained.notify();
    }
}

/// Sends answers; those with bytes from disk take their share of the core with the reads of these.
async fn write_in_queue(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    responses: Vec<Response>,
) -> (Vec<Response>, io::Result<()>) {
    if !responses.iter().any(Response::is_from_disk) {
        let result = write_all(shard, connection, &responses).await;
        return (responses, result);
    }
    let (sending, connection) = (shard.clone(), connection.clone());
    let written = async move {
        let result = write_all(&sending, &connection, &responses).await;
        (responses, result)
    };
    shard.stores.for_reading().catch_up.run(written).await
}

async fn write_all(shard: &Shard, connection: &Connection, responses: &[Response]) -> io::Result<()> {
    let mut cursor = WriteCursor::default();
    let is_cold = responses.iter().any(Response::is_from_disk);
    let size_max = if is_cold { SOCKET_WRITE_SIZE_COLD } else { SOCKET_WRITE_SIZE_MAX };
    while !cursor.is_done(responses) {
        let mut slices = Vec::new();
        cursor.slices(responses, SOCKET_SLICES_MAX, size_max, &mut slices);
        let taken = poll_fn(|cx| {
            let mut stream = connection.stream.borrow_mut();
            Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
        })
        .await?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        connection.last_active.set(shard.clock.mono());
        connection.counts.bytes_out.set(connection.counts.bytes_out.get() + taken as u64);
        cursor.advance(responses, taken);
        match is_cold {
            true => glommio::executor().yield_task_queue_now().await,
            false => glommio::executor().yield_if_needed().await,
        }
    }
    Ok(())
}
