//! Attention against plain loops, compositions and finite differences.

use super::*;
use crate::testing::{check_gradients, close, close_values, flat, random};

fn inputs(rows: usize, width: usize) -> [Tensor; 3] {
    [1, 2, 3].map(|seed| random(&[rows, width], seed, 1.5))
}

fn op(lengths: &[usize], heads: usize, dropout: Option<(f32, u64)>) -> AttentionPass {
    AttentionPass::new(lengths, Queries::Rows, heads, dropout).expect("a probability")
}

#[test]
fn agrees_with_plain_loops() -> Result<()> {
    let (lengths, heads, d) = ([3usize, 0, 20, 1], 3, 5);
    let width = heads * d;
    let [q, k, v] = inputs(24, width);
    let (qs, ks, vs) = (flat(&q), flat(&k), flat(&v));
    let mut want = vec![0f32; 24 * width];
    for (start, len) in starts(&lengths).zip(lengths) {
        for (i, h) in (0..len * heads).map(|i| (start + i / heads, i % heads)) {
            let score = |j: usize| -> f64 {
                (0..d).map(|c| f64::from(qs[i * width + h * d + c]) * f64::from(ks[j * width + h * d + c])).sum()
            };
            let e: Vec<f64> = (start..start + len).map(|j| (score(j) / (d as f64).sqrt()).exp()).collect();
            let total: f64 = e.iter().sum();
            for c in 0..d {
                let y: f64 = (0..len).map(|j| e[j] / total * f64::from(vs[(start + j) * width + h * d + c])).sum();
                want[i * width + h * d + c] = y as f32;
            }
        }
    }
    close_values(&flat(&attention(&q, &k, &v, &lengths, heads, None)?), &want, 1e-6);
    Ok(())
}

#[test]
fn composition_gives_the_same_values() -> Result<()> {
    let [q, k, v] = inputs(24, 32);
    for dropout in [None, Some((0.3, 7))] {
        let lengths = [3, 20, 0, 1];
        let y = attention(&q, &k, &v, &lengths, 4, dropout)?;
        close(&y, &composed(&q, &k, &v, Beside::default(), &op(&lengths, 4, dropout))?, 1e-5);
    }
    Ok(())
}

#[test]
fn gradients_agree_with_finite_differences() {
    for dropout in [None, Some((0.3, 7))] {
        check_gradients(&inputs(10, 12), 3e-3, |x| attention(&x[0], &x[1], &x[2], &[4, 1, 5], 2, dropout));
    }
}

#[test]
fn prefix_and_terms_have_gradients() -> Result<()> {
    let (lengths, heads, width) = ([4usize, 0, 1, 5], 2, 12);
    let [q, k, v] = inputs(10, width);
    // Terms that reach further than the longest sample, too.
    let more = [random(&[3, width], 4, 1.5), random(&[3, width], 5, 1.5), random(&[heads, 13], 6, 1.5)];
    let all = [q, k, v, more[0].clone(), more[1].clone(), more[2].clone()];
    for (dropout, with_prefix, with_terms) in
        [(None, true, false), (Some((0.3, 7)), true, false), (None, false, true), (Some((0.3, 7)), true, true)]
    {
        let whole = |x: &[Tensor]| {
            let beside = Beside {
                prefix: with_prefix.then_some([&x[3], &x[4]]),
                terms: with_terms.then_some(&x[5]),
                ..Beside::default()
            };
            attention_beside(&x[0], &x[1], &x[2], beside, &lengths, heads, dropout)
        };
        let used: Vec<usize> =
            (0..6).filter(|i| *i < 3 || (with_prefix && *i < 5) || (with_terms && *i == 5)).collect();
        let only: Vec<Tensor> = used.iter().map(|&i| all[i].clone()).collect();
        check_gradients(&only, 3e-3, |x| {
            let mut full = all.to_vec();
            used.iter().zip(x).for_each(|(&i, x)| full[i] = x.clone());
            whole(&full)
        });
        let vars: Vec<candle_core::Var> = all.iter().map(candle_core::Var::from_tensor).collect::<Result<_>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let y = whole(&tensors)?;
        let dy = random(&[10, width], 6, 1.0);
        let grads = (&y * &dy)?.sum_all()?.backward()?;
        let x: Vec<Vec<f32>> = all.iter().map(flat).collect();
        let three = [&x[0][..], &x[1], &x[2]];
        let beside = Beside {
            prefix: with_prefix.then_some([&x[3][..], &x[4]]),
            terms: with_terms.then_some(&x[5][..]),
            ..Beside::default()
        };
        let (pass, values) = AttentionPass::forward(three, beside, width, &lengths, heads, dropout)?;
        close_values(&values, &flat(&y), 1e-5);
        let found = pass.gradients(three, beside, width, &flat(&dy));
        let found = found.own.iter().chain(found.prefix.iter().flatten()).chain(&found.terms);
        for (gradient, &i) in found.zip(&used) {
            close_values(gradient, &flat(grads.get(&vars[i]).expect("a gradient")), 1e-4);
        }
    }
    Ok(())
}

