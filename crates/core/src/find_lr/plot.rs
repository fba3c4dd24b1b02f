//! A range test to look at: blocks of characters on the terminal, an SVG in a file.

use std::fmt::Write;

use super::{Point, RangeTest};
use crate::draw::{Axis, Chart};

const COLUMNS: usize = 64;
const ROWS: usize = 10;
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Losses far above those of the start say only that training broke away: they are cut off here.
fn bounds(points: &[Point]) -> (f64, f64) {
    let low = points.iter().map(|p| p.smoothed).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.smoothed).fold(f64::NEG_INFINITY, f64::max);
    let start = points.first().map_or(high, |p| p.smoothed);
    let most = if start > low { start + 0.5 * (start - low) } else { low + (high - low) / 4.0 };
    (low, high.min(most).max(low + 1e-12))
}

impl RangeTest {
    /// The decades of the rates, from the first point to the last.
    fn span(&self) -> (f64, f64) {
        let log = |point: Option<&Point>| point.map_or(0.0, |p| p.rate.log10());
        (log(self.points.first()), log(self.points.last()))
    }

    /// The smoothed loss over the logarithm of the rate, in block characters, with the suggestions marked below.
    pub fn text(&self) -> String {
        let (first, last) = self.span();
        if last <= first {
            return String::new();
        }
        let (low, high) = bounds(&self.points);
        let column = |rate: f64| (((rate.log10() - first) / (last - first) * COLUMNS as f64) as usize).min(COLUMNS - 1);
        // Eighths of a row; the lowest loss still shows.
        let height = |loss: f64| 1 + ((8 * ROWS - 1) as f64 * ((loss - low) / (high - low)).clamp(0.0, 1.0)) as usize;
        let heights: [usize; COLUMNS] = std::array::from_fn(|i| {
            let rate = first + (i as f64 + 0.5) / COLUMNS as f64 * (last - first);
            let near = |p: &&Point| (p.rate.log10() - rate).abs();
            let nearest = self.points.iter().min_by(|a, b| near(a).total_cmp(&near(b)));
            nearest.map_or(0, |p| height(p.smoothed))
        });
        let mut text = String::new();
        for row in (0..ROWS).rev() {
            let label = match row {
                0 => format!("{low:.3}"),
                _ if row == ROWS - 1 => format!("{high:.3}"),
                _ => String::new(),
            };
            let blocks: String = heights.iter().map(|&h| BLOCKS[h.saturating_sub(8 * row).min(8)]).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:>9} │{}", blocks.trim_end());
        }
        let mut axis = ['─'; COLUMNS];
        let mut names = [' '; COLUMNS + 8];
        for decade in first.ceil() as i32..=last.floor() as i32 {
            let at = column(10f64.powi(decade));
            axis[at] = '┴';
            format!("1e{decade}").chars().zip(at..).for_each(|(c, i)| names[i] = c);
        }
        let line = |chars: &[char]| chars.iter().collect::<String>().trim_end().to_string();
        let _ = writeln!(text, "{:>9} └{}", "loss", line(&axis));
        let _ = writeln!(text, "{:>9}  {}", "rate", line(&names));
        if let Some(found) = self.suggestion {
            let mut marks = [' '; COLUMNS];
            marks[column(found.steepest)] = '▲';
            marks[column(found.tenth_of_minimum.max(10f64.powf(first)))] = '△';
            let _ = writeln!(text, "{:>9}  {}", "", line(&marks));
        }
        text
    }

    /// The same as a picture, with the loss of each step.
    pub fn svg(&self) -> String {
        let (first, last) = self.span();
        let (low, high) = bounds(&self.points);
        // Steps scatter around their mean.
        let (low, high) = (low - 0.1 * (high - low), high + 0.1 * (high - low));
        let decades = first.ceil() as i32..=last.floor() as i32;
        let rates = Axis {
            name: "learning rate".into(),
            range: [first, last],
            ticks: decades.map(|decade| (f64::from(decade), format!("1e{decade}"))).collect(),
        };
        let title = format!("Learning-rate range test: {}, {}", self.strategy, self.phase);
        let over = |loss: fn(&Point) -> f64| self.points.iter().map(move |p| (p.rate.log10(), loss(p)));
        let mut chart = Chart::new(&title, rates, Axis::even("loss", [low, high])).dots("#999", over(|p| p.loss)).line(
            "",
            "#1f77b4",
            over(|p| p.smoothed).map(|(rate, loss)| (rate, loss.min(high))),
        );
        let marks = self.suggestion.iter().flat_map(|found| {
            [
                ("loss falls fastest", "#2ca02c", found.steepest),
                ("a tenth of the lowest loss's rate", "#d62728", found.tenth_of_minimum),
            ]
        });
        for (name, colour, rate) in marks.filter(|(.., rate)| rate.log10() >= first) {
            chart = chart.mark(&format!("{name}: {rate:.1e}"), colour, rate.log10());
        }
        let (steps, samples) = (self.points.len(), self.batch_size);
        let note = format!("loss of each step (grey), smoothed (blue); {steps} steps of {samples} samples");
        chart.finish(&note).file()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{smoothed, suggest};
    use super::*;

    fn test() -> RangeTest {
        let loss = |r: f64| 1.0 - 0.5 / (1.0 + 1e-3 / r) + r * r;
        let steps: Vec<(f64, f64)> =
            (0..50).map(|i| 10f64.powf(-6.0 + 0.12 * f64::from(i))).map(|r| (r, loss(r))).collect();
        let points = smoothed(&steps);
        let suggestion = suggest(&points);
        let name = |text: &str| text.to_string();
        RangeTest {
            strategy: name("fine-tuning"),
            phase: name("<everything>"),
            planned: 1e-3,
            batch_size: 8,
            points,
            diverged: false,
            suggestion,
        }
    }

    #[test]
    fn the_text_has_axes_and_fits_a_terminal() {
        let text = test().text();
        assert!(text.contains("1e-6") && text.contains("1e-1") && text.contains('▲'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let svg = test().svg();
        assert!(svg.contains("&lt;everything&gt;") && !svg.contains("<everything>"));
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
