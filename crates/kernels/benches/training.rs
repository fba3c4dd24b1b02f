//! Speed of what a training step consists of, forward and backward, on shapes from ResNets, AlexNet and MiniLM, batch 8.

use candle_core::{Device, Tensor, Var};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use topwork_kernels::passes::{self as k, AttentionPass, BatchNormPass, ConvPass};
use topwork_kernels::{
    Act, AdamWHyper, AdamWState, Beside, ConvSpec, SgdHyper, SgdState, adamw_step, sgd_step, sum_of_squares,
};

/// Images and sentences of a batch.
const BATCH: usize = 8;

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// (name, side of the image, inputs, outputs, kernel, stride, groups).
const CONVS: [(&str, usize, usize, usize, usize, usize, usize); 7] = [
    ("7x7 s2 224 3-64", 224, 3, 64, 7, 2, 1),
    ("3x3 56 64-64", 56, 64, 64, 3, 1, 1),
    ("3x3 14 256-256", 14, 256, 256, 3, 1, 1),
    ("3x3 s2 56 64-128", 56, 64, 128, 3, 2, 1),
    ("5x5 27 64-192", 27, 64, 192, 5, 1, 1),
    ("1x1 28 512-128", 28, 512, 128, 1, 1, 1),
    ("depthwise 3x3 56 c144", 56, 144, 144, 3, 1, 144),
];

fn convolution(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv");
    for (name, side, inputs, outputs, kernel, stride, groups) in CONVS {
        let spec = ConvSpec { stride: [stride; 2], pads: [kernel / 2; 4], groups, ..ConvSpec::default() };
        let pass = ConvPass::new([BATCH, side, side], inputs, outputs, [kernel; 2], spec);
        let (h, w) = pass.out_size();
        let weight = filled(outputs * inputs / groups * kernel * kernel);
        let (x, dy) = (filled(BATCH * side * side * inputs), filled(BATCH * h * w * outputs));
        group.throughput(Throughput::Elements((2 * dy.len() * weight.len() / outputs) as u64));
        group.bench_function(BenchmarkId::new("forward", name), |b| b.iter(|| pass.forward(&x, &weight, None)));
        group.bench_function(BenchmarkId::new("input gradient", name), |b| {
            b.iter(|| pass.input_gradient(&weight, &dy));
        });
        group.bench_function(BenchmarkId::new("weight gradient", name), |b| b.iter(|| pass.weight_gradient(&x, &dy)));
    }
    group.finish();
}

fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (rows, inputs, outputs) in [(1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384), (32, 9216, 4096)] {
        let (x, w, dy) = (filled(rows * inputs), filled(inputs * outputs), filled(rows * outputs));
        let name = format!("{rows}x{inputs}-{outputs}");
        group.throughput(Throughput::Elements((2 * rows * inputs * outputs) as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| k::linear(&x, &w, Some(&dy[..outputs]), inputs, outputs));
        });
        group.bench_function(BenchmarkId::new("input gradient", &name), |b| {
            b.iter(|| k::linear_input_gradient(&w, &dy, inputs, outputs));
        });
        group.bench_function(BenchmarkId::new("weight gradient", &name), |b| {
            b.iter(|| k::linear_weight_gradient(&x, &dy, inputs, outputs));
        });
    }
    group.finish();
}

fn normalization(c: &mut Criterion) {
    let mut group = c.benchmark_group("norm");
    for (side, width) in [(56, 64), (56, 256), (7, 2048)] {
        let (x, residual) = (filled(BATCH * side * side * width), filled(BATCH * side * side * width));
        let (gamma, beta, dy) = (filled(width), filled(width), residual.clone());
        let name = format!("batch {side}x{side}x{width}");
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| BatchNormPass::of_batch(&x, width, 1e-5, Some(Act::Relu)).forward(&x, &gamma, &beta, None));
        });
        let pass = BatchNormPass::of_batch(&x, width, 1e-5, Some(Act::Relu));
        group.bench_function(BenchmarkId::new("backward", &name), |b| {
            let backward = |dy: &mut Vec<f32>| pass.backward(&x, &gamma, &beta, dy, true);
            b.iter_batched_ref(|| dy.clone(), backward, BatchSize::LargeInput);
        });
        let y = pass.forward(&x, &gamma, &beta, Some(&residual));
        group.bench_function(BenchmarkId::new("backward with residual", &name), |b| {
            let backward = |dy: &mut Vec<f32>| {
                let sums = pass.sums(&x, &y, dy);
                pass.input_gradient(&x, &gamma, &sums, dy)
            };
            b.iter_batched_ref(|| dy.clone(), backward, BatchSize::LargeInput);
        });
    }
    let (x, dy, gamma, beta) = (filled(1024 * 384), filled(1024 * 384), filled(384), filled(384));
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("layer forward 1024x384", |b| b.iter(|| k::layer_norm(&x, &gamma, &beta, 1e-12)));
    group.bench_function("layer backward 1024x384", |b| {
        let backward = |dy: &mut Vec<f32>| k::layer_norm_backward(&x, &gamma, 1e-12, dy);
        b.iter_batched_ref(|| dy.clone(), backward, BatchSize::LargeInput);
    });
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (width, heads, len) in [(384, 12, 16), (384, 12, 128), (768, 12, 128)] {
        let (x, lengths) = (filled(1024 * width), vec![len; 1024 / len]);
        let qkv = [x.as_slice(); 3];
        for dropout in [None, Some((0.1, 1))] {
            let name = format!("{width} wide, {len} rows{}", if dropout.is_some() { ", dropout" } else { "" });
            let forward = || {
                AttentionPass::forward(qkv, Beside::default(), width, &lengths, heads, dropout).expect("a probability")
            };
            group.bench_function(BenchmarkId::new("forward", &name), |b| b.iter(forward));
            let (pass, _) = forward();
            group.bench_function(BenchmarkId::new("backward", &name), |b| {
                b.iter(|| pass.gradients(qkv, Beside::default(), width, &x));
            });
        }
    }
    group.finish();
}

fn optimizers(c: &mut Criterion) {
    let mut group = c.benchmark_group("optimizer");
    for len in [1 << 20, 16 << 20] {
        let tensor = || Tensor::from_vec(filled(len), len, &Device::Cpu).expect("shape fits");
        let (var, grad) = (Var::from_tensor(&tensor()).expect("a variable"), tensor());
        group.throughput(Throughput::Elements(len as u64));
        let mut state = SgdState::new(&var).expect("f32");
        let hyper = SgdHyper { lr: 1e-6, momentum: 0.9, nesterov: false, weight_decay: 0.0, scale: 1.0 };
        group.bench_function(BenchmarkId::new("sgd", len), |b| {
            b.iter(|| sgd_step(&var, &grad, &mut state, &hyper).expect("shapes fit"));
        });
        let mut state = AdamWState::new(&var).expect("f32");
        let hyper =
            AdamWHyper { lr: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, scale: 1.0 };
        group.bench_function(BenchmarkId::new("adamw", len), |b| {
            b.iter(|| adamw_step(&var, &grad, &mut state, &hyper).expect("shapes fit"));
        });
        group.bench_function(BenchmarkId::new("sum of squares", len), |b| b.iter(|| sum_of_squares(&grad)));
    }
    group.finish();
}

criterion_group!(benches, convolution, linear, normalization, attention, optimizers);
criterion_main!(benches);
