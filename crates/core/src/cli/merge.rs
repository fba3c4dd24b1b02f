//! `merge`: a base model and an adapter folder, made one model.

use std::path::PathBuf;

use super::{Common, Console, print_line};
use crate::calibration::Calibration;
use crate::domain::Domain;
use crate::files::{ELSEWHERE, vacant};
use crate::{Error, Result, adapter, fit};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct MergeArgs {
    /// The model that the adapter was trained on: a name from `models list`, or a model folder
    #[arg(value_name = "MODEL")]
    model: String,
    /// The adapter/ folder of a run of lora or ia3
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// Folder to make for the merged model
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run<D: Domain>(args: MergeArgs, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    vacant(&args.out, ELSEWHERE)?;
    if let Some(kind) = adapter::unmergeable::<D>(&args.adapter)?.first() {
        return Err(Error::input(
            args.adapter.display(),
            format!("an adapter of kind {kind} computes what no weights of the model could: it cannot be merged"),
            "use it beside its base with --adapter, or use the run's own model/",
        ));
    }
    let model = fit::open_model::<D>(&args.model, common.offline, &console)?;
    let model = adapter::attach::<D>(model, &args.adapter)?;
    // Whole or absent: written beside its place, then renamed.
    let folder = crate::files::folder_of(&args.out);
    crate::files::create_dir_all(folder)?;
    let unfinished = tempfile::Builder::new().prefix(".merging-").tempdir_in(folder).map_err(Error::io(folder))?;
    let inside = unfinished.path().join("model");
    adapter::save_model::<D>(&inside, &model)?;
    if let Some(calibration) = Calibration::read(&args.adapter)? {
        calibration.write(&inside)?;
    }
    std::fs::rename(&inside, &args.out).map_err(Error::io(&args.out))?;
    print_line(&if common.json {
        serde_json::json!({ "model": args.out }).to_string()
    } else {
        format!("the merged model is in {}", args.out.display())
    })
}
