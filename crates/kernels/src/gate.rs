//! Gates: every pixel of an image times one factor for each of its channels, as in squeeze-and-excitation
//! (Hu et al. 2018, *Squeeze-and-Excitation Networks*, eq. 4).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{self, CHUNK, Values, for_rows, for_rows_by};
use crate::simd::simd;

simd! {
    fn rows(x: &[f32], factors: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks_exact(factors.len()).zip(out.chunks_exact_mut(factors.len())) {
            for ((out, &x), &factor) in out.iter_mut().zip(x).zip(factors) {
                *out = x * factor;
            }
        }
    }
}

simd! {
    fn rows_in_place(x: &mut [f32], factors: &[f32]) {
        for x in x.chunks_exact_mut(factors.len()) {
            for (x, &factor) in x.iter_mut().zip(factors) {
                *x *= factor;
            }
        }
    }
}

simd! {
    fn add_products(x: &[f32], y: &[f32], sums: &mut [f32]) {
        for (x, y) in x.chunks_exact(sums.len()).zip(y.chunks_exact(sums.len())) {
            for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
                *sum = x.mul_add(y, *sum);
            }
        }
    }
}

/// Calls `f(pixels, of which image)` for the parts of `rows` pixels from `first` on that lie in one image of `pixels`.
fn by_image(first: usize, rows: usize, pixels: usize, mut f: impl FnMut(std::ops::Range<usize>, usize)) {
    let mut row = first;
    while row < first + rows {
        let end = ((row / pixels + 1) * pixels).min(first + rows);
        f(row..end, row / pixels);
        row = end;
    }
}

/// `out = x ⊙ factors`: images `[b, pixels, c]`, factors `[b, c]`.
pub fn forward(x: &[f32], factors: &[f32], pixels: usize, c: usize, out: &mut [f32]) {
    for_rows(out, c, |first, out| {
        by_image(first, out.len() / c, pixels, |part, image| {
            let here = (part.start - first) * c..(part.end - first) * c;
            rows(&x[part.start * c..part.end * c], &factors[image * c..][..c], &mut out[here]);
        });
    });
}

/// x ← x ⊙ factors.
pub fn in_place(x: &mut [f32], factors: &[f32], pixels: usize, c: usize) {
    for_rows(x, c, |first, x| {
        by_image(first, x.len() / c, pixels, |part, image| {
            rows_in_place(&mut x[(part.start - first) * c..(part.end - first) * c], &factors[image * c..][..c]);
        });
    });
}

/// Sums of `x ⊙ dy` over the pixels of each image: the gradient of the factors, `[b, c]`.
pub fn factor_gradient(x: &[f32], dy: &[f32], pixels: usize, c: usize) -> Vec<f32> {
    let mut sums = vec![0f32; x.len().checked_div(pixels).unwrap_or(0)];
    for_rows_by(&mut sums, c, 1, |first, sums| {
        let mut part = vec![0f32; c];
        for (image, sums) in (first..).zip(sums.chunks_exact_mut(c)) {
            let (start, end) = (image * pixels * c, (image + 1) * pixels * c);
            // Sums of sums: a large image would lose digits otherwise.
            for (x, dy) in x[start..end].chunks(CHUNK * c).zip(dy[start..end].chunks(CHUNK * c)) {
                part.fill(0.0);
                add_products(x, dy, &mut part);
                sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
            }
        }
    });
    sums
}

struct Op;

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, factors: &CpuStorage, lf: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, h, w, c) = lx.shape().dims4()?;
        let (x, factors) = (cpu::values(x, lx)?, cpu::values(factors, lf)?);
        let mut out = cpu::output(x.len());
        forward(x, factors, h * w, c, &mut out);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, factors: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, h, w, c) = x.dims4()?;
        let dy = dy.contiguous()?;
        let dy = Values::of(&dy)?;
        let mut dx = cpu::output(dy.len());
        forward(&dy, &Values::of(factors)?, h * w, c, &mut dx);
        let of_factors = factor_gradient(&Values::of(x)?, &dy, h * w, c);
        Ok((Some(cpu::like(dx, x)?), Some(cpu::like(of_factors, factors)?)))
    }
}

/// `x ⊙ factors`: images `[b, h, w, c]`, factors `[b, 1, 1, c]`.
///
/// # Errors
/// When the shapes are not these.
pub fn gate(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (b, _, _, c) = x.dims4()?;
    if factors.dims() != [b, 1, 1, c] {
        bail!("gate: images of {:?} and factors of {:?}", x.shape(), factors.shape());
    }
    if x.device().is_cpu() { x.contiguous()?.apply_op2(&factors.contiguous()?, Op) } else { x.broadcast_mul(factors) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, flat, random};

    #[test]
    fn is_the_product_of_pixels_and_factors() -> Result<()> {
        // More pixels than one task or chunk takes.
        for (b, h, w, c) in [(3, 1, 1, 5), (2, 70, 61, 17)] {
            let (x, factors) = (random(&[b, h, w, c], 1, 1.0), random(&[b, 1, 1, c], 2, 1.0));
            close(&gate(&x, &factors)?, &x.broadcast_mul(&factors)?, 0.0);
            let mut y = flat(&x);
            in_place(&mut y, &flat(&factors), h * w, c);
            close(&Tensor::from_vec(y, x.shape(), x.device())?, &x.broadcast_mul(&factors)?, 0.0);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        check_gradients(&[random(&[2, 3, 5, 4], 1, 1.0), random(&[2, 1, 1, 4], 2, 1.0)], 1e-3, |x| gate(&x[0], &x[1]));
    }

    #[test]
    fn a_large_image_has_the_gradient_of_a_composition() -> Result<()> {
        let (x, dy) = (random(&[2, 70, 61, 17], 1, 1.0), random(&[2, 70, 61, 17], 3, 1.0));
        let want = (&x * &dy)?.reshape((2, 70 * 61, 17))?.sum(1)?;
        let got = Tensor::from_vec(factor_gradient(&flat(&x), &flat(&dy), 70 * 61, 17), (2, 17), x.device())?;
        close(&got, &want, 1e-4);
        Ok(())
    }

    #[test]
    fn factors_of_another_shape_are_an_error() {
        assert!(gate(&random(&[2, 3, 3, 4], 1, 1.0), &random(&[2, 4], 2, 1.0)).is_err());
    }
}
