//! Lines and dots over two axes.

use super::{Anchor, Svg, escape};

const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const FLOOR: f64 = TOP + HEIGHT;

/// One direction of a chart.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What is on it.
    pub name: String,
    /// From left to right, or from below.
    pub range: [f64; 2],
    /// Where lines of the grid are, and what to call these places.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// With five even ticks.
    pub fn even(name: &str, range: [f64; 2]) -> Self {
        let [low, high] = range;
        let at = |i: i32| low + (high - low) * f64::from(i) / 4.0;
        Self { name: name.into(), range, ticks: (0..=4).map(|i| (at(i), format!("{:.3}", at(i)))).collect() }
    }

    /// The same from a little below the least value to a little above the largest; around a single one, it stands in the middle.
    pub fn around(name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.into_iter().for_each(|value| (low, high) = (low.min(value), high.max(value)));
        let air = if high > low { 0.05 * (high - low) } else { 0.05 * high.abs().max(1e-3) };
        Self::even(name, [low - air, high + air])
    }

    /// Of whole numbers from 1 to `last`, with at most ten ticks.
    pub fn counted(name: &str, last: usize) -> Self {
        let step = last.div_ceil(10).max(1);
        let ticks = (1..=last).filter(|i| i.is_multiple_of(step) || *i == 1 && step < 3);
        let ticks = ticks.map(|i| (i as f64, i.to_string())).collect();
        Self { name: name.into(), range: [1.0, (last as f64).max(2.0)], ticks }
    }

    /// The share of the way from its beginning to its end.
    fn share(&self, value: f64) -> f64 {
        let [low, high] = self.range;
        ((value - low) / (high - low).max(1e-12)).clamp(-0.1, 1.1)
    }
}

/// A chart in the making.
#[derive(Debug, Clone)]
pub struct Chart {
    svg: Svg,
    x: Axis,
    y: Axis,
    /// How far the legend reaches from the right.
    legend: f64,
    marks: usize,
}

impl Chart {
    /// The grid alone.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        let mut svg = Svg::new([LEFT + WIDTH + 60.0, FLOOR + 70.0], title);
        svg.push(format_args!("<text class=\"ink\" x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>", escape(title)));
        for (value, name) in &x.ticks {
            let at = LEFT + WIDTH * x.share(*value);
            svg.grid([at, TOP], [at, FLOOR]);
            svg.text([at, FLOOR + 18.0], Anchor::Middle, "dim", name);
        }
        for (value, name) in &y.ticks {
            let at = FLOOR - HEIGHT * y.share(*value);
            svg.grid([LEFT, at], [LEFT + WIDTH, at]);
            svg.text([LEFT - 6.0, at + 4.0], Anchor::End, "dim", name);
        }
        svg.text([LEFT + WIDTH / 2.0, FLOOR + 36.0], Anchor::Middle, "ink", &x.name);
        Self { svg, x, y, legend: 0.0, marks: 0 }
    }

    fn place(&self, (x, y): (f64, f64)) -> String {
        format!("{:.1},{:.1}", LEFT + WIDTH * self.x.share(x), FLOOR - HEIGHT * self.y.share(y))
    }

    /// A line through points; one with a `name` stands in the legend.
    pub fn line(mut self, name: &str, colour: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points: Vec<(f64, f64)> = points.into_iter().filter(|(_, y)| y.is_finite()).collect();
        let path: Vec<String> = points.iter().map(|&point| self.place(point)).collect();
        self.svg.push(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"{}\"/>",
            path.join(" ")
        ));
        if points.len() == 1 {
            self = self.dots(colour, points);
        }
        if !name.is_empty() {
            let at = LEFT + WIDTH - self.legend;
            // About as wide as its letters are, and some air.
            self.legend += 7.0 * name.chars().count() as f64 + 24.0;
            self.svg.push(format_args!(
                "<text x=\"{at:.1}\" y=\"24\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
                escape(name)
            ));
        }
        self
    }

    /// Small dots; those out of range are left out.
    pub fn dots(mut self, colour: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let [low, high] = self.y.range;
        for (x, y) in points.into_iter().filter(|(_, y)| (low..=high).contains(y)) {
            let at = self.place((x, y));
            let Some((x, y)) = at.split_once(',') else { continue };
            self.svg.push(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"2\" fill=\"{colour}\"/>"));
        }
        self
    }

    /// A dashed line down at `x`, with its name; each one's stands below that of the last.
    pub fn mark(mut self, name: &str, colour: &str, x: f64) -> Self {
        let share = self.x.share(x);
        let place = LEFT + WIDTH * share;
        let (anchor, text) = if share > 0.5 { ("end", place - 5.0) } else { ("start", place + 5.0) };
        let at = TOP + 14.0 + 16.0 * self.marks as f64;
        self.marks += 1;
        self.svg.push(format_args!(
            "<line x1=\"{place:.1}\" y1=\"{TOP}\" x2=\"{place:.1}\" y2=\"{FLOOR}\" stroke=\"{colour}\" \
             stroke-dasharray=\"4 3\"/><text x=\"{text:.1}\" y=\"{at}\" fill=\"{colour}\" text-anchor=\"{anchor}\">{}</text>",
            escape(name)
        ));
        self
    }

    /// The picture, with a line of explanation below.
    pub fn finish(mut self, note: &str) -> Svg {
        self.svg.text([LEFT, FLOOR + 60.0], Anchor::Start, "dim", note);
        self.svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_their_axes_say() {
        let chart = Chart::new("c", Axis::even("x", [0.0, 2.0]), Axis::even("y", [0.0, 1.0]));
        let svg = chart.line("l", "red", [(0.0, 0.0), (1.0, 0.5), (2.0, 1.0), (2.0, f64::NAN)]).finish("").inline();
        assert!(svg.contains("points=\"60.0,320.0 380.0,180.0 700.0,40.0\""), "{svg}");
    }

    #[test]
    fn counted_ticks_are_whole_and_few() {
        let names = |last| Axis::counted("epoch", last).ticks.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(3), ["1", "2", "3"]);
        assert_eq!(names(95).len(), 9);
    }
}
