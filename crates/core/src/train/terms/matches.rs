//! Couples that belong to each other: the match of a text is to be nearer to it than those of the others in the batch (Henderson
//! et al. 2017, section 4.4; the `MultipleNegativesRankingLoss` of sentence-transformers).

use candle_core::{D, Tensor};
use topwork_kernels::cross_entropy;

use super::{Seen, Term};
use crate::Result;

/// What cosines are multiplied by before the softmax, as sentence-transformers does.
pub(crate) const SCALE: f64 = 20.0;
/// The least length that a vector is divided by, as PyTorch's `normalize` has it.
const EPS: f64 = 1e-12;
/// What a score becomes that is not to count.
const NEVER: f32 = -1e9;

/// Mean over the couples (aᵢ, bᵢ) of a batch of the cross-entropy of the i-th of the scores 20 cos(aᵢ, bⱼ). A bⱼ that is the same
/// text as bᵢ, or whose aⱼ is the same as aᵢ, is no wrong answer and does not count: equal texts have equal classes.
pub struct InBatchNegatives {
    output: usize,
    /// Rows of both samples.
    couples: Vec<[u32; 2]>,
}

/// Where both samples of a couple are: neighbours with the same number.
pub(crate) fn couples(numbers: &[f32]) -> Vec<[u32; 2]> {
    let mut found = Vec::with_capacity(numbers.len() / 2);
    let mut row = 0;
    while row + 1 < numbers.len() {
        let both = numbers[row] == numbers[row + 1];
        if both {
            found.push([row as u32, row as u32 + 1]);
        }
        row += if both { 2 } else { 1 };
    }
    found
}

impl InBatchNegatives {
    /// Of output number `output`, `[samples, width]`; `numbers` has the couple of each sample.
    pub fn of(output: usize, numbers: &[f32]) -> Self {
        Self { output, couples: couples(numbers) }
    }
}

impl Term for InBatchNegatives {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let output = seen.output(self.output)?;
        if self.couples.is_empty() {
            return Ok((output.sum_all()? * 0.0)?);
        }
        let (device, count) = (output.device(), self.couples.len());
        let side = |side: usize| -> Result<Tensor> {
            let rows: Vec<u32> = self.couples.iter().map(|couple| couple[side]).collect();
            let rows = output.index_select(&Tensor::new(rows, device)?, 0)?;
            let lengths = (rows.sqr()?.sum_keepdim(D::Minus1)? + EPS * EPS)?.sqrt()?;
            Ok(rows.broadcast_div(&lengths)?)
        };
        let class = |couple: &[u32; 2], side: usize| seen.targets[couple[side] as usize];
        let mut never = vec![0f32; count * count];
        for (i, own) in self.couples.iter().enumerate() {
            for (j, other) in self.couples.iter().enumerate() {
                if i != j && (0..2).any(|side| class(own, side) == class(other, side)) {
                    never[i * count + j] = NEVER;
                }
            }
        }
        let scores = (side(0)?.matmul(&side(1)?.t()?.contiguous()?)? * SCALE)?;
        let scores = (scores + Tensor::from_vec(never, (count, count), device)?)?;
        let targets: Vec<u32> = (0..count as u32).collect();
        Ok(cross_entropy(&scores, &Tensor::new(targets, device)?, None, 0.0)?)
    }
}
