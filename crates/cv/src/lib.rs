//! Transfer learning for photos: networks, the photo pipeline, data sets of photos.
//!
//! [`models`] holds descriptions and weight cards, [`pipeline`] turns files into numbers, [`dataset`] finds labelled
//! photos, [`model_folder`] reads and writes models as timm does. [`Photos`] puts these together for
//! `topwork-core`; this crate knows nothing of training.
//!
//! ```
//! use topwork_core::observe::Silent;
//! use topwork_cv::{Classifier, DataArgs, Embedder, Fit};
//!
//! # fn main() -> topwork_core::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let (photos, run) = (folder.path().join("photos"), folder.path().join("run"));
//! # for (class, colour) in [("sea", [10, 40, 200]), ("sand", [220, 190, 120])] {
//! #     std::fs::create_dir_all(photos.join(class)).unwrap();
//! #     for i in 0..6 {
//! #         let shade = |x, y| image::Rgb(colour.map(|c: u8| c.wrapping_add((x * y + i) as u8 % 30)));
//! #         image::RgbImage::from_fn(40, 32, shade).save(photos.join(class).join(format!("{i}.png"))).unwrap();
//! #     }
//! # }
//! # let photo = photos.join("sea/0.png").display().to_string();
//! // A folder of photos for each class.
//! let data = DataArgs { data: Some(photos), ..DataArgs::default() };
//! Fit::new(data).model("tiny-resnet").strategy("feature-extraction").out(&run).run(&Silent)?;
//!
//! let run = run.display().to_string();
//! for prediction in Classifier::load(&run)?.predict(&[&photo])? {
//!     println!("{} {:.3}", prediction.label(), prediction.probability());
//!     # assert_eq!(prediction.label(), "sea");
//! }
//! let vectors = Embedder::load("tiny-resnet", true, Default::default(), &Silent)?.embed(&[&photo])?;
//! assert_eq!(vectors[0].len(), 256);
//! # Ok(())
//! # }
//! ```

pub mod dataset;
pub mod look;
pub mod model_folder;
pub mod models;
pub mod pipeline;
pub mod pretrain;
pub mod verbs;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use topwork_core::data::{Sample, Splits, View};
use topwork_core::domain::{Domain, Inputs, Opened};
use topwork_core::plan::Optimizer;
use topwork_core::seed::Seed;
use topwork_core::source::{Card, RemoteFile};
use topwork_core::strategy::{Defaults, Recipe};
use topwork_core::task::Task;
use topwork_core::{Error, Result};

use models::names::Library;

pub use dataset::DataArgs;
pub use dataset::inputs::InputArgs;
pub use pipeline::Pipeline;

/// What the README shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The domain of photos.
#[derive(Debug, Clone, Copy, Default)]
pub struct Photos;

/// A trained model of photos, in use.
pub type Classifier = topwork_core::classifier::Classifier<Photos>;
/// A backbone of photos, in use.
pub type Embedder = topwork_core::embedder::Embedder<Photos>;
/// Fitting a model to photos.
pub type Fit = topwork_core::fit::Fit<Photos>;

impl Domain for Photos {
    const BINARY: &'static str = "topwork-cv";
    const ITEM: (&'static str, &'static str) = ("photo", "photos");
    const DEFAULT_MODEL: &'static str = models::cards::DEFAULT;
    const EMBEDDED_MODEL: Option<&'static str> = Some(models::cards::EMBEDDED);
    const HUB_FILES: &'static [RemoteFile] = models::cards::HUB_FILES;
    const LIBRARIES: &'static [&'static str] = &["torchvision", "timm"];

    type Pipeline = Pipeline;
    type Input = Path;
    type DataArgs = DataArgs;
    type InputArgs = InputArgs;
    type ViewArgs = pipeline::TestViewArgs;
    type Verbs = verbs::Verbs;

    fn cards() -> &'static [Card] {
        &models::cards::CARDS
    }

    fn defaults() -> Defaults {
        let adamw = |weight_decay| Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay };
        Defaults {
            batch_size: 32,
            fine_tuning: Recipe {
                epochs: 10,
                least_steps: 100,
                optimizer: adamw(0.01),
                learning_rate: 3e-4,
                warmup: 0.1,
                augment: true,
            },
            from_scratch: Recipe {
                epochs: 30,
                least_steps: 300,
                optimizer: adamw(0.05),
                learning_rate: 1e-3,
                warmup: 0.1,
                augment: true,
            },
            small: None,
        }
    }

    fn open(folder: &Path, card: Option<&Card>) -> Result<Opened<Pipeline>> {
        model_folder::open(folder, card)
    }

    fn describe(card: &Card) -> Option<Opened<Pipeline>> {
        let pipeline = models::cards::prepares(card);
        let network = models::network(card.architecture, models::cards::classes(card), pipeline.crop)?;
        Some(Opened { network, weights: BTreeMap::new(), pipeline, task: None })
    }

    fn outline(architecture: &str) -> Option<Opened<Pipeline>> {
        let pipeline = models::cards::usual(architecture);
        let network = models::network(architecture, 1000, pipeline.crop)?;
        Some(Opened { network, weights: BTreeMap::new(), pipeline, task: None })
    }

    fn preparation(pipeline: &Pipeline) -> Option<String> {
        Some(pipeline.to_string())
    }

    fn save(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
        model_folder::save(folder, model)
    }

    fn state_dict(model: &Opened<Pipeline>, library: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
        let library = library.map(|name| if name == "timm" { Library::Timm } else { Library::Torchvision });
        model_folder::state_dict(model, library)
    }

    fn configure(mut model: Opened<Pipeline>, args: &DataArgs) -> Result<Opened<Pipeline>> {
        if let Some(side) = args.size {
            model.pipeline = model.pipeline.sized(side)?;
        }
        let augment = &mut model.pipeline.augment;
        augment.policy = args.auto_augment.or(augment.policy);
        if let Some(least) = share("--crop-scale", args.crop_scale)? {
            augment.scale[0] = least.max(0.01);
        }
        augment.jitter = share("--colour-jitter", args.colour_jitter)?.unwrap_or(augment.jitter);
        augment.erase = share("--random-erase", args.random_erase)?.unwrap_or(augment.erase);
        Ok(model)
    }

    fn configuration(args: &DataArgs) -> DataArgs {
        let DataArgs { size, crop_scale, auto_augment, colour_jitter, random_erase, .. } = *args;
        DataArgs { size, crop_scale, auto_augment, colour_jitter, random_erase, ..DataArgs::default() }
    }

    fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
        dataset::splits(args, pipeline, known, seed)
    }

    fn inputs(args: &InputArgs, pipeline: &Pipeline) -> Result<Inputs> {
        dataset::inputs::stream(args, pipeline)
    }

    fn sample(input: &Path, pipeline: &Pipeline) -> Result<Sample> {
        pipeline.load_file(input, View::Plain)
    }

    fn viewed(pipeline: Pipeline, args: &pipeline::TestViewArgs) -> Pipeline {
        Pipeline { test_views: args.test_views.unwrap_or(pipeline.test_views), ..pipeline }
    }

    fn fingerprint(pipeline: &Pipeline) -> String {
        pipeline.fingerprint()
    }
}

/// A number from 0 to 1.
fn share(flag: &str, value: Option<f64>) -> Result<Option<f64>> {
    match value {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            Err(Error::input(format!("{flag} {share}"), "it must be from 0 to 1", "use for instance 0.25"))
        }
        value => Ok(value),
    }
}
