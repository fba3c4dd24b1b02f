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

/// The number of values in a file of the cache, whatever its digest: what fuzzing reads.
#[doc(hidden)]
pub fn values_in(path: &std::path::Path) -> Result<usize, String> {
    let segment = Segment::Mapped(segment::Mapped::open(path)?);
    let mut values = Vec::new();
    for entry in 0..segment.len() {
        segment.read(entry, &mut values);
    }
    Ok(values.len())
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

/// One boundary of an extraction.
struct Cut {
    /// Number of stages before it.
    stages: usize,
    /// Where its activations are kept on disk.
    folder: Option<store::Folder>,
    segments: Vec<Segment>,
    known: HashMap<Key, Slot>,
    /// (view, sample) positions that are not there yet.
    missing: HashSet<usize>,
    draft: Draft,
    place: Place,
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
        let all = self.features_at(&[self.stages.len()], split, dataset, views, must_keep, faults, timings)?;
        Ok(all.into_iter().next().flatten())
    }

    /// As [`Extractor::features`], at several boundaries in one pass over the samples: behind the first `boundaries[i]`
    /// stages, ascending. `must_keep` speaks of the last one.
    ///
    /// # Errors
    /// As there.
    #[allow(clippy::too_many_arguments)]
    pub fn features_at(
        &self,
        boundaries: &[usize],
        split: &str,
        dataset: &Arc<dyn Dataset>,
        views: &[ViewSeed],
        must_keep: bool,
        faults: &mut Faults,
        timings: &mut Timings,
    ) -> Result<Vec<Option<Features>>> {
        let start = Instant::now();
        let samples = dataset.len();
        let keys = self.keys(split, dataset, views, faults)?;
        let cuts = boundaries.iter().map(|&stages| self.cut(stages, split, &keys));
        let mut cuts = cuts.collect::<Result<Vec<Cut>>>()?;
        let computed = self.compute(split, dataset, views, &keys, &mut cuts, must_keep, faults)?;
        timings.add("extract", start, computed);
        let features = |cut: Cut| {
            let slots = keys.iter().map(|key| key.and_then(|key| cut.known.get(&key).copied())).collect();
            (cut.place != Place::Nowhere).then_some(Features { slots, samples, segments: cut.segments })
        };
        Ok(cuts.into_iter().map(features).collect())
    }

    /// What is there already behind the first `stages` stages.
    fn cut(&self, stages: usize, split: &str, keys: &[Option<Key>]) -> Result<Cut> {
        let key = boundary_key(&self.stages[..stages], self.params, self.fingerprint, self.device.precision)?;
        let folder = self.cache.open(&key, self.observer)?;
        let wanted: HashSet<Key> = keys.iter().flatten().copied().collect();
        let segments = folder.as_ref().map(|f| f.segments(&wanted, self.observer)).unwrap_or_default();
        let mut known: HashMap<Key, Slot> = HashMap::new();
        for (number, segment) in segments.iter().enumerate() {
            for entry in 0..segment.len() {
                known.insert(*segment.key(entry), Slot { segment: number, entry });
            }
        }
        let mut seen = HashSet::new();
        let missing: HashSet<usize> = (0..keys.len())
            .filter(|&i| keys[i].is_some_and(|key| !known.contains_key(&key) && seen.insert(key)))
            .collect();
        let reused = wanted.len() - missing.len();
        if reused > 0 {
            self.observer.message(&format!("{split}: {reused} of {} activations were kept from before", wanted.len()));
        }
        Ok(Cut { stages, folder, segments, known, missing, draft: Draft::default(), place: Place::Memory })
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

    /// Runs the frozen stages over the (view, sample) positions that are missing at some boundary, and gives their number.
    #[allow(clippy::too_many_arguments)]
    fn compute(
        &self,
        split: &str,
        dataset: &Arc<dyn Dataset>,
        views: &[ViewSeed],
        keys: &[Option<Key>],
        cuts: &mut [Cut],
        must_keep: bool,
        faults: &mut Faults,
    ) -> Result<usize> {
        let samples = dataset.len();
        let mut missing: Vec<usize> = cuts.iter().flat_map(|cut| cut.missing.iter().copied()).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(0);
        }
        let mut from = 0;
        let pieces = cuts.iter().map(|cut| {
            let stages = &self.stages[std::mem::replace(&mut from, cut.stages)..cut.stages];
            Frozen::compile(stages, self.params, self.device)
        });
        let pieces = pieces.collect::<Result<Vec<Frozen>>>()?;
        let request = |&at: &usize| Request { index: at % samples, view: views[at / samples].of(at % samples) };
        // Views of one sample are not in the same batch: what was read is told by its number.
        let of_views = missing.chunk_by(|a, b| a / samples == b / samples);
        let chunks: Vec<&[usize]> = of_views.flat_map(|view| view.chunks(BATCH)).collect();
        let batches: Vec<Vec<Request>> = chunks.iter().map(|c| c.iter().map(request).collect()).collect();
        let loader = Loader::new(dataset.clone(), batches, self.threads);
        let (mut done, mut placed) = (0, false);
        for (mut loaded, positions) in loader.zip(chunks) {
            for (index, error) in loaded.failed.drain(..) {
                faults.note(split, &**dataset, index, error)?;
            }
            let read: HashSet<usize> = loaded.indices().into_iter().collect();
            let kept: Vec<usize> = positions.iter().copied().filter(|&at| read.contains(&(at % samples))).collect();
            done += positions.len();
            if kept.is_empty() {
                continue;
            }
            let mut activation = loaded.collate(self.device)?;
            for (cut, piece) in cuts.iter_mut().zip(&pieces) {
                activation = piece.run(&activation)?;
                let wanted: Vec<Option<Key>> =
                    kept.iter().map(|at| keys[*at].filter(|_| cut.missing.contains(at))).collect();
                if cut.place != Place::Nowhere && wanted.iter().any(Option::is_some) {
                    cut.draft.push(&wanted, &activation)?;
                }
            }
            if !std::mem::replace(&mut placed, true) {
                self.place(split, cuts, kept.len(), must_keep);
                if cuts.iter().all(|cut| cut.place == Place::Nowhere) {
                    break;
                }
            }
            for cut in cuts.iter_mut().filter(|cut| cut.draft.bytes() >= SEGMENT_BYTES) {
                self.finish(cut);
            }
            self.observer.progress(&format!("extract {split}"), done, missing.len());
            if self.observer.stop() {
                return Err(crate::train::stopped());
            }
            if self.observer.pause() {
                cuts.iter_mut().filter(|cut| cut.draft.bytes() > 0).for_each(|cut| self.finish(cut));
                let remedy = "give the command again, with --resume if the run had begun; what was computed is kept";
                return Err(Error::Stopped { remedy: remedy.into() });
            }
        }
        for cut in cuts.iter_mut().filter(|cut| cut.draft.bytes() > 0 && cut.place != Place::Nowhere) {
            self.finish(cut);
        }
        Ok(missing.len())
    }

    /// Says what each boundary will need, judged by a first batch of `samples`, and decides where it goes: the last one
    /// first, for it is what the present phase asks for.
    fn place(&self, split: &str, cuts: &mut [Cut], samples: usize, must_keep: bool) {
        let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let (mut on_disk, mut in_memory) = (0, 0);
        for (i, cut) in cuts.iter_mut().rev().enumerate() {
            let need = (cut.draft.bytes() as u64).div_ceil(samples as u64) * cut.missing.len() as u64;
            if let Some(folder) = &cut.folder
                && on_disk + need <= self.cache.limit()
            {
                if need > 0 {
                    let text = format!(
                        "{split}: the activations of {} samples take about {} in {}",
                        cut.missing.len(),
                        mega(need),
                        folder.path().display()
                    );
                    self.observer.message(&text);
                }
                on_disk += need;
                cut.place = Place::Disk;
            } else if (must_keep && i == 0) || in_memory + need <= self.cache.memory() {
                in_memory += need;
                cut.place = Place::Memory;
            } else {
                let text = format!(
                    "{split}: the activations of {} samples would take {}, more than the cache may hold ({}); they are \
                     computed in every epoch",
                    cut.missing.len(),
                    mega(need),
                    mega(self.cache.limit())
                );
                self.observer.message(&text);
                cut.place = Place::Nowhere;
            }
        }
        let kept: Vec<&store::Folder> =
            cuts.iter().filter(|cut| cut.place == Place::Disk).filter_map(|cut| cut.folder.as_ref()).collect();
        self.cache.make_room(on_disk, &kept, self.observer);
    }

    /// Closes what a boundary has gathered: on disk, or, when that refuses, in memory.
    fn finish(&self, cut: &mut Cut) {
        let draft = std::mem::take(&mut cut.draft);
        let segment = match cut.folder.as_ref().filter(|_| cut.place == Place::Disk) {
            Some(folder) => match folder.write(&draft) {
                Ok(segment) => segment,
                Err(error) => {
                    self.observer.message(&format!("the activations stay in memory: {error}"));
                    Segment::Memory(draft)
                }
            },
            None => Segment::Memory(draft),
        };
        for entry in 0..segment.len() {
            cut.known.insert(*segment.key(entry), Slot { segment: cut.segments.len(), entry });
        }
        cut.segments.push(segment);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
