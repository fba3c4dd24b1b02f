//! Samples in the plane, each with what is shown of it.

use super::{Anchor, Svg, address, colour, escape, shortened};
use crate::data::Excerpt;

const SIDE: f64 = 900.0;
const MARGIN: f64 = 40.0;
/// Larger side of a picture.
const PICTURE: f64 = 44.0;
/// More classes are not named.
const NAMED: usize = 20;

/// A sample in a map.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where it is, in any unit.
    pub at: [f64; 2],
    /// Its class.
    pub class: usize,
    /// What it is told to be, where that is another.
    pub mistaken: Option<usize>,
    /// What to call it.
    pub name: String,
    /// What is shown of it: a picture, else a dot.
    pub excerpt: Excerpt,
}

/// A map of samples with a frame in the colour of their class, those mistaken with a second, dashed one in that of the class
/// they were taken for.
pub fn map(title: &str, places: &[Place], classes: &[String]) -> Svg {
    let bounds = |axis: usize| {
        let values = places.iter().map(|place| place.at[axis]);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        (low, (values.fold(f64::NEG_INFINITY, f64::max) - low).max(1e-9))
    };
    let ((left, width), (bottom, height)) = (bounds(0), bounds(1));
    // One scale for both, so that distances are distances.
    let scale = (SIDE - 2.0 * MARGIN) / width.max(height);
    let across = (width * scale + 2.0 * MARGIN).max(420.0);
    let named = if classes.len() <= NAMED { classes } else { &[] };
    let columns = (across / 150.0) as usize;
    let legend = 22.0 + 18.0 * named.len().div_ceil(columns) as f64;
    let mut svg = Svg::new([across, height * scale + 2.0 * MARGIN + legend], title);
    svg.push(format_args!("<text class=\"ink\" x=\"12\" y=\"20\" font-size=\"15\">{}</text>", escape(title)));
    for (i, name) in named.iter().enumerate() {
        let at = [12.0 + 150.0 * (i % columns) as f64, 40.0 + 18.0 * (i / columns) as f64];
        svg.push(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            at[0],
            at[1] - 9.0,
            colour(i)
        ));
        svg.text([at[0] + 15.0, at[1]], Anchor::Start, "ink", &shortened(name, 18));
    }
    for place in places {
        let x = MARGIN + (place.at[0] - left) * scale;
        let y = legend + MARGIN + (height - (place.at[1] - bottom)) * scale;
        let called = |class: usize| classes.get(class).map_or("", String::as_str);
        let tip = match place.mistaken {
            Some(said) => format!("{}: {}, said to be {}", place.name, called(place.class), called(said)),
            None => format!("{}: {}", place.name, called(place.class)),
        };
        svg.push(format_args!("<g><title>{}</title>", escape(&tip)));
        let own = colour(place.class);
        let half = match &place.excerpt {
            Excerpt::Picture { media, bytes, size: [w, h] } => {
                let shrink = PICTURE / f64::from((*w).max(*h).max(1));
                let (w, h) = (f64::from(*w) * shrink, f64::from(*h) * shrink);
                let (x, y) = (x - w / 2.0, y - h / 2.0);
                svg.push(format_args!(
                    "<image x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" href=\"{}\"/>\
                     <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"none\" stroke=\"{own}\" \
                     stroke-width=\"2.5\"/>",
                    address(media, bytes)
                ));
                [w / 2.0, h / 2.0]
            }
            Excerpt::Text(_) | Excerpt::Marked { .. } => {
                svg.push(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{own}\"/>"));
                [4.0, 4.0]
            }
        };
        if let Some(said) = place.mistaken {
            let [w, h] = half.map(|half| half + 3.5);
            svg.push(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"none\" stroke=\"{}\" \
                 stroke-width=\"2.5\" stroke-dasharray=\"5 3\"/>",
                x - w,
                y - h,
                2.0 * w,
                2.0 * h,
                colour(said)
            ));
        }
        svg.push("</g>");
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_to_one_scale_and_names_escaped() {
        let place = |at: [f64; 2], mistaken| Place {
            at,
            class: 0,
            mistaken,
            name: "<n>".into(),
            excerpt: Excerpt::Text(String::new()),
        };
        let places = [place([0.0, 0.0], None), place([2.0, 0.0], Some(1)), place([0.0, 1.0], None)];
        let svg = map("m", &places, &["a".into(), "<b>".into()]).inline();
        let centres: Vec<&str> = svg.split("<circle cx=\"").skip(1).filter_map(|s| s.split(" r=").next()).collect();
        assert_eq!(centres, ["40.0\" cy=\"490.0\"", "860.0\" cy=\"490.0\"", "40.0\" cy=\"80.0\""]);
        assert_eq!(svg.matches("stroke-dasharray").count(), 1);
        assert!(svg.contains("&lt;n&gt;: a, said to be &lt;b&gt;") && !svg.contains("<b>"), "{svg}");
    }
}
