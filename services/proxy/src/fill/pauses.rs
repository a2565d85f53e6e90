//! [`Pauses`]: how long to wait between two looks at what another process does.

use std::time::Duration;

/// The first pause, and the longest: each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The pauses between looks that found nothing new.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(super) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// Waits for the next pause.
    pub(super) async fn wait(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let mut pauses = Pauses::new();
        let mut waited = Vec::new();
        for _ in 0..8 {
            let begun = Instant::now();
            pauses.wait().await;
            waited.push(begun.elapsed().as_millis());
        }
        assert_eq!(waited, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
