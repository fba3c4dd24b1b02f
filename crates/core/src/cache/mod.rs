//! The boundary cache: what the frozen stages make of a sample, computed once and kept on disk.
//!
//! A value is found by everything it depends on: the frozen stages and their parameters, the preprocessing, the view,
//! the sample's bytes, precision, kernels and instruction set. Files are written whole and named by their contents, so
//! several processes may share the folder; a broken one is ignored and its samples are computed again. The space taken
//! is bounded: what was not used for longest goes first, and what does not fit is held in memory or, if it does not
//! fit there either, computed anew whenever it is needed.
//!
//! How a sample's values were rounded may depend on the batch it was computed in, so batches are cut from the data set in
//! its own order: an identical run finds the same bits whether or not it was interrupted.

mod segment;
mod store;

pub use store::{Cache, boundary_key};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::data::{Activation, Dataset, Rows, View};
use crate::device;
use crate::loader::{Faults, Loader, Request};
use crate::net::frozen::Frozen;
use crate::net::{Params, Stage};
use crate::observe::{Observer, Timings};
use crate::seed::Seed;
use crate::{Error, Result};

use segment::{Draft, Key, Segment};

/// Samples in a batch of the extraction.
const BATCH: usize = 16;
/// A segment is written when this much has been computed.
const SEGMENT_BYTES: usize = 64 << 20;

/// Which renderings of every sample are wanted: the plain one, or random ones from the child of a seed for the sample's
/// index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewSeed {
    /// The deterministic one.
    Plain,
    /// A random one.
    Random(Seed),
}

impl ViewSeed {
    /// The view of sample `index`.
    pub fn of(self, index: usize) -> View {
        match self {
            Self::Plain => View::Plain,
            Self::Random(seed) => View::Augmented(seed.child(index as u64)),
        }
    }
}

/// Computes what the frozen stages make of a data set, or finds it.
pub struct Extractor<'a> {
    /// Where it is kept.
    pub cache: &'a Cache,
    /// The frozen stages, from the input on.
    pub stages: &'a [&'a Stage],
    /// Their parameters.
    pub params: &'a Params,
    /// Key of the preprocessing.
    pub fingerprint: &'a str,
    /// Where to compute.
    pub device: &'a device::Place,
    /// Threads that load samples.
    pub threads: usize,
    /// Told about the progress.
    pub observer: &'a dyn Observer,
}

/// The activations of a data set at a boundary, in its order.
pub struct Features {
    slots: Vec<Option<Slot>>,
    samples: usize,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    segment: usize,
    entry: usize,
}

