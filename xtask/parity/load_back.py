"""Loads the `model/` of finished runs in the Python library that it came from, strictly, and compares the answers with
those of topwork itself.

    python load_back.py RUN INPUT... [--binary PATH] [--tolerance SHARE]

RUN is the folder of a finished run: of classes, labels, values, tokens, spans or matches, or of `pretrain`. INPUTs are photos or
folders of them for a run of topwork-cv, and one text file with a sentence a line for a run of topwork-nlp; for one of
`--task tokens` with spaces around every word, for one of `--task spans` a JSON object with `question` and `context` a line. `--binary` is the topwork-cv or topwork-nlp to ask, by default the one in
`target/debug`. Every check prints its result and the largest difference; the exit status is 1 if one failed.

Photos are decoded and resized by Pillow on the Python side, so that their probabilities and features differ by what
another JPEG decoder and another rounding to 8 bits make of them; `--tolerance` (relative to the largest number) is
0.05 there, and 1e-4 for sentences.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


class Checks:
    """Prints what was checked and remembers whether anything failed."""

    def __init__(self, tolerance):
        self.tolerance = tolerance
        self.failed = False

    def that(self, what, holds, detail=""):
        print(f"{'ok  ' if holds else 'FAIL'} {what}{': ' if detail else ''}{detail}")
        self.failed |= not holds

    def close(self, what, actual, expected):
        """Differences relative to the largest expected number."""
        error = (actual - expected).abs() / expected.abs().max()
        detail = f"largest relative difference {error.max():.1e}, median {error.median():.1e}"
        self.that(what, bool(error.max() <= self.tolerance), detail)


def answers(binary, verb, run, inputs, *flags):
    """The lines that a verb prints with `--json`."""
    command = [str(binary), verb, str(run), *map(str, inputs), "--json", "--quiet", *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


SINGLE, SEVERAL, VALUES = "single_label_classification", "multi_label_classification", "regression"


def asked(binary, run, inputs, kind, outputs):
    """What topwork says of the inputs: their names, probabilities or values `[inputs, outputs]` and vectors."""
    flags = [] if kind == VALUES else ["--top-k", str(len(outputs))]
    predicted = answers(binary, "predict", run, inputs, *flags)
    if kind == VALUES:
        rows = [{value["name"]: value["value"] for value in line["values"]} for line in predicted]
    else:
        rows = [{guess["label"]: guess["probability"] for guess in line["predictions"]} for line in predicted]
    names, vectors = embedded(binary, run, inputs)
    assert [line["input"] for line in predicted] == names
    return names, torch.tensor([[row[name] for name in outputs] for row in rows]), vectors


def embedded(binary, run, inputs):
    """Where topwork puts the inputs: their names and vectors."""
    found = answers(binary, "embed", run, inputs)
    return [line["input"] for line in found], torch.tensor([line["embedding"] for line in found])


def told(kind, logits):
    """What these logits say."""
    return {SINGLE: lambda: logits.softmax(1), SEVERAL: logits.sigmoid, VALUES: lambda: logits}[kind]()


def temperature(folder):
    """What topwork divides a model's logits by: it stands beside the weights, where the other libraries pass it over."""
    path = folder / "calibration.json"
    return json.loads(path.read_text(encoding="utf-8"))["temperature"] if path.exists() else 1.0


def same_answers(checks, kind, ours, theirs):
    """Where an answer differs, how far it is from the other one in `theirs` tells whether that is a tie."""
    if kind == SINGLE:
        differ, best = ours.argmax(1) != theirs.argmax(1), theirs.topk(2, dim=1).values
        margins = best[:, 0] - best[:, 1]
    elif kind == SEVERAL:
        differ, margins = (ours >= 0.5) != (theirs >= 0.5), (theirs - 0.5).abs()
    else:
        return
    margin = margins[differ].max().item() if differ.any() else 0.0
    detail = f"{int((~differ).sum())} of {differ.numel()}"
    if differ.any():
        detail += f"; the others lie within {margin:.1e} of a tie"
    checks.that("same answers", margin <= checks.tolerance, detail)


