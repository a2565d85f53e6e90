//! [`wait_for`]: from a thread that may block into the async runtime.

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::StoreError;
use crate::error::Cause;

/// Runs `read` on `runtime` and waits for it; for threads that are not the runtime's.
///
/// # Panics
/// Panics on a thread that drives async tasks: it would wait for itself.
pub(crate) fn wait_for(
    runtime: &Handle,
    read: impl Future<Output = Result<Bytes, StoreError>> + Send + 'static,
) -> Result<Bytes, StoreError> {
    let (send, receive) = oneshot::channel();
    runtime.spawn(async move {
        // Nobody waits any more when that thread died.
        let _ = send.send(read.await);
    });
    receive.blocking_recv().unwrap_or_else(|_| {
        let source = Cause::new("this process is stopping");
        Err(StoreError::Unavailable { action: "read", place: "an object".into(), source })
    })
}
