//! The course of the learning rate over a phase.

use crate::plan::{Decay, Schedule};

impl Schedule {
    /// The factor on the peak rate in step `step` of `total`, counted from 0.
    pub fn factor(&self, step: usize, total: usize) -> f64 {
        let warm = (self.warmup * total as f64).round() as usize;
        if step < warm {
            return (step + 1) as f64 / warm as f64;
        }
        let progress = (step - warm) as f64 / (total - warm).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Rising { decades } => {
                let left = 1.0 - (step - warm) as f64 / (total - warm - 1).max(1) as f64;
                10f64.powf(-f64::from(decades) * left)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_rises_to_the_peak_and_a_linear_decay_falls_to_zero() {
        let schedule = Schedule { warmup: 0.2, decay: Decay::Linear };
        let course: Vec<f64> = (0..10).map(|step| schedule.factor(step, 10)).collect();
        assert_eq!(course[..3], [0.5, 1.0, 1.0]);
        assert!(course[2..].windows(2).all(|w| (w[0] - w[1] - 0.125).abs() < 1e-12));
    }

    #[test]
    fn a_rising_rate_takes_equal_factors_and_ends_at_the_peak() {
        let schedule = Schedule { warmup: 0.0, decay: Decay::Rising { decades: 4 } };
        let course: Vec<f64> = (0..5).map(|step| schedule.factor(step, 5)).collect();
        assert!(
            course.iter().zip([1e-4, 1e-3, 1e-2, 1e-1, 1.0]).all(|(a, b): (&f64, f64)| (a / b - 1.0).abs() < 1e-12)
        );
    }

    #[test]
    fn a_cosine_is_at_half_height_half_way() {
        let schedule = Schedule { warmup: 0.0, decay: Decay::Cosine };
        assert!((schedule.factor(50, 100) - 0.5).abs() < 1e-12);
        assert_eq!(schedule.factor(0, 100), 1.0);
    }
}
