//! Reads what apt knows of packages: the `Packages` lists and, where descriptions are kept apart, `Translation-en`.

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// One package of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The source package that it is built from.
    pub source: String,
    /// Its version.
    pub version: String,
    /// `games`, `science`, …
    pub section: String,
    /// The first line of the description.
    pub short: String,
    /// The rest, paragraphs joined by spaces; empty when the lists hold none.
    pub long: String,
    /// The same by paragraphs; items of lists and lines that are not to be wrapped are paragraphs of their own.
    pub paragraphs: Vec<String>,
}

/// The fields of each paragraph of a control file: continuation lines keep their line breaks.
fn paragraphs(text: &str) -> impl Iterator<Item = HashMap<&str, String>> {
    text.split("\n\n").map(|paragraph| {
        let mut fields: HashMap<&str, String> = HashMap::new();
        let mut last = None;
        for line in paragraph.lines() {
            if line.starts_with([' ', '\t']) {
                if let Some(value) = last.and_then(|key| fields.get_mut(key)) {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.insert(key, value.trim().to_string());
                last = Some(key);
            }
        }
        fields
    })
}

/// Short and long part of a description field, and the paragraphs of the latter (Debian Policy 5.6.13).
fn description(field: &str) -> (String, String, Vec<String>) {
    let (short, rest) = field.split_once('\n').unwrap_or((field, ""));
    let mut paragraphs: Vec<String> = Vec::new();
    let mut open = false;
    for line in rest.lines() {
        let text: Vec<&str> = line.split_whitespace().collect();
        if text.is_empty() || text == ["."] {
            open = false;
            continue;
        }
        let item = text.len() > 1 && ["*", "-", "+", "o", "•"].contains(&text[0]);
        match paragraphs.last_mut() {
            Some(last) if open && !item && !line.starts_with("  ") => {
                last.push(' ');
                last.push_str(&text.join(" "));
            }
            _ => paragraphs.push(text.join(" ")),
        }
        open = true;
    }
    (short.trim().to_string(), paragraphs.join(" "), paragraphs)
}

/// Packages of a `Packages` list; long descriptions come from `translations` where the list has none.
pub fn parse(packages: &str, translations: &str) -> Vec<Package> {
    let mut apart: HashMap<String, String> = HashMap::new();
    for mut fields in paragraphs(translations) {
        if let (Some(sum), Some(text)) = (fields.remove("Description-md5"), fields.remove("Description-en")) {
            apart.insert(sum, text);
        }
    }
    let package = |mut fields: HashMap<&str, String>| {
        let name = fields.remove("Package")?;
        let field = fields.remove("Description").or_else(|| fields.remove("Description-en")).unwrap_or_default();
        let (mut short, mut long, mut paragraphs) = description(&field);
        if long.is_empty()
            && let Some(text) = fields.get("Description-md5").and_then(|sum| apart.get(sum))
        {
            (short, long, paragraphs) = description(text);
        }
        let source = fields.remove("Source").unwrap_or_else(|| name.clone());
        let source = source.split_whitespace().next().unwrap_or(&name).to_string();
        let section = fields.remove("Section")?;
        let version = fields.remove("Version").unwrap_or_default();
        Some(Package { name, source, version, section, short, long, paragraphs })
    };
    paragraphs(packages).filter_map(package).collect()
}

/// One list that apt has.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    kind: String,
    codename: String,
    path: String,
}

/// Debian's own main lists of a release, without its updates.
fn targets(listing: &str) -> Vec<Target> {
    let target = |line: &str| {
        let mut fields = line.split('|').map(str::to_string);
        let (kind, origin, codename) = (fields.next()?, fields.next()?, fields.next()?);
        let (component, path) = (fields.next()?, fields.next()?);
        let wanted = origin == "Debian" && component == "main" && !codename.contains('-');
        wanted.then_some(Target { kind, codename, path })
    };
    listing.lines().filter_map(target).collect()
}

/// Makes apt name English descriptions even where its own settings leave them out.
const LANGUAGE: [&str; 2] = ["-o", "Acquire::Languages=en"];

/// The texts of the `Packages` and `Translation-en` lists, and the release's code name.
pub fn from_apt() -> Result<(String, String, String)> {
    let format = "$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(FILENAME)";
    let listing = output(Command::new("apt-get").args(["indextargets", LANGUAGE[0], LANGUAGE[1], "--format", format]))
        .context("apt-get: this needs a Debian system; elsewhere, give --packages and --translations")?;
    let targets = targets(&listing);
    let Some(first) = targets.iter().find(|t| t.kind == "Packages") else {
        bail!("apt has no package list of Debian's main section\n  run: apt-get update -o Acquire::Languages=en");
    };
    let read = |kind: &str, suffix: &str| -> Result<String> {
        let of_kind = |t: &&Target| t.kind == kind && t.codename == first.codename && t.path.contains(suffix);
        let mut text = String::new();
        for target in targets.iter().filter(of_kind) {
            text += &output(Command::new("/usr/lib/apt/apt-helper").args(["cat-file", &target.path]))?;
            text += "\n\n";
        }
        Ok(text)
    };
    Ok((read("Packages", "Packages")?, read("Translations", "Translation-en")?, first.codename.clone()))
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be run"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("{name}: its output is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_descriptions_are_found_in_either_place() {
        let list = "Package: a\nSource: s (1.0)\nVersion: 2\nSection: games\nDescription: Short\n One\n .\n  two  three\n\
            \nPackage: b\nSection: net\nDescription: Brief\nDescription-md5: 77\n\nPackage: without-section\n";
        let found = parse(list, "Package: b\nDescription-md5: 77\nDescription-en: Brief\n All of it\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].source.as_str(), found[0].long.as_str()), ("s", "One two three"));
        assert_eq!((found[1].source.as_str(), found[1].long.as_str()), ("b", "All of it"));
    }

    #[test]
    fn only_the_main_lists_of_a_release_are_taken() {
        let listing = "Packages|Debian|bookworm|main|/a_Packages\nPackages|Debian|bookworm-security|main|/b_Packages\n\
            Packages|Other|bookworm|main|/c_Packages\nTranslations|Debian|bookworm|main|/d_Translation-en\n\
            Packages|Debian|bookworm|contrib|/e\n";
        let paths: Vec<String> = targets(listing).into_iter().map(|t| t.path).collect();
        assert_eq!(paths, ["/a_Packages", "/d_Translation-en"]);
    }
}
