//! Photos without labels, streamed: what `predict` and `embed` work on.

use std::fs;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

use topwork_core::data::View;
use topwork_core::domain::Inputs;
use topwork_core::prefetch::{Prefetch, threads};
use topwork_core::{Error, Result};

use super::photo::Photo;
use super::{folder, list, parquet, tars};
use crate::pipeline::Pipeline;

/// Photos prepared before they are asked for: 40 MB at 224 × 224.
const AHEAD: usize = 64;

/// What to predict on.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct InputArgs {
    /// Photos, folders of photos, CSV/TSV lists, tar shards, Parquet files, or - for paths on standard input, one a line
    #[arg(value_name = "PHOTO")]
    pub inputs: Vec<PathBuf>,
    /// Column of a list with the photos' paths, relative to the list, or of Parquet with their bytes [default: path, file,
    /// image, …]
    #[arg(long, value_name = "NAME")]
    pub path_column: Option<String>,
}

/// A photo to read, or the name of what could not be made one and why.
pub type Item = std::result::Result<Photo, (String, Error)>;
type Items = Box<dyn Iterator<Item = Item> + Send>;

/// The photos of `args` in order, decoded on several threads ahead of the consumer; see
/// [`topwork_core::domain::Domain::inputs`].
///
/// # Errors
/// When nothing is named, or a named path does not exist.
pub fn stream(args: &InputArgs, pipeline: &Pipeline) -> Result<Inputs> {
    let pipeline = *pipeline;
    Ok(Prefetch::new(photos(args)?, threads(), AHEAD, move |item: Item| match item {
        Ok(photo) => (photo.name(), photo.read().and_then(|bytes| pipeline.load(&photo.name(), &bytes, View::Plain))),
        Err((name, error)) => (name, Err(error)),
    }))
}

/// The photos of `args`, in order.
///
/// # Errors
/// When nothing is named, or a named path does not exist.
pub fn photos(args: &InputArgs) -> Result<impl Iterator<Item = Item> + Send + use<>> {
    if args.inputs.is_empty() {
        return Err(Error::input("PHOTO", "no photos are named", "name files or folders, or - for standard input"));
    }
    let sources = args.inputs.iter().map(|input| source(input, args.path_column.as_deref()));
    Ok(sources.collect::<Result<Vec<Items>>>()?.into_iter().flatten())
}

fn source(input: &Path, column: Option<&str>) -> Result<Items> {
    if input == Path::new("-") {
        return Ok(Box::new(BufReader::new(stdin()).split(b'\n').filter_map(line)));
    }
    let kind = fs::metadata(input).map_err(Error::io(input))?;
    if kind.is_dir() {
        let photos = folder::photos_below(input)?;
        if photos.is_empty() {
            return Err(Error::input(
                input.display(),
                format!("no images are in it ({})", folder::EXTENSIONS.join(", ")),
                "name another folder",
            ));
        }
        return Ok(Box::new(photos.into_iter().map(Photo::File).map(Ok)));
    }
    if tars::is_tar(input) {
        return Ok(Box::new(tars::photos(input)?.into_iter().map(Ok)));
    }
    if parquet::is_parquet(input) {
        return Ok(Box::new(parquet::photos(input, column)?.into_iter().map(Ok)));
    }
    if list::is_list(input) {
        let name = input.display().to_string();
        return Ok(Box::new(
            list::paths(input, column)?.map(move |path| path.map(Photo::File).map_err(|e| (name.clone(), e))),
        ));
    }
    Ok(Box::new(std::iter::once(Ok(Photo::File(input.to_path_buf())))))
}

/// A line of standard input; empty ones say nothing.
fn line(bytes: std::io::Result<Vec<u8>>) -> Option<Item> {
    let name = || "standard input".to_string();
    match bytes.map(String::from_utf8) {
        Ok(Ok(text)) if text.trim().is_empty() => None,
        Ok(Ok(text)) => Some(Ok(Photo::File(PathBuf::from(text.trim_end_matches('\r'))))),
        Ok(Err(e)) => {
            let line = String::from_utf8_lossy(e.as_bytes()).into_owned();
            Some(Err((line.clone(), Error::input(line, "the path is not valid UTF-8", "rename the file"))))
        }
        Err(e) => Some(Err((name(), Error::io("-")(e)))),
    }
}
