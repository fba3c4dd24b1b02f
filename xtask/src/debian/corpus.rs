//! `cargo xtask dataset debian-descriptions`: the package descriptions as a text to pre-train on, one sentence a line and
//! a blank line behind each package.
//!
//! Nothing of the test part of `debian-sections` may be in it: packages of that name or source are left out, and so are
//! texts that share more than a few sequences of words with one of its texts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::packages::Package;
use super::select::{FAMILIAR, grams};
use super::{Lists, write};

/// A text is left out if more than this share of its sequences of five words are in the test part.
const SHARED: f64 = FAMILIAR / 3.0;

/// Where lists come from and the text goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    lists: Lists,
}

/// Writes the text.
pub fn run(args: &Args, datasets: &Path) -> Result<()> {
    let (mut packages, origin) = args.lists.read()?;
    let held = Held::read(&datasets.join("debian-sections"))?;
    let all = packages.len();
    let documents = documents(&mut packages, &held);
    let text: String = documents.iter().map(|sentences| sentences.join("\n") + "\n\n").collect();
    write(&args.out, &text)?;
    let (words, digest) = (text.split_whitespace().count(), Sha256::digest(text.as_bytes()));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    println!(
        "{}: {} texts of {all} packages, {words} words, {} bytes, from {origin}\nSHA-256 {digest}",
        args.out.display(),
        documents.len(),
        text.len()
    );
    Ok(())
}

/// What must not be in the text.
struct Held {
    /// Names of packages and of their sources.
    names: HashSet<String>,
    /// Sequences of five words.
    grams: HashSet<u64>,
}

impl Held {
    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let mut names = HashSet::new();
        for row in read("sources.tsv")?.lines().skip(1) {
            if let [name, _, source, "test"] = row.split('\t').collect::<Vec<_>>()[..] {
                names.extend([name.to_string(), source.to_string()]);
            }
        }
        let texts = read("test.tsv")?;
        let grams = texts.lines().skip(1).filter_map(|row| row.split('\t').next()).flat_map(grams).collect();
        Ok(Self { names, grams })
    }

    fn has(&self, package: &Package) -> bool {
        let grams = grams(&format!("{}. {}", package.short, package.long));
        let shared = grams.iter().filter(|gram| self.grams.contains(gram)).count();
        self.names.contains(&package.name)
            || self.names.contains(&package.source)
            || shared as f64 > SHARED * grams.len() as f64
    }
}

/// The sentences of each package, in the order of their names. A paragraph stands where it turns up first: many packages
/// of one source say the same. A text of a single sentence is none.
fn documents(packages: &mut [Package], held: &Held) -> Vec<Vec<String>> {
    // Of two versions, the one that comes last in the list.
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let mut seen: HashSet<[u8; 32]> = HashSet::new();
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| !held.has(package)) {
        let mut fresh = |text: &&String| seen.insert(Sha256::digest(text.as_bytes()).into());
        let body: Vec<&String> = package.paragraphs.iter().filter(&mut fresh).collect();
        let mut lines = vec![format!("{}.", package.short.trim_end_matches('.'))];
        lines.extend(body.into_iter().flat_map(|paragraph| sentences(paragraph)));
        if lines.len() > 1 {
            found.push(lines);
        }
    }
    found
}

/// Cuts behind a full stop, question or exclamation mark that a capital letter follows, unless an abbreviation or
/// initial stands before it.
fn sentences(paragraph: &str) -> Vec<String> {
    let words: Vec<&str> = paragraph.split(' ').collect();
    let mut found: Vec<String> = Vec::new();
    let mut sentence: Vec<&str> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        sentence.push(word);
        let ends = word.ends_with(['.', '!', '?']) || word.ends_with(".)");
        let short = ["e.g.", "i.e.", "etc.", "vs.", "cf.", "Dr.", "Mr.", "St.", "No."].contains(word) || word.len() < 3;
        let next = words.get(i + 1).and_then(|word| word.chars().next());
        if ends && !short && next.is_some_and(|c| c.is_uppercase() || c.is_ascii_digit()) {
            found.push(std::mem::take(&mut sentence).join(" "));
        }
    }
    if !sentence.is_empty() {
        found.push(sentence.join(" "));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, source: &str, paragraphs: &[&str]) -> Package {
        Package {
            name: name.into(),
            source: source.into(),
            version: "1".into(),
            section: "net".into(),
            short: "A thing".into(),
            long: paragraphs.join(" "),
            paragraphs: paragraphs.iter().map(|p| p.to_string()).collect(),
        }
    }

    fn held(names: &[&str], text: &str) -> Held {
        Held { names: names.iter().map(|n| n.to_string()).collect(), grams: grams(text) }
    }

    #[test]
    fn nothing_of_the_test_part_is_in_it() {
        let text = "one two three four five six seven eight nine ten";
        let mut packages = vec![
            package("alpha", "alpha", &["It is here."]),
            package("beta", "beta", &["By name."]),
            package("gamma-tools", "gamma", &["By source."]),
            package("delta", "delta", &[text]),
        ];
        let found = documents(&mut packages, &held(&["beta", "gamma"], &format!("a thing. {text}")));
        assert_eq!(found, [["A thing.", "It is here."]]);
    }

    #[test]
    fn a_paragraph_is_taken_once_and_cut_into_sentences() {
        let mut packages =
            vec![package("b", "b", &["Same. Here."]), package("a", "a", &["Same. Here.", "See e.g. This one. 2 more"])];
        let found = documents(&mut packages, &held(&[], ""));
        assert_eq!(found, [["A thing.", "Same.", "Here.", "See e.g. This one.", "2 more"]]);
    }
}
