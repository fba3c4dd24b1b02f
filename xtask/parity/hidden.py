"""Asks `topwork-nlp fill-mask` for the words behind masks beside transformers, with `…ForMaskedLM` of every member of the BERT
family as transformers saves it.

    python hidden.py [--binary PATH]

`--binary` is the topwork-nlp to ask, by default the one in `target/debug`. The exit status is 1 if a word is another one, or a
probability differs by more than 1e-4 of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

import members
from formula import ROOT

TEXTS = ["a strategy is a [MASK] of the network", "the <mask> learns from [MASK] samples, <mask>!"]
BEST = 5


def saved(kind, values, folder):
    """A model of random weights, far from those at which its layers would do nothing."""
    folder.mkdir()
    size = members.tokenizer(kind, folder)
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, vocab_size=size, **values))
    for parameter in model.parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "debug" / "topwork-nlp")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as root:
        for kind, values in members.MEMBERS.items():
            folder = Path(root) / kind
            saved(kind, values, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForMaskedLM.from_pretrained(folder).eval()
            texts = [part for text in TEXTS for part in ("--text", text)]
            command = [str(args.binary), "fill-mask", str(folder), *texts, "--top-k", str(BEST), "--json", "--quiet"]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            same, off = True, 0.0
            for text, line in zip(TEXTS, lines, strict=True):
                written = text.replace("[MASK]", tokenizer.mask_token).replace("<mask>", tokenizer.mask_token)
                encoded = tokenizer(written, return_tensors="pt")
                hidden = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
                with torch.inference_mode():
                    best = model(**encoded).logits[0, hidden].softmax(-1).topk(BEST)
                ours = json.loads(line)["masks"]
                same &= [[guess["token"] for guess in guesses] for guesses in ours] == best.indices.tolist()
                shares = torch.tensor([[guess["probability"] for guess in guesses] for guesses in ours])
                off = max(off, ((shares - best.values).abs() / best.values).max().item())
            failed |= not same or off > 1e-4
            print(f"{'ok  ' if same and off <= 1e-4 else 'FAIL'} {kind}: same words {same}, probabilities {off:.1e} off")
    sys.exit(failed)


if __name__ == "__main__":
    main()
