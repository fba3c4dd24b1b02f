//! Labelled samples as the trainer sees them: rows of numbers with a class, wherever they came from.
//!
//! A domain implements [`Dataset`] for its files; subsets, splits and batches are made here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::metrics::Metrics;
use crate::outputs::Mistake;
use crate::seed::Seed;
use crate::task::Task;
use crate::{Error, Result};

/// The numbers of one sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Measurements: pixels, features.
    F32(Vec<f32>),
    /// Indices into tables: token ids.
    U32(Vec<u32>),
}

/// One sample, ready for the first stage: `rows` consecutive rows, each of shape `shape`.
///
/// A photo is one row of shape `[height, width, channels]`, or one for each of several views; a sentence of n tokens is n rows of
/// shape `[columns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Number of rows.
    pub rows: usize,
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// `rows` × `shape` numbers, row-major.
    pub values: Values,
}

/// Which rendering of a sample is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The one deterministic rendering used for evaluation.
    Plain,
    /// A random one, for training; equal seeds give equal views.
    Augmented(Seed),
}

/// What a person is shown of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excerpt {
    /// Words, as they are: whoever prints them escapes them.
    Text(String),
    /// The same, with passages that are marked.
    Marked {
        /// The words.
        text: String,
        /// Passages, by the bytes of the text; they may overlap.
        marks: Vec<(Range<usize>, Mark)>,
    },
    /// A small picture.
    Picture {
        /// Its kind: `image/jpeg`.
        media: &'static str,
        /// The file's bytes.
        bytes: Vec<u8>,
        /// Width and height in pixels.
        size: [u32; 2],
    },
}

/// What a passage is marked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is what should have been said.
    Right,
    /// It was said, or something was said of it, that is wrong.
    Wrong,
    /// What was said rests on it.
    Telling,
}

/// A text taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Omissions {
    /// All of it.
    pub text: String,
    /// Its parts in their order, by the bytes of the text, and what is left of the sample without each.
    pub parts: Vec<(Range<usize>, Sample)>,
}

/// Samples with class indices. Implementations are cheap to ask and thread-safe; `load` does the work.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;
    /// True without samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The class index of sample `i`; of another task, its group ([`crate::task::strata`]).
    fn target(&self, i: usize) -> u32;
    /// Of a task of labels, 1 or 0 for each; of values, these; of tokens, the label of each row ([`crate::task::UNLABELLED`]
    /// where it has none); of spans, the first and the last row. Of classes, nothing.
    fn numbers(&self, _i: usize) -> &[f32] {
        &[]
    }
    /// What to call sample `i` in messages: its file, or its file and row.
    fn name(&self, i: usize) -> String;
    /// A digest of the bytes that sample `i` is made from (not of the preprocessing).
    ///
    /// # Errors
    /// When they cannot be read.
    fn digest(&self, i: usize) -> Result<[u8; 32]>;
    /// How many rows `load` gives; 1 where all are alike.
    fn rows(&self, _i: usize) -> usize {
        1
    }
    /// Reads and renders sample `i`.
    ///
    /// # Errors
    /// When it cannot be read or decoded, naming it.
    fn load(&self, i: usize, view: View) -> Result<Sample>;
    /// Scores of the head's outputs for `samples`, in this order, where targets do not say enough to judge them: of answers that
    /// several samples are parts of. `None` where [`Metrics::of`] does it.
    fn judge(&self, _samples: &[usize], _outputs: &[f32]) -> Option<Metrics> {
        None
    }
    /// The worst of the head's wrong outputs for `samples`, in this order, at most `most`, where only the data set can show them:
    /// words of a text, passages. `None` where [`Outputs::mistakes`](crate::outputs::Outputs::mistakes) does it.
    fn mistakes(&self, _task: &Task, _samples: &[usize], _outputs: &[f32], _most: usize) -> Option<Vec<Mistake>> {
        None
    }
    /// What a person is shown of sample `i`, small enough to stand among many; by itself, its name.
    ///
    /// # Errors
    /// When it cannot be read.
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        Ok(Excerpt::Text(self.name(i)))
    }
    /// Sample `i` taken apart into at most `most` parts, each of which it can be without; `None` where it has no such parts.
    ///
    /// # Errors
    /// When it cannot be read.
    fn omissions(&self, _i: usize, _most: usize) -> Result<Option<Omissions>> {
        Ok(None)
    }
    /// The same samples in views of `scale` times the usual size; `None` where they have one size only.
    fn scaled(&self, _scale: f64) -> Option<Arc<dyn Dataset>> {
        None
    }
}

