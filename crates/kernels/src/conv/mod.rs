//! 2-D convolution of images `[b, h, w, c]` with weights as checkpoints have them, `[out, in / groups, kh, kw]`.
//!
//! A 1 × 1 convolution is one matrix product, a depthwise one runs over the channels directly, 3 × 3 and 5 × 5 ones of
//! stride 1 multiply fewer numbers ([`winograd`]), and everything else gathers the windows of some output pixels into a
//! matrix ([`columns`]) and multiplies.

pub(crate) mod columns;
pub(crate) mod depthwise;
pub(crate) mod winograd;

use crate::cpu::{self, Values, column_sums, output};
use crate::linear;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// How a convolution's window moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSpec {
    /// Step down and across.
    pub stride: [usize; 2],
    /// Zeros added at the top, bottom, left and right.
    pub pads: [usize; 4],
    /// Spacing of the kernel's taps.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl Default for ConvSpec {
    fn default() -> Self {
        Self { stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 }
    }
}

/// Output height and width; 0 where the window does not fit.
pub(crate) fn out_size(
    h: usize,
    w: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    dilation: [usize; 2],
) -> (usize, usize) {
    let size = |size: usize, axis: usize, before: usize, after: usize| {
        let reach = (kernel[axis] - 1) * dilation[axis] + 1;
        (size + before + after).checked_sub(reach).map_or(0, |free| free / stride[axis] + 1)
    };
    (size(h, 0, pads[0], pads[1]), size(w, 1, pads[2], pads[3]))
}

/// The input position that tap `k` of output `o` reads, unless it lies in the padding.
#[inline(always)]
pub(crate) fn tap(o: usize, k: usize, stride: usize, dilation: usize, pad: usize, size: usize) -> Option<usize> {
    (o * stride + k * dilation).checked_sub(pad).filter(|&i| i < size)
}

/// All sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) b: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) inputs: usize,
    pub(crate) oh: usize,
    pub(crate) ow: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) spec: ConvSpec,
}

impl Geometry {
    pub(crate) fn new(
        [b, h, w]: [usize; 3],
        inputs: usize,
        outputs: usize,
        kernel: [usize; 2],
        spec: ConvSpec,
    ) -> Self {
        let (oh, ow) = out_size(h, w, kernel, spec.stride, spec.pads, spec.dilation);
        Self { b, h, w, inputs, oh, ow, outputs, kernel, spec }
    }

    /// Output pixels of the whole batch.
    pub(crate) fn pixels(&self) -> usize {
        self.b * self.oh * self.ow
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether every output pixel is a linear function of the input pixel at the same place.
    pub(crate) fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.spec.stride == [1, 1] && self.spec.pads == [0; 4] && self.spec.groups == 1
    }

    /// The convolution of stride 1 that gives the input's gradient from the output's.
    fn turned(&self) -> Self {
        let [kh, kw] = self.kernel;
        let [top, bottom, left, right] = self.spec.pads;
        // Paddings that a turned convolution does not have suit no way but the general one.
        let turn = |k: usize, pad: usize| (k - 1).checked_sub(pad).unwrap_or(usize::MAX / 4);
        let pads = [turn(kh, top), turn(kh, bottom), turn(kw, left), turn(kw, right)];
        Self {
            h: self.oh,
            w: self.ow,
            inputs: self.outputs,
            oh: self.h,
            ow: self.w,
            outputs: self.inputs,
            spec: ConvSpec { pads, ..self.spec },
            ..*self
        }
    }

    pub(crate) fn depthwise(&self) -> bool {
        self.spec.groups == self.inputs && self.outputs == self.inputs
    }
}

/// One convolution of known sizes, on slices: forward, and both gradients.
#[derive(Debug, Clone, Copy)]
pub struct ConvPass(Geometry);

