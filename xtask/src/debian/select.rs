//! Chooses packages for the data set: balanced over sections, the same for the same lists, and without pairs of near
//! duplicates that would straddle training and test.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

use super::packages::Package;

/// The sections that are told apart.
pub const SECTIONS: [&str; 12] =
    ["admin", "devel", "games", "graphics", "java", "javascript", "net", "python", "science", "sound", "text", "x11"];

/// Texts are cut at a word before this many characters, and shorter than the other are left out.
const LONGEST: usize = 600;
const SHORTEST: usize = 120;

/// A text of which more than this share of its sequences of five words is known already is a near duplicate.
pub const FAMILIAR: f64 = 0.3;

/// A package that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// What it is made from.
    pub package: Package,
    /// What a classifier sees.
    pub text: String,
}

/// `per_section` packages of each section, section by section, in an order that depends on names only; or the section
/// that has too few, and how many.
pub fn select(
    packages: &[Package],
    sections: &[&str],
    per_section: usize,
) -> Result<Vec<Vec<Chosen>>, (String, usize)> {
    let mut families: BTreeMap<String, &Package> = BTreeMap::new();
    for package in packages.iter().filter(|p| sections.contains(&p.section.as_str()) && usable(p)) {
        let best = families.entry(family(&package.source)).or_insert(package);
        if rank(package) < rank(best) {
            *best = package;
        }
    }
    let mut candidates: Vec<&Package> = families.into_values().collect();
    candidates.sort_by_key(|p| Sha256::digest(p.name.as_bytes()).to_vec());
    let mut seen: HashSet<u64> = HashSet::new();
    let mut chosen: Vec<Vec<Chosen>> = vec![Vec::new(); sections.len()];
    for package in candidates {
        let Some(section) = sections.iter().position(|s| *s == package.section) else { continue };
        let text = text(package);
        if chosen[section].len() == per_section || text.chars().count() < SHORTEST {
            continue;
        }
        let grams = grams(&text);
        let known = grams.iter().filter(|gram| seen.contains(gram)).count();
        if known as f64 > FAMILIAR * grams.len() as f64 {
            continue;
        }
        seen.extend(grams);
        chosen[section].push(Chosen { package: package.clone(), text });
    }
    match chosen.iter().position(|c| c.len() < per_section) {
        Some(short) => Err((sections[short].to_string(), chosen[short].len())),
        None => Ok(chosen),
    }
}

/// Leaves out what accompanies another package or only points to one.
fn usable(package: &Package) -> bool {
    const COMPANIONS: [&str; 14] = [
        "-dev",
        "-doc",
        "-docs",
        "-dbg",
        "-dbgsym",
        "-data",
        "-common",
        "-examples",
        "-source",
        "-l10n",
        "-dkms",
        "-tests",
        "-testsuite",
        "-headers",
    ];
    let short = package.short.to_lowercase();
    let hollow = ["transitional", "dummy package", "metapackage", "meta-package", "meta package", "virtual package"];
    !COMPANIONS.iter().any(|end| package.name.ends_with(end)) && !hollow.iter().any(|word| short.contains(word))
}

/// Source packages of one family have the same first word, once prefixes that only tell the language are gone:
/// `gcc-12` and `gcc-12-cross`, `python-django` and `django-filter`.
fn family(source: &str) -> String {
    const GENERIC: [&str; 12] = [
        "golang-", "gnome-", "haskell-", "kde-", "lib", "node-", "php-", "python-", "python3-", "r-cran-", "ruby-",
        "rust-",
    ];
    let stem = GENERIC.iter().find_map(|prefix| source.strip_prefix(prefix)).unwrap_or(source);
    let word = stem.split(['-', '.', '+', '_']).next().unwrap_or(stem).trim_end_matches(|c: char| c.is_ascii_digit());
    if word.len() < 3 { source.to_string() } else { word.to_string() }
}

/// The package that stands for its family: the one called like its source, else the shortest name.
fn rank(package: &Package) -> (bool, usize, &str) {
    (package.name != package.source, package.name.len(), &package.name)
}

