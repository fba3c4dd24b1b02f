//! The verb `explain`: where in photos a model finds what speaks for a class; with labelled photos, what it mistakes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use topwork_core::cli::{self, Common, Console, print_line};
use topwork_core::data::{Dataset, View};
use topwork_core::domain::Domain;
use topwork_core::draw::{self, Place, escape};
use topwork_core::files::{ELSEWHERE, create_dir_all, vacant, write_atomic_bytes};
use topwork_core::loader::{Faults, Strictness};
use topwork_core::metrics::Scores;
use topwork_core::net::grad_cam::{Explained, GradCam};
use topwork_core::observe::Observer;
use topwork_core::outputs::{Outputs, Slip, best};
use topwork_core::seed::Seed;
use topwork_core::transferability::plane;
use topwork_core::{Error, Result, report};

use super::raster;
use crate::dataset::photo::Photo;
use crate::dataset::{DataArgs, inputs};
use crate::pipeline::{Pipeline, decode};
use crate::{Classifier, InputArgs, Photos};

/// Most photos in a map.
const MAPPED: usize = 300;
/// Longer side of a pair of pictures in the gallery.
const PAIR: u32 = 288;
/// What is written about labelled photos: the page of mistakes, the confusion matrix, the map.
const FILES: [&str; 3] = ["mistakes.html", "confusion.svg", "features.svg"];

/// The flags of `explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// A run directory, or the model folder inside it; with --adapter, a pre-trained model
    #[arg(value_name = "RUN")]
    run: String,
    /// Put this adapter folder on the model: the adapter/ of a run
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Folder for the pictures; nothing that is there is replaced
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// The class to look for [default: the one that is predicted]
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// The stage whose maps are looked at [default: the last before the maps are pooled]
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Decides the validation part where the data come without one; give the seed of the run
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Labelled photos: of their validation part, the surest mistakes, the confusion matrix and a map of the features.
    #[command(flatten, next_help_heading = "Labelled photos, to look at mistakes")]
    data: DataArgs,
}

/// Does what the command line says.
pub(crate) fn run(args: &ExplainArgs, common: &Common) -> Result<()> {
    let labelled = args.data.data.is_some() || args.data.train.is_some() || args.data.validation.is_some();
    if args.inputs.inputs.is_empty() && !labelled {
        let remedy = "name photos or folders, or labelled ones with --data";
        return Err(Error::input("PHOTO", "there is nothing to look at", remedy));
    }
    if labelled {
        FILES.iter().try_for_each(|name| vacant(&args.out.join(name), ELSEWHERE))?;
    }
    let named = if args.inputs.inputs.is_empty() { None } else { Some(named(args)?) };
    let classifier = cli::classifier::<Photos>(&args.run, args.adapter.as_deref(), common)?;
    let class = args.class.as_deref().map(|name| number(&classifier, name)).transpose()?;
    let cam = classifier.grad_cam(args.stage.as_deref())?;
    if labelled {
        mistakes(args, &classifier, &cam, common)?;
    }
    named.map_or(Ok(()), |named| photos(named, args, &classifier, &cam, class, common))
}

/// Photos, each with the place of its picture.
type Named = Box<dyn Iterator<Item = Result<(Photo, PathBuf)>>>;

/// The photos that are named, with places for their pictures where nothing is yet: one of them may be the photo itself. Those
/// that come on standard input are looked at one by one, all others before anything is done.
fn named(args: &ExplainArgs) -> Result<Named> {
    let (mut taken, folder) = (BTreeSet::new(), args.out.clone());
    let named = inputs::photos(&args.inputs)?.map(move |photo| {
        let photo = photo.map_err(|(_, error)| error)?;
        let to = folder.join(free_name(Path::new(&photo.name()), &mut taken));
        Ok((photo, to))
    });
    if args.inputs.inputs.iter().any(|input| input == Path::new("-")) {
        return Ok(Box::new(named));
    }
    let all: Vec<_> = named.collect();
    all.iter().flatten().try_for_each(|(_, to)| vacant(to, ELSEWHERE))?;
    Ok(Box::new(all.into_iter()))
}

/// The number of the class called `name`.
fn number(classifier: &Classifier, name: &str) -> Result<usize> {
    let classes = classifier.classes();
    classes.iter().position(|class| class == name).ok_or_else(|| {
        let remedy = format!("use one of {}", crate::dataset::quoted(classes));
        Error::input(format!("--class {name}"), "the model knows no such class", remedy)
    })
}

/// A picture for each photo named.
fn photos(
    named: Named,
    args: &ExplainArgs,
    classifier: &Classifier,
    cam: &GradCam,
    class: Option<usize>,
    common: &Common,
) -> Result<()> {
    let (mut read, mut unreadable) = (0, 0);
    create_dir_all(&args.out)?;
    for photo in named {
        read += 1;
        let decoded = photo.and_then(|(photo, to)| {
            let name = photo.name();
            Ok((decode::decode(&name, &photo.read()?)?, name, to))
        });
        let (photo, name, to) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                unreadable += 1;
                eprintln!("{error}");
                continue;
            }
        };
        vacant(&to, ELSEWHERE)?;
        let batch = classifier.batch(&[classifier.pipeline().render(&photo, View::Plain)?])?;
        let region = classifier.pipeline().centre_region(photo.width(), photo.height());
        for Explained { logits, class, heat } in cam.explain(&batch, |logits| class.unwrap_or_else(|| best(logits)))? {
            raster::write(&to, &raster::overlay(&photo, region, &heat))?;
            let (label, probability) = (&classifier.classes()[class], classifier.answer(&logits)[class]);
            print_line(&if common.json {
                json!({ "input": name, "class": label, "probability": probability, "stage": cam.stage(), "picture": to })
                    .to_string()
            } else {
                format!("{name}\t{label}\t{probability:.4}\t{}", to.display())
            })?;
        }
    }
    if unreadable > 0 {
        let reason = format!("{unreadable} of {read} could not be read; the others are explained");
        return Err(Error::input("explain", reason, "see the messages above"));
    }
    Ok(())
}