def compared(checks, kind, ours, theirs, whose=""):
    same_answers(checks, kind, ours, theirs)
    checks.close(f"{'values' if kind == VALUES else 'probabilities'}{whose}", ours, theirs)


def photos(run, inputs, binary, checks):
    """timm, and torchvision where it has the architecture under this name."""
    import timm
    import torchvision
    from PIL import Image, ImageOps

    folder = run / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name, classes, kind = config["architecture"], config["label_names"], config.get("problem_type", SINGLE)
    model = timm.create_model(name, num_classes=len(classes))
    state = load_file(folder / "model.safetensors")
    checks.that(f"timm's {name} loads the weights strictly", not any(model.load_state_dict(state)), f"{len(state)} tensors")
    model.eval()

    # As a user would, by the folder alone.
    whole = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    loaded = whole.state_dict()
    checks.that("timm loads the folder", all(torch.equal(loaded[key], value) for key, value in state.items()))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), is_training=False)
    print(f"     {' | '.join(str(step) for step in transform.transforms)}")

    names, said, vectors = asked(binary, run, inputs, kind, classes)
    opened = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in names]
    batch = torch.stack([transform(photo) for photo in opened])
    with torch.inference_mode():
        pieces = batch.split(16)
        logits = torch.cat([whole(piece) for piece in pieces])
        features = torch.cat([whole.forward_head(whole.forward_features(p), pre_logits=True) for p in pieces])
    compared(checks, kind, said, told(kind, logits / temperature(folder)), " of timm")
    checks.close("features of timm", vectors, features)
    if hasattr(torchvision.models, name):
        other = getattr(torchvision.models, name)(num_classes=len(classes))
        checks.that(f"torchvision's {name} loads the weights strictly", not any(other.load_state_dict(state)))
        with torch.inference_mode():
            found = torch.cat([other.eval()(piece) for piece in pieces])
        compared(checks, kind, said, told(kind, found / temperature(folder)), " of torchvision")


def encoder_of(folder, checks):
    """The encoder of a folder, loaded strictly but for its head."""
    from transformers import AutoModel

    encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    heads = ("classifier.", "pre_classifier.", "cls.")
    odd = {kind: sorted(key for key in keys if not str(key).startswith(heads)) for kind, keys in info.items()}
    # MPNet's and RoBERTa's encoders have a pooler by themselves that their classifiers have not.
    missing = [key for key in odd.get("missing_keys", []) if not key.startswith("pooler.")]
    odd = {kind: keys for kind, keys in {**odd, "missing_keys": missing}.items() if keys}
    checks.that("transformers loads the encoder strictly", not odd, odd or "")
    return encoder.eval()


def lines_of(inputs):
    if len(inputs) != 1:
        sys.exit("give one text file with a sentence a line")
    return Path(inputs[0]).read_text(encoding="utf-8").splitlines()


