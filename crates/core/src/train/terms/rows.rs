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
