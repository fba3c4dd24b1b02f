//! Lines and dots over two axes.

use super::{Anchor, Svg, escape};

const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const FLOOR: f64 = TOP + HEIGHT;
/// More dots than this are small.
const MANY: usize = 30;

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
    /// Of exactly this range, with a few round ticks.
    pub fn even(name: &str, range: [f64; 2]) -> Self {
        let rough = (range[1] - range[0]) / 4.0;
        let power = rough.log10().floor();
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * 10f64.powf(power)).into_iter().find(|step| *step >= rough);
        // Without any value there is no step, and no tick.
        let step = step.unwrap_or(f64::INFINITY);
        let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let first = (range[0] / step).ceil();
        let ticks = (0..5).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= range[1]);
        Self { name: name.into(), range, ticks: ticks.map(|tick| (tick, format!("{tick:.digits$}"))).collect() }
    }

    /// From a little below the least value to a little above the largest, with a few round ticks; a single value stands in the
    /// middle.
    pub fn around(name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.into_iter().for_each(|value| (low, high) = (low.min(value), high.max(value)));
        let air = if high > low { 0.05 * (high - low) } else { 0.05 * high.abs().max(1e-3) };
        Self::even(name, [low - air, high + air])
    }

    /// Of positive `values`, by their decimal logarithm, which is what points are to be given as.
    pub fn logarithmic(name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let logs = values.into_iter().filter(|value| *value > 0.0).map(f64::log10);
        logs.for_each(|log| (low, high) = (low.min(log), high.max(log)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let air = (0.05 * (high - low)).max(0.1);
        let range = [low - air, high + air];
        let decades = range[0].floor() as i32..=range[1].ceil() as i32;
        let steps: &[f64] = if high - low > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let ticks = ticks.filter(|tick| (range[0]..=range[1]).contains(&tick.log10()));
        // As many digits as tell it: 0.02, 5, 200.
        let ticks = ticks.map(|tick| (tick.log10(), format!("{:.*}", (-tick.log10().floor()).max(0.0) as usize, tick)));
        Self { name: name.into(), range, ticks: ticks.collect() }
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
    title: String,
    /// Names of lines with their colours.
    legend: Vec<(String, String)>,
    marks: usize,
    /// Left, right, upper and lower ends of what the names of later spots are not to cover.
    taken: Vec<[f64; 4]>,
}

impl Chart {
    /// The grid alone.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        let mut svg = Svg::new([LEFT + WIDTH + 60.0, FLOOR + 70.0], title);
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
        svg.text([LEFT + WIDTH / 2.0, FLOOR + 38.0], Anchor::Middle, "ink", &x.name);
        Self { svg, x, y, title: title.into(), legend: Vec::new(), marks: 0, taken: Vec::new() }
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
            self.legend.push((name.into(), colour.into()));
        }
        self
    }

    /// Dots, smaller ones where there are many; those out of range are left out.
    pub fn dots(mut self, colour: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let [low, high] = self.y.range;
        let points: Vec<(f64, f64)> = points.into_iter().filter(|(_, y)| (low..=high).contains(y)).collect();
        let radius = if points.len() > MANY { 2.0 } else { 3.5 };
        for point in points {
            let at = self.place(point);
            let Some((x, y)) = at.split_once(',') else { continue };
            self.svg.push(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{colour}\"/>"));
        }
        self
    }

    /// Dots with their names beside them, where there is room; the picture is not to be drawn small then.
    pub fn spots(mut self, spots: &[(String, &str, (f64, f64))]) -> Self {
        self.svg.class = "dense";
        let place = |x: f64, y: f64| (LEFT + WIDTH * self.x.share(x), FLOOR - HEIGHT * self.y.share(y));
        let places: Vec<(f64, f64)> = spots.iter().map(|(.., (x, y))| place(*x, *y)).collect();
        self.taken.extend(places.iter().map(|(x, y)| [x - 4.0, x + 4.0, y - 4.0, y + 4.0]));
        for ((name, colour, _), (x, y)) in spots.iter().zip(places) {
            // About as large as its letters are.
            let half = 3.5 * name.chars().count() as f64;
            let near = |(dx, dy): (f64, f64)| [x + dx - half, x + dx + half, y + dy - 5.0, y + dy + 5.0];
            let free =
                |a: &[f64; 4]| self.taken.iter().all(|b| a[1] <= b[0] || b[1] <= a[0] || a[3] <= b[2] || b[3] <= a[2]);
            let beside = 6.0 + half;
            let around = (0..6).flat_map(|ring| {
                let (out, up) = (beside + 12.0 * f64::from(ring), 11.0 + 10.0 * f64::from(ring));
                [(out, 0.0), (0.0, -up), (-out, 0.0), (0.0, up), (out, -up), (out, up), (-out, -up), (-out, up)]
            });
            let name_at = around.map(near).find(free).unwrap_or_else(|| near((beside, 0.0)));
            self.taken.push(name_at);
            let [left, right, upper, lower] = name_at;
            let (middle, base) = (0.5 * (left + right), 0.5 * (upper + lower) + 4.0);
            self.svg.push(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{middle:.1}\" y=\"{base:.1}\" \
                 fill=\"{colour}\" font-size=\"11\" text-anchor=\"middle\">{}</text>",
                escape(name)
            ));
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
        // One text, so that the names stand behind each other however large the letters are.
        let name = |(name, colour): &(String, String)| {
            format!("<tspan dx=\"1.5em\" fill=\"{colour}\">{}</tspan>", escape(name))
        };
        let legend: String = self.legend.iter().map(name).collect();
        let title = escape(&self.title);
        self.svg.push(format_args!(
            "<text class=\"ink\" x=\"{LEFT}\" y=\"24\"><tspan font-size=\"1.25em\">{title}</tspan>{legend}</text>"
        ));
        self.svg.text([LEFT, FLOOR + 62.0], Anchor::Start, "dim", note);
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
    fn an_axis_of_a_range_keeps_it_and_has_round_ticks() {
        let axis = Axis::even("seconds", [0.0, 37.664]);
        assert_eq!(axis.range, [0.0, 37.664]);
        assert_eq!(axis.ticks.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["0", "10", "20", "30"]);
        assert!(Axis::even("seconds", [0.0, 0.0]).ticks.len() < 2);
    }

    #[test]
    fn names_of_lines_stand_behind_the_title_and_are_escaped() {
        let chart = Chart::new("<t>", Axis::even("x", [0.0, 2.0]), Axis::even("y", [0.0, 1.0]));
        let svg = chart.line("<l>", "red", [(0.0, 0.0)]).line("", "blue", [(0.0, 0.0)]).finish("").inline();
        assert!(svg.contains("&lt;t&gt;</tspan><tspan dx=\"1.5em\" fill=\"red\">&lt;l&gt;</tspan></text>"), "{svg}");
    }

    #[test]
    fn names_of_spots_that_lie_close_do_not_cover_each_other() {
        let spots: Vec<_> = (0..8).map(|i| (format!("{i}"), "red", (1.0 + 1e-3 * f64::from(i), 0.5))).collect();
        let chart = Chart::new("c", Axis::even("x", [0.0, 2.0]), Axis::even("y", [0.0, 1.0])).spots(&spots);
        let names = &chart.taken[8..];
        for (i, a) in names.iter().enumerate() {
            for b in &names[..i] {
                assert!(a[1] <= b[0] || b[1] <= a[0] || a[3] <= b[2] || b[3] <= a[2], "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn an_axis_around_values_has_a_few_round_ticks_within_its_range() {
        for (values, expected) in [
            (&[20.0, 69.6][..], &["20", "40", "60"][..]),
            (&[0.913, 0.927], &["0.915", "0.920", "0.925"]),
            (&[3.0], &["2.9", "3.0", "3.1"]),
            (&[], &[]),
        ] {
            let axis = Axis::around("y", values.to_vec());
            let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
            assert_eq!(names, expected, "{:?}", axis.range);
            assert!(axis.ticks.iter().all(|(tick, _)| (axis.range[0]..=axis.range[1]).contains(tick)));
        }
    }

    #[test]
    fn a_logarithmic_axis_has_round_ticks_as_people_write_them() {
        let names =
            |values: &[f64]| Axis::logarithmic("s", values.to_vec()).ticks.into_iter().map(|(_, name)| name).collect();
        let few: Vec<String> = names(&[0.04, 3.0]);
        assert_eq!(few, ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        let decades: Vec<String> = names(&[0.01, 1000.0]);
        assert_eq!(decades, ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert!(!Axis::logarithmic("s", [0.0]).range.contains(&f64::INFINITY));
    }

    #[test]
    fn counted_ticks_are_whole_and_few() {
        let names = |last| Axis::counted("epoch", last).ticks.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(3), ["1", "2", "3"]);
        assert_eq!(names(95).len(), 9);
    }
}