/// A part of another data set, in the order of its indices.
pub struct Subset {
    base: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The samples of `base` at `indices`.
    pub fn new(base: Arc<dyn Dataset>, indices: Vec<usize>) -> Self {
        Self { base, indices }
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.base.target(self.indices[i])
    }
    fn numbers(&self, i: usize) -> &[f32] {
        self.base.numbers(self.indices[i])
    }
    fn name(&self, i: usize) -> String {
        self.base.name(self.indices[i])
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        self.base.digest(self.indices[i])
    }
    fn rows(&self, i: usize) -> usize {
        self.base.rows(self.indices[i])
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        self.base.load(self.indices[i], view)
    }
    fn judge(&self, samples: &[usize], outputs: &[f32]) -> Option<Metrics> {
        self.base.judge(&samples.iter().map(|&i| self.indices[i]).collect::<Vec<_>>(), outputs)
    }
    fn mistakes(&self, task: &Task, samples: &[usize], outputs: &[f32], most: usize) -> Option<Vec<Mistake>> {
        let own: Vec<usize> = samples.iter().map(|&i| self.indices[i]).collect();
        let mut found = self.base.mistakes(task, &own, outputs, most)?;
        let place: BTreeMap<usize, usize> = own.into_iter().zip(samples.iter().copied()).collect();
        found.iter_mut().for_each(|mistake| mistake.sample = place[&mistake.sample]);
        Some(found)
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        self.base.excerpt(self.indices[i])
    }
    fn omissions(&self, i: usize, most: usize) -> Result<Option<Omissions>> {
        self.base.omissions(self.indices[i], most)
    }
    fn scaled(&self, scale: f64) -> Option<Arc<dyn Dataset>> {
        Some(Arc::new(Self::new(self.base.scaled(scale)?, self.indices.clone())))
    }
}

/// What a domain's reader hands over: the parts of a labelled data set and the classes they share.
pub struct Splits {
    /// What is asked of a sample.
    pub task: Task,
    /// What is learned from.
    pub train: Arc<dyn Dataset>,
    /// What decides early stopping and is reported.
    pub validation: Arc<dyn Dataset>,
    /// Whether `validation` was held out of the samples to learn from, the data coming without such a part.
    pub held_out: bool,
}

impl Splits {
    /// Samples as they come; or, without a part to judge by, what `divide` keeps of those to learn from and what it holds out.
    /// With only a part to judge by, there is nothing to learn from.
    ///
    /// # Errors
    /// When there is neither part, or as `divide`.
    pub fn of<T: Dataset + 'static>(
        task: Task,
        train: Option<T>,
        validation: Option<T>,
        divide: impl FnOnce(&T) -> Result<(Vec<usize>, Vec<usize>)>,
    ) -> Result<Self> {
        let held_out = validation.is_none();
        let part = |all: &Arc<dyn Dataset>, indices| Arc::new(Subset::new(all.clone(), indices));
        let (train, validation): (Arc<dyn Dataset>, Arc<dyn Dataset>) = match (train, validation) {
            (Some(train), Some(validation)) => (Arc::new(train), Arc::new(validation)),
            (Some(all), None) => {
                let (kept, held) = divide(&all)?;
                let all: Arc<dyn Dataset> = Arc::new(all);
                (part(&all, kept), part(&all, held))
            }
            (None, Some(only)) => {
                let only: Arc<dyn Dataset> = Arc::new(only);
                (part(&only, Vec::new()), only)
            }
            (None, None) => {
                let remedy = "name labelled samples with it";
                return Err(Error::input("--validation", "there is nothing to evaluate on", remedy));
            }
        };
        Ok(Self { task, train, validation, held_out })
    }
}

/// What samples should be told to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    /// The class, or group, of each.
    pub classes: Vec<u32>,
    /// [`Dataset::numbers`] of each, behind each other: of labels and values, `[samples × outputs]` row-major.
    pub numbers: Vec<f32>,
}

impl Targets {
    /// Those of some samples of `data`.
    pub fn of(data: &dyn Dataset, samples: impl IntoIterator<Item = usize>) -> Self {
        let mut targets = Self::default();
        for i in samples {
            targets.classes.push(data.target(i));
            targets.numbers.extend_from_slice(data.numbers(i));
        }
        targets
    }

