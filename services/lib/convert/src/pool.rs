//! [`Pool`]: the compressor threads that all conversions share.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use estargz::writer::Batch;
use libdeflater::{CompressionLvl, Compressor};

/// Compressor threads that serve many conversions at once. The queue is first come, first served, and a conversion
/// has a bounded number of batches in it, so none starves another.
#[derive(Debug)]
pub struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A batch of members, compressed.
#[derive(Debug)]
pub(crate) struct Compressed {
    /// The members one after the other.
    pub(crate) bytes: Vec<u8>,
    /// Each member's size in `bytes`.
    pub(crate) sizes: Vec<usize>,
}

struct Job {
    batch: Batch,
    level: u8,
    done: Sender<Compressed>,
}

impl Pool {
    /// Starts `workers` threads, at least one, with `nice` added to their niceness.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(workers: usize, nice: i32) -> io::Result<Self> {
        let workers = workers.max(1);
        let (jobs, queue) = bounded::<Job>(workers * 2);
        let start = |i| {
            let queue = queue.clone();
            thread::Builder::new().name(format!("compress-{i}")).spawn(move || work(&queue, nice))
        };
        let threads = (0..workers).map(start).collect::<io::Result<_>>()?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Returns the number of threads.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// Queues a batch; blocks while the queue is full. The receiver gets the result, or is cut off if the pool is gone.
    pub(crate) fn submit(&self, batch: Batch, level: u8) -> Receiver<Compressed> {
        let (done, result) = bounded(1);
        if let Some(jobs) = &self.jobs {
            // A failed send drops `done`, which the receiver sees.
            let _ = jobs.send(Job { batch, level, done });
        }
        result
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Job>, nice: i32) {
    if nice != 0 {
        // On Linux niceness belongs to the thread. Without the right to change it, the work goes on all the same.
        let _ = rustix::process::nice(nice);
    }
    let mut compressor: Option<(u8, Compressor)> = None;
    for job in queue {
        let mut current = match compressor.take() {
            Some((level, current)) if level == job.level => current,
            _ => {
                let level = CompressionLvl::new(i32::from(job.level)).unwrap_or_default();
                Compressor::new(level)
            }
        };
        let result = compress(&job.batch, &mut current);
        compressor = Some((job.level, current));
        if let Some(result) = result {
            // The conversion may have given up.
            let _ = job.done.send(result);
        }
    }
}

fn compress(batch: &Batch, compressor: &mut Compressor) -> Option<Compressed> {
    let mut bytes = Vec::with_capacity(batch.plain.len() / 2);
    let mut sizes = Vec::with_capacity(batch.members.len());
    let mut start = 0;
    for member in &batch.members {
        let plain = &batch.plain[start..member.end];
        let at = bytes.len();
        bytes.resize(at + compressor.gzip_compress_bound(plain.len()), 0);
        // Cannot fail with a buffer of the bound's size.
        let size = compressor.gzip_compress(plain, &mut bytes[at..]).ok()?;
        bytes.truncate(at + size);
        sizes.push(size);
        start = member.end;
    }
    bytes.shrink_to_fit();
    Some(Compressed { bytes, sizes })
}
