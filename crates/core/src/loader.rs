//! Samples in batches, in the order asked for, rendered ahead of time.
//!
//! Samples that cannot be read are reported to [`Faults`], which decides when that is too many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use candle_core::Device;

use crate::data::{Activation, Dataset, Sample, View};
use crate::guard::caught;
use crate::prefetch::Prefetch;
use crate::seed::Seed;
use crate::{Error, Result};

/// One sample in one rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its index in the data set.
    pub index: usize,
    /// How to render it.
    pub view: View,
}

/// A batch as it came: in the order of its requests, the unreadable ones left out.
pub struct Loaded {
    /// What was read, each with its index.
    pub samples: Vec<(usize, Sample)>,
    /// What was not, and why.
    pub failed: Vec<(usize, Error)>,
}

impl Loaded {
    /// Indices of the samples that were read.
    pub fn indices(&self) -> Vec<usize> {
        self.samples.iter().map(|(index, _)| *index).collect()
    }

    /// The samples behind each other.
    ///
    /// # Errors
    /// When there is none, or they do not fit together.
    pub fn collate(self, device: &Device) -> Result<Activation> {
        let samples: Vec<Sample> = self.samples.into_iter().map(|(_, sample)| sample).collect();
        Activation::collate(&samples, device)
    }
}

/// A decoder that panics on a broken file must not take the run with it.
fn render(dataset: &dyn Dataset, request: Request) -> Result<Sample> {
    caught(|| dataset.load(request.index, request.view)).unwrap_or_else(|| {
        Err(Error::input(
            dataset.name(request.index),
            "the decoder gave up on it",
            "remove it or convert it with another program",
        ))
    })
}

/// Batches of samples, one after the other.
pub struct Loader {
    outcomes: Prefetch<(usize, Result<Sample>)>,
    sizes: VecDeque<usize>,
}

impl Loader {
    /// Starts rendering `batches` with `threads` threads, at most two batches ahead.
    pub fn new(dataset: Arc<dyn Dataset>, batches: Vec<Vec<Request>>, threads: usize) -> Self {
        let sizes: VecDeque<usize> = batches.iter().map(Vec::len).collect();
        let threads = threads.max(1);
        let ahead = (2 * sizes.iter().copied().max().unwrap_or(1)).max(2 * threads);
        let requests: Vec<Request> = batches.into_iter().flatten().collect();
        let threads = threads.min(requests.len());
        let work = move |request: Request| (request.index, render(&*dataset, request));
        Self { outcomes: Prefetch::new(requests.into_iter(), threads, ahead, work), sizes }
    }
}

impl Iterator for Loader {
    type Item = Loaded;

    fn next(&mut self) -> Option<Loaded> {
        let size = self.sizes.pop_front()?;
        let mut loaded = Loaded { samples: Vec::with_capacity(size), failed: Vec::new() };
        for (index, outcome) in self.outcomes.by_ref().take(size) {
            match outcome {
                Ok(sample) => loaded.samples.push((index, sample)),
                Err(error) => loaded.failed.push((index, error)),
            }
        }
        Some(loaded)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.outcomes.end();
    }
}

/// How many unreadable samples a run bears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strictness {
    /// The first one is an error.
    pub strict: bool,
    /// More than this share of a split is an error.
    pub most: f64,
}

impl Default for Strictness {
    fn default() -> Self {
        Self { strict: false, most: 0.1 }
    }
}

/// The samples that could not be read so far, by split.
#[derive(Debug, Default)]
pub struct Faults {
    strictness: Strictness,
    seen: BTreeMap<String, BTreeMap<usize, (String, String)>>,
}

impl Faults {
    /// None yet.
    pub fn new(strictness: Strictness) -> Self {
        Self { strictness, seen: BTreeMap::new() }
    }