    /// Those of the samples of `range`; `lengths` are the numbers of rows of all samples, where each row has a number of its own.
    pub fn part(&self, range: Range<usize>, lengths: Option<&[usize]>) -> Self {
        let each = self.numbers.len() / self.classes.len().max(1);
        let place = |to: usize| lengths.map_or(to * each, |lengths| lengths[..to].iter().sum());
        let numbers = self.numbers[place(range.start)..place(range.end)].to_vec();
        Self { classes: self.classes[range].to_vec(), numbers }
    }

    /// Puts others behind these.
    pub fn extend(&mut self, others: Self) {
        self.classes.extend(others.classes);
        self.numbers.extend(others.numbers);
    }
}

/// How many samples to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// All of them.
    All,
    /// This many in all, in the proportions of the classes.
    Total(usize),
    /// This many of each class.
    PerClass(usize),
}

/// A seeded choice of samples, stratified by class: indices into `targets`, ascending.
///
/// # Errors
/// When there are fewer samples than asked for (`PerClass`: in some class), or fewer are asked for than there are
/// classes, naming the flag.
pub fn choose(targets: &[u32], classes: &[String], budget: Budget, seed: Seed) -> Result<Vec<usize>> {
    let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, &target) in targets.iter().enumerate() {
        by_class.entry(target).or_default().push(i);
    }
    for (class, members) in &mut by_class {
        seed.named("choose").child(u64::from(*class)).stream().shuffle(members);
    }
    let mut chosen: Vec<usize> = match budget {
        Budget::All => (0..targets.len()).collect(),
        Budget::PerClass(n) => {
            for (class, members) in &by_class {
                if members.len() < n {
                    return Err(Error::input(
                        format!("--per-class {n}"),
                        format!("{} has only {} samples", group_name(classes, *class), members.len()),
                        format!("use --per-class {} or less, or add samples", members.len()),
                    ));
                }
            }
            by_class.values().flat_map(|members| members[..n].to_vec()).collect()
        }
        Budget::Total(n) => {
            if n > targets.len() {
                return Err(Error::input(
                    format!("--limit {n}"),
                    format!("there are only {} samples", targets.len()),
                    format!("use --limit {} or less, or leave it out", targets.len()),
                ));
            }
            if n < by_class.len() {
                return Err(Error::input(
                    format!("--limit {n}"),
                    format!("there are {} classes, so some would be left without a sample", by_class.len()),
                    format!("use --limit {} or more", by_class.len()),
                ));
            }
            let sizes: Vec<usize> = by_class.values().map(Vec::len).collect();
            let shares = apportion(n, &sizes);
            by_class.values().zip(shares).flat_map(|(members, share)| members[..share].to_vec()).collect()
        }
    };
    chosen.sort_unstable();
    Ok(chosen)
}

/// What to call a class, or a group of samples without one.
pub(crate) fn group_name(classes: &[String], group: u32) -> String {
    classes.get(group as usize).map_or_else(|| format!("group {group}"), |name| format!("class {name:?}"))
}

/// Splits `total` in proportion to `sizes` by largest remainders (Hamilton); every part gets at least one while
/// `total` allows, and none more than its size.
fn apportion(total: usize, sizes: &[usize]) -> Vec<usize> {
    let all: usize = sizes.iter().sum();
    let mut shares: Vec<usize> = sizes.iter().map(|&size| total * size / all.max(1)).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (shares[i] > 0, std::cmp::Reverse(total * sizes[i] % all.max(1)), i));
    let mut left = total - shares.iter().sum::<usize>();
    while left > 0 {
        for &i in &order {
            if left > 0 && shares[i] < sizes[i] {
                shares[i] += 1;
                left -= 1;
            }
        }
    }
    shares
}

/// A seeded stratified split of `targets` into (kept, held out), the second of about `fraction` of each class, at
/// least one of a class that has two or more.
pub fn hold_out(targets: &[u32], fraction: f64, seed: Seed) -> (Vec<usize>, Vec<usize>) {
    let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, &target) in targets.iter().enumerate() {
        by_class.entry(target).or_default().push(i);
    }
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (class, mut members) in by_class {
        seed.named("hold-out").child(u64::from(class)).stream().shuffle(&mut members);
        let most = members.len().saturating_sub(1);
        let n = ((members.len() as f64 * fraction).round() as usize).clamp(usize::from(most > 0).min(most), most);
        held.extend_from_slice(&members[..n]);
        kept.extend_from_slice(&members[n..]);
    }
    kept.sort_unstable();
    held.sort_unstable();
    (kept, held)
}

