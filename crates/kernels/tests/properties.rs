//! Every tensor operation against plain loops in double precision, on random shapes and layouts: its values, and its
//! gradients by central differences of the plain loops.

mod plain;

use candle_core::{Device, Result, Tensor, Var};
use plain::Image;
use proptest::prelude::*;
use topwork_kernels::{
    Act, AdamWHyper, AdamWState, ConvSpec, SgdHyper, SgdState, act, adamw_step, adaptive_avg_pool2d, add, attention,
    avg_pool2d, batch_norm_eval, batch_norm_train, conv2d, cross_entropy, dropout, embed, layer_norm, linear,
    max_pool2d, pool_rows_first, pool_rows_mean, sgd_step, softmax, sum_of_squares,
};

/// How a tensor lies in memory.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Contiguous,
    /// The last two dimensions exchanged.
    Transposed,
    /// Behind something else in a larger storage.
    Narrowed,
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Contiguous), Just(Layout::Transposed), Just(Layout::Narrowed)]
}

/// Values in -1..1 that depend on the seed: up to 2²⁰ of them differ by 2⁻¹⁹ and more, and none is 0, so that small steps
/// cross no kink of an operation.
fn values(len: usize, seed: u64) -> Vec<f64> {
    const RANGE: u64 = 1 << 20;
    let mix = |x: u64, factor: u64| ((x ^ (x >> 9)) * factor) % RANGE;
    let of = |i: u64| mix(mix(mix((i + seed * 7919) % RANGE, 0x9e375), 0xb5297 | seed << 1), 0x68e31);
    (0..len as u64).map(|i| (of(i) as f64 + 0.5) / (RANGE / 2) as f64 - 1.0).collect()
}

fn tensor(shape: &[usize], values: &[f64]) -> Result<Tensor> {
    Tensor::from_vec(values.iter().map(|&x| x as f32).collect::<Vec<_>>(), shape, &Device::Cpu)
}

/// A variable, and a view of it that has these values in this layout.
fn laid_out(shape: &[usize], values: &[f64], layout: Layout) -> Result<(Var, Tensor)> {
    let plain = tensor(shape, values)?;
    Ok(match layout {
        Layout::Transposed if shape.len() > 1 => {
            let (a, b) = (shape.len() - 2, shape.len() - 1);
            let var = Var::from_tensor(&plain.transpose(a, b)?.contiguous()?)?;
            let view = var.transpose(a, b)?;
            (var, view)
        }
        Layout::Narrowed => {
            let mut before = shape.to_vec();
            before[0] = 2;
            let var =
                Var::from_tensor(&Tensor::cat(&[&Tensor::ones(before, plain.dtype(), &Device::Cpu)?, &plain], 0)?)?;
            let view = var.narrow(0, 2, shape[0])?;
            (var, view)
        }
        _ => {
            let var = Var::from_tensor(&plain)?;
            let view = var.as_tensor().clone();
            (var, view)
        }
    })
}

