//! A convolution of any kind, with activation and residual.

use super::panels::{Panels, Rows};
use super::{PackedLinear, Precision, limits};
use crate::act::{self, Act};
use crate::conv::{ConvSpec, Geometry, columns, depthwise, out_size, winograd};
use crate::cpu::{Shared, for_rows};
use rayon::prelude::*;
use std::sync::OnceLock;

/// y = act(x ∗ W + b + residual) on images `[b, h, w, c]`, with the weight laid out for this processor.
#[derive(Debug, Clone)]
pub struct PackedConv {
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    spec: ConvSpec,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// 1 × 1 in one group.
    Pointwise(PackedLinear),
    /// Weights `[kh · kw, c]`.
    Depthwise(Vec<f32>, Option<Vec<f32>>),
    /// Anything else: the size of the image decides how.
    General(General),
}

/// The checkpoint's weights, laid out for each way of computing when that is first used.
#[derive(Debug, Clone)]
struct General {
    weight: Vec<f32>,
    bias: Vec<f32>,
    precision: Precision,
    points: OnceLock<winograd::Weights>,
    /// A matrix for each group.
    panels: OnceLock<Vec<Panels>>,
}

/// What `cell` holds, made first where that is nothing. Two threads may make it at the same time: waiting for each other
/// in the middle of shared work could be forever.
fn ready<T>(cell: &OnceLock<T>, make: impl Fn() -> T) -> &T {
    loop {
        match cell.get() {
            Some(value) => return value,
            None => drop(cell.set(make())),
        }
    }
}

impl PackedConv {
    /// Packs a weight `[outputs, inputs / groups, kh, kw]` and a bias `[outputs]`. The paddings of `spec` are those that
    /// [`PackedConv::out_size`] and [`PackedConv::run`] use; see [`PackedConv::with_pads`].
    ///
    /// # Panics
    /// When the slices do not have these lengths, the groups do not divide the channels, or `precision` is not available.
    pub fn new(
        weight: &[f32],
        bias: Option<&[f32]>,
        inputs: usize,
        outputs: usize,
        kernel: [usize; 2],
        spec: &ConvSpec,
        precision: Precision,
    ) -> Self {
        let groups = spec.groups;
        assert!(groups > 0 && inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups), "{groups} groups");
        let (gi, taps) = (inputs / groups, kernel[0] * kernel[1]);
        assert_eq!(weight.len(), outputs * gi * taps, "a weight of {outputs} x {gi} x {kernel:?}");
        assert!(bias.is_none_or(|b| b.len() == outputs), "a bias of {outputs}");
        let kind = if groups == 1 && kernel == [1, 1] {
            Kind::Pointwise(PackedLinear::new(weight, bias, inputs, outputs, precision))
        } else if groups == inputs && outputs == inputs {
            Kind::Depthwise(depthwise::pack(weight, taps), bias.map(<[f32]>::to_vec))
        } else {
            Kind::General(General {
                weight: weight.to_vec(),
                bias: bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec),
                precision,
                points: OnceLock::new(),
                panels: OnceLock::new(),
            })
        };
        Self { inputs, outputs, kernel, spec: *spec, kind }
    }

    /// The same convolution with other paddings (top, bottom, left, right): "SAME" ones depend on the image's size.
    pub fn with_pads(mut self, pads: [usize; 4]) -> Self {
        self.set_pads(pads);
        self
    }

    /// [`PackedConv::with_pads`] in place.
    pub fn set_pads(&mut self, pads: [usize; 4]) {
        self.spec.pads = pads;
    }

    /// Input channels.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How often one image of `h` × `w` with these paddings uses each weight; `None` where there are hardly any weights.
    pub fn uses(&self, [h, w]: [usize; 2], pads: [usize; 4]) -> Option<usize> {
        let g = Geometry::new([1, h, w], self.inputs, self.outputs, self.kernel, ConvSpec { pads, ..self.spec });
        match self.kind {
            Kind::Depthwise(..) => None,
            Kind::General(_) if winograd::suits(&g) => Some(winograd::tiles_of(&g)),
            _ => Some(g.pixels()),
        }
    }

    /// Height and width of the output for an image of `h` × `w`; 0 where the window does not fit.
    pub fn out_size(&self, h: usize, w: usize) -> (usize, usize) {
        out_size(h, w, self.kernel, self.spec.stride, self.spec.pads, self.spec.dilation)
    }

    /// [`PackedConv::run_padded`] with the paddings of the specification.
    ///
    /// # Panics
    /// When the slices are too short.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        x: &[f32],
        b: usize,
        h: usize,
        w: usize,
        act: Option<Act>,
        residual: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        self.run_padded(x, [b, h, w], self.spec.pads, act, residual, out, scratch);
    }

    /// Convolves `b` images of `h` × `w`: `x` `[b, h, w, inputs]`, `residual` and `out` `[b, h', w', outputs]`, with these
    /// paddings (top, bottom, left, right). `scratch` grows to what is needed and can be used again.
    ///
    /// # Panics
    /// When the slices are too short.
    #[allow(clippy::too_many_arguments)]
    pub fn run_padded(
        &self,
        x: &[f32],
        [b, h, w]: [usize; 3],
        pads: [usize; 4],
        act: Option<Act>,
        residual: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let g = Geometry::new([b, h, w], self.inputs, self.outputs, self.kernel, ConvSpec { pads, ..self.spec });
        let len = g.pixels() * g.outputs;
        let (x, out) = (&x[..b * h * w * self.inputs], &mut out[..len]);
        let residual = residual.map(|r| &r[..len]);
        if out.is_empty() {
            return;
        }
        match &self.kind {
            Kind::Pointwise(linear) if g.pointwise() => linear.run(x, g.pixels(), act, residual, out),
            Kind::Pointwise(linear) => run_columns(&g, x, std::slice::from_ref(&linear.0), act, residual, out, scratch),
            Kind::Depthwise(weights, bias) => {
                let (limits, after) = limits(act);
                depthwise::forward_fused(&g, x, weights, bias.as_deref(), residual, limits, out);
                if let Some(act) = after {
                    for_rows(out, 1, |_, out| act::apply(act, out));
                }
            }
            Kind::General(general) if winograd::suits(&g) => {
                let weights = ready(&general.points, || {
                    winograd::Weights::new(&general.weight, g.inputs, g.outputs, g.kernel[0])
                });
                winograd::forward(&g, x, weights, &general.bias, act, residual, out);
            }
            Kind::General(general) => {
                let panels = ready(&general.panels, || general.pack(&g));
                run_columns(&g, x, panels, act, residual, out, scratch);
            }
        }
    }
}