/// Short and long description on one line, with the package's own name masked: it says nothing that carries over to
/// other packages, and a network that knows the program by name should have no advantage.
fn text(package: &Package) -> String {
    let whole = format!("{}. {}", package.short.trim_end_matches('.'), package.long);
    let names = [package.name.to_lowercase(), package.source.to_lowercase()];
    let mask = |word: &str| {
        let core = word.trim_matches(|c: char| !c.is_alphanumeric());
        if !core.is_empty() && names.contains(&core.to_lowercase()) {
            word.replacen(core, "PACKAGE", 1)
        } else {
            word.to_string()
        }
    };
    let mut text = String::new();
    let mut length = 0;
    for word in whole.split_whitespace().map(mask) {
        length += word.chars().count() + 1;
        if length > LONGEST + 1 {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word);
    }
    text
}

/// Hashes of all sequences of five words, lower case.
pub fn grams(text: &str) -> HashSet<u64> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let hash = |gram: &[&str]| {
        let digest = Sha256::digest(gram.join(" ").as_bytes());
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    words.windows(5).map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package whose description no other shares.
    fn package(name: &str, section: &str) -> Package {
        let long: Vec<String> = (0..30).map(|i| format!("{name}word{i}")).collect();
        Package {
            name: name.into(),
            source: name.into(),
            version: "1".into(),
            section: section.into(),
            short: "A thing".into(),
            long: long.join(" "),
            paragraphs: vec![],
        }
    }

    fn names(chosen: &[Vec<Chosen>]) -> Vec<Vec<String>> {
        chosen.iter().map(|c| c.iter().map(|c| c.package.name.clone()).collect()).collect()
    }

    #[test]
    fn the_choice_is_balanced_and_does_not_depend_on_the_order_of_the_list() {
        let trees = ["alder", "birch", "cedar", "hazel", "larch", "maple", "poplar", "rowan", "spruce", "willow"];
        let sections = ["games", "net"].into_iter().cycle();
        let mut list: Vec<Package> = trees.iter().zip(sections).map(|(name, section)| package(name, section)).collect();
        let chosen = select(&list, &["games", "net"], 3).unwrap();
        assert_eq!(names(&chosen).iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
        assert!(chosen[1].iter().all(|c| c.package.section == "net"));
        list.reverse();
        assert_eq!(names(&select(&list, &["games", "net"], 3).unwrap()), names(&chosen));
    }

    #[test]
    fn too_few_packages_are_reported_with_the_section() {
        let list = [package("alpha", "games"), package("beta", "games")];
        assert_eq!(select(&list, &["games"], 3).unwrap_err(), ("games".to_string(), 2));
    }

    #[test]
    fn companions_and_hollow_packages_are_left_out() {
        let hollow = Package { short: "transitional package".into(), ..package("gamma", "games") };
        let list = [package("alpha-dev", "games"), hollow, package("beta", "games")];
        assert_eq!(names(&select(&list, &["games"], 1).unwrap()), [["beta"]]);
        assert!(select(&list, &["games"], 2).is_err());
    }

    #[test]
    fn a_family_gives_one_package() {
        let split = Package { source: "alpha".into(), ..package("alpha-extra", "games") };
        let list = [split, package("alpha", "games"), package("alpha-12", "games"), package("python-alpha", "games")];
        assert_eq!(select(&list, &["games"], 2).unwrap_err().1, 1);
        assert_eq!(names(&select(&list, &["games"], 1).unwrap()), [["alpha"]]);
    }

    #[test]
    fn a_near_duplicate_is_left_out() {
        let twin = Package { long: package("alpha", "games").long + " and more", ..package("omega", "games") };
        assert_eq!(select(&[package("alpha", "games"), twin], &["games"], 2).unwrap_err().1, 1);
    }

    #[test]
    fn the_name_is_masked_and_the_text_cut_at_a_word() {
        let long = format!("(Alpha) and alphabet; {}", "tree ".repeat(200));
        let text = text(&Package { long, ..package("alpha", "games") });
        assert!(text.starts_with("A thing. (PACKAGE) and alphabet; tree"), "{text}");
        assert!(text.ends_with("tree") && (590..=600).contains(&text.len()), "{}", text.len());
    }
}
