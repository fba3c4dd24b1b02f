"""Loads the `adapter/` of finished runs of `lora` and `ia3` with peft, onto the base model built in Python, and compares
the answers with those of topwork itself.

    python adapters.py RUN BASE INPUT... [--binary PATH] [--tolerance X]

RUN is the folder of a finished run. BASE is a model folder that holds the run's base in its library's layout: the folder
itself, or the `model/` of a run of feature-extraction from the same model. INPUTs are photos for a run of topwork-cv, and
one text file with a sentence a line for a run of topwork-nlp. `--binary` is the topwork-cv or topwork-nlp to ask, by
default the one in `target/debug`.

Compared are logarithms of probabilities: logits up to a constant. Photos are first resized by Pillow to the size that the
model's own resizing aims at, and stored without loss, so that both sides see the same pixels. Checked as well: peft finds
every tensor of the file a place, and what `merge_and_unload` makes of the base are the weights of the run's `model/`.
The exit status is 1 if a check failed.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

from load_back import ROOT, Checks, answers, temperature

HEAD = "base_model.model."


def close(checks, what, actual, expected):
    """Absolute differences: logits are of the order of 1."""
    error = (actual - expected).abs().max().item()
    checks.that(what, error <= checks.tolerance, f"largest difference {error:.1e} of {expected.abs().max():.2f}")


def loaded(model, folder, checks, elsewhere=()):
    """The model with the adapter on it; every tensor of the file but those named must have found its place."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        peft = PeftModel.from_pretrained(model, folder).eval()
    said = [str(w.message) for w in said if "adapter" in str(w.message).lower()]
    checks.that("peft loads the folder without a warning", not said, "; ".join(said))
    have = {name.replace(".default", "").replace(".modules_to_save", ""): value for name, value in peft.state_dict().items()}
    file = load_file(folder / "adapter_model.safetensors")
    wrong = [name for name, value in file.items() if name not in elsewhere and not torch.equal(have.get(name, torch.empty(0)), value)]
    checks.that("every tensor of the file is in the model", not wrong, wrong or f"{len(file)} tensors")
    return peft, file


def merged(checks, peft, run, prefix=""):
    """The weights of `model/` against peft's own merging."""
    ours = load_file(run / "model" / "model.safetensors")
    weights = {name: value for name, value in peft.state_dict().items() if name.endswith(".base_layer.weight")}
    before = {name.removeprefix(HEAD).replace(".base_layer", ""): value.clone() for name, value in weights.items()}
    theirs = peft.merge_and_unload().state_dict()
    changed = sum(not torch.equal(value, theirs[name]) for name, value in before.items())
    checks.that("merging changes every weight that carries an adapter", changed == len(before) > 0, f"{changed} weights")
    pairs = [(ours[prefix + name], value) for name, value in theirs.items() if prefix + name in ours and value.is_floating_point()]
    error = max((a - b).abs().max().item() for a, b in pairs)
    checks.that("model/ holds what peft merges", error <= 1e-6, f"{len(pairs)} tensors, largest difference {error:.1e}")


def asked(binary, run, inputs, classes):
    """Logarithms of the probabilities, `[inputs, classes]`."""
    lines = answers(binary, "predict", run, inputs, "--top-k", str(len(classes)))
    rows = [{guess["label"]: guess["probability"] for guess in line["predictions"]} for line in lines]
    return torch.tensor([[row[name] for name in classes] for row in rows], dtype=torch.float64).log()


def sentences(run, base, inputs, binary, classes, checks):
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    ours = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["topwork"]
    config = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    texts = Path(inputs[0]).read_text(encoding="utf-8").splitlines()
    encoded = [tokenizer(t, truncation=True, max_length=ours["max-tokens"], return_tensors="pt") for t in texts]
    if config["task_type"] == "SEQ_CLS":
        settings = AutoConfig.from_pretrained(base)
        settings.id2label = dict(enumerate(classes))
        settings.label2id = {name: i for i, name in enumerate(classes)}
        model = AutoModelForSequenceClassification.from_pretrained(base, config=settings, ignore_mismatched_sizes=True)
        peft, _ = loaded(model, run / "adapter", checks)
        with torch.inference_mode():
            logits = torch.cat([peft(**one).logits for one in encoded])
        merged(checks, peft, run)
    else:
        model = AutoModel.from_pretrained(base)
        names = [HEAD + "classifier.weight", HEAD + "classifier.bias"]
        peft, file = loaded(model, run / "adapter", checks, names)
        with torch.inference_mode():
            rows = [peft(**one).last_hidden_state[0] for one in encoded]
            pooled = torch.stack([row.mean(0) if ours["pooling"] == "mean" else row[0] for row in rows])
            logits = pooled @ file[names[0]].T + file[names[1]]
        merged(checks, peft, run, "bert.")
    close(checks, f"logits of {len(texts)} sentences", asked(binary, run, inputs, classes), (logits.double() / temperature(run / "model")).log_softmax(1))


def photos(run, base, inputs, binary, classes, checks):
    import timm
    from PIL import Image, ImageOps

    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    outputs = settings["num_classes"]
    model = timm.create_model(settings["architecture"], num_classes=outputs)
    model.load_state_dict(load_file(base / "model.safetensors"))
    if outputs != len(classes):
        model.reset_classifier(len(classes))
    peft, _ = loaded(model, run / "adapter", checks)
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{run / 'model'}", pretrained=True))
    transform = timm.data.create_transform(**data, is_training=False)
    side = int(data["input_size"][1] / data["crop_pct"])
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, path in enumerate(inputs):
            photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((side, side))
            paths.append(Path(folder) / f"{i:04}.png")
            photo.save(paths[-1])
        found = asked(binary, run, paths, classes)
        batch = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.inference_mode():
        logits = torch.cat([peft(piece) for piece in batch.split(16)])
    close(checks, f"logits of {len(paths)} photos", found, (logits.double() / temperature(run / "model")).log_softmax(1))
    merged(checks, peft, run)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    text = "topwork" in json.loads((args.run / "model" / "config.json").read_text(encoding="utf-8"))
    binary = args.binary or ROOT / "target" / "debug" / ("topwork-nlp" if text else "topwork-cv")
    classes = json.loads((args.run / "adapter" / "topwork.json").read_text(encoding="utf-8"))["classes"]
    checks = Checks(args.tolerance)
    (sentences if text else photos)(args.run, args.base, args.inputs, binary, classes, checks)
    sys.exit(checks.failed)


if __name__ == "__main__":
    main()
