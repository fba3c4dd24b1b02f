//! How much a solved head misses each channel of a stage: the attention of DELTA (Li et al. 2019, equation 6).

use candle_core::Tensor;

use super::Run;
use super::feed::{Fixed, Split};
use super::logistic::Problem;
use crate::Result;
use crate::cache::{ViewSeed, host_values};
use crate::data::Targets;
use crate::data::{Activation, View};
use crate::loader::{Loader, Request};
use crate::metrics::Metrics;
use crate::net::Stage;
use crate::net::frozen::Frozen;

/// Samples on which channels are judged, alternating between the classes.
const SAMPLES: usize = 32;
/// Divides the standardized rises before the softmax, as the authors' code does, lest one channel take all.
const TEMPERATURE: f64 = 5.0;
const BATCH: usize = 256;

/// Softmax of the standardized rises of the loss.
pub(super) fn attention(rises: &[f64]) -> Vec<f32> {
    let n = rises.len().max(1) as f64;
    let mean = rises.iter().sum::<f64>() / n;
    let deviation = (rises.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt();
    let scale = if deviation > 0.0 { 1.0 / (deviation * TEMPERATURE) } else { 0.0 };
    let powers: Vec<f64> = rises.iter().map(|r| ((r - mean) * scale).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}

impl Run<'_> {
    /// The attention of every channel that comes out of the stages number `stages`, at the start's parameters.
    pub(super) fn channel_attention(&mut self, stages: &[usize]) -> Result<Vec<Vec<f32>>> {
        let job = self.job;
        let all: Vec<&Stage> = job.network.stages.iter().collect();
        let start = self.start.clone();
        let fixed = Fixed { stages: &all, params: &start, dataset: job.train.clone(), fingerprint: job.fingerprint };
        let split = Split::of(self, "training", &fixed, vec![ViewSeed::Plain], true)?;
        let head = self.probe(&split)?;
        let judged = self.some_of_each_class(&split.readable());
        let request = |&index: &usize| Request { index, view: View::Plain };
        let loader = Loader::new(job.train.clone(), vec![judged.iter().map(request).collect()], job.threads);
        let mut found = Vec::new();
        for loaded in loader {
            let targets: Vec<u32> = loaded.indices().into_iter().map(|i| job.train.target(i)).collect();
            let mut activation = loaded.collate(job.device)?;
            let mut from = 0;
            for (done, &stage) in stages.iter().enumerate() {
                activation = Frozen::compile(&all[from..=stage], &start, job.device)?.run(&activation)?;
                from = stage + 1;
                let rest = Frozen::compile(&all[from..], &start, job.device)?;
                let rises = self.rises(&activation, &rest, &head, &targets, (done, stages.len()))?;
                found.push(attention(&rises));
            }
        }
        Ok(found)
    }

    /// The rise of the loss without each channel of `activation`.
    fn rises(
        &self,
        activation: &Activation,
        rest: &Frozen,
        head: &(Tensor, Tensor),
        targets: &[u32],
        (done, of): (usize, usize),
    ) -> Result<Vec<f64>> {
        let loss = |activation: &Activation| -> Result<f64> {
            let features = rest.run(activation)?.data;
            let logits = host_values(&topwork_kernels::linear(&features, &head.0, Some(&head.1))?)?;
            Ok(Metrics::of(self.job.task, &Targets { classes: targets.to_vec(), numbers: vec![] }, &logits).loss)
        };
        let values = host_values(&activation.data)?;
        let channels = activation.data.dims().last().copied().unwrap_or(1);
        let whole = loss(activation)?;
        (0..channels)
            .map(|channel| {
                let mut without = values.clone();
                without.iter_mut().skip(channel).step_by(channels).for_each(|v| *v = 0.0);
                let data = Tensor::from_vec(without, activation.data.shape(), self.job.device)?;
                self.job.observer.progress("attention", done * channels + channel + 1, of * channels);
                Ok(loss(&Activation { data, rows: activation.rows.clone() })? - whole)
            })
            .collect()
    }

    /// A head solved on the features of `split`.
    fn probe(&self, split: &Split) -> Result<(Tensor, Tensor)> {
        let (width, classes) = (self.job.network.features(), self.job.task.len());
        let (readable, mut rows) = (split.readable(), Vec::new());
        for chunk in readable.chunks(BATCH) {
            if let Some(features) = split.kept() {
                rows.extend(host_values(&features.batch(0, chunk, self.job.device)?.data)?);
            }
        }
        let targets: Vec<u32> = readable.iter().map(|&i| self.job.train.target(i)).collect();
        let weights = vec![1.0; targets.len()];
        let problem =
            Problem { rows: &rows, width, targets: &targets, classes, weights: &weights, l2: 1.0, smoothing: 0.0 };
        let fit = problem.fit(|_| ());
        let tensor = |values: Vec<f64>, shape: &[usize]| -> Result<Tensor> {
            let single: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Ok(Tensor::from_vec(single, shape, self.job.device)?)
        };
        Ok((tensor(fit.weight, &[classes, width])?, tensor(fit.bias, &[classes])?))
    }

    /// The first samples of each class, in turn.
    fn some_of_each_class(&self, readable: &[usize]) -> Vec<usize> {
        let mut seen = vec![0usize; self.job.task.len()];
        let mut ranked: Vec<(usize, usize)> = readable
            .iter()
            .map(|&i| {
                let count = &mut seen[self.job.train.target(i) as usize];
                *count += 1;
                (*count, i)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().take(SAMPLES).map(|(_, i)| i).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::attention;

    #[test]
    fn attention_sums_to_one_and_follows_the_rise() {
        let found = attention(&[0.1, 0.5, -0.2, 0.1]);
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(found[1] > found[0] && found[0] > found[2] && found[0] == found[3], "{found:?}");
        assert_eq!(attention(&[0.3; 4]), [0.25; 4]);
    }
}