    /// Takes note of a failure in `split`; the same sample failing again counts once.
    ///
    /// # Errors
    /// When the strictness does not bear it.
    pub fn note(&mut self, split: &str, dataset: &dyn Dataset, index: usize, error: Error) -> Result<()> {
        if self.strictness.strict {
            return Err(error);
        }
        let reason = match &error {
            Error::Input { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        let faults = self.seen.entry(split.to_string()).or_default();
        faults.entry(index).or_insert_with(|| (dataset.name(index), reason));
        let (count, all) = (faults.len(), dataset.len());
        if count as f64 > self.strictness.most * all as f64 {
            let listed: Vec<String> = faults.values().take(5).map(|(name, why)| format!("{name} ({why})")).collect();
            return Err(Error::input(
                format!("the {split} samples"),
                format!("at least {count} of {all} cannot be read, among them {}", listed.join("; ")),
                format!("mend or remove them; up to {:.0} % are skipped", 100.0 * self.strictness.most),
            ));
        }
        Ok(())
    }

    /// Whether sample `index` of `split` is known to be unreadable.
    pub fn contains(&self, split: &str, index: usize) -> bool {
        self.seen.get(split).is_some_and(|faults| faults.contains_key(&index))
    }

    /// (name, reason) of every unreadable sample.
    pub fn list(&self) -> Vec<(String, String)> {
        self.seen.values().flat_map(|faults| faults.values().cloned()).collect()
    }
}

/// The batches of one epoch over `indices`, shuffled by `seed`. A last batch of a single sample joins the one before it.
///
/// Samples of any length may stand together: they are packed behind each other, so that nothing is padded.
pub fn epoch_batches(indices: &[usize], size: usize, seed: Seed) -> Vec<Vec<usize>> {
    let size = size.max(1);
    let mut order = indices.to_vec();
    seed.named("order").stream().shuffle(&mut order);
    let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    if size > 1 && batches.len() > 1 && batches.last().is_some_and(|last| last.len() == 1) {
        let last = batches.pop().unwrap_or_default();
        if let Some(before) = batches.last_mut() {
            before.extend(last);
        }
    }
    batches
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::Values;

    /// Samples of `i % 5 + 1` rows; the multiples of `broken` cannot be read.
    struct Ragged {
        len: usize,
        broken: usize,
    }

    impl Dataset for Ragged {
        fn len(&self) -> usize {
            self.len
        }
        fn target(&self, i: usize) -> u32 {
            (i % 2) as u32
        }
        fn name(&self, i: usize) -> String {
            format!("row {i}")
        }
        fn digest(&self, i: usize) -> Result<[u8; 32]> {
            Ok([i as u8; 32])
        }
        fn rows(&self, i: usize) -> usize {
            i % 5 + 1
        }
        fn load(&self, i: usize, _: View) -> Result<Sample> {
            if i % self.broken == self.broken - 1 {
                assert!(i.is_multiple_of(2), "a decoder that panics");
                return Err(Error::input(self.name(i), "is broken", "mend it"));
            }
            std::thread::sleep(std::time::Duration::from_micros((i as u64 * 37) % 300));
            let rows = self.rows(i);
            Ok(Sample { rows, shape: vec![1], values: Values::U32(vec![i as u32; rows]) })
        }
    }

    fn deliver(threads: usize) -> Vec<(Vec<usize>, Vec<usize>)> {
        let data = Arc::new(Ragged { len: 60, broken: 9 });
        let batches = epoch_batches(&(0..60).collect::<Vec<_>>(), 8, Seed(1));
        let requests =
            |batch: Vec<usize>| batch.into_iter().map(|index| Request { index, view: View::Plain }).collect();
        let loader = Loader::new(data, batches.into_iter().map(requests).collect(), threads);
        loader.map(|l| (l.indices(), l.failed.iter().map(|(i, _)| *i).collect())).collect()
    }

    #[test]
    fn delivery_does_not_depend_on_the_number_of_threads() {
        let one = deliver(1);
        assert_eq!(one.iter().map(|(read, failed)| read.len() + failed.len()).sum::<usize>(), 60);
        assert_eq!(one, deliver(7));
    }

    #[test]
    fn unreadable_samples_are_left_out_of_their_batch_even_when_the_decoder_panics() {
        let failed: usize = deliver(2).iter().map(|(_, failed)| failed.len()).sum();
        assert_eq!(failed, 6);
    }

    #[test]
    fn a_loader_that_is_dropped_early_ends_its_threads() {
        let data: Arc<dyn Dataset> = Arc::new(Ragged { len: 60, broken: 100 });
        let requests = (0..60).map(|index| vec![Request { index, view: View::Plain }]).collect();
        let mut loader = Loader::new(data.clone(), requests, 3);
        assert!(loader.next().is_some());
        drop(loader);
        assert_eq!(Arc::strong_count(&data), 1);
    }

    #[test]
    fn an_epoch_holds_each_sample_once_in_another_order_than_the_next() {
        let indices: Vec<usize> = (0..1000).collect();
        let mut all = epoch_batches(&indices, 10, Seed(2)).concat();
        assert_ne!(all, epoch_batches(&indices, 10, Seed(3)).concat());
        all.sort_unstable();
        assert_eq!(all, indices);
    }

    #[test]
    fn a_last_batch_of_one_joins_the_one_before() {
        let sizes: Vec<usize> =
            epoch_batches(&[0, 5, 10, 15, 20, 25, 30, 35, 40], 4, Seed(3)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 5]);
    }

    #[test]
    fn more_than_a_tenth_unreadable_is_an_error_that_names_some() {
        let data = Ragged { len: 10, broken: 100 };
        let mut faults = Faults::new(Strictness::default());
        let broken = || Error::input("x", "is broken", "mend it");
        assert!(faults.note("training", &data, 3, broken()).is_ok());
        assert!(faults.note("training", &data, 3, broken()).is_ok());
        let message = faults.note("training", &data, 4, broken()).unwrap_err().to_string();
        assert!(message.contains("2 of 10") && message.contains("row 4 (is broken)"), "{message}");
    }

    #[test]
    fn strictness_makes_the_first_unreadable_sample_an_error() {
        let data = Ragged { len: 100, broken: 100 };
        let mut faults = Faults::new(Strictness { strict: true, most: 0.1 });
        assert!(faults.note("training", &data, 3, Error::input("x", "is broken", "mend it")).is_err());
    }
}
