//! The frozen path against plain loops and against the operations with gradients.

use super::*;
use crate::attention::{Beside, Queries};
use crate::conv::ConvSpec;
use crate::conv::tests::{cases, naive, range};
use crate::testing::{close_values, flat, random, values};
use candle_core::Result;
use proptest::prelude::*;

const ACTS: [Option<Act>; 4] = [None, Some(Act::Relu), Some(Act::Relu6), Some(Act::Gelu)];

fn finish(y: &[f32], residual: Option<&[f32]>, act: Option<Act>) -> Vec<f32> {
    let sum = |i: usize| y[i] + residual.map_or(0.0, |r| r[i]);
    (0..y.len()).map(|i| act.map_or(sum(i), |act| act.value(sum(i)))).collect()
}

#[test]
fn linear_agrees_with_plain_loops() {
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 16), (50, 33, 100), (13, 1100, 40), (3, 384, 1536), (200, 64, 67)]
    {
        let (x, w, b) = (values(rows * inputs, 1, 1.0), values(inputs * outputs, 2, 0.5), values(outputs, 3, 1.0));
        let plain: Vec<f32> = (0..rows * outputs)
            .map(|i| {
                let (row, o) = (i / outputs, i % outputs);
                let sum: f64 = (0..inputs).map(|k| f64::from(x[row * inputs + k]) * f64::from(w[o * inputs + k])).sum();
                (sum + f64::from(b[o])) as f32
            })
            .collect();
        let residual = values(rows * outputs, 4, 1.0);
        let packed = PackedLinear::new(&w, Some(&b), inputs, outputs, Precision::F32);
        for act in ACTS {
            for residual in [None, Some(residual.as_slice())] {
                let mut out = vec![f32::NAN; rows * outputs];
                packed.run(&x, rows, act, residual, &mut out);
                close_values(&out, &finish(&plain, residual, act), 2e-5);
            }
        }
    }
}

#[test]
fn convolution_agrees_with_plain_loops() {
    let mut scratch = Vec::new();
    for g in cases() {
        let x = values(g.b * g.h * g.w * g.inputs, 1, 1.0);
        let w = values(g.outputs * g.inputs / g.spec.groups * g.taps(), 2, range(&g));
        let (b, residual) = (values(g.outputs, 3, 1.0), values(g.pixels() * g.outputs, 4, 1.0));
        let plain = naive(&g, &x, &w, &b);
        let packed = PackedConv::new(&w, Some(&b), g.inputs, g.outputs, g.kernel, &g.spec, Precision::F32);
        assert_eq!(packed.out_size(g.h, g.w), (g.oh, g.ow));
        for act in ACTS {
            for residual in [None, Some(residual.as_slice())] {
                let mut out = vec![f32::NAN; plain.len()];
                packed.run(&x, g.b, g.h, g.w, act, residual, &mut out, &mut scratch);
                close_values(&out, &finish(&plain, residual, act), 1e-5);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn depthwise_of_any_size(
        h in 1usize..12, w in 1usize..24, c in 1usize..50, k in 0usize..3, stride in 1usize..4, pads in any::<[u8; 4]>(),
    ) {
        let kernel = [2 * k + 1; 2];
        let spec = ConvSpec { stride: [stride; 2], pads: pads.map(|p| usize::from(p) % kernel[0]), dilation: [1; 2], groups: c };
        let g = crate::conv::Geometry::new([1, h, w], c, c, kernel, spec);
        prop_assume!(g.oh > 0 && g.ow > 0);
        let (x, weight, b) = (values(h * w * c, 1, 1.0), values(c * g.taps(), 2, 0.5), values(c, 3, 1.0));
        let mut out = vec![f32::NAN; g.pixels() * c];
        PackedConv::new(&weight, Some(&b), c, c, kernel, &spec, Precision::F32).run(&x, 1, h, w, None, None, &mut out, &mut Vec::new());
        close_values(&out, &naive(&g, &x, &weight, &b), 1e-5);
    }
}

#[test]
fn attention_reads_one_fused_matrix() -> Result<()> {
    let (lengths, heads, d) = ([7usize, 0, 20, 1], 3, 8);
    let width = heads * d;
    let qkv = random(&[28, 3 * width], 1, 1.5);
    let part = |i: usize| qkv.narrow(1, i * width, width)?.contiguous();
    let x = flat(&qkv);
    let [q, k, v] = [0, 1, 2].map(|i| Rows { values: &x[i * width..], stride: 3 * width });
    let prefix = [random(&[5, width], 2, 1.5), random(&[5, width], 3, 1.5)];
    let (key, value) = (flat(&prefix[0]), flat(&prefix[1]));
    let terms = random(&[heads, 41], 4, 1.5);
    let values = flat(&terms);
    let plain = (Beside::default(), Beside::default());
    let tensors = Beside { prefix: Some([&prefix[0], &prefix[1]]), terms: Some(&terms), ..Beside::default() };
    let slices = Beside { prefix: Some([&key[..], &value]), terms: Some(&values[..]), ..Beside::default() };
    for (tensors, slices) in [plain, (tensors, slices)] {
        let all = crate::attention_beside(&part(0)?, &part(1)?, &part(2)?, tensors, &lengths, heads, None)?;
        let mut out = vec![f32::NAN; 28 * width];
        attention(q, k, v, slices, &lengths, heads, d, &mut out, &mut Vec::new());
        close_values(&out, &flat(&all), 1e-5);
        // The first row of each sample that has one, asked alone.
        let firsts = [0usize, 7, 7, 27].map(|row| x[row * 3 * width..][..width].to_vec()).concat();
        let mut out = vec![f32::NAN; 4 * width];
        let (one, slices) = (Rows { values: &firsts, stride: width }, Beside { queries: Queries::Samples, ..slices });
        attention(one, k, v, slices, &lengths, heads, d, &mut out, &mut Vec::new());
        let all = flat(&all);
        let want = [&all[..width], &vec![0.0; width], &all[7 * width..8 * width], &all[27 * width..]].concat();
        close_values(&out, &want, 1e-5);
    }
    Ok(())
}

#[test]
fn small_operations_agree_with_the_tensors() -> Result<()> {
    let x = random(&[2, 9, 11, 5], 1, 1.0);
    let (gamma, beta) = (random(&[5], 2, 1.0), random(&[5], 3, 1.0));
    let values = flat(&x);
    let mut out = vec![f32::NAN; values.len()];
    layer_norm(&values, &flat(&gamma), &flat(&beta), 1e-5, &mut out);
    close_values(&out, &flat(&crate::layer_norm(&x, &gamma, &beta, 1e-5)?), 0.0);
    let want = crate::max_pool2d(&x, [3, 3], [2, 2], [1; 4])?;
    let mut out = vec![f32::NAN; want.elem_count()];
    assert_eq!(max_pool(&values, [2, 9, 11, 5], [3, 3], [2, 2], [1; 4], &mut out), (5, 6));
    close_values(&out, &flat(&want), 0.0);
    let mut out = vec![f32::NAN; 10];
    adaptive_avg_pool([2, 9, 11, 5], [1, 1], &values, &mut out);
    close_values(&out, &flat(&crate::global_avg_pool(&x)?), 0.0);
    let mut out = values.clone();
    act_in_place(&mut out, Act::Gelu);
    close_values(&out, &flat(&crate::act(&x, Act::Gelu)?), 0.0);
    add(&mut out, &values);
    close_values(&out, &flat(&(crate::act(&x, Act::Gelu)? + &x)?), 0.0);
    Ok(())
}

#[test]
fn sum_of_looked_up_rows() {
    let mut out = [0.0; 4];
    embed_sum(&[&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0]], &[1, 0, 0, 0], 2, &mut out);
    assert_eq!(out, [13.0, 24.0, 11.0, 22.0]);
}

#[test]
fn rows_of_samples() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 7.0];
    let mut out = [0.0; 4];
    pool_rows_mean(&x, 2, &[2, 1], &mut out);
    assert_eq!(out, [2.0, 3.0, 5.0, 7.0]);
    pool_rows_first(&x, 2, &[2, 1], &mut out);
    assert_eq!(out, [1.0, 2.0, 5.0, 7.0]);
}

