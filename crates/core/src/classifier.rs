//! A trained model in use: load a folder, predict.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::calibration::Calibration;
use crate::data::{Activation, Dataset, Sample, View};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::embedder::scale_to_one;
use crate::loader::{Faults, Loader, Request};
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::net::grad_cam::GradCam;
use crate::observe::Observer;
use crate::outputs::Outputs;
use crate::prefetch;
use crate::task::{Kind, Task};
use crate::{Error, Result, adapter};

/// A classifier of domain `D`, ready to use; cheap to share between threads.
///
/// ```
/// # #[path = "../examples/signals.rs"] mod signals;
/// # use signals::{DataArgs, Signals, generate};
/// # use topwork_core::{fit::Fit, observe::Silent};
/// use topwork_core::classifier::Classifier;
///
/// # fn main() -> topwork_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let (table, run) = (folder.path().join("signals.csv"), folder.path().join("run"));
/// # std::fs::write(&table, generate(&[0.05, 0.2], 0.3, 10, 0)).unwrap();
/// # let data = DataArgs { train: Some(table), ..DataArgs::default() };
/// # Fit::<Signals>::new(data).strategy("from-scratch").out(&run).run(&Silent)?;
/// let classifier = Classifier::<Signals>::load(&run)?;
/// assert_eq!(classifier.classes(), ["rings at 0.05", "rings at 0.2"]);
///
/// let signal: Vec<f32> = (0..128).map(|t| (0.2 * 6.28 * t as f32).sin()).collect();
/// let predictions = classifier.predict(&[signal.as_slice()])?;
/// let sum: f32 = predictions[0].guesses.iter().map(|guess| guess.probability).sum();
/// assert!((sum - 1.0).abs() < 1e-5);
/// assert_eq!(classifier.embed(&[signal.as_slice()])?[0].len(), 64);
/// # Ok(())
/// # }
/// ```
pub struct Classifier<D: Domain> {
    model: Opened<D::Pipeline>,
    task: Task,
    backbone: Frozen,
    head: Frozen,
    device: Device,
    /// What logits are divided by before probabilities are made of them.
    temperature: f64,
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
        let temperature = Calibration::temperature(&folder)?;
        Ok(Self::of(adapter::open_folder::<D>(&folder, None)?, place, &folder)?.at(temperature))
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
        Ok(Self { model, task, backbone, head, device, temperature: 1.0 })
    }

    /// The same with probabilities at a temperature: [`crate::calibration`].
    pub fn at(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// The same, predicting on the views of `args`.
    pub fn viewed(mut self, args: &D::ViewArgs) -> Self {
        self.model.pipeline = D::viewed(self.model.pipeline, args);
        self
    }

    /// The temperature of its probabilities.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// What logits say: of classes their probabilities at the model's temperature, else as [`Task::answer`].
    pub fn answer(&self, logits: &[f32]) -> Vec<f32> {
        if !self.task.is_classes() || self.temperature == 1.0 {
            return self.task.answer(logits);
        }
        let scaled: Vec<f32> = logits.iter().map(|&z| (f64::from(z) / self.temperature) as f32).collect();
        self.task.answer(&scaled)
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

    /// Refuses a model that tells something of each row, or nothing.
    fn whole_samples(&self) -> Result<()> {
        let kind = self.task.kind;
        match kind {
            _ if kind.of_samples() => Ok(()),
            Kind::Matches => {
                let reason = format!("it has no answer to a {}, only a place for it", D::ITEM.0);
                Err(Error::input("the model", reason, "use `embed`"))
            }
            _ => {
                let reason = format!("it tells {kind}, not something of a whole {}", D::ITEM.0);
                Err(Error::input("the model", reason, "use its logits, or what its domain has for this task"))
            }
        }
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
        self.outputs(&self.features(samples)?, samples)
    }

    /// The pooled features of each input: `[features]` numbers, scaled to length 1 where the library that the model
    /// comes from does so.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    pub fn embed<I: AsRef<D::Input>>(&self, inputs: &[I]) -> Result<Vec<Vec<f32>>> {
        if self.task.kind.of_rows() {
            self.whole_samples()?;
        }
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

    /// Outputs for all samples of `data` that can be read; the others are noted in `faults` as of `split`. `each` is shown the
    /// pooled features of each batch, `[samples, width]`.
    ///
    /// # Errors
    /// When too many samples cannot be read, none can, or `each` fails.
    pub fn judge(
        &self,
        data: &Arc<dyn Dataset>,
        split: &str,
        faults: &mut Faults,
        observer: &dyn Observer,
        mut each: impl FnMut(&Tensor) -> Result<()>,
    ) -> Result<Outputs> {
        let request = |index| Request { index, view: View::Plain };
        let indices: Vec<usize> = (0..data.len()).collect();
        let batches = indices.chunks(BATCH).map(|chunk| chunk.iter().copied().map(request).collect()).collect();
        let threads = prefetch::threads();
        let mut answers = Outputs::default();
        for mut loaded in Loader::new(data.clone(), batches, threads) {
            for (index, error) in loaded.failed.drain(..) {
                faults.note(split, &**data, index, error)?;
            }
            let (indices, samples): (Vec<usize>, Vec<Sample>) = loaded.samples.into_iter().unzip();
            if !samples.is_empty() {
                let features = self.features(&samples)?;
                each(&features.data)?;
                answers.logits.extend(self.outputs(&features, &samples)?);
                answers.samples.extend(indices);
            }
            observer.progress("evaluate", answers.samples.len(), data.len());
        }
        if answers.samples.is_empty() {
            return Err(Error::input(format!("the {split} data"), "none of it could be read", "check the files"));
        }
        Ok(answers)
    }

    /// What looks for the places in photos that speak for a class, in the maps of `stage`: see [`GradCam::new`].
    ///
    /// # Errors
    /// As there.
    pub fn grad_cam(&self, stage: Option<&str>) -> Result<GradCam> {
        let (network, place) = (&self.model.network, Place { device: self.device.clone(), ..Place::default() });
        let (params, _) = model::fit(network, &self.model.weights, Head::Keep, &place, &network.name)?;
        GradCam::new(network, params, &place, stage)
    }

    /// The head's outputs for the features of `samples`; of one in several views, those that say the mean of what is said of
    /// each.
    fn outputs(&self, features: &Activation, samples: &[Sample]) -> Result<Vec<f32>> {
        let logits = self.head.run(features)?.data.flatten_all()?.to_vec1::<f32>()?;
        let each = self.task.len();
        if logits.len() == each * samples.len() || !self.task.kind.of_samples() {
            return Ok(logits);
        }
        let mut rest = logits.as_slice();
        let mut together = Vec::with_capacity(each * samples.len());
        for sample in samples {
            let (views, after) = rest.split_at_checked(each * sample.rows).ok_or_else(|| {
                Error::Tensor(candle_core::Error::Msg(format!("{} outputs for {} views", rest.len(), sample.rows)))
            })?;
            together.extend(mean(&self.task, views));
            rest = after;
        }
        Ok(together)
    }

    /// A batch as the network takes it.
    ///
    /// # Errors
    /// When the samples differ in shape, or the device is out of memory.
    pub fn batch(&self, samples: &[Sample]) -> Result<Activation> {
        Activation::collate(samples, &self.device)
    }

    fn features(&self, samples: &[Sample]) -> Result<Activation> {
        self.backbone.run(&self.batch(samples)?)
    }

    fn prediction(&self, logits: &[f32]) -> Prediction {
        let answer = self.answer(logits);
        if self.task.kind == Kind::Values {
            let named = self.task.iter().cloned().zip(answer);
            return Prediction {
                guesses: Vec::new(),
                values: named.map(|(name, value)| Value { name, value }).collect(),
            };
        }
        // By the outputs: no temperature changes their order, not even where probabilities round to the same.
        let mut order: Vec<usize> = (0..answer.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let guess = |i: usize| Guess { label: self.task[i].clone(), probability: answer[i] };
        Prediction { guesses: order.into_iter().map(guess).collect(), values: Vec::new() }
    }
}

/// The outputs that say the mean of what the outputs of several views, `[views × outputs]`, say.
fn mean(task: &Task, views: &[f32]) -> Vec<f32> {
    let mut mean = vec![0f64; task.len()];
    let count = (views.len() / task.len().max(1)) as f64;
    for view in views.chunks_exact(task.len().max(1)) {
        mean.iter_mut().zip(task.answer(view)).for_each(|(sum, share)| *sum += f64::from(share) / count);
    }
    // Where a probability is too small to be told from 0, its logarithm is not needed either.
    let log = |share: f64| share.max(1e-30).ln();
    let output = |share: f64| match task.kind {
        Kind::Classes | Kind::Tokens => log(share),
        Kind::Labels => log(share) - log(1.0 - share),
        Kind::Values | Kind::Spans | Kind::Matches => share,
    };
    mean.into_iter().map(|share| output(share) as f32).collect()
}

/// Samples that go through the network together.
pub(crate) const BATCH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_views_say_the_mean_of_what_each_says() {
        for kind in Kind::ALL {
            let task = Task { kind, outputs: vec!["a".into(), "b".into()] };
            let views = [3.0, -1.0, 0.5, 0.25];
            let said = task.answer(&mean(&task, &views));
            let each = [task.answer(&views[..2]), task.answer(&views[2..])];
            for (i, said) in said.iter().enumerate() {
                assert!((said - (each[0][i] + each[1][i]) / 2.0).abs() < 1e-6, "{kind}: {said}");
            }
        }
    }
}
