//! Speed of the kernels on shapes from EfficientNet-Lite0, ResNet-18 and MiniLM, batch 8.

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use topwork_kernels::frozen::{self, PackedConv, PackedLinear, Precision};
use topwork_kernels::{Act, Beside, ConvSpec, act, attention, layer_norm, linear};

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::from_vec(filled(shape.iter().product()), shape, &Device::Cpu).expect("shape fits")
}

/// (name, size of the square image, inputs, outputs, kernel, stride, groups).
const CONVS: [(&str, usize, usize, usize, usize, usize, usize); 9] = [
    ("stem 3x3 s2", 224, 3, 32, 3, 2, 1),
    ("1x1 112 32-16", 112, 32, 16, 1, 1, 1),
    ("1x1 112 16-96", 112, 16, 96, 1, 1, 1),
    ("1x1 14 480-112", 14, 480, 112, 1, 1, 1),
    ("3x3 56 64-64", 56, 64, 64, 3, 1, 1),
    ("depthwise 3x3 112 c32", 112, 32, 32, 3, 1, 32),
    ("depthwise 3x3 s2 112 c96", 112, 96, 96, 3, 2, 96),
    ("depthwise 5x5 28 c240", 28, 240, 240, 5, 1, 240),
    ("depthwise 5x5 7 c1152", 7, 1152, 1152, 5, 1, 1152),
];

fn convolution(c: &mut Criterion) {
    let mut group = c.benchmark_group("frozen conv");
    for (name, size, inputs, outputs, kernel, stride, groups) in CONVS {
        let pad = kernel / 2;
        let spec = ConvSpec { stride: [stride; 2], pads: [pad; 4], dilation: [1; 2], groups };
        let weight = filled(outputs * inputs / groups * kernel * kernel);
        let conv =
            PackedConv::new(&weight, Some(&filled(outputs)), inputs, outputs, [kernel; 2], &spec, Precision::F32);
        let x = filled(8 * size * size * inputs);
        let (h, w) = conv.out_size(size, size);
        let (mut out, mut scratch) = (vec![0.0; 8 * h * w * outputs], Vec::new());
        group.throughput(Throughput::Elements((2 * out.len() * weight.len() / outputs) as u64));
        group.bench_function(name, |b| {
            b.iter(|| conv.run(black_box(&x), 8, size, size, Some(Act::Relu6), None, &mut out, &mut scratch));
        });
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let (x, w, b) = (tensor(&[1024, 384]), tensor(&[1536, 384]), tensor(&[1536]));
    c.bench_function("linear 1024x384-1536", |bench| bench.iter(|| linear(&x, &w, Some(&b)).expect("fits")));
    let packed = PackedLinear::new(&filled(1536 * 384), Some(&filled(1536)), 384, 1536, Precision::F32);
    let (values, mut out) = (filled(1024 * 384), vec![0.0; 1024 * 1536]);
    c.bench_function("frozen linear 1024x384-1536", |bench| {
        bench.iter(|| packed.run(black_box(&values), 1024, None, None, &mut out));
    });
    let (gamma, beta) = (tensor(&[384]), tensor(&[384]));
    c.bench_function("layer_norm 1024x384", |b| b.iter(|| layer_norm(&x, &gamma, &beta, 1e-12).expect("fits")));
    let wide = tensor(&[1024, 1536]);
    c.bench_function("gelu 1024x1536", |b| b.iter(|| act(&wide, Act::Gelu).expect("fits")));
    for len in [16, 128] {
        let lengths = vec![len; 1024 / len];
        c.bench_function(&format!("attention {len} rows"), |b| {
            b.iter(|| attention(&x, &x, &x, &lengths, 12, None).expect("fits"));
        });
        let (qkv, mut out, mut scratch) = (filled(1024 * 3 * 384), vec![0.0; 1024 * 384], Vec::new());
        c.bench_function(&format!("frozen attention {len} rows"), |b| {
            b.iter(|| {
                let [q, k, v] = [0, 384, 768].map(|at| frozen::Rows { values: &qkv[at..], stride: 1152 });
                frozen::attention(q, k, v, Beside::default(), &lengths, 12, 32, &mut out, &mut scratch);
            });
        });
    }
}

/// Expansion, kernel, stride, outputs and repeats of EfficientNet-Lite0's blocks (Tan & Le 2019).
const BLOCKS: [[usize; 5]; 7] = [
    [1, 3, 1, 16, 1],
    [6, 3, 2, 24, 2],
    [6, 5, 2, 40, 2],
    [6, 3, 2, 80, 3],
    [6, 5, 1, 112, 3],
    [6, 5, 2, 192, 4],
    [6, 3, 1, 320, 1],
];

/// A convolution, its activation, and whether the block's input is added.
struct Step(PackedConv, Option<Act>, bool);

fn lite0() -> Vec<Step> {
    let conv = |inputs: usize, outputs: usize, kernel: usize, stride: usize, groups: usize| {
        let weight = filled(outputs * inputs / groups * kernel * kernel);
        let spec = ConvSpec { stride: [stride; 2], pads: [kernel / 2; 4], dilation: [1; 2], groups };
        PackedConv::new(&weight, Some(&filled(outputs)), inputs, outputs, [kernel; 2], &spec, Precision::F32)
    };
    let relu6 = Some(Act::Relu6);
    let mut steps = vec![Step(conv(3, 32, 3, 2, 1), relu6, false)];
    let mut inputs = 32;
    for [expand, kernel, stride, outputs, repeats] in BLOCKS {
        for i in 0..repeats {
            let (stride, wide) = (if i == 0 { stride } else { 1 }, inputs * expand);
            if expand > 1 {
                steps.push(Step(conv(inputs, wide, 1, 1, 1), relu6, false));
            }
            steps.push(Step(conv(wide, wide, kernel, stride, wide), relu6, false));
            steps.push(Step(conv(wide, outputs, 1, 1, 1), None, i > 0));
            inputs = outputs;
        }
    }
    steps.push(Step(conv(inputs, 1280, 1, 1, 1), relu6, false));
    steps
}

fn network(c: &mut Criterion) {
    let steps = lite0();
    let mut group = c.benchmark_group("EfficientNet-Lite0");
    for batch in [1, 4, 16] {
        let image = filled(batch * 224 * 224 * 3);
        let [mut x, mut y, mut block] = [(); 3].map(|()| vec![0.0; batch * 112 * 112 * 96]);
        let mut scratch = Vec::new();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("batch {batch}"), |b| {
            b.iter(|| {
                let (mut h, mut w) = (224, 224);
                x[..image.len()].copy_from_slice(&image);
                for (i, Step(conv, act, add)) in steps.iter().enumerate() {
                    let residual = add.then_some(block.as_slice());
                    conv.run(&x, batch, h, w, *act, residual, &mut y, &mut scratch);
                    (h, w) = conv.out_size(h, w);
                    std::mem::swap(&mut x, &mut y);
                    // The next block starts here; its last step may add this.
                    if act.is_none() && steps.get(i + 3).is_some_and(|step| step.2) {
                        let len = batch * h * w * conv.outputs();
                        block[..len].copy_from_slice(&x[..len]);
                    }
                }
                black_box(&x);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, convolution, rows, network);
criterion_main!(benches);