#[test]
fn no_rows_do_nothing() {
    PackedLinear::new(&[1.0, 2.0], None, 2, 1, Precision::F32).run(&[], 0, None, None, &mut []);
    let none = Rows { values: &[], stride: 4 };
    attention(none, none, none, Beside::default(), &[], 1, 4, &mut [], &mut Vec::new());
}

/// Errors of products of rounded numbers, relative to the largest result.
fn close_in_bf16(got: &[f32], want: &[f32]) {
    let scale = want.iter().fold(0f32, |scale, y| scale.max(y.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-2 * scale, "element {i}: {got}, in f32 {want}");
    }
}

#[test]
fn bf16_is_close_to_f32_and_exact_on_small_integers() {
    if !Precision::Bf16.available() {
        return println!("skipped: this processor has no AVX-512 BF16");
    }
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 16), (50, 33, 100), (13, 1100, 40), (3, 384, 1536), (200, 64, 67)]
    {
        let (x, w, b) = (values(rows * inputs, 1, 1.0), values(inputs * outputs, 2, 0.5), values(outputs, 3, 1.0));
        let residual = values(rows * outputs, 4, 1.0);
        let run = |[x, w, b]: [&[f32]; 3], precision| {
            let mut out = vec![f32::NAN; rows * outputs];
            let packed = PackedLinear::new(w, Some(b), inputs, outputs, precision);
            packed.run(x, rows, Some(Act::Gelu), Some(&residual), &mut out);
            out
        };
        close_in_bf16(&run([&x, &w, &b], Precision::Bf16), &run([&x, &w, &b], Precision::F32));
        // Products and sums of these are exact in both.
        let whole = |x: &[f32]| x.iter().map(|x| (x * 8.0).round()).collect::<Vec<_>>();
        let (x, w, b) = (whole(&x), whole(&w), whole(&b));
        close_values(&run([&x, &w, &b], Precision::Bf16), &run([&x, &w, &b], Precision::F32), 1e-6);
    }
}

#[test]
fn convolutions_in_bf16_are_close_to_f32() {
    if !Precision::Bf16.available() {
        return println!("skipped: this processor has no AVX-512 BF16");
    }
    for g in cases() {
        let x = values(g.b * g.h * g.w * g.inputs, 1, 1.0);
        let w = values(g.outputs * g.inputs / g.spec.groups * g.taps(), 2, range(&g));
        let run = |precision| {
            let mut out = vec![f32::NAN; g.pixels() * g.outputs];
            let conv = PackedConv::new(&w, None, g.inputs, g.outputs, g.kernel, &g.spec, precision);
            conv.run(&x, g.b, g.h, g.w, Some(Act::Relu), None, &mut out, &mut Vec::new());
            out
        };
        close_in_bf16(&run(Precision::Bf16), &run(Precision::F32));
    }
}
