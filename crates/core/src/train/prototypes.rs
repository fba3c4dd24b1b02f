//! The nearest class mean as a linear head.

/// Weight `[classes × width]` and bias of -½‖x - μ‖² · 2 but for what all classes share: with the mean m of all rows,
/// `W = 2 (μ - m)` and `b = -‖μ - m‖² - W m` (Snell et al. 2017, equation 8, moved so that large common parts cancel).
///
/// # Errors
/// The first class that has no row.
pub(crate) fn head(rows: &[f32], width: usize, targets: &[u32], classes: usize) -> Result<(Vec<f64>, Vec<f64>), usize> {
    let mut sums = vec![0.0; classes * width];
    let mut counts = vec![0usize; classes];
    for (row, &target) in rows.chunks_exact(width).zip(targets) {
        let class = target as usize;
        counts[class] += 1;
        sums[class * width..][..width].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    if let Some(empty) = counts.iter().position(|&count| count == 0) {
        return Err(empty);
    }
    let mean: Vec<f64> =
        (0..width).map(|j| (0..classes).map(|c| sums[c * width + j]).sum::<f64>() / targets.len() as f64).collect();
    let (mut weight, mut bias) = (sums, vec![0.0; classes]);
    for (class, weight) in weight.chunks_exact_mut(width).enumerate() {
        for (w, m) in weight.iter_mut().zip(&mean) {
            let centred = *w / counts[class] as f64 - m;
            *w = 2.0 * centred;
            bias[class] -= centred * centred + *w * m;
        }
    }
    Ok((weight, bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_nearest_mean_but_for_a_common_term() {
        let rows = [100.0f32, 1.0, 102.0, 3.0, 90.0, -4.0, 95.0, 7.0, 96.0, 9.0];
        let targets = [0, 0, 1, 2, 2];
        let (weight, bias) = head(&rows, 2, &targets, 3).unwrap();
        let means = [[101.0, 2.0], [90.0, -4.0], [95.5, 8.0]];
        for x in [[97.0, 3.0], [101.0, 1.0], [80.0, 0.0]] {
            let score = |c: usize| weight[2 * c] * x[0] + weight[2 * c + 1] * x[1] + bias[c];
            let distance = |c: usize| (x[0] - means[c][0]).powi(2) + (x[1] - means[c][1]).powi(2);
            for c in 1..3 {
                let (found, expected) = (score(c) - score(0), distance(0) - distance(c));
                assert!((found - expected).abs() < 1e-9, "{found} against {expected}");
            }
        }
    }

    #[test]
    fn a_class_without_rows_is_named() {
        assert_eq!(head(&[1.0, 2.0], 1, &[0, 2], 3), Err(1));
    }
}