/// How the rows of an [`Activation`] belong to samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// One row a sample.
    One,
    /// Sample i owns the next `lengths[i]` rows: samples of different length stand behind each other, unpadded.
    Each(Arc<Vec<usize>>),
}

/// A batch between two stages: `data` is `[total rows, row shape…]`.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The rows of all samples, one after the other.
    pub data: Tensor,
    /// Which rows belong to which sample.
    pub rows: Rows,
}

impl Activation {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        match &self.rows {
            Rows::One => self.data.dims()[0],
            Rows::Each(lengths) => lengths.len(),
        }
    }

    /// The samples of `range`.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn part(&self, range: Range<usize>) -> Result<Self> {
        let (first, rows, part) = match &self.rows {
            Rows::One => (range.start, range.len(), Rows::One),
            Rows::Each(lengths) => {
                let part = lengths[range.clone()].to_vec();
                (lengths[..range.start].iter().sum(), part.iter().sum(), Rows::Each(Arc::new(part)))
            }
        };
        Ok(Self { data: self.data.narrow(0, first, rows)?, rows: part })
    }

    /// Puts samples behind each other. All must have the same row shape and kind of numbers.
    ///
    /// # Errors
    /// When they differ, or the device is out of memory.
    pub fn collate(samples: &[Sample], device: &Device) -> Result<Self> {
        let first = samples.first().ok_or_else(|| Error::Tensor(candle_core::Error::Msg("an empty batch".into())))?;
        let total: usize = samples.iter().map(|s| s.rows).sum();
        let mut dims = vec![total];
        dims.extend_from_slice(&first.shape);
        let mut floats = Vec::new();
        let mut indices = Vec::new();
        for sample in samples {
            if sample.shape != first.shape {
                let reason = format!("row shapes {:?} and {:?} in one batch", first.shape, sample.shape);
                return Err(Error::Tensor(candle_core::Error::Msg(reason)));
            }
            match &sample.values {
                Values::F32(v) => floats.extend_from_slice(v),
                Values::U32(v) => indices.extend_from_slice(v),
            }
        }
        let data = match &first.values {
            Values::F32(_) => Tensor::from_vec(floats, dims, device)?,
            Values::U32(_) => Tensor::from_vec(indices, dims, device)?,
        };
        let rows = if first.shape.len() > 1 {
            // Several views of a photo do not see each other.
            Rows::One
        } else {
            Rows::Each(Arc::new(samples.iter().map(|s| s.rows).collect()))
        };
        Ok(Self { data, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        vec!["a".into(), "b".into(), "c".into()]
    }

    #[test]
    fn a_limit_keeps_the_proportions_and_the_total() {
        let targets: Vec<u32> = (0..100)
            .map(|i| {
                if i < 70 {
                    0
                } else if i < 95 {
                    1
                } else {
                    2
                }
            })
            .collect();
        let chosen = choose(&targets, &classes(), Budget::Total(20), Seed(3)).unwrap();
        let count = |class| chosen.iter().filter(|&&i| targets[i] == class).count();
        assert_eq!((chosen.len(), count(0), count(1), count(2)), (20, 14, 5, 1));
        assert_eq!(chosen, choose(&targets, &classes(), Budget::Total(20), Seed(3)).unwrap());
        assert_ne!(chosen, choose(&targets, &classes(), Budget::Total(20), Seed(4)).unwrap());
    }

    #[test]
    fn too_large_a_budget_names_the_flag() {
        let targets = [0, 0, 1];
        let message = choose(&targets, &classes(), Budget::PerClass(2), Seed(0)).unwrap_err().to_string();
        assert!(message.contains("--per-class 2") && message.contains("\"b\""), "{message}");
        assert!(choose(&targets, &classes(), Budget::Total(4), Seed(0)).is_err());
        assert!(choose(&targets, &classes(), Budget::Total(1), Seed(0)).is_err());
    }

    #[test]
    fn a_held_out_part_is_stratified_and_disjoint() {
        let targets: Vec<u32> = (0..50).map(|i| i % 2).collect();
        let (kept, held) = hold_out(&targets, 0.2, Seed(1));
        assert_eq!((kept.len(), held.len()), (40, 10));
        assert!(held.iter().all(|i| !kept.contains(i)));
        assert_eq!(held.iter().filter(|&&i| targets[i] == 0).count(), 5);
    }
}