impl ConvPass {
    /// Images `[b, h, w, inputs]` with a weight `[outputs, inputs / groups, kernel]`; the window must fit.
    pub fn new(images: [usize; 3], inputs: usize, outputs: usize, kernel: [usize; 2], spec: ConvSpec) -> Self {
        Self(Geometry::new(images, inputs, outputs, kernel, spec))
    }

    /// Height and width of the output.
    pub fn out_size(&self) -> (usize, usize) {
        (self.0.oh, self.0.ow)
    }

    /// `[b, h', w', outputs]`.
    ///
    /// # Panics
    /// When a slice is too short; likewise for the gradients.
    pub fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let g = &self.0;
        if g.pointwise() {
            return linear::forward(x, w, bias, g.inputs, g.outputs);
        }
        let mut y = output(g.pixels() * g.outputs);
        if g.depthwise() {
            depthwise::forward(g, x, &depthwise::pack(w, g.taps()), bias, &mut y);
        } else if winograd::suits(g) {
            let (weights, zeros) = (winograd::Weights::new(w, g.inputs, g.outputs, g.kernel[0]), vec![0f32; g.outputs]);
            winograd::forward(g, x, &weights, bias.unwrap_or(&zeros), None, None, &mut y);
        } else {
            columns::forward(g, x, w, bias, &mut y);
        }
        y
    }

    /// Gradient of the input from the output's.
    pub fn input_gradient(&self, w: &[f32], dy: &[f32]) -> Vec<f32> {
        let g = &self.0;
        let len = g.b * g.h * g.w * g.inputs;
        if g.pointwise() {
            linear::input_gradient(w, dy, g.inputs, g.outputs)
        } else if winograd::suits(&g.turned()) {
            let (turned, weights) = (g.turned(), winograd::Weights::turned(w, g.inputs, g.outputs, g.kernel[0]));
            let mut dx = output(len);
            winograd::forward(&turned, dy, &weights, &vec![0f32; g.inputs], None, None, &mut dx);
            dx
        } else {
            let mut dx = vec![0f32; len];
            if g.depthwise() {
                depthwise::input_gradient(g, &depthwise::pack(w, g.taps()), dy, &mut dx);
            } else {
                columns::input_gradient(g, w, dy, &mut dx);
            }
            dx
        }
    }

    /// Gradient of the weight, as the checkpoint has it.
    pub fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let g = &self.0;
        if g.pointwise() {
            linear::weight_gradient(x, dy, g.inputs, g.outputs)
        } else if g.depthwise() {
            depthwise::weight_gradient(g, x, dy)
        } else if winograd::suits(g) {
            winograd::weight_gradient(g, x, dy)
        } else {
            columns::weight_gradient(g, x, dy)
        }
    }
}

struct Op {
    kernel: [usize; 2],
    spec: ConvSpec,
}

impl Op {
    fn pass(&self, x: &Shape, w: &Shape) -> Result<ConvPass> {
        let (b, height, width, inputs) = x.dims4()?;
        Ok(ConvPass::new([b, height, width], inputs, w.dims4()?.0, self.kernel, self.spec))
    }

