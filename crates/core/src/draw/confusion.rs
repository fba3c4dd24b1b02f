//! A confusion matrix as a picture.

use super::{Anchor, Svg, escape, shortened};

/// Longest name beside the matrix, in characters.
const NAME: usize = 24;
/// Width of a letter as a share of the font's size.
const LETTER: f64 = 0.56;
const RIGHT: &str = "#2a7ab9";
const WRONG: &str = "#d1495b";

/// `counts[target][prediction]` of the classes called `names`: the darker, the larger the share of the row. Hits are blue,
/// mistakes red; each cell tells its numbers when pointed at, and has them written in where there is room.
pub fn confusion(names: &[String], counts: &[Vec<u64>]) -> Svg {
    let n = names.len().max(1) as f64;
    let cell = (560.0 / n).clamp(9.0, 72.0);
    let font = (cell * 0.95).min(12.0);
    let longest = names.iter().map(|name| name.chars().count().min(NAME)).max().unwrap_or(0) as f64;
    let margin = longest * LETTER * font + 12.0;
    let [left, top] = [margin + 20.0, margin + 24.0];
    let side = cell * n;
    let mut svg = Svg::new([left + side + 12.0, top + side + 12.0], "Confusion matrix");
    svg.push(format_args!(
        "<rect class=\"panel\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/>"
    ));
    svg.text([left + side / 2.0, 14.0], Anchor::Middle, "dim", "predicted");
    let middle = top + side / 2.0;
    svg.push(format_args!(
        "<text class=\"dim\" x=\"12\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 12 {middle:.1})\">true</text>"
    ));
    svg.push(format_args!("<g font-size=\"{font:.1}\">"));
    for (i, name) in names.iter().enumerate() {
        let name = shortened(name, NAME);
        let at = (i as f64 + 0.5) * cell + font * 0.35;
        svg.text([left - 6.0, top + at], Anchor::End, "ink", &name);
        let x = left + at;
        let y = top - 6.0;
        svg.push(format_args!(
            "<text class=\"ink\" x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate(-90 {x:.1} {y:.1})\">{}</text>",
            escape(&name)
        ));
    }
    svg.push("</g>");
    for (i, row) in counts.iter().enumerate() {
        let all = row.iter().sum::<u64>();
        for (j, &count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
            let share = count as f64 / all as f64;
            let (x, y) = (left + j as f64 * cell, top + i as f64 * cell);
            // Small shares are to be seen, too.
            let opacity = 0.12 + 0.88 * share;
            let tip = match (names.get(i), names.get(j)) {
                (Some(truth), Some(said)) => escape(&format!("{truth} said to be {said}: {count} of {all}")),
                _ => String::new(),
            };
            svg.push(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{cell:.1}\" fill=\"{}\" \
                 fill-opacity=\"{opacity:.2}\"><title>{tip}</title></rect>",
                if i == j { RIGHT } else { WRONG }
            ));
            let text = count.to_string();
            let room = cell / (text.len() as f64 * LETTER + 0.5);
            if cell >= 18.0 && room >= 7.0 {
                let (x, y) = (x + cell / 2.0, y + cell / 2.0 + 0.35 * room.min(13.0));
                let class = if share > 0.45 { "fill=\"#fff\"" } else { "class=\"ink\"" };
                svg.push(format_args!(
                    "<text {class} x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{:.1}\" text-anchor=\"middle\" pointer-events=\"none\">{text}</text>",
                    room.min(13.0)
                ));
            }
        }
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_that_is_not_empty_is_drawn_once() {
        let names = ["a".to_string(), "<b>".into()];
        let svg = confusion(&names, &[vec![3, 1], vec![0, 2]]).file();
        assert_eq!(svg.matches("fill-opacity").count(), 3);
        assert_eq!((svg.matches(RIGHT).count(), svg.matches(WRONG).count()), (2, 1));
        assert!(svg.contains("a said to be &lt;b&gt;: 1 of 4") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn a_hundred_classes_fit_and_keep_their_names() {
        let names: Vec<String> = (0..100).map(|i| format!("class number {i}")).collect();
        let counts = (0..100).map(|i| (0..100).map(|j| u64::from(i == j) * 7).collect()).collect::<Vec<_>>();
        let picture = confusion(&names, &counts);
        assert!(picture.size[0] < 1200.0, "{:?}", picture.size);
        assert!(picture.inline().contains("class number 57"));
    }
}