impl Extractor<'_> {
    /// The activations of all samples of `dataset` (called `split` in messages) in all `views`; `None` when they would take
    /// more space than there is and must be computed when needed, unless `must_keep`.
    ///
    /// # Errors
    /// When too many samples are unreadable, or the computation fails.
    pub fn features(
        &self,
        split: &str,
        dataset: &Arc<dyn Dataset>,
        views: &[ViewSeed],
        must_keep: bool,
        faults: &mut Faults,
        timings: &mut Timings,
    ) -> Result<Option<Features>> {
        let start = Instant::now();
        let samples = dataset.len();
        let keys = self.keys(split, dataset, views, faults)?;
        let folder = self
            .cache
            .open(&boundary_key(self.stages, self.params, self.fingerprint, self.device.precision)?, self.observer)?;
        let wanted: HashSet<Key> = keys.iter().flatten().copied().collect();
        let mut segments = folder.as_ref().map(|f| f.segments(&wanted, self.observer)).unwrap_or_default();
        let mut known: HashMap<Key, Slot> = HashMap::new();
        for (number, segment) in segments.iter().enumerate() {
            for entry in 0..segment.len() {
                known.insert(*segment.key(entry), Slot { segment: number, entry });
            }
        }
        let mut seen = HashSet::new();
        let missing: Vec<usize> = (0..keys.len())
            .filter(|&i| keys[i].is_some_and(|key| !known.contains_key(&key) && seen.insert(key)))
            .collect();
        let reused = wanted.len() - missing.len();
        if reused > 0 {
            self.observer.message(&format!("{split}: {reused} of {} activations were kept from before", wanted.len()));
        }
        let computed = self.compute(split, dataset, views, &keys, &missing, folder.as_ref(), must_keep, faults)?;
        let Some(computed) = computed else { return Ok(None) };
        for segment in computed {
            for entry in 0..segment.len() {
                known.insert(*segment.key(entry), Slot { segment: segments.len(), entry });
            }
            segments.push(segment);
        }
        let slots = keys.iter().map(|key| key.and_then(|key| known.get(&key).copied())).collect();
        timings.add("extract", start, missing.len());
        Ok(Some(Features { slots, samples, segments }))
    }

    /// One key for every view of every sample, view by view; `None` for what cannot be read.
    fn keys(
        &self,
        split: &str,
        dataset: &Arc<dyn Dataset>,
        views: &[ViewSeed],
        faults: &mut Faults,
    ) -> Result<Vec<Option<Key>>> {
        let digests: Vec<Result<[u8; 32]>> = (0..dataset.len()).into_par_iter().map(|i| dataset.digest(i)).collect();
        let mut readable = Vec::with_capacity(digests.len());
        for (i, digest) in digests.into_iter().enumerate() {
            match digest {
                Ok(digest) => readable.push(Some(digest)),
                Err(error) => {
                    faults.note(split, &**dataset, i, error)?;
                    readable.push(None);
                }
            }
        }
        let mut keys = Vec::with_capacity(views.len() * readable.len());
        for &view in views {
            for (i, digest) in readable.iter().enumerate() {
                keys.push(digest.map(|digest| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&digest);
                    match view.of(i) {
                        View::Plain => hasher.update(b"plain"),
                        View::Augmented(seed) => hasher.update(b"view").update(&seed.0.to_le_bytes()),
                    };
                    *hasher.finalize().as_bytes()
                }));
            }
        }
        Ok(keys)
    }

    /// Runs the frozen stages over the `missing` (view, sample) positions.
    #[allow(clippy::too_many_arguments)]
    fn compute(
        &self,
        split: &str,
        dataset: &Arc<dyn Dataset>,
        views: &[ViewSeed],
        keys: &[Option<Key>],
        missing: &[usize],
        folder: Option<&store::Folder<'_>>,
        must_keep: bool,
        faults: &mut Faults,
    ) -> Result<Option<Vec<Segment>>> {
        if missing.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let samples = dataset.len();
        let frozen = Frozen::compile(self.stages, self.params, self.device)?;
        let request = |&at: &usize| Request { index: at % samples, view: views[at / samples].of(at % samples) };
        let batches: Vec<Vec<Request>> = missing.chunks(BATCH).map(|c| c.iter().map(request).collect()).collect();
        let loader = Loader::new(dataset.clone(), batches, self.threads);
        let (mut done, mut computed, mut draft) = (0, Vec::new(), Draft::default());
        let mut on_disk = false;
        for (loaded, positions) in loader.zip(missing.chunks(BATCH)) {
            let mut loaded = loaded;
            for (index, error) in loaded.failed.drain(..) {
                faults.note(split, &**dataset, index, error)?;
            }
            let read: HashSet<usize> = loaded.indices().into_iter().collect();
            let kept = positions.iter().filter(|&&at| read.contains(&(at % samples)));
            let batch_keys: Vec<Key> = kept.filter_map(|&at| keys[at]).collect();
            done += positions.len();
            if batch_keys.is_empty() {
                continue;
            }
            let output = frozen.run(&loaded.collate(self.device)?)?;
            draft.push(&batch_keys, &output)?;
            if computed.is_empty() && done <= BATCH {
                let need = (draft.bytes() as u64).div_ceil(batch_keys.len() as u64) * missing.len() as u64;
                match self.place(split, need, missing.len(), folder, must_keep) {
                    Place::Disk => on_disk = true,
                    Place::Memory => {}
                    Place::Nowhere => return Ok(None),
                }
            }
            if draft.bytes() >= SEGMENT_BYTES {
                computed.push(self.finish(std::mem::take(&mut draft), folder.filter(|_| on_disk)));
            }
            self.observer.progress(&format!("extract {split}"), done, missing.len());
            if self.observer.stop() {
                return Err(crate::train::stopped());
            }
        }
        if draft.bytes() > 0 {
            computed.push(self.finish(draft, folder.filter(|_| on_disk)));
        }
        Ok(Some(computed))
    }

    /// Says what will be needed and decides where it goes.
    fn place(
        &self,
        split: &str,
        need: u64,
        samples: usize,
        folder: Option<&store::Folder<'_>>,
        must_keep: bool,
    ) -> Place {
        let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        if let Some(folder) = folder
            && need <= self.cache.limit()
        {
            let text = format!(
                "{split}: the activations of {samples} samples take about {} in {}",
                mega(need),
                folder.path().display()
            );
            self.observer.message(&text);
            self.cache.make_room(need, folder, self.observer);
            return Place::Disk;
        }
        if must_keep || need <= self.cache.memory() {
            return Place::Memory;
        }
        let text = format!(
            "{split}: the activations of {samples} samples would take {}, more than the cache may hold ({}); they are \
             computed in every epoch",
            mega(need),
            mega(self.cache.limit())
        );
        self.observer.message(&text);
        Place::Nowhere
    }

    /// Writes a segment; when the disk refuses, it stays in memory.
    fn finish(&self, draft: Draft, folder: Option<&store::Folder<'_>>) -> Segment {
        match folder {
            Some(folder) => match folder.write(&draft) {
                Ok(segment) => segment,
                Err(error) => {
                    self.observer.message(&format!("the activations stay in memory: {error}"));
                    Segment::Memory(draft)
                }
            },
            None => Segment::Memory(draft),
        }
    }
}

