//! A backbone in use: any model folder or pre-trained model, photos or sentences to vectors.

use candle_core::Device;

use crate::classifier::BATCH;
use crate::data::{Activation, Sample};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::fit;
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::observe::Observer;
use crate::seed::Seed;
use crate::{Error, Result};

/// The backbone of a model of domain `D`, ready to use; cheap to share between threads.
pub struct Embedder<D: Domain> {
    pipeline: D::Pipeline,
    backbone: Frozen,
    normalizes: bool,
    device: Device,
}

impl<D: Domain> Embedder<D> {
    /// Opens `model`: a run directory, a model folder, or the name of a pre-trained model, fetched if need be. Vectors
    /// are scaled to length 1 where the upstream library does so.
    ///
    /// # Errors
    /// When there is no such model, no source has it, or the device is out of memory.
    pub fn load(model: &str, offline: bool, place: Place, observer: &dyn Observer) -> Result<Self> {
        Self::new(fit::open_any::<D>(model, offline, observer)?, place, model)
    }

    /// The backbone of a model that is open already; `subject` is what to call it in errors.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape, or the device is out of memory.
    pub fn new(model: Opened<D::Pipeline>, place: Place, subject: &str) -> Result<Self> {
        if let Some(kind) = model.task.as_ref().map(|task| task.kind).filter(|kind| kind.of_rows()) {
            let reason = format!("it tells {kind}, and has no vector of a whole {}", D::ITEM.0);
            return Err(Error::input(subject, reason, "name a backbone, or a model of whole samples"));
        }
        let (params, _) = model::fit(&model.network, &model.weights, Head::Fresh(Seed(0)), &place, subject)?;
        let stages: Vec<_> = model.network.stages.iter().collect();
        let backbone = Frozen::compile(&stages, &params, &place)?;
        let device = place.device;
        Ok(Self { normalizes: D::normalizes(&model.pipeline), pipeline: model.pipeline, backbone, device })
    }

    /// The same with every vector scaled to length 1, whatever the upstream library does.
    pub fn normalized(self) -> Self {
        Self { normalizes: true, ..self }
    }

    /// The preprocessing.
    pub fn pipeline(&self) -> &D::Pipeline {
        &self.pipeline
    }

    /// The vector of each input, `[features]` numbers: paths of photos, or texts.
    ///
    /// # Errors
    /// At the first input that cannot be read, naming it.
    pub fn embed<I: AsRef<D::Input>>(&self, inputs: &[I]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(inputs.len());
        for chunk in inputs.chunks(BATCH) {
            let samples: Vec<Sample> =
                chunk.iter().map(|input| D::sample(input.as_ref(), &self.pipeline)).collect::<Result<_>>()?;
            all.extend(self.embed_samples(&samples)?);
        }
        Ok(all)
    }

    /// The vectors of prepared samples, computed as one batch.
    ///
    /// # Errors
    /// When their shapes differ where they must not.
    pub fn embed_samples(&self, samples: &[Sample]) -> Result<Vec<Vec<f32>>> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let mut vectors = self.backbone.run(&Activation::collate(samples, &self.device)?)?.data.to_vec2::<f32>()?;
        if self.normalizes {
            vectors.iter_mut().for_each(|vector| scale_to_one(vector));
        }
        Ok(vectors)
    }
}

/// Scales a vector to Euclidean length 1; one of zeros stays.
pub(crate) fn scale_to_one(vector: &mut [f32]) {
    // PyTorch's bound in `functional.normalize`.
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|v| *v /= length);
}

#[cfg(test)]
mod tests {
    use super::scale_to_one;

    #[test]
    fn a_scaled_vector_keeps_its_direction_and_has_length_one() {
        let mut vector = [3.0, -4.0];
        scale_to_one(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut vector = [0.0; 3];
        scale_to_one(&mut vector);
        assert_eq!(vector, [0.0; 3]);
    }
}