#[test]
fn a_term_moves_the_weight_of_one_distance() -> Result<()> {
    // All scores equal but for a term of ln 3 for the next row: it weighs three times as much.
    let zeros = Tensor::zeros((3, 1), candle_core::DType::F32, &candle_core::Device::Cpu)?;
    let values = Tensor::new(&[[1f32], [10.0], [100.0]], &candle_core::Device::Cpu)?;
    let terms = Tensor::new(&[[0f32, 0.0, 0.0, 3f32.ln(), 0.0]], &candle_core::Device::Cpu)?;
    let beside = Beside { terms: Some(&terms), ..Beside::default() };
    let y = attention_beside(&zeros, &zeros, &values, beside, &[3], 1, None)?;
    close_values(&flat(&y), &[131.0 / 5.0, 311.0 / 5.0, 37.0], 1e-5);
    Ok(())
}

#[test]
fn one_query_for_each_sample_gives_what_that_row_gives_among_all() -> Result<()> {
    let (lengths, heads, width) = ([4usize, 1, 20, 5], 3, 15);
    let [q, k, v] = inputs(30, width);
    let (prefix, terms) =
        ([random(&[3, width], 4, 1.5), random(&[3, width], 5, 1.5)], random(&[heads, 2 * 20 - 1], 6, 1.5));
    let first = Tensor::from_vec(vec![0u32, 4, 5, 25], 4, q.device())?;
    let (every, q, dy) = (q.clone(), q.index_select(&first, 0)?, random(&[4, width], 7, 1.0));
    let more = Beside { prefix: Some([&prefix[0], &prefix[1]]), terms: Some(&terms), queries: Queries::Rows };
    for beside in [Beside::default(), more] {
        let one = Beside { queries: Queries::Samples, ..beside };
        let all = attention_beside(&every, &k, &v, beside, &lengths, heads, None)?;
        let y = attention_beside(&q, &k, &v, one, &lengths, heads, None)?;
        close(&y, &all.index_select(&first, 0)?, 1e-6);
        for dropout in [None, Some((0.3, 7))] {
            let vars: Vec<candle_core::Var> =
                [&q, &k, &v].into_iter().map(candle_core::Var::from_tensor).collect::<Result<_>>()?;
            let mut pass = op(&lengths, heads, dropout);
            pass.prefix = beside.prefix.map_or(0, |_| 3);
            pass.queries = Queries::Samples;
            let grads = (composed(&vars[0], &vars[1], &vars[2], one, &pass)? * &dy)?.sum_all()?.backward()?;
            let (x, two, line) = ([&q, &k, &v].map(flat), [&prefix[0], &prefix[1]].map(flat), flat(&terms));
            let three = [&x[0][..], &x[1], &x[2]];
            let slices = Beside {
                prefix: beside.prefix.map(|_| [&two[0][..], &two[1]]),
                terms: beside.terms.map(|_| &line[..]),
                queries: Queries::Samples,
            };
            let (pass, _) = AttentionPass::forward(three, slices, width, &lengths, heads, dropout)?;
            for (gradient, var) in pass.gradients(three, slices, width, &flat(&dy)).own.iter().zip(&vars) {
                close_values(gradient, &flat(grads.get(var).expect("a gradient")), 1e-4);
            }
        }
        assert!(attention_beside(&q, &k, &v, one, &[4, 0, 20, 6], heads, None).is_err());
    }
    Ok(())
}

#[test]
fn gradients_of_the_composition_are_the_kernels() {
    check_gradients(&inputs(10, 12), 3e-3, |x| {
        composed(&x[0], &x[1], &x[2], Beside::default(), &op(&[4, 1, 5], 2, Some((0.3, 7))))
    });
}

#[test]
fn softmax_sums_to_one_and_survives_large_values() -> Result<()> {
    let x = (random(&[5, 19], 1, 50.0) + 500.0)?;
    close(&softmax(&x)?, &softmax_composed(&x)?, 1e-5);
    close_values(&flat(&softmax(&x)?.sum(1)?), &[1.0; 5], 1e-5);
    Ok(())
}

#[test]
fn heads_must_divide_the_width() {
    let [q, k, v] = inputs(4, 10);
    assert!(attention(&q, &k, &v, &[4], 3, None).is_err());
    assert!(attention(&q, &k, &v, &[3], 2, None).is_err());
}
