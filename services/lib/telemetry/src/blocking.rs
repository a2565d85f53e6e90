//! [`blocking`]: the one door from async code to code that blocks or computes.

use tracing::Span;

/// Runs `f` on the runtime's pool for blocking work, inside the caller's tracing span, and returns its result.
///
/// `f` runs to its end even when the returned future is dropped. The pool has a bound on its threads but none on
/// its queue, so callers bound how much they ask for at once.
///
/// # Panics
/// Resumes a panic of `f` in the caller. Panics outside a Tokio runtime.
#[expect(clippy::disallowed_methods, reason = "this is the one caller, the wrapper all others use")]
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(f)).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away and never ran `f`. It drops this task next; there is no value to return.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[tokio::test]
    async fn the_result_comes_back() {
        assert_eq!(blocking(|| 6 * 7).await, 42);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller() {
        let panic = tokio::spawn(blocking(|| panic!("told"))).await.unwrap_err().into_panic();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "told");
    }

    #[derive(Clone, Copy)]
    struct Memory(&'static Mutex<Vec<u8>>);

    impl std::io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Memory {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            *self
        }
    }

    #[tokio::test]
    async fn the_span_goes_along() {
        static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let subscriber = tracing_subscriber::fmt().with_writer(Memory(&TEXT)).with_ansi(false).finish();
        let dispatch = tracing::Dispatch::new(subscriber);
        // The test runs on one thread, so the guard holds over the await; the pool's thread needs its own.
        let _guard = tracing::dispatcher::set_default(&dispatch);
        let work = blocking(move || tracing::dispatcher::with_default(&dispatch, || tracing::info!("read")));
        tracing::Instrument::instrument(work, tracing::info_span!("pull", blob = "abc")).await;
        let text = String::from_utf8(TEXT.lock().unwrap().clone()).unwrap();
        assert!(text.contains("pull{blob=\"abc\"}") && text.contains("read"), "{text}");
    }
}