impl General {
    fn pack(&self, g: &Geometry) -> Vec<Panels> {
        let (gi, go, taps) = (g.inputs / g.spec.groups, g.outputs / g.spec.groups, g.taps());
        let panels = |group: usize| {
            let at = |k: usize, o: usize| self.weight[((group * go + o) * gi + k % gi) * taps + k / gi];
            Panels::new(taps * gi, go, Some(&self.bias[group * go..(group + 1) * go]), self.precision, at)
        };
        (0..g.spec.groups).map(panels).collect()
    }
}

/// Gathers the windows of a block of pixels, multiplies, and goes on to the next.
fn run_columns(
    g: &Geometry,
    x: &[f32],
    groups: &[Panels],
    act: Option<Act>,
    residual: Option<&[f32]>,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (k, go, pixels) = (columns::depth(g), g.outputs / groups.len(), g.pixels());
    let block = columns::block(g).min(pixels);
    let tasks = pixels.div_ceil(block);
    // One buffer for each thread would do, but belongs to no task; as many as there can be tasks at once do as well.
    let buffers = tasks.min(4 * rayon::current_num_threads().max(1));
    if scratch.len() < buffers * block * k {
        scratch.resize(buffers * block * k, 0.0);
    }
    let shared = Shared::new(out);
    scratch[..buffers * block * k].par_chunks_exact_mut(block * k).enumerate().for_each(|(buffer, columns)| {
        for task in (buffer..tasks).step_by(buffers) {
            let first = task * block;
            let count = block.min(pixels - first);
            for (group, panels) in groups.iter().enumerate() {
                columns::gather(g, x, group, first, &mut columns[..count * k]);
                let rows = Rows {
                    x: &columns[..count * k],
                    x_stride: k,
                    x_step: 1,
                    residual: residual.map(|r| &r[first * g.outputs + group * go..]),
                    out_stride: g.outputs,
                };
                let at = first * g.outputs + group * go;
                let len = (count - 1) * g.outputs + go;
                // SAFETY: these rows exist, and these columns of them are written by this task alone.
                unsafe { panels.rows(count, rows, act, shared.at(at, len), 0..panels.format.panels()) };
            }
        }
    });
}
