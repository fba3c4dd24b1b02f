//! A trained model in use: load a folder, predict.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde::Serialize;

use crate::data::{Activation, Sample};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::embedder::scale_to_one;
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::task::{Kind, Task};
use crate::{Error, Result, adapter};

/// A classifier of domain `D`, ready to use; cheap to share between threads.
pub struct Classifier<D: Domain> {
    model: Opened<D::Pipeline>,
    task: Task,
    backbone: Frozen,
    head: Frozen,
    device: Device,
}

/// A class or label with its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guess {
    /// The class's name.
    pub label: String,
    /// Between 0 and 1; those of all classes sum to 1, those of labels are independent.
    pub probability: f32,
}

/// A number that a model measures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f32,
}

/// What a model says of one sample: all classes or labels, most probable first, or values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Most probable first.
    pub guesses: Vec<Guess>,
    /// In the order of the outputs.
    pub values: Vec<Value>,
}

impl Prediction {
    /// The most probable class or label; empty of values.
    pub fn label(&self) -> &str {
        self.guesses.first().map_or("", |guess| &guess.label)
    }

    /// Its probability.
    pub fn probability(&self) -> f32 {
        self.guesses.first().map_or(f32::NAN, |guess| guess.probability)
    }
}

/// The folder of the model itself: `folder`, or its `model` if it is a run.
pub fn model_folder(folder: &Path) -> Result<Arc<Path>> {
    let inner = folder.join("model");
    if inner.join("config.json").is_file() {
        return Ok(inner.into());
    }
    if folder.join("run.toml").is_file() {
        return Err(Error::input(
            folder.display(),
            "this run has no finished model yet",
            "finish it with `train --resume`, or name another run",
        ));
    }
    if !folder.is_dir() {
        return Err(Error::input(folder.display(), "no such run or model folder", "name the --out folder of a run"));
    }
    Ok(folder.into())
}

impl<D: Domain> Classifier<D> {
    /// Opens a run directory or the `model/` in it, on the CPU.
    ///
    /// # Errors
    /// When the folder is not a finished model of this domain with a head.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        Self::load_on(folder, Place::default())
    }

    /// As [`Classifier::load`], elsewhere or in another precision.
    ///
    /// # Errors
    /// As there; and when the device is out of memory.
    pub fn load_on(folder: impl AsRef<Path>, place: Place) -> Result<Self> {
        let folder = model_folder(folder.as_ref())?;
        Self::of(adapter::open_folder::<D>(&folder, None)?, place, &folder)
    }

    /// A model that is open already; `folder` is what to call it in errors.
    ///
    /// # Errors
    /// When it has no head, or the device is out of memory.
    pub fn of(model: Opened<D::Pipeline>, place: Place, folder: &Path) -> Result<Self> {
        let task = model.task.clone().ok_or_else(|| {
            Error::input(
                folder.display(),
                "this model names no classes: it is a backbone",
                "train a classifier from it first",
            )
        })?;
        if task.len() != model.network.classes() {
            let reason = format!("{} names for {} outputs", task.len(), model.network.classes());
            return Err(Error::input(
                folder.join("config.json").display(),
                reason,
                "restore the folder as it was written",
            ));
        }
        let (params, _) =
            model::fit(&model.network, &model.weights, Head::Keep, &place, &folder.display().to_string())?;
        let stages: Vec<_> = model.network.stages.iter().collect();
        let backbone = Frozen::compile(&stages, &params, &place)?;
        let head = Frozen::compile(&[&model.network.head], &params, &place)?;
        let device = place.device;
        Ok(Self { model, task, backbone, head, device })
    }

    /// The names of classes, labels or values, in the order of the outputs.
    pub fn classes(&self) -> &[String] {
        &self.task
    }

    /// What the outputs are.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The preprocessing.
    pub fn pipeline(&self) -> &D::Pipeline {
        &self.model.pipeline
    }

    /// Predicts each input: paths of photos, or texts.
    ///
    /// # Errors
    /// At the first input that cannot be read, naming it.
    pub fn predict<I: AsRef<D::Input>>(&self, inputs: &[I]) -> Result<Vec<Prediction>> {
        let mut all = Vec::with_capacity(inputs.len());
        for chunk in inputs.chunks(BATCH) {
            let samples: Vec<Sample> =
                chunk.iter().map(|input| D::sample(input.as_ref(), &self.model.pipeline)).collect::<Result<_>>()?;
            all.extend(self.predict_samples(&samples)?);
        }
        Ok(all)
    }

    /// Predicts prepared samples as one batch.
    ///
    /// # Errors
    /// When their shapes differ where they must not, or the model tells something of each row.
    pub fn predict_samples(&self, samples: &[Sample]) -> Result<Vec<Prediction>> {
        self.whole_samples()?;
        let logits = self.logits(samples)?;
        Ok(logits.chunks_exact(self.task.len()).map(|row| self.prediction(row)).collect())
    }

    /// Refuses a model that tells something of each row.
    fn whole_samples(&self) -> Result<()> {
        let kind = self.task.kind;
        if !kind.of_rows() {
            return Ok(());
        }
        let reason = format!("it tells {kind}, not something of a whole {}", D::ITEM.0);
        Err(Error::input("the model", reason, "use its logits, or what its domain has for this task"))
    }

    /// The head's outputs before the softmax, `[samples × classes]`, row by row; where each row of a sample has outputs, those of
    /// all rows behind each other.
    ///
    /// # Errors
    /// As [`Classifier::predict_samples`].
    pub fn logits(&self, samples: &[Sample]) -> Result<Vec<f32>> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.head.run(&self.features(samples)?)?.data.flatten_all()?.to_vec1::<f32>()?)
    }

    /// The pooled features of each input: `[features]` numbers, scaled to length 1 where the library that the model
    /// comes from does so.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    pub fn embed<I: AsRef<D::Input>>(&self, inputs: &[I]) -> Result<Vec<Vec<f32>>> {
        self.whole_samples()?;
        let mut all = Vec::with_capacity(inputs.len());
        for chunk in inputs.chunks(BATCH) {
            let samples: Vec<Sample> =
                chunk.iter().map(|input| D::sample(input.as_ref(), &self.model.pipeline)).collect::<Result<_>>()?;
            all.extend(self.features(&samples)?.data.to_vec2::<f32>()?);
        }
        if D::normalizes(&self.model.pipeline) {
            all.iter_mut().for_each(|vector| scale_to_one(vector));
        }
        Ok(all)
    }

    fn features(&self, samples: &[Sample]) -> Result<Activation> {
        self.backbone.run(&Activation::collate(samples, &self.device)?)
    }

    fn prediction(&self, logits: &[f32]) -> Prediction {
        let named = self.task.iter().cloned().zip(self.task.answer(logits));
        if self.task.kind == Kind::Values {
            let values = named.map(|(name, value)| Value { name, value }).collect();
            return Prediction { guesses: Vec::new(), values };
        }
        let mut guesses: Vec<Guess> = named.map(|(label, probability)| Guess { label, probability }).collect();
        guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Prediction { guesses, values: Vec::new() }
    }
}

/// Samples that go through the network together.
pub(crate) const BATCH: usize = 16;
