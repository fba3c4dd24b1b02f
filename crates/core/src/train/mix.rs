//! Batches of mixed samples: mixup and CutMix. A sample becomes m x + (1 - m) x', x' being another one of its batch; m is
//! one number λ (mixup), or 0 within a box and 1 outside (CutMix). The label is mixed in the same shares.

use candle_core::Tensor;

use super::feed::Input;
use crate::data::{Activation, Rows, Targets};
use crate::plan::Mix;
use crate::seed::{Seed, Stream};
use crate::{Error, Result};

/// Mixes the samples of `input` and the numbers among its targets, unless the batch is among those left alone: gives the
/// class of each sample's partner and the share λ of its own.
///
/// # Errors
/// When its samples have lengths of their own; for CutMix, when they are no pictures.
pub(super) fn apply(mix: &Mix, input: &mut Input, seed: Seed) -> Result<Option<(Vec<u32>, f64)>> {
    let mut stream = seed.stream();
    if stream.uniform() >= mix.probability {
        return Ok(None);
    }
    let chance = match (mix.mixup > 0.0, mix.cutmix > 0.0) {
        (true, true) => 0.5,
        (_, cuts) => f64::from(u8::from(cuts)),
    };
    let cut = stream.uniform() < chance;
    let share = stream.beta(if cut { mix.cutmix } else { mix.mixup });
    let mut partners: Vec<u32> = (0..input.indices.len() as u32).collect();
    stream.shuffle(&mut partners);
    let data = &input.activation.data;
    let unfit = |what: &str| {
        let flag = if cut { "--cutmix" } else { "--mixup" };
        Error::input(flag, format!("what is learned from are no {what}"), "leave it out")
    };
    if !matches!(input.activation.rows, Rows::One) {
        return Err(unfit("samples of one length"));
    }
    let others = data.index_select(&Tensor::new(partners.as_slice(), data.device())?, 0)?;
    let (mixed, share) = if cut {
        let &[_, height, width, _] = data.dims() else { return Err(unfit("pictures")) };
        let [rows, columns] = area([height, width], 1.0 - share, &mut stream);
        let inside = |i: usize| rows.contains(&(i / width)) && columns.contains(&(i % width));
        let mask: Vec<f32> = (0..height * width).map(|i| if inside(i) { 0.0 } else { 1.0 }).collect();
        let mask = Tensor::from_vec(mask, (1, height, width, 1), data.device())?;
        let rest = mask.affine(-1.0, 1.0)?;
        let share = 1.0 - (rows.len() * columns.len()) as f64 / (height * width) as f64;
        ((data.broadcast_mul(&mask)? + others.broadcast_mul(&rest)?)?, share)
    } else {
        (((data * share)? + (others * (1.0 - share))?)?, share)
    };
    input.activation.data = mixed;
    let targets = &mut input.targets;
    let (own, width) = (targets.numbers.clone(), targets.numbers.len() / partners.len().max(1));
    for (i, number) in targets.numbers.iter_mut().enumerate() {
        let other = own[partners[i / width] as usize * width + i % width];
        *number = (share * f64::from(*number) + (1.0 - share) * f64::from(other)) as f32;
    }
    Ok(Some((partners.into_iter().map(|i| targets.classes[i as usize]).collect(), share)))
}

/// What the samples of a batch were mixed with.
#[derive(Debug, Clone, PartialEq)]
pub struct Partners {
    /// Where in the batch each one's partner stands.
    pub places: Vec<usize>,
    /// The share λ of each one itself.
    pub share: f64,
}

/// Mixes a batch as training does; without partners, it is among those left alone.
///
/// # Errors
/// When the samples have lengths of their own; for CutMix, when they are no pictures.
pub fn mixed(mix: &Mix, activation: Activation, seed: Seed) -> Result<(Activation, Option<Partners>)> {
    let indices: Vec<usize> = (0..activation.samples()).collect();
    // Each sample a class of its own tells the partners.
    let targets = Targets { classes: (0..indices.len() as u32).collect(), numbers: Vec::new() };
    let mut input = Input { activation, targets, indices };
    let partners = apply(mix, &mut input, seed)?;
    let partners = partners.map(|(partners, share)| {
        let places = partners.into_iter().map(|i| i as usize).collect();
        Partners { places, share }
    });
    Ok((input.activation, partners))
}

