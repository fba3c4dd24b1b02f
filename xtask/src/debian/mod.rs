//! `cargo xtask dataset debian-sections`: package descriptions with their section as label, from the lists of apt.

pub mod corpus;
mod packages;
mod select;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use packages::Package;
use select::{Chosen, SECTIONS};

/// Texts of each section in the two files.
const TRAIN: usize = 200;
const TEST: usize = 100;

/// Where lists come from and texts go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write train.tsv, test.tsv and sources.tsv to [default: datasets/debian-sections]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    lists: Lists,
}

/// Where package lists are.
#[derive(Debug, Default, clap::Args)]
struct Lists {
    /// An uncompressed `Packages` list to read instead of apt's
    #[arg(long, value_name = "FILE")]
    packages: Option<PathBuf>,
    /// The uncompressed `Translation-en` list that belongs to it, when descriptions are kept apart
    #[arg(long, value_name = "FILE", requires = "packages")]
    translations: Option<PathBuf>,
}

impl Lists {
    /// The packages, and where they come from.
    fn read(&self) -> Result<(Vec<Package>, String)> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let (list, translations, origin) = match &self.packages {
            Some(path) => {
                let translations = self.translations.as_ref().map(read).transpose()?.unwrap_or_default();
                (read(path)?, translations, path.display().to_string())
            }
            None => packages::from_apt()?,
        };
        let all = packages::parse(&list, &translations);
        ensure!(!all.is_empty(), "{origin}: no packages in the list\n  run: apt-get update -o Acquire::Languages=en");
        let told = all.iter().filter(|p| !p.long.is_empty()).count();
        if told * 2 < all.len() {
            bail!(
                "{origin}: only {told} of {} packages have a long description\n  fetch those too: apt-get update -o \
                 Acquire::Languages=en",
                all.len()
            );
        }
        Ok((all, origin))
    }
}

/// Builds the data set.
pub fn run(args: &Args, datasets: &Path) -> Result<()> {
    let (all, origin) = args.lists.read()?;
    let chosen = match select::select(&all, &SECTIONS, TRAIN + TEST) {
        Ok(chosen) => chosen,
        Err((section, found)) => bail!(
            "{origin}: section {section} has {found} suitable packages, {} are needed\n  use the lists of a whole Debian \
             release",
            TRAIN + TEST
        ),
    };
    let folder = args.out.clone().unwrap_or_else(|| datasets.join("debian-sections"));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut sources = String::from("package\tversion\tsource\tsplit\n");
    for (split, range) in [("train", 0..TRAIN), ("test", TRAIN..TRAIN + TEST)] {
        let mut rows = String::from("text\tlabel\n");
        for i in range {
            for Chosen { package, text } in chosen.iter().map(|section| &section[i]) {
                rows += &format!("{}\t{}\n", plain(text), package.section);
                sources += &format!("{}\t{}\t{}\t{split}\n", package.name, package.version, package.source);
            }
        }
        write(&folder.join(format!("{split}.tsv")), &rows)?;
    }
    write(&folder.join("sources.tsv"), &sources)?;
    println!("{}: {} sections, {TRAIN} + {TEST} texts each, from {origin}", folder.display(), SECTIONS.len());
    Ok(())
}

/// A field that needs no quoting in a TSV file, by any reader's rules.
fn plain(text: &str) -> String {
    text.replace('\t', " ").replace('"', "'")
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(folder: &Path) -> Args {
        let lists = Lists { packages: Some(folder.join("Packages")), translations: None };
        Args { out: Some(folder.join("out")), lists }
    }

    /// A list with `n` packages of every section, all words their own.
    fn list(n: usize, long: bool) -> String {
        let letters = |mut i: usize| -> String {
            (0..4)
                .map(|_| {
                    let letter = char::from(b'a' + (i % 26) as u8);
                    i /= 26;
                    letter
                })
                .collect()
        };
        let mut text = String::new();
        for (s, section) in SECTIONS.iter().enumerate() {
            for i in 0..n {
                let name = letters(s * n + i);
                let words: Vec<String> = (0..20).map(|w| format!("{name}word{}", letters(w))).collect();
                let tail = if long { format!("\n {}", words.join(" ")) } else { String::new() };
                text += &format!("Package: {name}\nVersion: 1\nSection: {section}\nDescription: Thing{tail}\n\n");
            }
        }
        text
    }

    #[test]
    fn a_list_becomes_two_balanced_files_with_their_sources() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Packages"), list(TRAIN + TEST, true)).unwrap();
        run(&args(folder.path()), folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
        let (train, test, sources) = (read("train.tsv"), read("test.tsv"), read("sources.tsv"));
        assert_eq!(train.lines().filter(|l| l.ends_with("\tgames")).count(), TRAIN);
        assert_eq!(test.lines().filter(|l| l.ends_with("\tgames")).count(), TEST);
        assert_eq!(sources.lines().count(), 1 + SECTIONS.len() * (TRAIN + TEST));
    }

    #[test]
    fn lists_that_are_too_small_or_without_descriptions_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (text, expected) in [
            (list(3, true), "section admin has 3"),
            (list(3, false), "Acquire::Languages=en"),
            (String::new(), "no packages"),
        ] {
            std::fs::write(folder.path().join("Packages"), text).unwrap();
            let message = run(&args(folder.path()), folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!folder.path().join("out").exists());
        }
    }
}
