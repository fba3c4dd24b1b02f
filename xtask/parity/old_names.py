"""Writes crates/nlp/tests/fixtures/old_names: a BERT with its heads of pre-training as the first checkpoints have it, converted
from TensorFlow, and what transformers makes of some tokens with it.

    python xtask/parity/old_names.py

`pytorch_model.bin` is a pickle of the form before PyTorch 1.6, `gamma` and `beta` in place of the `weight` and `bias` of
normalizations; `model.safetensors` has the same tensors under the names of today. All values are by the formula.
"""

import json
import shutil
import tempfile

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining, BertModel

from formula import ROOT, fill, numbers
from language import GAIN, padded, sequences, without_prefix

FOLDER = ROOT / "crates" / "nlp" / "tests" / "fixtures" / "old_names"
SIZE = {"vocab_size": 264, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LENGTHS = [7, 24, 1]


def old(name):
    """As the first checkpoints call it."""
    if "LayerNorm" in name:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name


def main():
    FOLDER.mkdir(exist_ok=True)
    configuration = BertConfig(**SIZE, max_position_embeddings=24)
    whole = fill(BertForPreTraining(configuration), GAIN, without_prefix)
    # The decoder is the word table, its bias the one beside it.
    state = {name: value for name, value in whole.state_dict().items() if "predictions.decoder.bias" not in name}
    renamed = {old(name): value.clone() for name, value in state.items()}
    assert sum(name.endswith(("gamma", "beta")) for name in renamed) == 8
    torch.save(renamed, FOLDER / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    save_file({name: value.clone() for name, value in state.items()}, FOLDER / "model.safetensors")
    (FOLDER / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 24, **SIZE}) + "\n")

    with tempfile.TemporaryDirectory() as alone:
        for name in ("config.json", "pytorch_model.bin"):
            shutil.copy(FOLDER / name, alone)
        encoder, info = BertModel.from_pretrained(alone, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    ids, segments = sequences(LENGTHS, SIZE["vocab_size"])
    with torch.inference_mode():
        pooled = encoder.eval()(**padded(ids, segments)).pooler_output
    contents = {"ids": ids, "segments": segments, "pooler_output": numbers(pooled)}
    (FOLDER / "expected.json").write_text(json.dumps(contents) + "\n")
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
