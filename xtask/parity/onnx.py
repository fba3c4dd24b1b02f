"""Runs the graphs of `export --format onnx` in ONNX Runtime beside the models that they come from.

    python onnx.py [NAME...] [--binaries FOLDER]

Every network of the zoo with formula weights against torchvision or timm; every member of the BERT family as a classifier of
padded batches, of their words, and as a finder of passages against transformers; every member behind a pooling, a linear layer and normalization against
sentence-transformers. The difference is the largest, relative to the largest number of the expected output; more than
1e-4 is a failure, and the exit status is 1 then. `--binaries` holds topwork-cv and topwork-nlp, by default
`target/debug`. It needs `onnxruntime` besides.
"""

import argparse
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import members
from formula import ROOT, centred, fill
from language import GAIN
from zoo import zoo

TOLERANCE = 1e-4
LENGTHS = [7, 40, 3, 1]
TASKS = {
    "classes": AutoModelForSequenceClassification,
    "words": AutoModelForTokenClassification,
    "passages": AutoModelForQuestionAnswering,
}


def session(binary, model, folder):
    """The graph of a checkpoint or folder, ready to run."""
    out = folder / "graph.onnx"
    out.unlink(missing_ok=True)
    command = [str(binary), "export", str(model), "--format", "onnx", "--out", str(out), "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])


def difference(graph, feeds, expected, mask=None):
    """Of what the graph gives from what was expected, relative to its largest number; where `mask` is, if there is one."""
    names = {value.name for value in graph.get_inputs()}
    (found,) = graph.run(None, {name: value for name, value in feeds.items() if name in names})
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    if found.shape != expected.shape:
        raise RuntimeError(f"shape {found.shape}, not {expected.shape}")
    if mask is not None:
        found, expected = found[mask], expected[mask]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def pictures(binary, folder, wanted):
    for name, library, _, build, gain, size in zoo():
        if wanted and name not in wanted:
            continue

        def run(build=build, gain=gain, size=size):
            model = fill(build(), gain).eval()
            torch.save(model.state_dict(), folder / "checkpoint.pth")
            graph = session(binary, folder / "checkpoint.pth", folder)
            side = graph.get_inputs()[0].shape[2]
            batch = torch.from_numpy(np.asarray(centred("picture", (2, 3, side, side), 2.0), dtype=np.float32))
            with torch.no_grad():
                return difference(graph, {"input": batch.numpy()}, model(batch))

        yield f"{name} from {library}", run


def sentences(binary, folder, wanted):
    members_folder = folder / "members"
    for kind, values in members.MEMBERS.items():
        if wanted and kind not in wanted:
            continue

        def run(task, kind=kind, values=values):
            here = folder / f"{task}-{kind}"
            here.mkdir()
            size = members.tokenizer(kind, here)
            outputs = 2 if task == "passages" else 3
            configuration = AutoConfig.for_model(kind, vocab_size=size, num_labels=outputs, **values)
            model = fill(TASKS[task].from_config(configuration), GAIN).eval()
            model.save_pretrained(here)
            longest = max(LENGTHS)
            pad = configuration.pad_token_id or 0
            ids = torch.full((len(LENGTHS), longest), pad)
            mask = torch.zeros_like(ids)
            for row, length in enumerate(LENGTHS):
                ids[row, :length] = 10 + (torch.arange(length) * 7 + row) % (size - 10)
                mask[row, :length] = 1
            feeds = {"input_ids": ids, "attention_mask": mask}
            with torch.no_grad():
                found = model(**feeds)
            starts = task == "passages"
            expected = torch.stack([found.start_logits, found.end_logits], -1) if starts else found.logits
            of_rows = None if task == "classes" else mask.bool().numpy()
            segments = {"token_type_ids": torch.zeros_like(ids)}
            feeds = {name: value.numpy() for name, value in (feeds | segments).items()}
            return difference(session(binary, here, folder), feeds, expected, of_rows)

        for task in TASKS:
            yield f"{kind} from transformers: {task}", functools.partial(run, task)

        def run_pooled(kind=kind):
            if not members_folder.exists():
                members.main(members_folder)
            here = members_folder / f"st-{kind}"
            model = SentenceTransformer(str(here), device="cpu")
            texts = ["a short one", "and a sentence that is somewhat longer than the first, with a comma", "x"]
            tokens = model.tokenizer(texts, padding=True, return_tensors="np")
            feeds = {"token_type_ids": np.zeros_like(tokens["input_ids"])} | dict(tokens)
            return difference(session(binary, here, folder), feeds, model.encode(texts))

        yield f"st-{kind} from sentence-transformers", run_pooled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--binaries", type=Path, default=ROOT / "target" / "debug")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        checks = list(sentences(args.binaries / "topwork-nlp", folder, args.names))
        checks += pictures(args.binaries / "topwork-cv", folder, args.names)
        for name, run in checks:
            try:
                off = run()
                bad, said = not off <= TOLERANCE, f"{off:.1e}"
            except Exception as error:  # ONNX Runtime has classes of its own, without a common one
                bad, said = True, str(error)
            failed |= bad
            print(f"{'FAIL' if bad else 'ok  '} {name}: {said}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
