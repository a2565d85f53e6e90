//! [`Evictor`]: makes room for what is read now, at the cost of what was not read for the longest time.

use std::sync::Arc;

use crate::layer::Layer;
use crate::layers::Layers;

/// Makes room on the disk.
#[derive(Debug)]
pub(crate) struct Evictor {
    pub(crate) layers: Arc<Layers>,
}

impl Evictor {
    /// Works as long as the process lives.
    pub(crate) async fn run(self) {
        loop {
            let wanted = self.layers.room().wanted().await;
            if wanted == 0 {
                continue;
            }
            let layers = Arc::clone(&self.layers);
            let freed = telemetry::blocking(move || evict(&layers.all(), wanted)).await;
            tracing::debug!(wanted, freed, "chunks were evicted");
        }
    }
}

/// Evicts chunks of at least `wanted` bytes and returns how many: first those that were not read since the last time, from the
/// layer on that was not read for longest; then any.
fn evict(layers: &[Arc<Layer>], wanted: u64) -> u64 {
    let mut layers: Vec<&Arc<Layer>> = layers.iter().collect();
    // They are read meanwhile.
    layers.sort_by_cached_key(|layer| layer.last_read());
    let mut freed = 0;
    for spared in [true, false] {
        for layer in &layers {
            if freed >= wanted {
                return freed;
            }
            freed += layer.evict(wanted - freed, spared);
        }
    }
    freed
}
