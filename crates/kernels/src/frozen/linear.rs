//! A linear layer, or a 1 × 1 convolution, with activation and residual.

use super::Precision;
use super::panels::{Panels, Rows};
use crate::act::Act;
use crate::cpu::Shared;
use rayon::prelude::*;

/// y = act(x Wᵀ + b + residual), with the weight laid out for this processor.
#[derive(Debug, Clone)]
pub struct PackedLinear(pub(super) Panels);

impl PackedLinear {
    /// Packs a weight `[outputs, inputs]` and a bias `[outputs]`.
    ///
    /// # Panics
    /// When the slices do not have these lengths, or `precision` is not available.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize, precision: Precision) -> Self {
        assert_eq!(weight.len(), inputs * outputs, "a weight of {outputs} x {inputs}");
        assert!(bias.is_none_or(|b| b.len() == outputs), "a bias of {outputs}");
        Self(Panels::new(inputs, outputs, bias, precision, |k, column| weight[column * inputs + k]))
    }

    /// Width of the input's rows.
    pub fn inputs(&self) -> usize {
        self.0.inputs()
    }

    /// Width of the output's rows.
    pub fn outputs(&self) -> usize {
        self.0.format.outputs
    }

    /// Computes `rows` rows: `x` `[rows, inputs]`, `residual` and `out` `[rows, outputs]`.
    ///
    /// # Panics
    /// When the slices are shorter than that.
    pub fn run(&self, x: &[f32], rows: usize, act: Option<Act>, residual: Option<&[f32]>, out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let (x, out) = (&x[..rows * inputs], &mut out[..rows * outputs]);
        let residual = residual.map(|r| &r[..rows * outputs]);
        let block = self.0.format.block();
        let tasks = rows.div_ceil(block);
        // Few rows: the panels are shared out as well.
        let groups = if tasks < 8 && rows * inputs * outputs > 1 << 20 { self.0.format.panels().min(8) } else { 1 };
        let shared = Shared::new(out);
        let work = |task: usize| {
            let (first, group) = (task / groups * block, task % groups);
            let count = block.min(rows - first);
            let panels = self.0.format.panels() * group / groups..self.0.format.panels() * (group + 1) / groups;
            let part = Rows {
                x: &x[first * inputs..(first + count) * inputs],
                x_stride: inputs,
                x_step: 1,
                residual: residual.map(|r| &r[first * outputs..]),
                out_stride: outputs,
            };
            // SAFETY: these rows exist, and these columns of them belong to this task alone.
            unsafe { self.0.rows(count, part, act, shared.at(first * outputs, count * outputs), panels) };
        };
        match tasks * groups {
            0 => {}
            1 => work(0),
            count => (0..count).into_par_iter().for_each(work),
        }
    }
}
