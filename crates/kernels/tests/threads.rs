//! Results have the same bits for every number of threads.

use candle_core::{Device, Result, Tensor, Var};
use rayon::ThreadPoolBuilder;
use topwork_kernels::frozen::{PackedConv, Precision};
use topwork_kernels::{
    ConvSpec, attention, batch_norm_train, conv2d, cross_entropy, layer_norm, linear, sum_of_squares,
};

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn var(shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&Tensor::from_vec(filled(shape.iter().product()), shape, &Device::Cpu)?)
}

/// Bits of a tensor.
fn bits(x: &Tensor) -> Result<Vec<u32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// Runs `f` with several numbers of threads, and compares with one.
fn same(f: impl Fn() -> Result<Vec<Vec<u32>>> + Sync) -> Result<()> {
    let run = |threads| ThreadPoolBuilder::new().num_threads(threads).build().map(|pool| pool.install(&f));
    for threads in [2, 3, 7] {
        match (run(1), run(threads)) {
            (Ok(one), Ok(several)) => assert!(one? == several?, "{threads} threads"),
            (a, b) => panic!("no thread pool: {:?} {:?}", a.err(), b.err()),
        }
    }
    Ok(())
}

#[test]
fn convolutions_and_batch_norm() -> Result<()> {
    for (kernel, groups) in [(1, 1), (3, 1), (3, 32)] {
        same(|| {
            let spec = ConvSpec { pads: [kernel / 2; 4], groups, ..ConvSpec::default() };
            let (x, w) = (var(&[3, 40, 40, 32])?, var(&[32, 32 / groups, kernel, kernel])?);
            let (gamma, beta) = (var(&[32])?, var(&[32])?);
            let (y, stats) = batch_norm_train(&conv2d(&x, &w, None, &spec)?, &gamma, &beta, 1e-5)?;
            let grads = y.sqr()?.mean_all()?.backward()?;
            let mut all = vec![bits(&y)?, bits(&stats.var)?];
            for var in [&x, &w, &gamma, &beta] {
                all.extend(grads.get(var).map(bits).transpose()?);
            }
            assert_eq!(all.len(), 6);
            Ok(all)
        })?;
    }
    Ok(())
}

#[test]
fn an_encoder_layer() -> Result<()> {
    same(|| {
        let lengths = [50, 7, 120, 33, 128, 64];
        let (x, w, b) = (var(&[402, 64])?, var(&[64, 64])?, var(&[64])?);
        let y = linear(&x, &w, Some(&b))?;
        let y = attention(&y, &y, &y, &lengths, 4, Some((0.1, 3)))?;
        let y = layer_norm(&(y + x.as_tensor())?, &b, &b, 1e-5)?;
        let targets = Tensor::from_vec((0..402u32).map(|i| i % 64).collect(), 402, &Device::Cpu)?;
        let grads = cross_entropy(&y, &targets, None, 0.1)?.backward()?;
        let mut all = vec![bits(&y)?];
        for var in [&x, &w, &b] {
            let grad = grads.get(var);
            all.extend(grad.map(bits).transpose()?);
            all.extend(grad.map(|g| sum_of_squares(g).map(|s| vec![s.to_bits() as u32])).transpose()?);
        }
        assert_eq!(all.len(), 7);
        Ok(all)
    })
}

#[test]
fn frozen_convolutions() -> Result<()> {
    for (kernel, groups) in [(1, 1), (3, 1), (5, 32)] {
        same(|| {
            let spec = ConvSpec { pads: [kernel / 2; 4], groups, ..ConvSpec::default() };
            let weight = filled(32 * 32 / groups * kernel * kernel);
            let conv = PackedConv::new(&weight, None, 32, 32, [kernel; 2], &spec, Precision::F32);
            let mut out = vec![0.0; 3 * 40 * 40 * 32];
            conv.run(&filled(out.len()), 3, 40, 40, None, None, &mut out, &mut Vec::new());
            Ok(vec![out.into_iter().map(f32::to_bits).collect()])
        })?;
    }
    Ok(())
}
