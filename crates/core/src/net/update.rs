//! Learned changes of a weight that itself stays as it is: a low-rank term (LoRA) or a factor for each channel ((IA)³).
//!
//! Names and shapes are those of the Python library peft: `lora_A.weight`, `lora_B.weight`, `ia3_l` behind the layer's
//! own name. Every update can be merged: there is a weight that computes the same alone.

use serde::{Deserialize, Serialize};
use topwork_kernels::passes::linear_input_gradient as product;

use super::params::Init;
use super::{Conv, Linear, ParamSpec, Params, Role, Window};
use crate::{Error, Result};

/// A learned change of a linear layer or convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// A term of low rank beside the weight.
    LowRank(LowRank),
    /// `l ⊙ x` in front of the layer or `l ⊙ y` behind it, bias included (Liu et al. 2022, (IA)³). Starts at ones.
    Rescale(Side),
}

/// `y = W x + b + (alpha / rank) · B A dropout(x)` (Hu et al. 2022, LoRA, eq. 3). `A` has the layer's own shape with
/// `rank` outputs and starts uniform within ± 1 / √fan-in; `B` maps them to the layer's outputs and starts at zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRank {
    /// Outputs of `A`.
    pub rank: usize,
    /// Weight of the term, times the rank.
    pub alpha: f64,
    /// Dropout in front of `A`, in training.
    pub dropout: f32,
}

/// Where a layer is rescaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// In front of it.
    Inputs,
    /// Behind it.
    Outputs,
}

impl LowRank {
    /// Factor of the term.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// `A` and `B` beside a linear layer.
    pub(super) fn beside_linear(&self, l: &Linear) -> [Linear; 2] {
        let part = |name: &str, inputs, outputs| {
            let name = format!("{}.{name}", l.name);
            Linear { name, inputs, outputs, bias: false, update: None }
        };
        [part("lora_A", l.inputs, self.rank), part("lora_B", self.rank, l.outputs)]
    }

    /// `A` and `B` beside a convolution.
    pub(super) fn beside_conv(&self, c: &Conv) -> [Conv; 2] {
        let part = |name: &str, inputs, outputs, window| {
            let name = format!("{}.{name}", c.name);
            Conv { name, inputs, outputs, window, groups: 1, bias: false, update: None }
        };
        [part("lora_A", c.inputs, self.rank, c.window), part("lora_B", self.rank, c.outputs, Window::square(1, 1))]
    }
}

/// What has a weight that can be updated.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weighted<'l> {
    Linear(&'l Linear),
    Conv(&'l Conv),
}

impl<'l> Weighted<'l> {
    pub fn name(self) -> &'l str {
        match self {
            Self::Linear(l) => &l.name,
            Self::Conv(c) => &c.name,
        }
    }

    pub fn update(self) -> Option<Update> {
        match self {
            Self::Linear(l) => l.update,
            Self::Conv(c) => c.update,
        }
    }

    fn bias(self) -> bool {
        match self {
            Self::Linear(l) => l.bias,
            Self::Conv(c) => c.bias,
        }
    }

    pub fn channels(self, side: Side) -> usize {
        match (self, side) {
            (Self::Linear(l), Side::Inputs) => l.inputs,
            (Self::Linear(l), Side::Outputs) => l.outputs,
            (Self::Conv(c), Side::Inputs) => c.inputs,
            (Self::Conv(c), Side::Outputs) => c.outputs,
        }
    }

    /// Groups, and the taps of one channel.
    fn geometry(self) -> (usize, usize) {
        match self {
            Self::Linear(_) => (1, 1),
            Self::Conv(c) => (c.groups, c.window.kernel[0] * c.window.kernel[1]),
        }
    }

    /// The parameters of the update.
    pub fn update_params(self, out: &mut Vec<ParamSpec>) {
        let mut add = |name: &str, shape: Vec<usize>, init| {
            out.push(ParamSpec { name: format!("{}.{name}", self.name()), shape, role: Role::Adapter, init });
        };
        match (self.update(), self) {
            (None, _) => {}
            (Some(Update::LowRank(low)), _) => {
                let (inputs, outputs) = (self.channels(Side::Inputs), self.channels(Side::Outputs));
                // Kaiming's uniform initialization with a = √5, as peft has it.
                let bound = 1.0 / ((inputs * self.geometry().1) as f64).sqrt();
                let (mut a, mut b) = (vec![low.rank, inputs], vec![outputs, low.rank]);
                if let Self::Conv(c) = self {
                    a.extend(c.window.kernel);
                    b.extend([1, 1]);
                }
                add("lora_A.weight", a, Init::Uniform(bound));
                add("lora_B.weight", b, Init::Constant(0.0));
            }
            (Some(Update::Rescale(side)), layer) => {
                let channels = layer.channels(side);
                let shape = match (layer, side) {
                    (Self::Linear(_), Side::Inputs) => vec![1, channels],
                    (Self::Linear(_), Side::Outputs) => vec![channels, 1],
                    (Self::Conv(_), _) => vec![1, channels, 1, 1],
                };
                add("ia3_l", shape, Init::Constant(1.0));
            }
        }
    }

    /// The weight and bias that compute the same without the update.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn merged(self, params: &Params) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let values = |name: &str| -> Result<Vec<f32>> {
            Ok(params.get(&format!("{}.{name}", self.name()))?.flatten_all()?.to_vec1::<f32>()?)
        };
        let mut weight = values("weight")?;
        let mut bias = if self.bias() { Some(values("bias")?) } else { None };
        let (inputs, outputs) = (self.channels(Side::Inputs), self.channels(Side::Outputs));
        let (groups, taps) = self.geometry();
        let row = inputs / groups * taps;
        let misfit = || Error::Tensor(candle_core::Error::Msg(format!("{} has another shape", self.name())));
        if weight.len() != outputs * row {
            return Err(misfit());
        }
        match self.update() {
            None => {}
            Some(Update::LowRank(low)) => {
                let (a, b) = (values("lora_A.weight")?, values("lora_B.weight")?);
                if a.len() != low.rank * row || b.len() != outputs * low.rank {
                    return Err(misfit());
                }
                let change = product(&a, &b, row, low.rank);
                let scale = low.scale() as f32;
                weight.iter_mut().zip(&change).for_each(|(w, c)| *w += scale * c);
            }
            Some(Update::Rescale(side)) => {
                let factors = values("ia3_l")?;
                if factors.len() != self.channels(side) {
                    return Err(misfit());
                }
                let of_group = inputs / groups;
                for (output, w) in weight.chunks_exact_mut(row).enumerate() {
                    let group = output / (outputs / groups);
                    for (input, w) in w.chunks_exact_mut(taps).enumerate() {
                        let factor = match side {
                            Side::Inputs => factors[group * of_group + input],
                            Side::Outputs => factors[output],
                        };
                        w.iter_mut().for_each(|w| *w *= factor);
                    }
                }
                if let (Side::Outputs, Some(bias)) = (side, &mut bias) {
                    bias.iter_mut().zip(&factors).for_each(|(b, f)| *b *= f);
                }
            }
        }
        Ok((weight, bias))
    }

    /// Multiply-adds of the update at `positions` outputs.
    pub fn update_multiply_adds(self, positions: usize) -> u64 {
        match self.update() {
            Some(Update::LowRank(low)) => {
                let a = self.channels(Side::Inputs) * self.geometry().1;
                (positions * low.rank * (a + self.channels(Side::Outputs))) as u64
            }
            Some(Update::Rescale(_)) | None => 0,
        }
    }
}
