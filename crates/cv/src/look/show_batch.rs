//! The verb `show-batch`: photos as training sees them, on one sheet.

use std::path::PathBuf;

use topwork_core::cache::ViewSeed;
use topwork_core::cli::{Common, Console, print_line};
use topwork_core::data::{Activation, Values, View};
use topwork_core::domain::Domain;
use topwork_core::files::vacant;
use topwork_core::fit;
use topwork_core::seed::Seed;
use topwork_core::train::{Partners, mixed};
use topwork_core::{Error, Result};

use super::raster;
use crate::{Fit, Photos};

/// The flags of `show-batch`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowBatchArgs {
    #[command(flatten)]
    fit: Fit,
    /// How many photos to show
    #[arg(long, value_name = "N", default_value_t = 6)]
    photos: usize,
}

/// Of the flags of `train`, shows those that change what is seen.
pub fn shown_flag(flag: clap::Arg) -> clap::Arg {
    const SEEN: [&str; 8] = ["photos", "model", "seed", "mixup", "cutmix", "mix_share", "no_augment", "view_scales"];
    let heading = flag.get_help_heading().map(str::to_string);
    match flag.get_id().as_str() {
        "out" => flag.value_name("FILE").help("The sheet, a PNG file [default: batch.png]"),
        "force" => flag.help("Replace the file at --out"),
        "views" => flag.help("How many random views of each photo to show [default: 5]"),
        id if SEEN.contains(&id) || heading.as_deref() == Some("Data") => flag,
        _ => flag.hide(true),
    }
}

/// Does what the command line says.
pub(crate) fn run(args: &ShowBatchArgs, common: &Common) -> Result<()> {
    let Fit { data, options, seed, model, out, force, .. } = &args.fit;
    options.check()?;
    let to = out.clone().unwrap_or_else(|| PathBuf::from("batch.png"));
    if !force {
        vacant(&to, "choose another --out, or replace it with --force")?;
    }
    if args.photos == 0 {
        return Err(Error::input("--photos 0", "there is nothing to show", "use 1 or more"));
    }
    let console = Console::new(common.quiet);
    let name = model.as_deref().unwrap_or(Photos::DEFAULT_MODEL);
    let described = fit::describe::<Photos>(name, common.offline, &console)?;
    let pipeline = Photos::configure(described, data)?.pipeline;
    let seed = Seed(seed.unwrap_or(0));
    let splits = Photos::splits(data, &pipeline, None, seed)?;
    let classes = |i: usize| match splits.task.is_classes() {
        true => splits.task[splits.train.target(i) as usize].clone(),
        false => splits.train.name(i),
    };
    let mut photos: Vec<usize> = (0..splits.train.len()).collect();
    seed.named("shown").stream().shuffle(&mut photos);
    photos.truncate(args.photos);

    let mut rows: Vec<Vec<_>> = Vec::new();
    for &photo in &photos {
        let Values::F32(values) = splits.train.load(photo, View::Plain)?.values else { continue };
        rows.push(vec![(raster::picture(&pipeline, &values, pipeline.crop), classes(photo))]);
    }
    let views = options.views.unwrap_or(5);
    // As the first phase of descent draws them, a column an epoch.
    let phase = seed.named("phase").child(0);
    for view in 0..views {
        let drawn = match options.augmented() {
            Some(false) => ViewSeed::Plain,
            _ => ViewSeed::Random(phase.named("view").child(view as u64)),
        };
        let scales = options.view_scales.as_deref().unwrap_or(&[1.0]);
        let scale = scales[view * scales.len() / views.max(1)];
        let data = if scale == 1.0 { None } else { splits.train.scaled(scale) }.unwrap_or_else(|| splits.train.clone());
        let samples = photos.iter().map(|&i| data.load(i, drawn.of(i))).collect::<Result<Vec<_>>>()?;
        let side = samples.first().map_or(1, |sample| sample.shape[0]);
        let batch = Activation::collate(&samples, &candle_core::Device::Cpu)?;
        let (batch, partners) = match options.mix() {
            Some(mix) => mixed(&mix, batch, phase.named("mix").child(view as u64).child(0))?,
            None => (batch, None),
        };
        let values = batch.data.flatten_from(1)?.to_vec2::<f32>()?;
        for (row, (&photo, values)) in photos.iter().zip(&values).enumerate() {
            let text = match &partners {
                Some(Partners { places, share }) if places[row] != row => {
                    let other = classes(photos[places[row]]);
                    format!("{share:.2} {} {:.2} {other}", classes(photo), 1.0 - share)
                }
                _ => classes(photo),
            };
            let picture = raster::picture(&pipeline, values, side);
            rows[row].push((picture, text));
        }
    }
    raster::write(&to, &raster::sheet(&rows))?;
    print_line(&if common.json {
        serde_json::json!({ "picture": to, "photos": photos.len(), "views": views }).to_string()
    } else {
        format!("{} photos, each plain and in {views} views: {}", photos.len(), to.display())
    })
}
