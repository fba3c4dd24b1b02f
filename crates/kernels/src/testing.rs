//! What the tests share: reproducible values, comparison, and gradients by central differences.

use candle_core::{Device, Result, Tensor, Var};

/// Values in -`range`..`range` from a fixed sequence.
pub(crate) fn values(len: usize, seed: u64, range: f32) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let bits = crate::dropout::hash(seed.wrapping_mul(0x1234_5678_9abc_def1), i as u64);
            ((bits as f32) / (u32::MAX as f32) * 2.0 - 1.0) * range
        })
        .collect()
}

/// A CPU tensor of [`values`].
pub(crate) fn random(shape: &[usize], seed: u64, range: f32) -> Tensor {
    Tensor::from_vec(values(shape.iter().product(), seed, range), shape, &Device::Cpu).expect("shape fits")
}

/// All values of a tensor.
pub(crate) fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_vec1()).expect("f32 tensor")
}

/// Panics when two tensors differ by more than `tolerance`, relative to 1 or to the larger value.
pub(crate) fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!(a.dims(), b.dims());
    close_values(&flat(a), &flat(b), tolerance);
}

/// [`close`] on slices.
pub(crate) fn close_values(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0), "element {i}: {a} and {b}");
    }
}

fn weighted(y: &Tensor) -> f64 {
    let weights = values(y.elem_count(), 99, 1.0);
    flat(y).iter().zip(weights).map(|(&y, w)| f64::from(y) * f64::from(w)).sum()
}

/// Compares the gradient of a random weighting of `f`'s outputs with central differences, for every input.
pub(crate) fn check_gradients(inputs: &[Tensor], tolerance: f64, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).expect("variable")).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).expect("forward");
    let weights = Tensor::from_vec(values(y.elem_count(), 99, 1.0), y.shape(), &Device::Cpu).expect("shape fits");
    let grads = (y * weights).and_then(|y| y.sum_all()).and_then(|y| y.backward()).expect("backward");
    for (k, input) in inputs.iter().enumerate() {
        let grad = flat(grads.get(&vars[k]).expect("a gradient"));
        let base = flat(input);
        for i in (0..base.len()).step_by(1 + base.len() / 40) {
            let shifted = |delta: f32| {
                let mut values = base.clone();
                values[i] += delta;
                let mut all: Vec<Tensor> = inputs.to_vec();
                all[k] = Tensor::from_vec(values, input.shape(), &Device::Cpu).expect("shape fits");
                weighted(&f(&all).expect("forward"))
            };
            let h = 5e-3f32;
            let numeric = (shifted(h) - shifted(-h)) / (2.0 * f64::from(h));
            let (got, scale) = (f64::from(grad[i]), numeric.abs().max(1.0));
            assert!(
                (got - numeric).abs() <= tolerance * scale,
                "input {k}, element {i}: {got}, by differences {numeric}"
            );
        }
    }
}
