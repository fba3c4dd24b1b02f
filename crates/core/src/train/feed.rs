//! Batches of what comes out of the boundary: kept activations, or samples run through the frozen stages as needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::{Run, check};
use crate::Result;
use crate::cache::{Extractor, Features, ViewSeed};
use crate::data::Targets;
use crate::data::{Activation, Dataset};
use crate::loader::{Loader, Request};
use crate::metrics::Metrics;
use crate::net::frozen::Frozen;
use crate::net::{Params, Stage};
use crate::outputs::Outputs;
use crate::plan::{Phase, Train};

/// Samples in a batch of validation.
const BATCH: usize = 32;

/// A data set as a phase sees it.
pub(super) struct Split {
    pub name: &'static str,
    pub dataset: Arc<dyn Dataset>,
    /// The renderings to choose from; without any, each epoch has fresh ones.
    pub views: Vec<ViewSeed>,
    source: Source,
}

/// Stages that stay as they are, and what goes into them.
pub(super) struct Fixed<'a> {
    pub stages: &'a [&'a Stage],
    pub params: &'a Params,
    pub dataset: Arc<dyn Dataset>,
    pub fingerprint: &'a str,
}

enum Source {
    Kept(Arc<Features>),
    Computed(Option<Frozen>),
}

/// Activations at boundaries that later phases start from, by split and boundary, with their views.
pub(super) type Kept = BTreeMap<(&'static str, usize), (Vec<ViewSeed>, Arc<Features>)>;

/// A batch at the boundary.
pub(super) struct Input {
    pub activation: Activation,
    pub targets: Targets,
    pub indices: Vec<usize>,
}

/// Batches in the order asked for.
pub(super) struct Batches<'s> {
    split: &'s Split,
    from: From,
}

enum From {
    Kept { view: usize, batches: std::vec::IntoIter<Vec<usize>> },
    Computed(Loader),
}

impl Split {
    /// Prepares `dataset` for a phase whose first `boundary` stages are frozen: computes or finds the activations of
    /// `views`, if they may be kept.
    pub fn open(
        run: &mut Run<'_>,
        name: &'static str,
        boundary: usize,
        views: Vec<ViewSeed>,
        must_keep: bool,
    ) -> Result<Self> {
        let job = run.job;
        let dataset = if name == "validation" { job.validation.clone() } else { job.train.clone() };
        let stages: Vec<&Stage> = job.network.stages.iter().take(boundary).collect();
        if boundary == 0 && !must_keep {
            return Ok(Self { name, dataset, views: Vec::new(), source: Source::Computed(None) });
        }
        if let Some((_, features)) = run.kept.get(&(name, boundary)).filter(|(of, _)| *of == views) {
            return Ok(Self { name, dataset, source: Source::Kept(features.clone()), views });
        }
        let extractor = Extractor {
            cache: job.cache,
            stages: &stages,
            params: &run.params,
            fingerprint: job.fingerprint,
            device: job.device,
            threads: job.threads,
            observer: job.observer,
        };
        // One pass leaves behind what later phases start from as well: no frozen stage is computed twice.
        let mut boundaries = run.later_boundaries(boundary, name == "training", &views);
        boundaries.push(boundary);
        let (faults, timings) = (&mut run.faults, &mut run.timings);
        let mut all = extractor.features_at(&boundaries, name, &dataset, &views, must_keep, faults, timings)?;
        let kept = all.pop().flatten().map(Arc::new);
        for (boundary, features) in boundaries.into_iter().zip(all) {
            if let Some(features) = features {
                run.kept.insert((name, boundary), (views.clone(), Arc::new(features)));
            }
        }
        let source = match kept {
            Some(features) => Source::Kept(features),
            None => Source::Computed(Some(Frozen::compile(&stages, &run.params, job.device)?)),
        };
        Ok(Self { name, dataset, views, source })
    }

    /// Prepares what `fixed` makes of its samples in `views`: kept where that is possible. Without views, each epoch has
    /// fresh ones, and nothing can be kept.
    pub fn of(
        run: &mut Run<'_>,
        name: &'static str,
        fixed: &Fixed<'_>,
        views: Vec<ViewSeed>,
        must_keep: bool,
    ) -> Result<Self> {
        let job = run.job;
        let extractor = Extractor {
            cache: job.cache,
            stages: fixed.stages,
            params: fixed.params,
            fingerprint: fixed.fingerprint,
            device: job.device,
            threads: job.threads,
            observer: job.observer,
        };
        let dataset = fixed.dataset.clone();
        let kept = match views.is_empty() {
            true => None,
            false => extractor.features(name, &dataset, &views, must_keep, &mut run.faults, &mut run.timings)?,
        };
        let source = match kept {
            Some(features) => Source::Kept(Arc::new(features)),
            None => Source::Computed(Some(Frozen::compile(fixed.stages, fixed.params, job.device)?)),
        };
        Ok(Self { name, dataset, views, source })
    }

    /// The same samples in views of `scale` times the usual size.
    pub fn scaled(&self, scale: f64) -> Result<Self> {
        let dataset = self.dataset.scaled(scale).filter(|_| matches!(self.source, Source::Computed(None)));
        let dataset = dataset.ok_or_else(check::unscalable)?;
        Ok(Self { name: self.name, dataset, views: self.views.clone(), source: Source::Computed(None) })
    }