enum Place {
    Disk,
    Memory,
    Nowhere,
}

impl Features {
    fn slot(&self, view: usize, sample: usize) -> Option<Slot> {
        self.slots.get(view * self.samples + sample).copied().flatten()
    }

    /// Whether `sample` could be read in all its views.
    pub fn has(&self, sample: usize) -> bool {
        (0..self.slots.len() / self.samples.max(1)).all(|view| self.slot(view, sample).is_some())
    }

    /// The activations of `samples` in view number `view` (in the order of the request), behind each other.
    ///
    /// # Errors
    /// When one of them could not be read ([`Features::has`]), or the device is out of memory.
    pub fn batch(&self, view: usize, samples: &[usize], device: &Device) -> Result<Activation> {
        let mut values = Vec::new();
        let mut lengths = Vec::with_capacity(samples.len());
        let mut layout: Option<(&[usize], bool)> = None;
        for &sample in samples {
            let slot = self.slot(view, sample).ok_or_else(|| absent(sample))?;
            let segment = &self.segments[slot.segment];
            lengths.push(segment.read(slot.entry, &mut values));
            layout = Some((segment.shape(), segment.ragged()));
        }
        let (shape, ragged) = layout.ok_or_else(|| absent(0))?;
        let mut dims = vec![lengths.iter().sum::<usize>()];
        dims.extend_from_slice(shape);
        let rows = if ragged { Rows::Each(Arc::new(lengths)) } else { Rows::One };
        Ok(Activation { data: Tensor::from_vec(values, dims, device)?, rows })
    }
}

fn absent(sample: usize) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("no activation of sample {sample}")))
}

/// The values of a tensor as numbers on the host.
pub(crate) fn host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

#[cfg(test)]
mod tests;