fn flat(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

/// Compares values, and the gradients of a random weighting of them in a random direction of every input.
fn check(
    shapes: &[&[usize]],
    layout: Layout,
    seed: u64,
    ours: impl Fn(&[Tensor]) -> Result<Tensor>,
    plain: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> Result<()> {
    let inputs: Vec<Vec<f64>> =
        shapes.iter().zip(seed..).map(|(shape, seed)| values(shape.iter().product(), seed)).collect();
    let laid: Vec<(Var, Tensor)> =
        shapes.iter().zip(&inputs).map(|(shape, x)| laid_out(shape, x, layout)).collect::<Result<_>>()?;
    let views: Vec<Tensor> = laid.iter().map(|(_, view)| view.clone()).collect();
    let y = ours(&views)?;
    let (got, want) = (flat(&y)?, plain(&inputs));
    assert_eq!(got.len(), want.len(), "{:?}", y.dims());
    let scale = want.iter().fold(1f64, |scale, y| scale.max(y.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((got - want).abs() <= 2e-5 * scale, "element {i}: {got}, plainly {want}");
    }
    if got.is_empty() {
        return Ok(());
    }
    let weights = values(want.len(), seed + 5000);
    let grads = (&y * tensor(&[want.len()], &weights)?.reshape(y.shape())?)?.sum_all()?.backward()?;
    for (k, (var, view)) in laid.iter().enumerate() {
        // Through the view, so that the direction is one of its elements.
        let gradient = grads.get(var).map(|g| seen(g, view, layout)).transpose()?.map(|g| flat(&g)).transpose()?;
        let gradient = gradient.unwrap_or_else(|| vec![0.0; inputs[k].len()]);
        let direction = values(inputs[k].len(), seed + 7000 + k as u64);
        let shifted = |h: f64| {
            let mut moved = inputs.clone();
            moved[k].iter_mut().zip(&direction).for_each(|(x, d)| *x += h * d);
            plain(&moved).iter().zip(&weights).map(|(y, w)| y * w).sum::<f64>()
        };
        let h = 1e-7;
        let want = (shifted(h) - shifted(-h)) / (2.0 * h);
        let got: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let scale = gradient.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum::<f64>().max(1.0);
        assert!((got - want).abs() <= 5e-5 * scale, "input {k}: slope {got}, plainly {want}");
    }
    Ok(())
}

/// A variable's gradient as its view sees it.
fn seen(gradient: &Tensor, view: &Tensor, layout: Layout) -> Result<Tensor> {
    let rank = view.rank();
    match layout {
        Layout::Transposed if rank > 1 => gradient.transpose(rank - 2, rank - 1),
        Layout::Narrowed => gradient.narrow(0, 2, view.dims()[0]),
        _ => Ok(gradient.clone()),
    }
}

const ACTS: [Act; 9] = [
    Act::Relu,
    Act::Relu6,
    Act::Gelu,
    Act::GeluTanh,
    Act::Tanh,
    Act::Silu,
    Act::Sigmoid,
    Act::HardSwish,
    Act::HardSigmoid,
];

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1usize), 0usize..20, 40usize..70], 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolution(
        b in 1usize..4, h in 1usize..20, w in 1usize..20, kernel in prop::array::uniform2(1usize..5),
        stride in prop::array::uniform2(1usize..4), dilation in prop::array::uniform2(1usize..3),
        pads in prop::array::uniform4(0usize..4), groups in 1usize..4, gi in 1usize..20, go in 1usize..20,
        depthwise in any::<bool>(), bias in any::<bool>(), layout in layout(), seed in 0u64..1000,
    ) {
        let (gi, go, groups) = if depthwise { (1, 1, groups * gi) } else { (gi, go, groups) };
        let spec = ConvSpec { stride, pads, dilation, groups };
        let (c, o) = (groups * gi, groups * go);
        prop_assume!(h + pads[0] + pads[1] > dilation[0] * (kernel[0] - 1) && w + pads[2] + pads[3] > dilation[1] * (kernel[1] - 1));
        let image = Image { b, h, w, c };
        let shapes: [&[usize]; 3] = [&[b, h, w, c], &[o, gi, kernel[0], kernel[1]], &[o]];
        let shapes = if bias { &shapes[..] } else { &shapes[..2] };
        check(shapes, layout, seed,
            |x| conv2d(&x[0], &x[1], x.get(2), &spec),
            |x| plain::conv2d(image, &x[0], &x[1], x.get(2), o, kernel, &spec)).unwrap();
    }

    #[test]
    fn winograd_convolution(
        b in 1usize..4, h in 3usize..20, w in 3usize..20, pads in prop::array::uniform4(0usize..3),
        c in 2usize..5, o in 2usize..5, wide in any::<bool>(), layout in layout(), seed in 0u64..1000,
    ) {
        let (c, o, k) = (16 * c, 16 * o, if wide { 5 } else { 3 });
        prop_assume!(h + pads[0] + pads[1] >= k && w + pads[2] + pads[3] >= k);
        let spec = ConvSpec { pads, ..ConvSpec::default() };
        check(&[&[b, h, w, c], &[o, c, k, k], &[o]], layout, seed,
            |x| conv2d(&x[0], &x[1], x.get(2), &spec),
            |x| plain::conv2d(Image { b, h, w, c }, &x[0], &x[1], x.get(2), o, [k, k], &spec)).unwrap();
    }

    #[test]
    fn pooling(
        b in 0usize..4, h in 1usize..14, w in 1usize..14, c in 1usize..40, kernel in prop::array::uniform2(1usize..5),
        stride in prop::array::uniform2(1usize..4), pads in prop::array::uniform4(0usize..3), count in any::<bool>(),
        size in prop::array::uniform2(1usize..6), layout in layout(), seed in 0u64..1000,
    ) {
        let pads = [pads[0].min(kernel[0] - 1), pads[1].min(kernel[0] - 1), pads[2].min(kernel[1] - 1), pads[3].min(kernel[1] - 1)];
        prop_assume!(h + pads[0] + pads[1] >= kernel[0] && w + pads[2] + pads[3] >= kernel[1]);
        let image = Image { b, h, w, c };
        let shape: [&[usize]; 1] = [&[b, h, w, c]];
        check(&shape, layout, seed,
            |x| max_pool2d(&x[0], kernel, stride, pads),
            |x| plain::max_pool2d(image, &x[0], kernel, stride, pads)).unwrap();
        check(&shape, layout, seed,
            |x| avg_pool2d(&x[0], kernel, stride, pads, count),
            |x| plain::avg_pool2d(image, &x[0], kernel, stride, pads, count)).unwrap();
        check(&shape, layout, seed,
            |x| adaptive_avg_pool2d(&x[0], size),
            |x| plain::adaptive_avg_pool2d(image, &x[0], size)).unwrap();
    }

    #[test]
    fn normalization(
        rows in 2usize..300, width in 1usize..70, layout in layout(), seed in 0u64..1000,
    ) {
        let shapes: [&[usize]; 3] = [&[rows, width], &[width], &[width]];
        // Few rows may have next to no variance by chance; a larger epsilon keeps single precision meaningful.
        check(&shapes, layout, seed,
            |x| Ok(batch_norm_train(&x[0], &x[1], &x[2], 1e-2)?.0),
            |x| plain::batch_norm(&x[0], &x[1], &x[2], 1e-2)).unwrap();
        let shapes: [&[usize]; 5] = [&[rows, width], &[width], &[width], &[width], &[width]];
        check(&shapes[..3], layout, seed,
            |x| {
                let moments = [values(width, 7), values(width, 8).iter().map(|v| v + 1.5).collect()];
                batch_norm_eval(&x[0], &x[1], &x[2], &tensor(&[width], &moments[0])?, &tensor(&[width], &moments[1])?, 1e-5)
            },
            |x| {
                let variance: Vec<f64> = values(width, 8).iter().map(|v| v + 1.5).collect();
                plain::batch_norm_of(&x[0], &values(width, 7), &variance, &x[1], &x[2], 1e-5)
            }).unwrap();
        check(&shapes[..3], layout, seed,
            |x| layer_norm(&x[0], &x[1], &x[2], 1e-2),
            |x| plain::layer_norm(&x[0], &x[1], &x[2], 1e-2)).unwrap();
    }

    #[test]
    fn elementwise(rows in 0usize..40, width in 1usize..500, layout in layout(), seed in 0u64..1000) {
        for a in ACTS {
            check(&[&[rows, width]], layout, seed,
                |x| act(&(&x[0] * 4.0)?, a),
                |x| x[0].iter().map(|x| plain::act(a, 4.0 * x)).collect()).unwrap();
        }
        let both: [&[usize]; 2] = [&[rows, width], &[rows, width]];
        check(&both, layout, seed, |x| add(&x[0], &x[1]),
            |x| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect()).unwrap();
        check(&both[..1], layout, seed, |x| softmax(&x[0]), |x| plain::softmax(&x[0], width)).unwrap();
    }

    #[test]
    fn products(
        rows in prop_oneof![0usize..20, 60usize..200], inputs in prop_oneof![1usize..40, 300usize..600], outputs in 1usize..150,
        bias in any::<bool>(), layout in layout(), seed in 0u64..1000,
    ) {
        let shapes: [&[usize]; 3] = [&[rows, inputs], &[outputs, inputs], &[outputs]];
        let shapes = if bias { &shapes[..] } else { &shapes[..2] };
        check(shapes, layout, seed,
            |x| linear(&x[0], &x[1], x.get(2)),
            |x| plain::linear(&x[0], &x[1], x.get(2), inputs, outputs)).unwrap();
    }

    #[test]
    fn attention_within_samples(
        lengths in lengths(), heads in 1usize..5, d in 1usize..40, layout in layout(), seed in 0u64..1000,
    ) {
        let shape = [lengths.iter().sum(), heads * d];
        check(&[&shape, &shape, &shape], layout, seed,
            |x| attention(&x[0], &x[1], &x[2], &lengths, heads, None),
            |x| plain::attention(&x[0], &x[1], &x[2], &lengths, heads, d)).unwrap();
    }

    #[test]
    fn rows_and_tables(lengths in lengths(), width in 1usize..70, layout in layout(), seed in 0u64..1000) {
        let total = lengths.iter().sum();
        check(&[&[total, width]], layout, seed,
            |x| pool_rows_mean(&x[0], &lengths), |x| plain::pool_rows_mean(&x[0], width, &lengths)).unwrap();
        if lengths.iter().all(|&length| length > 0) {
            check(&[&[total, width]], layout, seed,
                |x| pool_rows_first(&x[0], &lengths), |x| plain::pool_rows_first(&x[0], width, &lengths)).unwrap();
        }
        let ids: Vec<u32> = (0..total as u32).map(|i| i * 7 % 11).collect();
        check(&[&[11, width]], layout, seed,
            |x| embed(&x[0], &Tensor::from_vec(ids.clone(), total, &Device::Cpu)?),
            |x| ids.iter().flat_map(|&id| x[0][id as usize * width..][..width].to_vec()).collect()).unwrap();
    }

    #[test]
    fn loss(
        rows in 1usize..40, classes in 1usize..70, smoothing in 0.0f64..0.5, weighted in any::<bool>(), layout in layout(),
        seed in 0u64..1000,
    ) {
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 13 % classes as u32).collect();
        let weights: Option<Vec<f32>> = weighted.then(|| (0..classes).map(|i| 0.5 + i as f32 / 10.0).collect());
        check(&[&[rows, classes]], layout, seed,
            |x| cross_entropy(&x[0], &Tensor::from_vec(targets.clone(), rows, &Device::Cpu)?, weights.as_deref(), smoothing),
            |x| vec![plain::cross_entropy(&x[0], classes, &targets, weights.as_deref(), smoothing)]).unwrap();
    }

    #[test]
    fn dropout_keeps_or_zeroes(len in 0usize..5000, p in 0.0f32..0.9, seed in 0u64..1000) {
        let x = tensor(&[len], &values(len, seed).iter().map(|x| x + 2.0).collect::<Vec<_>>()).unwrap();
        let (x, y) = (flat(&x).unwrap(), flat(&dropout(&x, p, seed).unwrap()).unwrap());
        let kept = x.iter().zip(&y).filter(|(_, y)| **y != 0.0);
        prop_assert!(kept.clone().all(|(x, y)| (y - x / (1.0 - f64::from(p))).abs() <= 1e-5 * y.abs()));
        let spread = 5.0 * (len as f64 * f64::from(p) * (1.0 - f64::from(p))).sqrt() + 1.0;
        prop_assert!((kept.count() as f64 - len as f64 * (1.0 - f64::from(p))).abs() <= spread);
    }

    #[test]
    fn optimizers(len in 1usize..3000, steps in 1u32..5, decay in 0.0f64..0.1, seed in 0u64..1000) {
        let start = values(len, seed);
        let gradient = |step: u32| values(len, seed + 1 + u64::from(step));
        let adamw = |step| AdamWHyper { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: decay, step, scale: 1.0 };
        let var = Var::from_tensor(&tensor(&[len], &start).unwrap()).unwrap();
        let mut state = AdamWState::new(&var).unwrap();
        for step in 1..=steps {
            let gradient = tensor(&[len], &gradient(step)).unwrap();
            adamw_step(&var, &gradient, &mut state, &adamw(u64::from(step))).unwrap();
        }
        let want = plain::adamw(&start, steps, gradient, 0.01, decay);
        prop_assert!(flat(&var).unwrap().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
        let var = Var::from_tensor(&tensor(&[len], &start).unwrap()).unwrap();
        let mut state = SgdState::new(&var).unwrap();
        for step in 1..=steps {
            let hyper = SgdHyper { lr: 0.1, momentum: 0.9, weight_decay: decay, nesterov: false, scale: 1.0 };
            sgd_step(&var, &tensor(&[len], &gradient(step)).unwrap(), &mut state, &hyper).unwrap();
        }
        let want = plain::sgd(&start, steps, gradient, 0.1, decay);
        prop_assert!(flat(&var).unwrap().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
        let squares: f64 = start.iter().map(|x| x * x).sum();
        prop_assert!((sum_of_squares(&tensor(&[len], &start).unwrap()).unwrap() - squares).abs() <= 1e-5 * squares);
    }
}

/// A process of its own for some tests of this file, with these instructions.
fn again(instructions: &str, tests: &[&str]) -> std::process::Output {
    let mut again = std::process::Command::new(std::env::current_exe().expect("a test has a path"));
    again.args(tests).env("TOPWORK_INSTRUCTIONS", instructions).output().expect("a test can be started")
}

/// The tests of this file again, in processes that may use less than this one.
#[test]
fn the_other_instruction_sets() {
    if std::env::var_os("TOPWORK_INSTRUCTIONS").is_some() {
        return;
    }
    for instructions in &topwork_kernels::instruction_sets()[1..] {
        let ran = again(instructions, &[]);
        assert!(ran.status.success(), "{instructions}: {}", String::from_utf8_lossy(&ran.stdout));
    }
}

#[test]
fn the_instructions_that_were_asked_for_run() {
    if let Ok(asked) = std::env::var("TOPWORK_INSTRUCTIONS") {
        assert_eq!(topwork_kernels::instruction_set(), asked);
    }
}

#[test]
fn instructions_that_nobody_has_are_an_error() {
    if std::env::var_os("TOPWORK_INSTRUCTIONS").is_some() {
        return;
    }
    let ran = again("avx3", &["the_instructions_that_were_asked_for_run"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(!ran.status.success() && said.contains("TOPWORK_INSTRUCTIONS=avx3: this processor has "), "{said}");
}
