//! Losses of tasks that ask something of each row: a label, or whether a passage begins or ends there.

use candle_core::Tensor;
use topwork_kernels::cross_entropy;

use super::{Seen, Term};
use crate::Result;

/// Mean over the labelled rows of a batch of the cross-entropy of their logits.
pub struct RowLabels<'a> {
    output: usize,
    rows: Vec<u32>,
    labels: Vec<u32>,
    class_weights: Option<&'a [f32]>,
    label_smoothing: f64,
}

/// Mean over samples of ½ (cross-entropy of the first row + that of the last one), each over the rows of the sample (Devlin
/// et al. 2019, section 4.2).
pub struct SpanEnds {
    output: usize,
    /// First and last row of each sample, in it.
    ends: Vec<[u32; 2]>,
}

impl<'a> RowLabels<'a> {
    /// Of output number `output`, `[rows, labels]`; `numbers` has a label for each row, below 0 where there is none.
    pub fn of(output: usize, numbers: &[f32], class_weights: Option<&'a [f32]>, label_smoothing: f64) -> Self {
        let labelled = (0..).zip(numbers).filter(|(_, label)| **label >= 0.0);
        let (rows, labels) = labelled.map(|(row, &label)| (row, label as u32)).unzip();
        Self { output, rows, labels, class_weights, label_smoothing }
    }
}

impl SpanEnds {
    /// Of output number `output`, `[rows, 2]`; `numbers` has the first and the last row of each sample.
    pub fn of(output: usize, numbers: &[f32]) -> Self {
        Self { output, ends: numbers.chunks_exact(2).map(|ends| [ends[0] as u32, ends[1] as u32]).collect() }
    }
}

impl Term for RowLabels<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn mass(&self, _targets: &[u32]) -> f64 {
        let weight = |&label: &u32| self.class_weights.map_or(1.0, |weights| f64::from(weights[label as usize]));
        self.labels.iter().map(weight).sum()
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let logits = seen.output(self.output)?;
        if self.rows.is_empty() {
            return Ok((logits.sum_all()? * 0.0)?);
        }
        let device = logits.device();
        let logits = logits.index_select(&Tensor::new(self.rows.as_slice(), device)?, 0)?;
        let labels = Tensor::new(self.labels.as_slice(), device)?;
        Ok(cross_entropy(&logits, &labels, self.class_weights, self.label_smoothing)?)
    }
}

impl Term for SpanEnds {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let logits = seen.output(self.output)?;
        let (total, device) = (logits.dims()[0], logits.device());
        let lengths = match seen.rows(self.output)? {
            crate::data::Rows::Each(lengths) => lengths.to_vec(),
            crate::data::Rows::One => vec![1; total],
        };
        // Side by side, filled up with a row that has no part in a softmax.
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut index = Vec::with_capacity(lengths.len() * longest);
        let mut first = 0;
        for &length in &lengths {
            index.extend((0..longest).map(|i| if i < length { (first + i) as u32 } else { total as u32 }));
            first += length;
        }
        let filling = Tensor::full(-1e9f32, (1, 2), device)?.to_dtype(logits.dtype())?;
        let padded = Tensor::cat(&[logits, &filling], 0)?.index_select(&Tensor::new(index, device)?, 0)?;
        let padded = padded.reshape((lengths.len(), longest, 2))?.transpose(1, 2)?.contiguous()?;
        let ends: Vec<u32> = self.ends.iter().flatten().copied().collect();
        let logits = padded.reshape((2 * lengths.len(), longest))?;
        Ok(cross_entropy(&logits, &Tensor::new(ends, device)?, None, 0.0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::data::{Activation, Rows};
    use crate::net::Params;

    /// The value of a term of rows of two outputs, in samples of these lengths.
    fn value(term: &dyn Term, logits: &[[f32; 2]; 5], lengths: &[usize]) -> f32 {
        let data = Tensor::new(logits, &Device::Cpu).unwrap();
        let outputs = BTreeMap::from([(3, Activation { data, rows: Rows::Each(Arc::new(lengths.to_vec())) })]);
        let (reference, params) = (BTreeMap::new(), Params::default());
        let seen = Seen { outputs: &outputs, reference: &reference, params: &params, targets: &[] };
        term.loss(&seen).unwrap().to_scalar().unwrap()
    }

    const LOGITS: [[f32; 2]; 5] = [[0.5, 1.0], [2.0, -1.0], [0.0, 0.0], [1.0, 3.0], [-1.0, 0.5]];

    #[test]
    fn rows_without_a_label_have_no_part_in_the_loss() {
        let cross = |row: usize, label: usize| {
            let [a, b] = LOGITS[row];
            (a.exp() + b.exp()).ln() - LOGITS[row][label]
        };
        let term = RowLabels::of(3, &[-2.0, 1.0, -1.0, 0.0, -1.0], None, 0.0);
        let expected = (cross(1, 1) + cross(3, 0)) / 2.0;
        assert!((value(&term, &LOGITS, &[3, 2]) - expected).abs() < 1e-6);
        assert_eq!(value(&RowLabels::of(3, &[-1.0; 5], None, 0.0), &LOGITS, &[3, 2]), 0.0);
    }

    #[test]
    fn the_ends_of_a_passage_are_told_among_the_rows_of_their_sample() {
        let cross = |rows: std::ops::Range<usize>, side: usize, target: usize| {
            let sum: f32 = LOGITS[rows.clone()].iter().map(|row| row[side].exp()).sum();
            sum.ln() - LOGITS[rows.start + target][side]
        };
        let term = SpanEnds::of(3, &[1.0, 2.0, 0.0, 1.0]);
        let expected = (cross(0..3, 0, 1) + cross(0..3, 1, 2) + cross(3..5, 0, 0) + cross(3..5, 1, 1)) / 4.0;
        assert!((value(&term, &LOGITS, &[3, 2]) - expected).abs() < 1e-6);
    }
}
