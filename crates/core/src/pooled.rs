//! Pooled features of labelled samples: what `rank` and `advise` judge a backbone by. One frozen pass, kept in the feature
//! cache, where a later `train` finds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::cache::{Cache, Extractor, ViewSeed, host_values};
use crate::data::{Activation, Budget, Dataset, Rows, Splits};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::fit;
use crate::folds;
use crate::loader::{Faults, Strictness};
use crate::machine::Machine;
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::net::{Network, Params, Stage};
use crate::observe::{Observer, Timings};
use crate::prefetch;
use crate::seed::Seed;
use crate::transferability::Source;
use crate::{Error, Result};

/// Opens models and reads samples through them.
pub(crate) struct Reader<'a, D: Domain> {
    pub data: &'a D::DataArgs,
    pub offline: bool,
    pub strict: bool,
    pub place: Place,
    pub cache: Cache,
    pub observer: &'a dyn Observer,
}

/// A model with its parameters.
pub(crate) struct Ready<D: Domain> {
    pub network: Network,
    pub params: Params,
    pub pipeline: D::Pipeline,
    /// All tensors of the checkpoint.
    pub weights: BTreeMap<String, Tensor>,
    /// Whether the head is that of the checkpoint.
    pub source: bool,
}

/// Features `[samples, width]` of the samples that could be read, row-major.
pub(crate) struct Pooled {
    pub values: Vec<f32>,
    pub width: usize,
    /// Which samples they are.
    pub samples: Vec<usize>,
}

impl<'a, D: Domain> Reader<'a, D> {
    pub(crate) fn new(
        data: &'a D::DataArgs,
        machine: &Machine,
        strict: bool,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let (place, cache) = (machine.place()?, machine.cache()?);
        Ok(Self { data, offline: machine.offline, strict, place, cache, observer })
    }

    pub(crate) fn open(&self, name: &str) -> Result<Ready<D>> {
        let Opened { network, weights, pipeline, .. } =
            D::configure(fit::open_any::<D>(name, self.offline, self.observer)?, self.data)?;
        let kept = |spec: &crate::net::ParamSpec| weights.get(&spec.name).is_some_and(|w| w.dims() == spec.shape);
        let source = network.head.params().iter().all(kept);
        let head = if source { Head::Keep } else { Head::Fresh(Seed(0)) };
        let (params, _) = model::fit(&network, &weights, head, &self.place, name)?;
        Ok(Ready { network, params, pipeline, weights, source })
    }

    /// The labelled data as this model takes them, within the budget.
    pub(crate) fn splits(&self, model: &Ready<D>, budget: Budget, seed: Seed) -> Result<Splits> {
        folds::arrange(D::splits(self.data, &model.pipeline, None, seed)?, None, None, budget, seed)
    }

    /// What the backbone of `network` makes of `samples` in one view.
    pub(crate) fn features(
        &self,
        network: &Network,
        params: &Params,
        fingerprint: &str,
        samples: &Arc<dyn Dataset>,
        view: ViewSeed,
    ) -> Result<Pooled> {
        let stages: Vec<&Stage> = network.stages.iter().collect();
        let extractor = Extractor {
            cache: &self.cache,
            stages: &stages,
            params,
            fingerprint,
            device: &self.place,
            threads: prefetch::threads(),
            observer: self.observer,
        };
        let mut faults = Faults::new(Strictness { strict: self.strict, ..Strictness::default() });
        let kept = extractor.features("training", samples, &[view], true, &mut faults, &mut Timings::default())?;
        let (mut values, mut readable) = (Vec::new(), Vec::new());
        if let Some(kept) = kept {
            readable.extend((0..samples.len()).filter(|&i| kept.has(i)));
            for &i in &readable {
                values.extend(host_values(&kept.batch(0, &[i], &self.place)?.data)?);
            }
        }
        for (name, reason) in faults.list() {
            self.observer.message(&format!("left out: {name}: {reason}"));
        }
        if readable.is_empty() {
            return Err(Error::input("the training samples", "none of them can be read", "check the files"));
        }
        Ok(Pooled { width: values.len() / readable.len(), values, samples: readable })
    }

    /// What the head of `network` says of features: `[samples, classes]`, row-major.
    pub(crate) fn logits(&self, network: &Network, params: &Params, features: &Pooled) -> Result<Vec<f32>> {
        let head = Frozen::compile(&[&network.head], params, &self.place)?;
        let (rows, width) = (features.samples.len(), features.width);
        let data = Tensor::from_vec(features.values.clone(), (rows, width), &self.place)?;
        host_values(&head.run(&Activation { data, rows: Rows::One })?.data)
    }

    /// What the head of the checkpoint says, where it has one.
    pub(crate) fn source(&self, model: &Ready<D>, features: &Pooled) -> Result<Option<Source>> {
        if !model.source {
            return Ok(None);
        }
        let logits = self.logits(&model.network, &model.params, features)?;
        Ok(Some(Source::of_logits(&logits, model.network.classes())))
    }
}
