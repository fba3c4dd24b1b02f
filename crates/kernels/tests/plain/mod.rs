//! The operations as plain loops in double precision: the definition, without any cleverness.

use topwork_kernels::{Act, ConvSpec};

/// Sizes of images `[b, h, w, c]`.
#[derive(Clone, Copy)]
pub struct Image {
    pub b: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Image {
    fn at(&self, n: usize, y: usize, x: usize, c: usize) -> usize {
        ((n * self.h + y) * self.w + x) * self.c + c
    }

    /// The row and column of a window's tap, if it lies within the image.
    fn tap(&self, [oy, ox]: [usize; 2], [ky, kx]: [usize; 2], window: &Window) -> Option<(usize, usize)> {
        let y = (oy * window.stride[0] + ky * window.dilation[0]).checked_sub(window.pads[0])?;
        let x = (ox * window.stride[1] + kx * window.dilation[1]).checked_sub(window.pads[2])?;
        (y < self.h && x < self.w).then_some((y, x))
    }

    fn out(&self, kernel: [usize; 2], window: &Window) -> [usize; 2] {
        let p = window.pads;
        let size = |len: usize, pads: usize, i: usize| {
            (len + pads - window.dilation[i] * (kernel[i] - 1) - 1) / window.stride[i] + 1
        };
        [size(self.h, p[0] + p[1], 0), size(self.w, p[2] + p[3], 1)]
    }
}

struct Window {
    stride: [usize; 2],
    pads: [usize; 4],
    dilation: [usize; 2],
}

/// Calls `f(n, [oy, ox])` for every output pixel in order.
fn pixels(b: usize, [oh, ow]: [usize; 2], mut f: impl FnMut(usize, [usize; 2])) {
    for i in 0..b * oh * ow {
        f(i / (oh * ow), [i / ow % oh, i % ow]);
    }
}

pub fn conv2d(
    image: Image,
    x: &[f64],
    w: &[f64],
    bias: Option<&Vec<f64>>,
    outputs: usize,
    kernel: [usize; 2],
    spec: &ConvSpec,
) -> Vec<f64> {
    let window = Window { stride: spec.stride, pads: spec.pads, dilation: spec.dilation };
    let (gi, go) = (image.c / spec.groups, outputs / spec.groups);
    let mut y = Vec::new();
    pixels(image.b, image.out(kernel, &window), |n, place| {
        for o in 0..outputs {
            let mut sum = bias.map_or(0.0, |bias| bias[o]);
            for k in 0..kernel[0] * kernel[1] {
                let Some((iy, ix)) = image.tap(place, [k / kernel[1], k % kernel[1]], &window) else { continue };
                for i in 0..gi {
                    sum += x[image.at(n, iy, ix, o / go * gi + i)] * w[(o * gi + i) * kernel[0] * kernel[1] + k];
                }
            }
            y.push(sum);
        }
    });
    y
}

fn pool(
    image: Image,
    x: &[f64],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    f: impl Fn(&[f64], usize) -> f64,
) -> Vec<f64> {
    let window = Window { stride, pads, dilation: [1; 2] };
    let mut y = Vec::new();
    pixels(image.b, image.out(kernel, &window), |n, place| {
        let taps = (0..kernel[0] * kernel[1]).map(|k| [k / kernel[1], k % kernel[1]]);
        // Windows may overhang the padded image nowhere: sizes are rounded down.
        let within: Vec<_> = taps.filter_map(|tap| image.tap(place, tap, &window)).collect();
        for c in 0..image.c {
            let values: Vec<f64> = within.iter().map(|&(iy, ix)| x[image.at(n, iy, ix, c)]).collect();
            y.push(f(&values, kernel[0] * kernel[1]));
        }
    });
    y
}

pub fn max_pool2d(image: Image, x: &[f64], kernel: [usize; 2], stride: [usize; 2], pads: [usize; 4]) -> Vec<f64> {
    pool(image, x, kernel, stride, pads, |values, _| values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

pub fn avg_pool2d(
    image: Image,
    x: &[f64],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    count_pads: bool,
) -> Vec<f64> {
    pool(image, x, kernel, stride, pads, |values, all| {
        values.iter().sum::<f64>() / if count_pads { all } else { values.len().max(1) } as f64
    })
}

pub fn adaptive_avg_pool2d(image: Image, x: &[f64], [oh, ow]: [usize; 2]) -> Vec<f64> {
    let bounds = |i: usize, out: usize, len: usize| i * len / out..((i + 1) * len).div_ceil(out);
    let mut y = Vec::new();
    pixels(image.b, [oh, ow], |n, [oy, ox]| {
        for c in 0..image.c {
            let (rows, columns) = (bounds(oy, oh, image.h), bounds(ox, ow, image.w));
            let count = rows.len() * columns.len();
            let sum: f64 = rows.flat_map(|iy| columns.clone().map(move |ix| x[image.at(n, iy, ix, c)])).sum();
            y.push(sum / count as f64);
        }
    });
    y
}

fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

pub fn batch_norm(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let width = gamma.len();
    let of = |c: usize| moments(&x.iter().skip(c).step_by(width).copied().collect::<Vec<_>>());
    let (mean, variance): (Vec<f64>, Vec<f64>) = (0..width).map(of).unzip();
    batch_norm_of(x, &mean, &variance, gamma, beta, eps)
}

pub fn batch_norm_of(x: &[f64], mean: &[f64], variance: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let of = |(i, x): (usize, &f64)| {
        let c = i % gamma.len();
        (x - mean[c]) / (variance[c] + eps).sqrt() * gamma[c] + beta[c]
    };
    x.iter().enumerate().map(of).collect()
}

pub fn layer_norm(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    x.chunks_exact(gamma.len())
        .flat_map(|row| {
            let (mean, variance) = moments(row);
            let of = |(c, x): (usize, &f64)| (x - mean) / (variance + eps).sqrt() * gamma[c] + beta[c];
            row.iter().enumerate().map(of).collect::<Vec<_>>()
        })
        .collect()
}

/// The normal distribution's cumulative, by Simpson's rule.
fn normal(x: f64) -> f64 {
    let (steps, h) = (400, x / 400.0);
    let density = |i: usize| (-(h * i as f64).powi(2) / 2.0).exp();
    let weight = |i: usize| if i == 0 || i == steps { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
    let sum: f64 = (0..=steps).map(|i| weight(i) * density(i)).sum();
    0.5 + sum * h / 3.0 / (2.0 * std::f64::consts::PI).sqrt()
}

pub fn act(act: Act, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match act {
        Act::Relu => x.max(0.0),
        Act::Relu6 => x.clamp(0.0, 6.0),
        Act::Gelu => x * normal(x),
        Act::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
        Act::Tanh => x.tanh(),
        Act::Silu => x * sigmoid,
        Act::Sigmoid => sigmoid,
        Act::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Act::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

pub fn softmax(x: &[f64], width: usize) -> Vec<f64> {
    x.chunks_exact(width)
        .flat_map(|row| {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(move |x| x.exp() / total).collect::<Vec<_>>()
        })
        .collect()
}

pub fn linear(x: &[f64], w: &[f64], bias: Option<&Vec<f64>>, inputs: usize, outputs: usize) -> Vec<f64> {
    let of = |row: &[f64], o: usize| {
        row.iter().zip(&w[o * inputs..]).map(|(x, w)| x * w).sum::<f64>() + bias.map_or(0.0, |bias| bias[o])
    };
    x.chunks_exact(inputs).flat_map(|row| (0..outputs).map(move |o| of(row, o)).collect::<Vec<_>>()).collect()
}

pub fn attention(q: &[f64], k: &[f64], v: &[f64], lengths: &[usize], heads: usize, d: usize) -> Vec<f64> {
    let width = heads * d;
    let mut y = vec![0.0; q.len()];
    let mut start = 0;
    for &length in lengths {
        for (i, head) in (0..length).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let at = |j: usize, c: usize| (start + j) * width + head * d + c;
            let score = |j: usize| (0..d).map(|c| q[at(i, c)] * k[at(j, c)]).sum::<f64>() / (d as f64).sqrt();
            let weights = softmax(&(0..length).map(score).collect::<Vec<_>>(), length);
            for c in 0..d {
                y[at(i, c)] = weights.iter().enumerate().map(|(j, weight)| weight * v[at(j, c)]).sum();
            }
        }
        start += length;
    }
    y
}

pub fn pool_rows_mean(x: &[f64], width: usize, lengths: &[usize]) -> Vec<f64> {
    let mut start = 0;
    let mut y = Vec::new();
    for &length in lengths {
        let rows = &x[start * width..(start + length) * width];
        y.extend((0..width).map(|c| rows.iter().skip(c).step_by(width).sum::<f64>() / length.max(1) as f64));
        start += length;
    }
    y
}

pub fn pool_rows_first(x: &[f64], width: usize, lengths: &[usize]) -> Vec<f64> {
    let mut start = 0;
    let mut y = Vec::new();
    for &length in lengths {
        y.extend(&x[start * width..(start + 1) * width]);
        start += length;
    }
    y
}

/// PyTorch's `F.cross_entropy(weight, label_smoothing)`.
pub fn cross_entropy(x: &[f64], classes: usize, targets: &[u32], weights: Option<&[f32]>, smoothing: f64) -> f64 {
    let weight = |c: usize| weights.map_or(1.0, |weights| f64::from(weights[c]));
    let (mut loss, mut total) = (0.0, 0.0);
    for (row, &target) in x.chunks_exact(classes).zip(targets) {
        let log = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        let target = target as usize;
        loss += (1.0 - smoothing) * weight(target) * (log - row[target]);
        loss += (0..classes).map(|c| smoothing / classes as f64 * weight(c) * (log - row[c])).sum::<f64>();
        total += weight(target);
    }
    loss / total
}

/// AdamW (Loshchilov & Hutter 2019) with the usual moments.
pub fn adamw(start: &[f64], steps: u32, gradient: impl Fn(u32) -> Vec<f64>, lr: f64, decay: f64) -> Vec<f64> {
    let (mut p, mut m, mut v) = (start.to_vec(), vec![0.0; start.len()], vec![0.0; start.len()]);
    for step in 1..=steps {
        for (i, g) in gradient(step).into_iter().enumerate() {
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let mean = m[i] / (1.0 - 0.9f64.powi(step as i32));
            let square = v[i] / (1.0 - 0.999f64.powi(step as i32));
            p[i] -= lr * decay * p[i] + lr * mean / (square.sqrt() + 1e-8);
        }
    }
    p
}

/// Stochastic gradient descent with a momentum of 0.9.
pub fn sgd(start: &[f64], steps: u32, gradient: impl Fn(u32) -> Vec<f64>, lr: f64, decay: f64) -> Vec<f64> {
    let (mut p, mut velocity) = (start.to_vec(), vec![0.0; start.len()]);
    for step in 1..=steps {
        for (i, g) in gradient(step).into_iter().enumerate() {
            velocity[i] = 0.9 * velocity[i] + g + decay * p[i];
            p[i] -= lr * velocity[i];
        }
    }
    p
}
