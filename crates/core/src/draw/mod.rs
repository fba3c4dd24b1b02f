//! Pictures of runs as SVG: charts, confusion matrices, maps of samples. Nothing here reads pixels.
//!
//! A picture is readable on light and dark ground: what is ink, ground or grid has a class, of which [`STYLE`] says the
//! colour. Every name is escaped.

mod chart;
mod confusion;
mod map;
mod marked;

use std::fmt::{Display, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::data::Excerpt;

pub use chart::{Axis, Chart};
pub use confusion::confusion;
pub use map::{Place, map};
pub use marked::{Marks, around, marked};

/// Colours of the classes that pictures use, for a page or a file of its own.
pub const STYLE: &str = ".ground{fill:#fff}.panel{fill:#f6f6f6}.ink{fill:#222}.dim{fill:#666}.grid{stroke:#ddd}\
    @media(prefers-color-scheme:dark){.ground{fill:#15171a}.panel{fill:#1f2226}.ink{fill:#e6e6e6}.dim{fill:#a3a8ae}\
    .grid{stroke:#3c4147}}";

/// Colours to tell things apart, on light and dark ground (Tol 2021, *Colour schemes*, bright and muted).
const COLOURS: [&str; 10] =
    ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#9988cc", "#99884a"];

/// A colour for thing number `i`; they come again after ten.
pub fn colour(i: usize) -> &'static str {
    COLOURS[i % COLOURS.len()]
}

/// `text` with what HTML reads as markup spelled out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No XML may hold the other controls, escaped or not.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Most characters of a text that are shown among others.
pub const EXCERPT: usize = 400;

/// At most `most` characters of `text`.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The address of a picture that stands in the page itself.
pub fn address(media: &str, bytes: &[u8]) -> String {
    format!("data:{media};base64,{}", BASE64_STANDARD.encode(bytes))
}

/// What is shown of a sample, for a page.
pub fn excerpt(excerpt: &Excerpt) -> String {
    match excerpt {
        Excerpt::Text(text) => format!("<blockquote>{}</blockquote>", escape(text)),
        Excerpt::Marked { text, marks } => format!("<blockquote>{}</blockquote>", marked(text, marks)),
        Excerpt::Picture { media, bytes, size: [width, height] } => {
            format!("<img alt=\"\" width=\"{width}\" height=\"{height}\" src=\"{}\">", address(media, bytes))
        }
    }
}

/// Where a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// Ends there.
    End,
}

/// A picture in the making, in pixels from the upper left.
#[derive(Debug, Clone)]
pub struct Svg {
    size: [f64; 2],
    title: String,
    /// For the style of the page that it stands in.
    class: &'static str,
    body: String,
}

impl Svg {
    /// An empty one, of this width and height.
    pub fn new(size: [f64; 2], title: &str) -> Self {
        Self { size, title: escape(title), class: "", body: String::new() }
    }

    /// Adds markup as it is: names in it are escaped already.
    pub fn push(&mut self, markup: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{markup}");
    }

    /// Adds a text of some class (`ink`, `dim`) at a place.
    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// Adds a line of the grid.
    pub fn grid(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        self.push(format_args!("<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    /// The picture for a page that has [`STYLE`].
    pub fn inline(&self) -> String {
        self.markup("")
    }

    /// The picture as a file.
    pub fn file(&self) -> String {
        self.markup(&format!("<style>{STYLE}</style><rect class=\"ground\" width=\"100%\" height=\"100%\"/>"))
    }

    fn markup(&self, before: &str) -> String {
        let Self { size: [width, height], title, class, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"system-ui,sans-serif\" font-size=\"12\" \
             class=\"{class}\" role=\"img\"><title>{title}</title>{before}\n{body}</svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Mark;

    #[test]
    fn texts_are_cut_by_characters_and_say_so() {
        assert_eq!((shortened("äöü", 3).as_str(), shortened("äöüß", 3).as_str()), ("äöü", "äö…"));
    }

    #[test]
    fn titles_and_texts_cannot_break_out() {
        let mut svg = Svg::new([10.0, 10.0], "<script>");
        svg.text([0.0; 2], Anchor::Start, "ink", "</text>\u{0}");
        let file = svg.file();
        assert!(file.contains("&lt;script&gt;") && file.contains("&lt;/text&gt;\u{fffd}"), "{file}");
        assert!(!file.contains("<script>"));
    }

    #[test]
    fn an_excerpt_is_escaped_or_a_picture_in_the_page() {
        assert_eq!(excerpt(&Excerpt::Text("<b>".into())), "<blockquote>&lt;b&gt;</blockquote>");
        let marked = Excerpt::Marked { text: "a <b>".into(), marks: vec![(2..5, Mark::Wrong)] };
        assert_eq!(excerpt(&marked), "<blockquote>a <mark class=\"wrong\">&lt;b&gt;</mark></blockquote>");
        let picture = Excerpt::Picture { media: "image/png", bytes: b"abc".to_vec(), size: [3, 2] };
        assert!(excerpt(&picture).contains("width=\"3\" height=\"2\" src=\"data:image/png;base64,YWJj\""));
    }
}