    /// The samples that are not already known to be unreadable.
    pub fn readable(&self) -> Vec<usize> {
        match &self.source {
            Source::Kept(features) => (0..self.dataset.len()).filter(|&i| features.has(i)).collect(),
            Source::Computed(_) => (0..self.dataset.len()).collect(),
        }
    }

    /// Whether activations are read from where they are kept.
    pub fn kept(&self) -> Option<&Features> {
        match &self.source {
            Source::Kept(features) => Some(features),
            Source::Computed(_) => None,
        }
    }

    /// Delivers `batches` in a view: number `view` of those kept, or, without a boundary, `fresh`.
    pub fn batches(&self, batches: Vec<Vec<usize>>, view: usize, fresh: ViewSeed, threads: usize) -> Batches<'_> {
        let from = match &self.source {
            Source::Kept(_) => From::Kept { view: view % self.views.len(), batches: batches.into_iter() },
            Source::Computed(_) => {
                let seed = if self.views.is_empty() { fresh } else { self.views[view % self.views.len()] };
                let request = |index: usize| Request { index, view: seed.of(index) };
                let requests = batches.into_iter().map(|batch| batch.into_iter().map(request).collect()).collect();
                From::Computed(Loader::new(self.dataset.clone(), requests, threads))
            }
        };
        Batches { split: self, from }
    }
}

impl Batches<'_> {
    /// The next batch; `Some(None)` when none of its samples could be read, `None` at the end.
    pub fn next(&mut self, run: &mut Run<'_>) -> Result<Option<Option<Input>>> {
        let start = Instant::now();
        let dataset = &self.split.dataset;
        let targets = |indices: &[usize]| Targets::of(&**dataset, indices.iter().copied());
        let (activation, indices) = match &mut self.from {
            From::Kept { view, batches } => {
                let (Some(indices), Some(features)) = (batches.next(), self.split.kept()) else { return Ok(None) };
                (features.batch(*view, &indices, run.job.device)?, indices)
            }
            From::Computed(loader) => {
                let Some(mut loaded) = loader.next() else { return Ok(None) };
                for (index, error) in loaded.failed.drain(..) {
                    run.faults.note(self.split.name, &**dataset, index, error)?;
                }
                let indices = loaded.indices();
                if indices.is_empty() {
                    return Ok(Some(None));
                }
                let mut activation = loaded.collate(run.job.device)?;
                run.timings.add("load", start, indices.len());
                if let Source::Computed(Some(frozen)) = &self.split.source {
                    let start = Instant::now();
                    activation = frozen.run(&activation)?;
                    run.timings.add("extract", start, indices.len());
                }
                return Ok(Some(Some(Input { activation, targets: targets(&indices), indices })));
            }
        };
        run.timings.add("load", start, indices.len());
        Ok(Some(Some(Input { activation, targets: targets(&indices), indices })))
    }
}

impl Run<'_> {
    /// The renderings that a phase of descent trains on.
    pub(super) fn views(&self, phase: &Train) -> Vec<ViewSeed> {
        let seed = self.job.seed.named("view");
        match phase.augment {
            true => (0..phase.views.max(1)).map(|view| ViewSeed::Random(seed.child(view as u64))).collect(),
            false => vec![ViewSeed::Plain],
        }
    }

    /// Boundaries before `boundary` that later phases start from with the same views, ascending; nothing before them
    /// learns until then.
    fn later_boundaries(&self, boundary: usize, train: bool, views: &[ViewSeed]) -> Vec<usize> {
        let (mut floor, mut found) = (boundary, BTreeSet::new());
        for phase in self.job.plan.phases.iter().skip(self.position.phase + 1) {
            let next = phase.boundary(self.job.network.stages.len());
            if let Phase::Train(phase) = phase
                && (1..floor).contains(&next)
                && (!train || self.views(phase) == views)
            {
                found.insert(next);
            }
            floor = floor.min(next);
        }
        found.into_iter().collect()
    }

    /// Scores of the present parameters on `split`, whose first `boundary` stages lie behind it.
    pub(super) fn validate(&mut self, split: &Split, boundary: usize) -> Result<Metrics> {
        let job = self.job;
        let start = Instant::now();
        let loaded = self.timings.seconds("load") + self.timings.seconds("extract");
        let frozen = Frozen::compile(&self.stages_from(boundary), &self.params, job.device)?;
        let readable = split.readable();
        let chunks = readable.chunks(BATCH).map(<[usize]>::to_vec).collect();
        let mut batches = split.batches(chunks, 0, ViewSeed::Plain, job.threads);
        let (mut answers, mut done) = (Outputs::default(), 0);
        while let Some(input) = batches.next(self)? {
            if let Some(input) = input {
                let output = frozen.run(&input.activation)?;
                answers.logits.extend(crate::cache::host_values(&output.data)?);
                answers.samples.extend(input.indices);
            }
            done += BATCH;
            job.observer.progress("validate", done.min(readable.len()), readable.len());
        }
        let waited = self.timings.seconds("load") + self.timings.seconds("extract") - loaded;
        self.timings.add("validate", start, answers.samples.len());
        self.timings.deduct("validate", waited);
        let metrics = answers.metrics(job.task, &*split.dataset);
        self.judged = Some((metrics.clone(), answers));
        Ok(metrics)
    }
}
