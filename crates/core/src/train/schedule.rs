//! The course of the learning rate over a phase.

use crate::plan::{Decay, Schedule};

/// Where one cycle starts, as a share of the peak.
const START: f64 = 1.0 / 25.0;
/// The momentum at the peak of one cycle as a share of that at its ends: 0.85 of 0.95 (Smith & Topin 2018).
const LOWEST_MOMENTUM: f64 = 0.85 / 0.95;

impl Schedule {
    /// The factor on the peak rate in step `step` of `total`, counted from 0.
    pub fn factor(&self, step: usize, total: usize) -> f64 {
        let (warm, progress) = match self.place(step, total) {
            Place::Warming(share) if self.decay == Decay::OneCycle => return START + (1.0 - START) * rise(share),
            Place::Warming(share) => return share,
            Place::Falling(warm, progress) => (warm, progress),
        };
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine | Decay::OneCycle => 1.0 - rise(progress),
            Decay::Rising { decades } => {
                let left = 1.0 - (step - warm) as f64 / (total - warm - 1).max(1) as f64;
                10f64.powf(-f64::from(decades) * left)
            }
        }
    }

    /// The factor on the momentum of sgd, or the first moment's decay of AdamW, in that step: 1 but for one cycle, where it
    /// is lowest at the peak.
    pub fn momentum(&self, step: usize, total: usize) -> f64 {
        if self.decay != Decay::OneCycle {
            return 1.0;
        }
        let height = match self.place(step, total) {
            Place::Warming(share) => rise(share),
            Place::Falling(_, progress) => 1.0 - rise(progress),
        };
        1.0 - (1.0 - LOWEST_MOMENTUM) * height
    }

    fn place(&self, step: usize, total: usize) -> Place {
        let warm = (self.warmup * total as f64).round() as usize;
        if step < warm {
            return Place::Warming((step + 1) as f64 / warm as f64);
        }
        Place::Falling(warm, (step - warm) as f64 / (total - warm).max(1) as f64)
    }
}

/// Where a step lies: the share of the warm-up done with it; or the warm-up's steps and the share of the others before it.
enum Place {
    Warming(f64),
    Falling(usize, f64),
}

/// From 0 to 1 along half a cosine.
fn rise(share: f64) -> f64 {
    0.5 * (1.0 - (std::f64::consts::PI * share).cos())
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
    fn one_cycle_rises_and_falls_along_cosines_and_the_momentum_mirrors_it() {
        let schedule = Schedule { warmup: 0.3, decay: Decay::OneCycle };
        let course: Vec<f64> = (0..=100).map(|step| schedule.factor(step, 100)).collect();
        assert!((course[29] - 1.0).abs() < 1e-12 && (course[30] - 1.0).abs() < 1e-12 && course[100] < 1e-12);
        assert!((course[14] - (START + (1.0 - START) / 2.0)).abs() < 1e-12 && (course[65] - 0.5).abs() < 1e-12);
        assert!(course[..30].windows(2).all(|w| w[0] < w[1]) && course[30..].windows(2).all(|w| w[0] > w[1]));
        let momentum: Vec<f64> = (0..=100).map(|step| 0.95 * schedule.momentum(step, 100)).collect();
        assert!((momentum[29] - 0.85).abs() < 1e-12 && (momentum[65] - 0.9).abs() < 1e-12);
        assert!((momentum[100] - 0.95).abs() < 1e-12 && momentum[0] > 0.949);
        let line = Schedule { warmup: 0.3, decay: Decay::Cosine };
        assert!((0..100).all(|step| line.momentum(step, 100) == 1.0));
    }

    #[test]
    fn a_cosine_is_at_half_height_half_way() {
        let schedule = Schedule { warmup: 0.0, decay: Decay::Cosine };
        assert!((schedule.factor(50, 100) - 0.5).abs() < 1e-12);
        assert_eq!(schedule.factor(0, 100), 1.0);
    }
}