/// A box of about this share of the area around a uniform centre, as much of it as lies within (Yun et al. 2019, equation
/// 2): rows and columns.
fn area([height, width]: [usize; 2], share: f64, stream: &mut Stream) -> [std::ops::Range<usize>; 2] {
    let mut range = |size: usize| {
        let (half, centre) = (0.5 * share.sqrt() * size as f64, stream.below(size) as f64);
        let within = |x: f64| x.round().clamp(0.0, size as f64) as usize;
        within(centre - half)..within(centre + half)
    };
    [range(height), range(width)]
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Sample i is i everywhere, of class i.
    fn batch(shape: &[usize]) -> Input {
        let each: usize = shape[1..].iter().product();
        let values = (0..shape[0]).flat_map(|i| vec![i as f32; each]).collect();
        let data = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let classes: Vec<u32> = (0..shape[0] as u32).collect();
        let numbers = classes.iter().flat_map(|&i| [i as f32, -(i as f32)]).collect();
        let targets = Targets { classes, numbers };
        Input { activation: Activation { data, rows: Rows::One }, targets, indices: (0..shape[0]).collect() }
    }

    fn samples(input: &Input) -> Vec<Vec<f32>> {
        input.activation.data.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    const MIXUP: Mix = Mix { mixup: 0.4, cutmix: 0.0, probability: 1.0 };
    const CUTMIX: Mix = Mix { mixup: 0.0, cutmix: 1.0, probability: 1.0 };

    #[test]
    fn mixup_takes_one_share_of_each_sample_and_the_rest_of_its_partner() {
        let mut input = batch(&[6, 5]);
        let (others, share) = apply(&MIXUP, &mut input, Seed(3)).unwrap().unwrap();
        assert!((0.0..=1.0).contains(&share));
        for (i, (sample, other)) in samples(&input).into_iter().zip(&others).enumerate() {
            let expected = share * i as f64 + (1.0 - share) * f64::from(*other);
            assert!(sample.iter().all(|&x| (f64::from(x) - expected).abs() < 1e-5), "{sample:?}, not {expected}");
        }
        let mut sorted = others;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_cut_box_holds_the_partner_and_the_share_is_what_is_left() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut input = batch(&[4, 8, 10, 3]);
            let (others, share) = apply(&CUTMIX, &mut input, Seed(seed)).unwrap().unwrap();
            for (i, (sample, &other)) in samples(&input).into_iter().zip(&others).enumerate() {
                assert!(sample.iter().all(|&x| x == i as f32 || x == other as f32));
                let own = sample.iter().filter(|&&x| x == i as f32).count() as f64 / 240.0;
                assert!(other as usize == i || (own - share).abs() < 1e-9, "{own}, not {share}");
            }
            seen.insert((share * 80.0).round() as usize);
        }
        assert!(seen.len() > 20, "{seen:?}");
    }

    #[test]
    fn with_both_kinds_each_batch_takes_one_and_a_part_of_the_batches_none() {
        let mix = Mix { mixup: 1.0, cutmix: 1.0, probability: 0.6 };
        let (mut none, mut cut) = (0, 0);
        for seed in 0..1000 {
            let mut input = batch(&[2, 4, 4, 1]);
            match apply(&mix, &mut input, Seed(seed)).unwrap() {
                None => none += 1,
                Some(_) if samples(&input).concat().iter().all(|&x| x == 0.0 || x == 1.0) => cut += 1,
                Some(_) => {}
            }
        }
        // Of mixed batches, half are left as they were by a partner that is oneself.
        assert!((340..460).contains(&none), "{none}");
        assert!((380..520).contains(&cut), "{cut}");
    }

    #[test]
    fn equal_seeds_mix_equally() {
        let mixed = |seed| {
            let mut input = batch(&[6, 4, 4, 2]);
            apply(&CUTMIX, &mut input, Seed(seed)).unwrap();
            samples(&input)
        };
        assert_eq!(mixed(5), mixed(5));
        assert_ne!(mixed(5), mixed(6));
    }

    #[test]
    fn boxes_of_what_is_no_picture_are_refused() {
        let message = apply(&CUTMIX, &mut batch(&[6, 5]), Seed(1)).unwrap_err().to_string();
        assert!(message.contains("--cutmix") && message.contains("pictures"), "{message}");
    }
}
