//! Whether two settings differ by more than their seeds do.

use statrs::distribution::{ContinuousCDF, StudentsT};

use serde::Serialize;

/// How sure the interval is to hold the true difference.
const CONFIDENCE: f64 = 0.95;

/// A difference of two means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The one less the other.
    pub mean: f64,
    /// Half of the 95 % confidence interval's width.
    pub margin: f64,
    /// Probability of a difference as large where there is none (two-sided).
    pub p: f64,
    /// Whether runs were compared seed by seed.
    pub paired: bool,
}

/// Of scores by seed, `a` less `b`: Student's paired t-test over the seeds that both have, if these are two or more, else
/// Welch's. `None` where neither is possible: one of them has one seed.
pub fn difference(a: &[(u64, f64)], b: &[(u64, f64)]) -> Option<Difference> {
    let pairs = a.iter().filter_map(|(seed, x)| Some(x - b.iter().find(|(other, _)| other == seed)?.1));
    let pairs: Vec<f64> = pairs.collect();
    if pairs.len() >= 2 {
        let (mean, variance) = moments(&pairs);
        return Some(test(mean, (variance / pairs.len() as f64).sqrt(), (pairs.len() - 1) as f64, true));
    }
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let of = |scores: &[(u64, f64)]| {
        let (mean, variance) = moments(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>());
        (mean, variance / scores.len() as f64, (scores.len() - 1) as f64)
    };
    let ((mean, error, free), (other, of_other, free_of_other)) = (of(a), of(b));
    let both = error + of_other;
    // Welch–Satterthwaite.
    let freedom = both.powi(2) / (error.powi(2) / free + of_other.powi(2) / free_of_other);
    Some(test(mean - other, both.sqrt(), freedom, false))
}

/// Mean and sample variance (n - 1); of a single value, that is no number.
pub fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, square / (values.len() as f64 - 1.0))
}

fn test(mean: f64, error: f64, freedom: f64, paired: bool) -> Difference {
    // Without any spread, a difference is certain and its absence as well.
    let exact = Difference { mean, margin: 0.0, p: if mean == 0.0 { 1.0 } else { 0.0 }, paired };
    let Some(student) = StudentsT::new(0.0, 1.0, freedom).ok().filter(|_| error > 0.0) else { return exact };
    let p = 2.0 * student.cdf(-(mean / error).abs());
    Difference { mean, margin: error * student.inverse_cdf(0.5 + CONFIDENCE / 2.0), p, paired }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    /// `scipy.stats.ttest_rel` and `ttest_ind(equal_var=False)`, with their `confidence_interval()`.
    #[test]
    fn tests_are_those_of_scipy() {
        let a = [(1, 0.81), (2, 0.84), (3, 0.80), (4, 0.86), (5, 0.83)];
        let b = [(1, 0.79), (2, 0.80), (3, 0.81), (4, 0.83), (5, 0.80)];
        let paired = difference(&a, &b).unwrap();
        assert!(paired.paired);
        close(paired.mean, 0.022);
        close(paired.p, 0.0628076110007012);
        close(paired.margin, 0.023883883880999778);
        let others: Vec<(u64, f64)> = b.iter().take(4).map(|(seed, score)| (seed + 10, *score)).collect();
        let welch = difference(&a, &others).unwrap();
        assert!(!welch.paired);
        close(welch.p, 0.17769398265896552);
        close(welch.margin, 0.03236818834133955);
    }

    #[test]
    fn one_seed_says_nothing_and_equal_scores_differ_by_nothing() {
        assert_eq!(difference(&[(1, 0.5)], &[(1, 0.6)]), None);
        assert_eq!(difference(&[(1, 0.5), (2, 0.6)], &[(3, 0.6)]), None);
        let same = difference(&[(1, 0.5), (2, 0.6)], &[(2, 0.6), (1, 0.5)]).unwrap();
        assert_eq!((same.mean, same.margin, same.p), (0.0, 0.0, 1.0));
        let apart = difference(&[(1, 0.5), (2, 0.75)], &[(2, 0.5), (1, 0.25)]).unwrap();
        assert_eq!((apart.mean, apart.p), (0.25, 0.0));
    }
}
