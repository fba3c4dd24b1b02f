//! How libraries call the parameters of one network, as data: a state dict under any of these names is read, and written
//! under another.

use super::inverted::Inverted;
use super::{Architecture, Form};

/// The names of a network of inverted residual blocks. `{stage}` counts stages from 0, `{layer}` from 1; `{block}` the
/// blocks of a stage from 0; `{number}` all blocks from 0, `{after}` from 1; `{part}` the parts of a block, of which
/// squeeze-and-excitation is one, from 0, `{next}` from 1.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Whose they are.
    pub library: Library,
    /// First convolution, and its normalization.
    pub stem: [&'static str; 2],
    /// Last convolution, and its normalization.
    pub top: [&'static str; 2],
    /// In a block that expands.
    pub expanding: Block,
    /// In a block that does not.
    pub plain: Block,
    /// The convolutions of squeeze-and-excitation.
    pub squeeze: [&'static str; 2],
    /// The linear layer between pooling and head.
    pub hidden: &'static str,
    /// The head.
    pub classifier: &'static str,
}

/// Convolution and normalization of each step of a block.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// To more channels.
    pub expand: [&'static str; 2],
    /// Each channel by itself.
    pub filter: [&'static str; 2],
    /// To what comes out.
    pub project: [&'static str; 2],
}

/// Whose names they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// torchvision.
    Torchvision,
    /// timm.
    Timm,
    /// The packages efficientnet_pytorch and efficientnet_lite_pytorch.
    EfficientNetPytorch,
}

const NO_BLOCK: [&str; 2] = ["", ""];

/// timm's, of MobileNet-V2 and EfficientNet.
pub const TIMM: Names = Names {
    library: Library::Timm,
    stem: ["conv_stem", "bn1"],
    top: ["conv_head", "bn2"],
    expanding: Block {
        expand: ["blocks.{stage}.{block}.conv_pw", "blocks.{stage}.{block}.bn1"],
        filter: ["blocks.{stage}.{block}.conv_dw", "blocks.{stage}.{block}.bn2"],
        project: ["blocks.{stage}.{block}.conv_pwl", "blocks.{stage}.{block}.bn3"],
    },
    // Without expansion the two remaining normalizations are numbered from 1.
    plain: Block {
        expand: NO_BLOCK,
        filter: ["blocks.{stage}.{block}.conv_dw", "blocks.{stage}.{block}.bn1"],
        project: ["blocks.{stage}.{block}.conv_pw", "blocks.{stage}.{block}.bn2"],
    },
    squeeze: ["blocks.{stage}.{block}.se.conv_reduce", "blocks.{stage}.{block}.se.conv_expand"],
    hidden: "",
    classifier: "classifier",
};

/// timm's, of MobileNet-V3: the last convolution is a stage of its own, the hidden layer a convolution.
pub const TIMM_V3: Names =
    Names { top: ["blocks.{stage}.0.conv", "blocks.{stage}.0.bn1"], hidden: "conv_head", ..TIMM };

/// torchvision's, of MobileNet-V2.
pub const TORCHVISION_V2: Names = Names {
    library: Library::Torchvision,
    stem: ["features.0.0", "features.0.1"],
    top: ["features.{after}.0", "features.{after}.1"],
    expanding: V2_BLOCK,
    plain: V2_BLOCK,
    squeeze: NO_BLOCK,
    hidden: "",
    classifier: "classifier.1",
};

const V2_BLOCK: Block = Block {
    expand: ["features.{after}.conv.{part}.0", "features.{after}.conv.{part}.1"],
    filter: ["features.{after}.conv.{part}.0", "features.{after}.conv.{part}.1"],
    project: ["features.{after}.conv.{part}", "features.{after}.conv.{next}"],
};

/// torchvision's, of MobileNet-V3.
pub const TORCHVISION_V3: Names = Names {
    library: Library::Torchvision,
    stem: ["features.0.0", "features.0.1"],
    top: ["features.{after}.0", "features.{after}.1"],
    expanding: V3_BLOCK,
    plain: V3_BLOCK,
    squeeze: ["features.{after}.block.{part}.fc1", "features.{after}.block.{part}.fc2"],
    hidden: "classifier.0",
    classifier: "classifier.3",
};

const V3_PART: [&str; 2] = ["features.{after}.block.{part}.0", "features.{after}.block.{part}.1"];
const V3_BLOCK: Block = Block { expand: V3_PART, filter: V3_PART, project: V3_PART };

/// torchvision's, of EfficientNet.
pub const TORCHVISION_EFFICIENTNET: Names = Names {
    library: Library::Torchvision,
    stem: ["features.0.0", "features.0.1"],
    top: ["features.{layer}.0", "features.{layer}.1"],
    expanding: EFFICIENTNET_BLOCK,
    plain: EFFICIENTNET_BLOCK,
    squeeze: ["features.{layer}.{block}.block.{part}.fc1", "features.{layer}.{block}.block.{part}.fc2"],
    hidden: "",
    classifier: "classifier.1",
};

const EFFICIENTNET_PART: [&str; 2] =
    ["features.{layer}.{block}.block.{part}.0", "features.{layer}.{block}.block.{part}.1"];
const EFFICIENTNET_BLOCK: Block =
    Block { expand: EFFICIENTNET_PART, filter: EFFICIENTNET_PART, project: EFFICIENTNET_PART };

/// Those of efficientnet_pytorch and of efficientnet_lite_pytorch, which count all blocks in one sequence.
pub const EFFICIENTNET_PYTORCH: Names = Names {
    library: Library::EfficientNetPytorch,
    stem: ["_conv_stem", "_bn0"],
    top: ["_conv_head", "_bn1"],
    expanding: PACKAGE_BLOCK,
    plain: PACKAGE_BLOCK,
    squeeze: ["_blocks.{number}._se_reduce", "_blocks.{number}._se_expand"],
    hidden: "",
    classifier: "_fc",
};

const PACKAGE_BLOCK: Block = Block {
    expand: ["_blocks.{number}._expand_conv", "_blocks.{number}._bn0"],
    filter: ["_blocks.{number}._depthwise_conv", "_blocks.{number}._bn1"],
    project: ["_blocks.{number}._project_conv", "_blocks.{number}._bn2"],
};

/// Where in a network a name is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub stage: usize,
    pub block: usize,
    pub number: usize,
    pub part: usize,
}

impl Place {
    /// The name that `pattern` means here.
    pub fn fill(&self, pattern: &str) -> String {
        let numbers = [
            ("{stage}", self.stage),
            ("{layer}", self.stage + 1),
            ("{block}", self.block),
            ("{number}", self.number),
            ("{after}", self.number + 1),
            ("{part}", self.part),
            ("{next}", self.part + 1),
        ];
        numbers.iter().fold(pattern.to_string(), |name, (mark, number)| name.replace(mark, &number.to_string()))
    }
}

/// A parameter under another name, perhaps in another shape of as many numbers in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The description's name.
    pub own: String,
    /// The other one.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
}

impl Architecture {
    /// Whether `library` has the network.
    pub fn is_in(&self, library: Library) -> bool {
        match library {
            Library::Torchvision => self.torchvision,
            Library::Timm => self.timm.is_some(),
            Library::EfficientNetPytorch => self.libraries().contains(&library),
        }
    }

    /// The libraries that call the parameters otherwise than the description does.
    pub fn libraries(&self) -> Vec<Library> {
        match &self.form {
            Form::ResNet(_) => vec![],
            Form::Plain(plain) if plain.timm_names().is_empty() => vec![],
            Form::Plain(_) => vec![Library::Timm],
            Form::Inverted(inverted) => inverted.names[1..].iter().map(|names| names.library).collect(),
        }
    }

    /// Every parameter under the names of `library`, for a head of `classes` outputs: those of the description itself
    /// where the library has no others.
    pub fn under(&self, library: Library, classes: usize) -> Vec<Other> {
        let own = self.network(classes).params();
        let theirs = match (&self.form, library) {
            (Form::Inverted(inverted), _) => {
                let names = inverted.names.iter().find(|names| names.library == library);
                names.map(|names| under(inverted, names, classes))
            }
            (Form::Plain(plain), Library::Timm) => {
                let table = plain.timm_names();
                Some(own.iter().map(|spec| renamed(&spec.name, &spec.shape, table)).collect())
            }
            (Form::Plain(_) | Form::ResNet(_), _) => None,
        };
        let as_they_are = || own.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect::<Vec<_>>();
        let theirs = theirs.unwrap_or_else(as_they_are);
        let pairs = own.into_iter().zip(theirs);
        pairs.map(|(spec, (name, shape))| Other { own: spec.name, name, shape }).collect()
    }
}

fn under(inverted: &Inverted, names: &Names, classes: usize) -> Vec<(String, Vec<usize>)> {
    let specs = inverted.named("", classes, names).params();
    let hidden = format!("{}.weight", names.hidden);
    let shape = |name: &str, mut shape: Vec<usize>| {
        if names.library == Library::Timm && name == hidden {
            shape.extend([1, 1]);
        }
        shape
    };
    specs.into_iter().map(|spec| (spec.name.clone(), shape(&spec.name, spec.shape))).collect()
}

/// By a table of (own prefix, other prefix, the kernel that a matrix is there).
fn renamed(name: &str, shape: &[usize], table: &[(&str, &str, &[usize])]) -> (String, Vec<usize>) {
    let Some((prefix, parameter)) = name.rsplit_once('.') else { return (name.into(), shape.into()) };
    let Some((_, other, kernel)) = table.iter().find(|(own, ..)| *own == prefix) else {
        return (name.into(), shape.into());
    };
    let shape = match shape {
        [outputs, inputs] if !kernel.is_empty() => {
            [&[*outputs, inputs / kernel.iter().product::<usize>()][..], *kernel].concat()
        }
        _ => shape.into(),
    };
    (format!("{other}.{parameter}"), shape)
}