    fn forward(
        &self,
        x: &[f32],
        lx: &Layout,
        w: &[f32],
        lw: &Layout,
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let pass = self.pass(lx.shape(), lw.shape())?;
        let g = &pass.0;
        Ok((CpuStorage::F32(pass.forward(x, w, bias)), (g.b, g.oh, g.ow, g.outputs).into()))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let pass = self.pass(x.shape(), w.shape())?;
        let (xs, ws, dy) = (Values::of(x)?, Values::of(w)?, Values::of(dy)?);
        let dx = x.track_op().then(|| cpu::like(pass.input_gradient(&ws, &dy), x)).transpose()?;
        let dw = w.track_op().then(|| cpu::like(pass.weight_gradient(&xs, &dy), w)).transpose()?;
        Ok((dx, dw))
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(cpu::values(x, lx)?, lx, cpu::values(w, lw)?, lw, None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, &dy.contiguous()?)
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(cpu::values(x, lx)?, lx, cpu::values(w, lw)?, lw, Some(cpu::values(b, lb)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dw) = self.backward(x, w, &dy)?;
        let db = if b.track_op() { Some(cpu::like(column_sums(&Values::of(&dy)?, b.dim(0)?), b)?) } else { None };
        Ok((dx, dw, db))
    }
}

/// Cross-correlation: `x` `[b, h, w, inputs]`, `w` `[outputs, inputs / groups, kh, kw]`, `b` `[outputs]`, to
/// `[b, h', w', outputs]`.
///
/// Inputs that are not tracked get no gradient computed. Errors when the shapes do not fit each other or the window
/// does not fit the image.
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, spec: &ConvSpec) -> Result<Tensor> {
    let (_, height, width, inputs) = x.dims4()?;
    let (outputs, group_inputs, kh, kw) = w.dims4()?;
    if spec.groups == 0 || group_inputs * spec.groups != inputs || outputs % spec.groups != 0 {
        bail!(
            "conv2d: an input of shape {:?} does not fit a weight of shape {:?} in {} groups",
            x.dims(),
            w.dims(),
            spec.groups
        );
    }
    if [kh, kw].contains(&0) || spec.stride.contains(&0) || spec.dilation.contains(&0) {
        bail!("conv2d: kernel, stride and dilation must be positive, got {:?} and {spec:?}", [kh, kw]);
    }
    if let Some(b) = b
        && b.dims() != [outputs]
    {
        bail!("conv2d: a bias of shape {:?} does not fit a weight of shape {:?}", b.dims(), w.dims());
    }
    let (oh, ow) = out_size(height, width, [kh, kw], spec.stride, spec.pads, spec.dilation);
    if oh == 0 || ow == 0 {
        bail!("conv2d: a window of {kh} x {kw} does not fit an image of {height} x {width} with {spec:?}");
    }
    if !x.device().is_cpu() {
        return composed(x, w, b, spec);
    }
    let (x, w, op) = (x.contiguous()?, w.contiguous()?, Op { kernel: [kh, kw], spec: *spec });
    match b {
        Some(b) => x.apply_op3(&w, &b.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

fn composed(x: &Tensor, w: &Tensor, b: Option<&Tensor>, spec: &ConvSpec) -> Result<Tensor> {
    let (_, _, kh, kw) = w.dims4()?;
    let [top, bottom, left, right] = spec.pads;
    let x = x.permute((0, 3, 1, 2))?.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?.contiguous()?;
    let y = if spec.stride[0] == spec.stride[1] && spec.dilation[0] == spec.dilation[1] && spec.dilation[0] == 1 {
        // candle's gradient of a strided convolution needs windows that end at the image's edge.
        let trim = |size: usize, k: usize| (size - k) / spec.stride[0] * spec.stride[0] + k;
        let x = x.narrow(2, 0, trim(x.dim(2)?, kh))?.narrow(3, 0, trim(x.dim(3)?, kw))?.contiguous()?;
        x.conv2d(&w.contiguous()?, 0, spec.stride[0], 1, spec.groups)?
    } else {
        taps_composed(&x, w, spec)?
    };
    let y = y.permute((0, 2, 3, 1))?.contiguous()?;
    b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
}

/// For what candle's convolution does not know: a sum over the kernel's taps.
fn taps_composed(x: &Tensor, w: &Tensor, spec: &ConvSpec) -> Result<Tensor> {
    let (n, inputs, h, width) = x.dims4()?;
    let (outputs, group_inputs, kh, kw) = w.dims4()?;
    let (oh, ow) = out_size(h, width, [kh, kw], spec.stride, [0; 4], spec.dilation);
    let index = |count: usize, k: usize, axis: usize| {
        let taps = (0..count).map(|o| (o * spec.stride[axis] + k * spec.dilation[axis]) as u32).collect();
        Tensor::from_vec::<_, u32>(taps, count, x.device())
    };
    let (groups, group_outputs) = (spec.groups, outputs / spec.groups);
    let w = w.reshape((groups, group_outputs, group_inputs, kh * kw))?;
    let mut sum: Option<Tensor> = None;
    for k in 0..kh * kw {
        let part = x.index_select(&index(oh, k / kw, 0)?, 2)?.index_select(&index(ow, k % kw, 1)?, 3)?;
        let part = part.reshape((n, groups, inputs / groups, oh * ow))?;
        let w = w.narrow(3, k, 1)?.squeeze(3)?.unsqueeze(0)?;
        let y = w.broadcast_matmul(&part)?;
        sum = Some(match sum {
            None => y,
            Some(sum) => (sum + y)?,
        });
    }
    sum.map_or_else(|| bail!("conv2d: an empty kernel"), |y| y.reshape((n, outputs, oh, ow)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, close_values, flat, random};

    /// What a convolution is, in f64.
    pub(crate) fn naive(g: &Geometry, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
        let (gi, go) = (g.inputs / g.spec.groups, g.outputs / g.spec.groups);
        let [kh, kw] = g.kernel;
        let mut y = Vec::new();
        for i in 0..g.pixels() * g.outputs {
            let (pixel, o) = (i / g.outputs, i % g.outputs);
            let (n, oy, ox) = (pixel / (g.oh * g.ow), pixel / g.ow % g.oh, pixel % g.ow);
            let mut sum = f64::from(bias[o]);
            for k in 0..kh * kw {
                let iy = (oy * g.spec.stride[0] + k / kw * g.spec.dilation[0]) as isize - g.spec.pads[0] as isize;
                let ix = (ox * g.spec.stride[1] + k % kw * g.spec.dilation[1]) as isize - g.spec.pads[2] as isize;
                if iy < 0 || ix < 0 || iy >= g.h as isize || ix >= g.w as isize {
                    continue;
                }
                let pixel = (n * g.h + iy as usize) * g.w + ix as usize;
                for j in 0..gi {
                    let x = x[pixel * g.inputs + o / go * gi + j];
                    sum += f64::from(x) * f64::from(w[(o * gi + j) * kh * kw + k]);
                }
            }
            y.push(sum as f32);
        }
        y
    }

    /// Input `[b, h, w]`, channels in and out, kernel and the rest, of every kind of convolution.
    pub(crate) fn cases() -> Vec<Geometry> {
        let spec = |stride, pads, dilation, groups| ConvSpec { stride, pads, dilation, groups };
        let plain = |stride, pad, groups| spec([stride; 2], [pad; 4], [1; 2], groups);
        vec![
            Geometry::new([2, 5, 7], 6, 9, [1, 1], plain(1, 0, 1)),
            Geometry::new([2, 5, 7], 6, 4, [1, 1], plain(2, 0, 1)),
            Geometry::new([2, 9, 8], 3, 16, [3, 3], spec([2, 2], [0, 1, 0, 1], [1, 1], 1)),
            Geometry::new([1, 6, 5], 4, 5, [3, 3], plain(1, 1, 1)),
            Geometry::new([3, 7, 7], 8, 12, [3, 3], plain(1, 1, 4)),
            Geometry::new([1, 11, 9], 2, 3, [5, 3], spec([2, 1], [2, 1, 0, 3], [1, 2], 1)),
            Geometry::new([2, 13, 12], 3, 4, [7, 7], plain(2, 3, 1)),
            Geometry::new([1, 1, 1], 1, 1, [1, 1], plain(1, 0, 1)),
            Geometry::new([2, 9, 14], 20, 20, [3, 3], plain(1, 1, 20)),
            Geometry::new([1, 9, 15], 48, 48, [3, 3], spec([2, 2], [0, 1, 0, 1], [1, 1], 48)),
            Geometry::new([2, 12, 11], 37, 37, [5, 5], plain(1, 2, 37)),
            Geometry::new([1, 14, 14], 16, 16, [5, 5], spec([2, 2], [1, 2, 1, 2], [1, 1], 16)),
            Geometry::new([1, 10, 10], 5, 5, [3, 3], spec([1, 2], [2, 2, 2, 2], [2, 2], 5)),
            Geometry::new([1, 2, 3], 16, 16, [5, 5], plain(1, 2, 16)),
            Geometry::new([1, 7, 7], 4, 8, [3, 3], plain(1, 1, 4)),
            Geometry::new([2, 7, 7], 48, 80, [3, 3], plain(1, 1, 1)),
            Geometry::new([1, 13, 10], 32, 112, [3, 3], spec([1, 1], [0, 2, 1, 0], [1, 1], 1)),
            Geometry::new([2, 9, 14], 64, 32, [3, 3], plain(1, 1, 1)),
            Geometry::new([2, 13, 12], 32, 48, [5, 5], plain(1, 2, 1)),
            Geometry::new([1, 9, 10], 64, 32, [5, 5], spec([1, 1], [4, 0, 1, 3], [1, 1], 1)),
        ]
    }

    /// Weights of a size that gives outputs of about the size of the inputs.
    pub(crate) fn range(g: &Geometry) -> f32 {
        1.5 / (columns::depth(g) as f32).sqrt()
    }

    fn tensors(g: &Geometry) -> [Tensor; 3] {
        let [kh, kw] = g.kernel;
        let w = random(&[g.outputs, g.inputs / g.spec.groups, kh, kw], 2, range(g));
        [random(&[g.b, g.h, g.w, g.inputs], 1, 1.0), w, random(&[g.outputs], 3, 1.0)]
    }

    #[test]
    fn agrees_with_plain_loops() -> Result<()> {
        for g in cases() {
            let [x, w, b] = tensors(&g);
            let y = conv2d(&x, &w, Some(&b), &g.spec)?;
            assert_eq!(y.dims(), [g.b, g.oh, g.ow, g.outputs]);
            close_values(&flat(&y), &naive(&g, &flat(&x), &flat(&w), &flat(&b)), 1e-5);
        }
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        for g in cases() {
            let [x, w, b] = tensors(&g);
            close(&conv2d(&x, &w, Some(&b), &g.spec)?, &composed(&x, &w, Some(&b), &g.spec)?, 1e-5);
            close(&conv2d(&x, &w, None, &g.spec)?, &composed(&x, &w, None, &g.spec)?, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for g in cases() {
            check_gradients(&tensors(&g), 4e-3, |x| conv2d(&x[0], &x[1], Some(&x[2]), &g.spec));
        }
    }

    #[test]
    fn gradients_of_the_composition_are_the_kernels() -> Result<()> {
        for g in cases() {
            let vars = tensors(&g).map(|t| candle_core::Var::from_tensor(&t).expect("variable"));
            let [x, w, b] = &vars;
            let kernel = conv2d(x, w, Some(b), &g.spec)?.sqr()?.sum_all()?.backward()?;
            let other = composed(x, w, Some(b), &g.spec)?.sqr()?.sum_all()?.backward()?;
            for var in &vars {
                match (kernel.get(var), other.get(var)) {
                    (Some(a), Some(b)) => close(a, b, 1e-4),
                    _ => panic!("no gradient for {g:?}"),
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_window_larger_than_the_image_is_an_error() {
        let (x, w) = (random(&[1, 2, 2, 1], 1, 1.0), random(&[1, 1, 3, 3], 1, 1.0));
        assert!(conv2d(&x, &w, None, &ConvSpec::default()).is_err());
    }

    #[test]
    fn no_images_give_no_images() -> Result<()> {
        let y = conv2d(&random(&[0, 4, 4, 3], 1, 1.0), &random(&[2, 3, 3, 3], 1, 1.0), None, &ConvSpec::default())?;
        assert_eq!(y.dims(), [0, 2, 2, 2]);
        Ok(())
    }
}