/// A file name for the picture of `path` that no other has.
fn free_name(path: &Path, taken: &mut BTreeSet<String>) -> String {
    let stem = path.file_stem().map_or_else(|| "photo".into(), |stem| stem.to_string_lossy().into_owned());
    let names = (1..).map(|i| if i == 1 { format!("{stem}.png") } else { format!("{stem}-{i}.png") });
    // Letters of either size may be one to the file system.
    names.into_iter().find(|name| taken.insert(name.to_lowercase())).unwrap_or_default()
}

/// What is mistaken among labelled photos: a page, the confusion matrix, and a map of the features.
fn mistakes(args: &ExplainArgs, classifier: &Classifier, cam: &GradCam, common: &Common) -> Result<()> {
    let (console, task, pipeline) = (Console::new(common.quiet), classifier.task(), classifier.pipeline());
    task.only_classes("explain --data")?;
    let data = Photos::splits(&args.data, pipeline, Some(task), Seed(args.seed))?.validation;
    let mut faults = Faults::new(Strictness::default());
    let mut features = Vec::new();
    let answers = classifier.judge(&data, "validation", &mut faults, &console, |batch| {
        features.extend(batch.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    })?;
    let metrics = answers.metrics(task, &*data);
    let answers = answers.at(classifier.temperature());
    let mut found = answers.mistakes(task, &*data, report::MOST_MISTAKES);
    for mistake in &mut found {
        let Slip::Class { said, .. } = mistake.slip else { continue };
        console.progress("explain", mistake.sample, data.len());
        let sample = data.load(mistake.sample, View::Plain)?;
        let view = picture_of(pipeline, &sample);
        let explained = cam.explain(&classifier.batch(&[sample])?, |_| said)?;
        if let (Some(Explained { heat, .. }), Some(view)) = (explained.first(), view) {
            let over = raster::overlay(&view, pipeline.whole(), heat);
            mistake.excerpt = raster::excerpt(&raster::beside(&view, &over), PAIR)?;
        }
    }
    let Scores::Classes(scores) = &metrics.scores else { return Ok(()) };
    let matrix = draw::confusion(task, &scores.confusion);
    let map = map(&answers, &features, &data, task)?;
    let names: Vec<&str> = task.iter().map(String::as_str).collect();
    let wide = |picture: &draw::Svg| format!("<div class=\"wide\">{}</div>", picture.inline());
    let page = report::document(
        &escape(&format!("{}: {}", Photos::BINARY, args.run)),
        &format!(
            "<p><b>{metrics}</b> on {} photos. Beside each mistake, where what speaks for the predicted class was found in \
             the maps of {} (Grad-CAM).</p>",
            metrics.samples,
            escape(cam.stage())
        ),
        &[("Surest mistakes", report::gallery(&found, &names)), ("Confusion", wide(&matrix)), ("Features", wide(&map))],
    );
    create_dir_all(&args.out)?;
    for (name, text) in FILES.iter().zip([page, matrix.file(), map.file()]) {
        write_atomic_bytes(&args.out.join(name), text.as_bytes())?;
    }
    print_line(&if common.json {
        let mistakes: Vec<_> = found
            .iter()
            .filter_map(|m| match m.slip {
                Slip::Class { truth, said, probability } => Some(
                    json!({ "input": m.name, "class": names[truth], "predicted": names[said], "probability": probability }),
                ),
                _ => None,
            })
            .collect();
        json!({ "metrics": metrics, "mistakes": mistakes, "files": FILES.map(|name| args.out.join(name)) }).to_string()
    } else {
        let listed = FILES.join(", ");
        format!("{metrics} on {} photos; {listed} are in {}", metrics.samples, args.out.display())
    })?;
    faults.list().iter().for_each(|(name, reason)| console.message(&format!("left out: {name}: {reason}")));
    Ok(())
}

/// The picture that a sample is of.
fn picture_of(pipeline: &Pipeline, sample: &topwork_core::data::Sample) -> Option<image::RgbImage> {
    match (&sample.values, sample.shape.as_slice()) {
        (topwork_core::data::Values::F32(values), &[_, side, 3]) => Some(raster::picture(pipeline, values, side)),
        _ => None,
    }
}

/// The features, `[samples, width]`, in the plane in which they vary most.
fn map(answers: &Outputs, features: &[f32], data: &Arc<dyn Dataset>, classes: &[String]) -> Result<draw::Svg> {
    let width = features.len() / answers.samples.len().max(1);
    let points = plane(features, width)?;
    // Evenly spread over the data, so that each class has its share.
    let step = answers.samples.len().div_ceil(MAPPED).max(1);
    let mut places = Vec::new();
    for ((sample, logits), at) in answers.rows().zip(points).step_by(step) {
        let (class, said) = (data.target(sample) as usize, best(logits));
        let (mistaken, name) = ((said != class).then_some(said), data.name(sample));
        places.push(Place { at, class, mistaken, name, excerpt: data.excerpt(sample)? });
    }
    Ok(draw::map("Features in the two directions of most variance", &places, classes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_photos_of_one_name_do_not_overwrite_each_other() {
        let mut taken = BTreeSet::new();
        let names = ["a/x.jpg", "b/x.png", "b/X.jpg", "b/y"].map(|path| free_name(Path::new(path), &mut taken));
        assert_eq!(names, ["x.png", "x-2.png", "X-3.png", "y.png"]);
    }
}
