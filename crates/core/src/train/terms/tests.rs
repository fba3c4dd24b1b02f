//! Every term: the tape's gradient against candle's autograd and against finite differences, on both toy networks.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};

use super::super::gradient::Objective;
use super::super::toys::{Toy, both, random_params};
use super::*;
use crate::cache::host_values;
use crate::data::{Dataset, View};
use crate::net::forward::Mode;
use crate::net::tape::Gradients;
use crate::net::{Role, Stage};
use crate::plan::BatchNormMode;
use crate::seed::Seed;

fn batch(toy: &Toy) -> (Activation, Vec<u32>) {
    let samples: Vec<_> = (0..6).map(|i| toy.data.load(i, View::Plain).unwrap()).collect();
    (Activation::collate(&samples, &Device::Cpu).unwrap(), (0..6).map(|i| toy.data.target(i)).collect())
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut stream = Seed(seed).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The toy's parameters, all of which learn, and a linear layer beside the network with 5 outputs.
fn learning(toy: &Toy) -> Params {
    let mut params = toy.params.clone();
    params.set("beside.weight", random(&[5, 8], 1)).unwrap();
    params.set("beside.bias", random(&[5], 2)).unwrap();
    let mut names: BTreeSet<String> = toy.names(&toy.stages(), |role| role != Role::Buffer);
    names.extend(["beside.weight", "beside.bias"].map(String::from));
    params.set_learning(&names).unwrap();
    params
}

fn train(batch_norm: BatchNormMode) -> Mode {
    Mode::Train { batch_norm, seed: Seed(3) }
}

fn flat(grads: &Gradients) -> Vec<f64> {
    grads.values().flat_map(|g| host_values(g).unwrap()).map(f64::from).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The parameters moved by `step` along the direction of `along`.
fn moved(params: &Params, along: &Gradients, step: f64) -> Params {
    let length = norm(&flat(along));
    let mut values = params.snapshot();
    for (name, direction) in along {
        let value = (&values[name] + (direction * (step / length)).unwrap()).unwrap();
        values.insert(name.clone(), value);
    }
    Params::new(values)
}

fn check(toy: &Toy, what: &str, terms: impl Fn() -> Vec<Box<dyn Term>>, batch_norm: BatchNormMode) {
    let (input, targets) = batch(toy);
    let params = learning(toy);
    let reference = random_params(toy.network(), Seed(77));
    let stages: Vec<(&Stage, bool)> =
        toy.network().stages.iter().chain([&toy.network().head]).map(|stage| (stage, true)).collect();
    let objective = |recompute| Objective {
        stages: stages.clone(),
        terms: terms(),
        reference: terms().iter().any(|t| t.compares()).then_some(&reference),
        recompute,
    };
    let mode = train(batch_norm);
    let what = format!("{what} on {}", toy.network().name);
    let tape = objective(false).gradient(&params, mode, &input, &targets).unwrap();
    let grads = tape.grads.unwrap();
    let again = objective(true).gradient(&params, mode, &input, &targets).unwrap().grads.unwrap();
    assert_eq!(flat(&again), flat(&grads), "{what}: computed a second time");
    let other = objective(false).with_autograd(&params, mode, &input, &targets).unwrap();
    assert!((other.loss - tape.loss).abs() < 1e-5 * tape.loss.abs().max(1.0), "{what}");
    let other = other.grads.unwrap();
    let length = norm(&flat(&grads));
    assert!(length > 1e-4, "{what}: nothing to check");
    for (name, grad) in &grads {
        let expected = match other.get(name) {
            Some(grad) => host_values(grad).unwrap(),
            None => vec![0.0; grad.elem_count()],
        };
        let apart: Vec<f64> = host_values(grad).unwrap().iter().zip(expected).map(|(a, b)| f64::from(a - b)).collect();
        assert!(norm(&apart) < 1e-4 * length, "{what}: {name} differs by {:e} of {length:e}", norm(&apart));
    }
    // Along the gradient the loss rises by its length. Batch statistics with a kink nearby bend it: a small step.
    let step = 5e-4;
    let loss = |at: f64| objective(false).gradient(&moved(&params, &grads, at), mode, &input, &targets).unwrap().loss;
    let slope = (loss(step) - loss(-step)) / (2.0 * step);
    assert!((slope - length).abs() < 0.02 * length + 2e-4, "{what}: {length} by differences {slope}");
}

#[test]
fn gradients_agree_with_autograd_and_finite_differences() {
    use BatchNormMode::{Frozen, Stochastic, Update};
    for toy in both() {
        let (features, last) = (toy.network().stages.len(), toy.network().stages.len() + 1);
        let classes = move || -> Box<dyn Term> {
            Box::new(CrossEntropy { output: last, class_weights: None, label_smoothing: 0.1, share: 0.7, mixed: None })
        };
        for batch_norm in [Update, Frozen, Stochastic { running: 0.5 }] {
            check(&toy, "cross-entropy", || vec![classes()], batch_norm);
            let labels = || -> Vec<Box<dyn Term>> {
                let targets = random(&[6, 3], 8).ge(0.0).unwrap().to_dtype(candle_core::DType::F32).unwrap();
                let weights = Some(Tensor::new(&[0.5f32, 1.0, 3.0], &Device::Cpu).unwrap());
                vec![Box::new(BinaryCrossEntropy { output: last, targets, weights })]
            };
            check(&toy, "binary cross-entropy", labels, batch_norm);
            let values =
                || -> Vec<Box<dyn Term>> { vec![Box::new(SquaredError { output: last, targets: random(&[6, 3], 9) })] };
            check(&toy, "squared error", values, batch_norm);
        }
        let mixed = move || -> Box<dyn Term> {
            let mixed = Some((vec![2, 0, 1, 1, 0, 2], 0.3));
            Box::new(CrossEntropy { output: last, class_weights: None, label_smoothing: 0.0, share: 1.0, mixed })
        };
        check(&toy, "cross-entropy of mixed samples", || vec![mixed()], Update);
        // By stage: 8 channels come out of each.
        let weights = |seed| -> Vec<f32> { host_values(&random(&[8], seed).abs().unwrap()).unwrap() };
        let stages: &'static [(usize, Vec<f32>)] = vec![(1, weights(1)), (2, weights(2))].leak();
        check(&toy, "features", move || vec![classes(), Box::new(StartFeatures { weight: 0.5, stages })], Update);
        let singular =
            move |smallest| -> Box<dyn Term> { Box::new(SingularValues { output: features, weight: 0.3, smallest }) };
        check(&toy, "singular values alone", || vec![singular(2)], Update);
        check(&toy, "singular values", || vec![classes(), singular(1)], Update);
        let soft = |classes| log_softmax(&random(&[6, classes], 9)).unwrap();
        let answers = soft(3);
        let taught = || -> Box<dyn Term> {
            Box::new(SoftLabels { output: last, layer: None, targets: answers.clone(), weight: 0.4, temperature: 2.0 })
        };
        check(&toy, "soft labels", || vec![classes(), taught()], Update);
        let relations = soft(5);
        let source = || -> Box<dyn Term> {
            let (layer, targets) = (Some("beside"), relations.clone());
            Box::new(SoftLabels { output: features, layer, targets, weight: 2.3, temperature: 1.0 })
        };
        check(&toy, "source labels", || vec![classes(), source()], Update);
        let mimicry = || -> Box<dyn Term> {
            Box::new(Mimicry { output: features, layer: Some("beside"), targets: random(&[6, 5], 4), weight: 1.5 })
        };
        check(&toy, "features of a teacher", || vec![mimicry()], Update);
        let pairs = || -> Box<dyn Term> {
            Box::new(CosinePairs { output: features, pairs: vec![(0, 3), (1, 4), (0, 1), (5, 3)] })
        };
        check(&toy, "pairs", || vec![pairs()], Frozen);
    }
}

#[test]
fn the_start_is_at_no_distance_from_itself_and_has_no_gradient() {
    for toy in both() {
        let (input, targets) = batch(&toy);
        let params = learning(&toy);
        let reference = toy.params.clone();
        let stages = toy.network().stages.iter().chain([&toy.network().head]).map(|stage| (stage, true)).collect();
        let compared = [(1, vec![0.125; 8]), (2, vec![0.125; 8])];
        let terms: Vec<Box<dyn Term>> = vec![Box::new(StartFeatures { weight: 1.0, stages: &compared })];
        let objective = Objective { stages, terms, reference: Some(&reference), recompute: false };
        let found = objective.gradient(&params, train(BatchNormMode::Update), &input, &targets).unwrap();
        assert_eq!(found.loss, 0.0);
        assert!(flat(&found.grads.unwrap()).iter().all(|&g| g == 0.0), "with batch statistics and dropout");
    }
}

#[test]
fn singular_values_are_those_of_a_matrix_made_of_them() {
    // F = U diag(3, 0.5, 2) Vᵀ, with a rotation U and orthonormal rows V.
    let (c, s) = (0.8, 0.6);
    let u = [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]];
    let v = [[0.6, 0.0, 0.8, 0.0], [0.0, 1.0, 0.0, 0.0], [-0.8, 0.0, 0.6, 0.0]];
    let values = [3.0, 0.5, 2.0];
    let entry = |i: usize, j: usize| (0..3).map(|k| u[i][k] * values[k] * v[k][j]).sum::<f64>() as f32;
    let entries: Vec<f32> = (0..12).map(|at| entry(at / 4, at % 4)).collect();
    let wide = Tensor::from_vec(entries, (3, 4), &Device::Cpu).unwrap();
    for features in [wide.clone(), wide.t().unwrap().contiguous().unwrap()] {
        let outputs = BTreeMap::from([(0, Activation { data: features, rows: crate::data::Rows::One })]);
        let params = Params::default();
        let seen = Seen { outputs: &outputs, reference: &outputs, params: &params, targets: &[] };
        let value = |smallest| {
            let term = SingularValues { output: 0, weight: 2.0, smallest };
            f64::from(term.loss(&seen).unwrap().to_scalar::<f32>().unwrap())
        };
        assert!((value(1) - 2.0 * 0.25).abs() < 1e-5);
        assert!((value(2) - 2.0 * 4.25).abs() < 1e-5);
        assert!((value(9) - 2.0 * 13.25).abs() < 1e-5, "no more than there are");
    }
}

#[test]
fn the_loss_of_mixed_samples_is_that_of_both_labels_in_their_shares() {
    let logits = random(&[4, 3], 6);
    let outputs = BTreeMap::from([(1, Activation { data: logits, rows: crate::data::Rows::One })]);
    let params = Params::default();
    let loss = |targets: &[u32], mixed| {
        let seen = Seen { outputs: &outputs, reference: &outputs, params: &params, targets };
        let term = CrossEntropy { output: 1, class_weights: None, label_smoothing: 0.1, share: 1.0, mixed };
        f64::from(term.loss(&seen).unwrap().to_scalar::<f32>().unwrap())
    };
    let (own, other) = ([0, 1, 2, 0], vec![2, 2, 1, 0]);
    let expected = 0.7 * loss(&own, None) + 0.3 * loss(&other, None);
    assert!((loss(&own, Some((other, 0.7))) - expected).abs() < 1e-6);
}

#[test]
fn a_distribution_diverges_from_itself_by_nothing() {
    let logits = random(&[4, 3], 5);
    let outputs = BTreeMap::from([(2, Activation { data: logits.clone(), rows: crate::data::Rows::One })]);
    let params = Params::default();
    let seen = Seen { outputs: &outputs, reference: &outputs, params: &params, targets: &[0, 1, 2, 0] };
    let targets = log_softmax(&(logits / 3.0).unwrap()).unwrap();
    let term = SoftLabels { output: 2, layer: None, targets, weight: 1.0, temperature: 3.0 };
    assert!(term.loss(&seen).unwrap().to_scalar::<f32>().unwrap().abs() < 1e-6);
}

/// The formulas of torch's binary_cross_entropy_with_logits, `pos_weight` included, and mse_loss.
#[test]
fn losses_of_numbers_are_those_of_torch() {
    let logits = Tensor::new(&[[1.5f32, -40.0], [-0.25, 3.0]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[[1.0f32, 1.0], [0.0, 0.0]], &Device::Cpu).unwrap();
    let rows = crate::data::Rows::One;
    let outputs = BTreeMap::from([(1, Activation { data: logits, rows })]);
    let (none, params) = (BTreeMap::new(), Params::default());
    let seen = Seen { outputs: &outputs, reference: &none, params: &params, targets: &[] };
    let weights = Some(Tensor::new(&[0.5f32, 2.0], &Device::Cpu).unwrap());
    let value = |term: &dyn Term| term.loss(&seen).unwrap().to_scalar::<f32>().unwrap();
    let binary = value(&BinaryCrossEntropy { output: 1, targets: targets.clone(), weights });
    let soft = |x: f64| (1.0 + x.exp()).ln();
    let expected = (0.5 * soft(-1.5) + 2.0 * 40.0 + soft(-0.25) + soft(3.0)) / 4.0;
    assert!((f64::from(binary) - expected).abs() < 1e-5, "{binary} {expected}");
    let squared = value(&SquaredError { output: 1, targets });
    assert!((squared - (0.25 + 1681.0 + 0.0625 + 9.0) / 4.0).abs() < 1e-3, "{squared}");
}

/// Three couples in a plane, the right candidates 0.2 away from each text; then with texts that occur twice, and one of a couple
/// alone.
#[test]
fn couples_are_told_from_all_others_but_equal_texts() {
    let angles = [0.0f32, 0.2, 1.0, 1.2, 2.0, 2.2];
    let rows: Vec<f32> = angles.iter().flat_map(|angle| [3.0 * angle.cos(), 3.0 * angle.sin()]).collect();
    let data = Tensor::from_vec(rows, (6, 2), &Device::Cpu).unwrap();
    let outputs = BTreeMap::from([(1, Activation { data, rows: crate::data::Rows::One })]);
    let (none, params) = (BTreeMap::new(), Params::default());
    let value = |targets: &[u32], numbers: &[f32]| {
        let seen = Seen { outputs: &outputs, reference: &none, params: &params, targets };
        f64::from(InBatchNegatives::of(1, numbers).loss(&seen).unwrap().to_scalar::<f32>().unwrap())
    };
    let of = |i: usize, candidates: &[usize]| {
        let score = |j: usize| 20.0 * f64::from(angles[2 * i] - angles[2 * j + 1]).cos();
        candidates.iter().map(|&j| score(j).exp()).sum::<f64>().ln() - score(i)
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    let all = [0, 1, 2];
    let numbers = [4.0, 4.0, 7.0, 7.0, 5.0, 5.0];
    close(value(&[0, 1, 2, 3, 4, 5], &numbers), (0..3).map(|i| of(i, &all)).sum::<f64>() / 3.0);
    // The first two couples ask the same; what belongs to one is no wrong answer to the other.
    close(value(&[0, 1, 0, 3, 4, 5], &numbers), (of(0, &[0, 2]) + of(1, &[1, 2]) + of(2, &all)) / 3.0);
    close(value(&[0, 1, 2, 3, 4, 5], &[4.0, 7.0, 7.0, 7.5, 5.0, 5.0]), {
        // Rows 1 and 2 are a couple now.
        let score = |a: usize, b: usize| 20.0 * f64::from(angles[a] - angles[b]).cos();
        let one = |right: f64, wrong: f64| (right.exp() + wrong.exp()).ln() - right;
        (one(score(1, 2), score(1, 5)) + one(score(4, 5), score(4, 2))) / 2.0
    });
    assert_eq!(value(&[0; 6], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), 0.0);
}