def places(folder, texts):
    """What sentence-transformers makes of texts, one by one, so that nothing is padded; and the same before scaling."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    print("     " + " | ".join(type(module).__name__ for module in model))
    plain = SentenceTransformer(modules=[m for m in model if type(m).__name__ != "Normalize"], device="cpu")
    return [torch.stack([which.encode(text, convert_to_tensor=True) for text in texts]) for which in (model, plain)]


def cut(folder, config, texts):
    """The tokens of texts, one by one, so that nothing is padded."""
    from transformers import AutoTokenizer

    tokenizer, longest = AutoTokenizer.from_pretrained(folder), config["topwork"]["max-tokens"]
    return [tokenizer(text, truncation=True, max_length=longest, return_tensors="pt") for text in texts]


def first_rows(config, encoder, encoded):
    """What a classifier of transformers stands on."""
    with torch.inference_mode():
        found = [encoder(**one) for one in encoded]
    own = config["model_type"] in ("bert", "albert")
    return torch.cat([one.pooler_output if own else one.last_hidden_state[:, 0] for one in found])


def sentences(run, inputs, binary, checks):
    """transformers, and sentence-transformers where the pooling is one of its kinds."""
    from transformers import AutoModelForSequenceClassification

    folder = run / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("problem_type", SINGLE)
    pooler = config["topwork"]["pooling"] == "pooler"
    # With another pooling, the head of members whose own has a layer inside stands beside the encoder.
    whole = config["architectures"][0].endswith("ForSequenceClassification")
    state = load_file(folder / "model.safetensors")
    outputs = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    if whole:
        classifier, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        odd = {kind: sorted(keys) for kind, keys in info.items() if keys}
        checks.that("transformers loads the classifier strictly", not odd, odd or "")
        classifier.eval()
        assert outputs == [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
        checks.that("it is one of the same kind", classifier.config.problem_type == kind, kind)
    encoder = encoder_of(folder, checks)

    texts = lines_of(inputs)
    names, said, vectors = asked(binary, run, inputs, kind, outputs)
    checks.that("one answer a line", len(names) == len(texts), f"{len(names)} of {len(texts)}")
    with torch.inference_mode():
        if pooler:
            encoded = cut(folder, config, texts)
            logits = torch.cat([classifier(**one).logits for one in encoded])
            features = first_rows(config, encoder, encoded)
        else:
            features, pooled = places(folder, texts)
            logits = pooled @ state["classifier.weight"].T + state["classifier.bias"]
    compared(checks, kind, said, told(kind, logits / temperature(folder)))
    checks.close("embeddings", vectors, features)


def couples(run, inputs, binary, checks):
    """A place for each text, and no head: sentence-transformers, or transformers where the pooling is its own."""
    folder, texts = run / "model", lines_of(inputs)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoder = encoder_of(folder, checks)
    names, vectors = embedded(binary, run, inputs)
    checks.that("one place a line", len(names) == len(texts), f"{len(names)} of {len(texts)}")
    if config["topwork"]["pooling"] == "pooler":
        features = first_rows(config, encoder, cut(folder, config, texts))
    else:
        features, _ = places(folder, texts)
    checks.close("embeddings", vectors, features)


def pretrained(run, inputs, binary, checks):
    """transformers' class with both heads of pre-training, by the words that it guesses; and the encoder by its places."""
    model, tokenizer, longest = headed(run, checks, "BertForPreTraining")
    couples(run, inputs, binary, checks)
    texts = []
    for line in lines_of(inputs):
        words = line.split()
        if 2 < len(words) < longest // 4:
            texts.append(" ".join([*words[: len(words) // 2], tokenizer.mask_token, *words[len(words) // 2 + 1 :]]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hidden.txt"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        lines = answers(binary, "fill-mask", run, [path], "--top-k", "10")
    same, ours, theirs = [], [], []
    for text, line in zip(texts, lines, strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            shares = model(**encoded).prediction_logits[0, encoded["input_ids"][0] == tokenizer.mask_token_id].softmax(-1)[0]
        (guesses,) = line["masks"]
        ours.append(torch.tensor([guess["probability"] for guess in guesses]))
        theirs.append(shares[[guess["token"] for guess in guesses]])
        same.append(torch.allclose(shares.topk(len(guesses)).values, theirs[-1], rtol=1e-4))
    checks.that("same words", all(same), f"{sum(same)} of {len(same)} texts")
    checks.close("probabilities", torch.stack(ours), torch.stack(theirs))


def headed(run, checks, kind):
    """The model of a folder, loaded strictly, and its tokenizer."""
    import transformers

    folder = run / "model"
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    odd = {kind: sorted(keys) for kind, keys in info.items() if keys}
    checks.that(f"transformers' {type(model).__name__} loads the folder strictly", not odd, odd or "")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Words come one by one, each as if there were a space before it.
    of_words = kind.endswith("ForTokenClassification") and config["model_type"] in ("roberta", "xlm-roberta")
    arguments = {"add_prefix_space": True} if of_words else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **arguments)
    return model.eval(), tokenizer, config["topwork"]["max-tokens"]


def words(run, inputs, binary, checks):
    """Entities by the labels of first tokens, read by seqeval."""
    from seqeval.metrics.sequence_labeling import get_entities

    model, tokenizer, longest = headed(run, checks, "AutoModelForTokenClassification")
    same, scores = [], []
    for line in answers(binary, "predict", run, inputs):
        text, found = line["input"], line["entities"]
        text = Path(inputs[0]).read_text(encoding="utf-8").splitlines()[int(text.rsplit(" ", 1)[1]) - 1]
        split = text.split()
        encoded = tokenizer(split, is_split_into_words=True, return_tensors="pt")
        assert encoded["input_ids"].shape[1] <= longest, "give sentences that fit a window"
        with torch.inference_mode():
            shares = model(**encoded).logits[0].softmax(-1)
        first = [encoded.word_ids().index(i) for i in range(len(split))]
        best = shares[first].max(-1)
        labels = [model.config.id2label[int(i)] for i in best.indices]
        starts = [len(" ".join(split[:i])) + (i > 0) for i in range(len(split))]
        theirs = [
            (" ".join(split[a : b + 1]), kind, starts[a], starts[b] + len(split[b])) for kind, a, b in get_entities(labels)
        ]
        same.append(theirs == [(e["text"], e["type"], e["start"], e["end"]) for e in found])
        scores += [(e["score"], best.values[a : b + 1].mean().item()) for e, (_, a, b) in zip(found, get_entities(labels))]
    checks.that("same entities", all(same), f"{sum(same)} of {len(same)} sentences, {len(scores)} entities")
    ours, theirs = torch.tensor(scores).T
    checks.close("scores", ours, theirs)


def passages(run, inputs, binary, checks):
    """The best passage by the script's search, in texts that fit a window."""
    model, tokenizer, longest = headed(run, checks, "AutoModelForQuestionAnswering")
    asked = [json.loads(line) for line in Path(inputs[0]).read_text(encoding="utf-8").splitlines()]
    found = answers(binary, "predict", run, inputs, "--no-answer-threshold", "1e9")
    same, scores = [], []
    for one, line in zip(asked, found, strict=True):
        # A tokenizer without a class of its own does not tell segments unasked.
        segments = getattr(model.config, "type_vocab_size", 1) > 1
        encoded = tokenizer(
            one["question"],
            one["context"],
            return_offsets_mapping=True,
            return_token_type_ids=segments,
            return_tensors="pt",
        )
        offsets = encoded.pop("offset_mapping")[0].tolist()
        assert len(offsets) <= longest, "give texts that fit a window"
        with torch.inference_mode():
            out = model(**encoded)
        start, end = out.start_logits[0], out.end_logits[0]
        of_text = [i == 1 for i in encoded.sequence_ids(0)]
        best = sorted(
            (
                (-(start[a] + end[b]).item(), a, b)
                for a in start.argsort(descending=True)[:20].tolist()
                for b in end.argsort(descending=True)[:20].tolist()
                if of_text[a] and of_text[b] and a <= b < a + 30
            )
        )[:20]
        none = (start[0] + end[0]).item()
        share = torch.tensor([-score for score, *_ in best] + [none]).softmax(0)[0].item()
        _, a, b = best[0]
        ours = line["answers"][0]
        same.append((ours["start"], ours["end"]) == (offsets[a][0], offsets[b][1]))
        scores.append((ours["score"], share))
    checks.that("same passages", all(same), f"{sum(same)} of {len(same)} questions")
    ours, theirs = torch.tensor(scores).T
    checks.close("scores", ours, theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--tolerance", type=float)
    args = parser.parse_args()
    config = json.loads((args.run / "model" / "config.json").read_text(encoding="utf-8"))
    text = "topwork" in config
    if not text:
        check = photos
    elif config["architectures"][0].endswith("ForPreTraining"):
        check = pretrained
    elif config["topwork"].get("matches"):
        check = couples
    else:
        check = {"tokens": words, "spans": passages}.get(config["topwork"]["pooling"], sentences)
    binary = args.binary or ROOT / "target" / "debug" / ("topwork-nlp" if text else "topwork-cv")
    checks = Checks(args.tolerance or (1e-4 if text else 0.05))
    check(args.run, args.inputs, binary, checks)
    sys.exit(checks.failed)


if __name__ == "__main__":
    main()
