//! [`Run`]: chunks next to each other that one request brings.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use upstream::UpstreamError;

use super::inflate::Plain;
use super::kin::Lenders;
use super::{Layer, Place, ReadError, Wanted, source};

/// Chunks next to each other that one request brings.
#[derive(Debug)]
pub(super) struct Run {
    chunks: Range<u32>,
    /// What was asked for ends here; the rest comes along.
    asked: u32,
    wanted: Wanted,
    state: watch::Sender<State>,
}

/// How far a run is.
#[derive(Debug, Clone)]
enum State {
    /// The chunks before this one are here.
    Until(u32),
    /// It broke off before this one.
    Failed(u32, ReadError),
}

impl Run {
    pub(super) fn new(chunks: Range<u32>, asked: u32, wanted: Wanted) -> Self {
        let state = watch::Sender::new(State::Until(chunks.start));
        Self { chunks, asked, wanted, state }
    }

    /// Waits until `chunk` is here.
    pub(super) async fn arrived(&self, chunk: u32) -> Result<(), ReadError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Until(next) => *next > chunk,
            State::Failed(..) => true,
        });
        match settled.await.as_deref() {
            Ok(State::Failed(next, error)) if *next <= chunk => Err(error.clone()),
            // The sender lives as long as this.
            _ => Ok(()),
        }
    }

    /// Brings, verifies and keeps the chunks, one after the other.
    pub(super) async fn fetch(self: Arc<Self>, layer: Arc<Layer>) {
        let mut next = self.chunks.start;
        layer.common.room.reserve(layer.room_of(self.chunks.clone())).await;
        let ended = self.bring(&layer, &mut next).await;
        layer.common.room.release(layer.room_of(next..self.chunks.end));
        if let Err(error) = ended {
            self.state.send_replace(State::Failed(next, error));
        }
        let mut running = layer.running();
        for chunk in self.chunks.clone() {
            running.remove(&chunk);
        }
    }

    /// Copies what other layers have and fetches the rest.
    async fn bring(&self, layer: &Arc<Layer>, next: &mut u32) -> Result<(), ReadError> {
        let lenders = Arc::new(Lenders::of(layer));
        let span = layer.span(self.chunks.clone(), self.wanted);
        let deadline = Instant::now() + source::patience(span.end - span.start);
        while *next < self.chunks.end {
            let end = match lenders.is_none() {
                true => self.chunks.end,
                false => self.copy(layer, &lenders, next).await?,
            };
            if *next < end {
                self.fetch_until(layer, next, end, deadline).await?;
            }
        }
        Ok(())
    }

    /// Copies chunks that another layer has, up to the first one that none has. Returns where to stop fetching: before what is worth
    /// another request, since another layer has it.
    async fn copy(&self, layer: &Arc<Layer>, lenders: &Arc<Lenders>, next: &mut u32) -> Result<u32, ReadError> {
        let (layer, lenders) = (Arc::clone(layer), Arc::clone(lenders));
        let (chunks, wanted) = (*next..self.chunks.end, self.wanted);
        let (asked, state, age) = (self.asked, self.state.clone(), layer.data.rests.age());
        let copy = move || {
            for number in chunks.clone() {
                let Some(copied) = lenders.copy(&layer, number, wanted) else {
                    let until = (number + 1..chunks.end).find(|&later| lenders.spare(&layer, later, wanted));
                    return (number, Ok(until.unwrap_or(chunks.end)));
                };
                let chunk = layer.tree.chunks()[number as usize];
                if let Err(error) = layer.data.put(number, &chunk, &copied, age) {
                    return (number, Err(error.into()));
                }
                if wanted != Wanted::Tar && number >= asked {
                    layer.data.mark_unasked(number);
                }
                state.send_replace(State::Until(number + 1));
            }
            (chunks.end, Ok(chunks.end))
        };
        let (copied, until) = telemetry::blocking(copy).await;
        *next = copied;
        until
    }

    /// What comes has to come before the deadline; what is done with it is done to the end.
    async fn fetch_until(
        &self,
        layer: &Arc<Layer>,
        next: &mut u32,
        end: u32,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let late = |_| UpstreamError::Timeout;
        let (age, source) = (layer.data.rests.age(), layer.source_for(self.wanted));
        let span = layer.span(*next..end, self.wanted);
        let mut answer = timeout_at(deadline, source.blob(&span)).await.map_err(late)??;
        // Who does not know ranges sends it all.
        let mut skip = if answer.range.is_some() { 0 } else { span.start };
        let (mut packed, mut start) = (BytesMut::new(), span.start);
        while *next < end {
            let Some(bytes) = timeout_at(deadline, answer.body.chunk()).await.map_err(late)?? else {
                let received = start + packed.len() as u64 - span.start;
                return Err(UpstreamError::Truncated { expected: span.end - span.start, received }.into());
            };
            let count = match self.wanted {
                Wanted::Bytes | Wanted::Ahead => &layer.common.counts.demand_bytes,
                Wanted::Tar => &layer.common.counts.background_bytes,
            };
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            packed.extend_from_slice(&bytes[passed as usize..]);
            let here = (start + packed.len() as u64).min(span.end);
            let whole = |chunk: u32| layer.span(chunk..chunk + 1, self.wanted).end.min(span.end) <= here;
            let until = (*next..end).find(|&chunk| !whole(chunk)).unwrap_or(end);
            let until = if until < end { layer.first_of_member(until).max(*next) } else { end };
            if until > *next {
                let behind = layer.tree.chunks().get(until as usize).map_or(here, |chunk| chunk.offset.min(here));
                let behind = if until == end { here } else { behind };
                let bytes = packed.split_to((behind - start) as usize).freeze();
                self.keep(layer, next, until, (bytes, start), (&source.place, age)).await?;
                start = behind;
            }
        }
        Ok(())
    }

    /// Unpacks, verifies and keeps the chunks from `next` on, whose members are in `packed`; that begins at `start` and is of `place`, which was asked
    /// when the rests had that `age`.
    async fn keep(
        &self,
        layer: &Arc<Layer>,
        next: &mut u32,
        until: u32,
        (packed, start): (Bytes, u64),
        (place, age): (&Place, u64),
    ) -> Result<(), ReadError> {
        let (layer, from, wanted) = (Arc::clone(layer), *next, self.wanted);
        let asked = self.asked;
        let (state, place) = (self.state.clone(), place.clone());
        let keep = move || {
            let mut member: Option<(u64, Plain<'_>)> = None;
            for number in from..until {
                let chunk = layer.tree.chunks()[number as usize];
                let (_, plain) = match &mut member {
                    Some(known) if known.0 == chunk.offset => known,
                    other => {
                        // To where the next member begins, if that is here.
                        let end =
                            (layer.span(number..number + 1, wanted).end - start).min(packed.len() as u64) as usize;
                        let bytes = packed.get((chunk.offset - start) as usize..end).unwrap_or_default();
                        other.insert((chunk.offset, Plain::new(bytes)))
                    }
                };
                let next = layer.tree.chunks().get(number as usize + 1).filter(|next| next.offset == chunk.offset);
                let is_whole = layer.knows_end_of(number, wanted);
                let next = next.map(|next| next.inner);
                let unpacked = plain.chunk(chunk.inner, chunk.size, next, is_whole);
                let Some(mut unpacked) = unpacked.ok().filter(|unpacked| chunk.is(&unpacked.payload)) else {
                    return (number, Err(ReadError::Corrupt { chunk: number }));
                };
                if !layer.sources.is_for_tar(&place) {
                    unpacked.rest = None;
                }
                if number > 0 && layer.tree.chunks()[number as usize - 1].offset == chunk.offset {
                    // That is the chunk before it, and what lies behind that.
                    unpacked.before.clear();
                }
                if let Err(error) = layer.data.put(number, &chunk, &unpacked, age) {
                    return (number, Err(error.into()));
                }
                if wanted != Wanted::Tar && number >= asked {
                    layer.data.mark_unasked(number);
                }
                if unpacked.is_broken && wanted == Wanted::Tar {
                    // The chunk is right, and what is behind it is not.
                    return (number, Err(ReadError::Corrupt { chunk: number }));
                }
                state.send_replace(State::Until(number + 1));
            }
            (until, Ok(()))
        };
        let (kept, result) = telemetry::blocking(keep).await;
        *next = kept;
        result
    }
}
