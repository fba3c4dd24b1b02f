//! `cargo xtask dataset …`: lists and shows manifests, checks and builds the bundled sets.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::manifest::Manifest;
use crate::{debian, digits, root};

/// What to do with data sets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One line for each known data set
    List,
    /// Everything that is known of one
    Show {
        /// Its name, as `list` gives it
        name: String,
    },
    /// Checks the bundled handwritten digits, and writes them as image folders
    Digits {
        /// A new folder to write train/DIGIT/*.png and test/DIGIT/*.png to
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Builds the bundled package descriptions from the package lists of apt
    DebianSections(debian::Args),
    /// Writes the long package descriptions of apt's lists as a text to pre-train on, without those of the test part of
    /// debian-sections
    DebianDescriptions(debian::corpus::Args),
}

/// Does it.
pub fn run(command: Command) -> Result<()> {
    let folder: PathBuf = root().join("datasets");
    match command {
        Command::List => {
            for m in Manifest::all(&folder)? {
                let samples: Vec<String> = m.splits.iter().map(|s| format!("{} {}", s.name, s.count)).collect();
                println!(
                    "{:<16} {:<21} {:>3} classes  {}",
                    m.name,
                    m.task.to_string(),
                    m.class_count,
                    samples.join(", ")
                );
            }
        }
        Command::Show { name } => {
            let all = Manifest::all(&folder)?;
            let Some(found) = all.iter().find(|m| m.name == name) else {
                let names: Vec<&str> = all.iter().map(|m| m.name.as_str()).collect();
                bail!("{name}: no data set of this name\n  choose one of {}", names.join(", "));
            };
            print!("{found}");
        }
        Command::Digits { out } => {
            let images = digits::read(&folder)?;
            println!("digits: {} images, as published", images.len());
            if let Some(out) = out {
                if out.exists() {
                    bail!("{}: exists already\n  give a new folder, or remove it", out.display());
                }
                let (train, test) = digits::write_folders(&images, &out)?;
                println!("{}: {train} for training, {test} for test", out.display());
            }
        }
        Command::DebianSections(args) => debian::run(&args, &folder)?,
        Command::DebianDescriptions(args) => debian::corpus::run(&args, &folder)?,
    }
    Ok(())
}
