"""Embeddings of folders as sentence-transformers saves them: pooling, linear layers with their activations and scaling to length
1 behind small encoders of every member of the BERT family, all with formula weights.

The formula sees the names of a plain encoder, and of a linear layer its folder and `linear.weight`. Of a folder, the fixture has
the files that say what the model is; of the tokenizer, its folder among the fixtures, or its words.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoConfig, AutoModel

import members
from formula import fill, numbers, write
from language import GAIN

WIDTH = 16
POSITIONS = 40
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {
    "bert": SMALL,
    "roberta": {**SMALL, "type_vocab_size": 1},
    "xlm-roberta": {**SMALL, "type_vocab_size": 1},
    "distilbert": {"dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "albert": {**SMALL, "embedding_size": 8},
    "electra": {**SMALL, "embedding_size": 8},
    "mpnet": SMALL,
}
TEXTS = [
    "a good movie that they want to play",
    "",
    "?!…",
    "Crème brûlée, NAÏVE Straße — кот 日本語 😀",
    "the quick brown fox jump " * 12,
    "x",
]
# Member, pooling, linear layers (width, additive terms, activation), whether lengths are 1, longest sequence.
TANH, RELU, GELU, IDENTITY = torch.nn.Tanh(), torch.nn.ReLU(), torch.nn.GELU(), torch.nn.Identity()
CASES = [
    ("bert", "mean", [], True, None),
    ("bert", "cls", [(12, True, TANH)], False, None),
    ("bert", "max", [(10, False, IDENTITY)], True, 20),
    ("roberta", "cls", [], False, None),
    ("roberta", "mean", [(12, True, GELU), (8, False, IDENTITY)], True, 16),
    ("xlm-roberta", "max", [(12, True, RELU)], False, None),
    ("distilbert", "max", [], True, None),
    ("distilbert", "mean", [(12, False, TANH)], False, None),
    ("albert", "cls", [(12, True, IDENTITY)], True, None),
    ("electra", "mean", [(12, True, RELU)], True, None),
    ("mpnet", "cls", [(12, True, GELU)], True, None),
    ("mpnet", "max", [], False, 24),
]
TOKENIZERS = {"roberta": "bpe", "albert": "albert", "xlm-roberta": "xlm-roberta"}


def encoder(kind, folder):
    """Saves one; its tokenizer cuts at the last position."""
    folder.mkdir()
    size = members.tokenizer(kind, folder)
    before = 2 if kind in ("roberta", "xlm-roberta", "mpnet") else 0
    configuration = AutoConfig.for_model(kind, vocab_size=size, max_position_embeddings=POSITIONS + before, **SIZES[kind])
    fill(AutoModel.from_config(configuration), GAIN).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**said, "model_max_length": POSITIONS}) + "\n")


def linear(name, inputs, outputs, bias, activation):
    return fill(Dense(inputs, outputs, bias=bias, activation_function=activation), GAIN, lambda key: f"{name}.{key}")


def embedded(folder):
    """One by one, so that nothing is padded."""
    model = SentenceTransformer(str(folder), device="cpu")
    return numbers(torch.stack([model.encode(text, convert_to_tensor=True) for text in TEXTS]))


def case(root, number, kind, mode, layers, normalize, longest):
    base, saved = root / f"base-{number}", root / f"saved-{number}"
    encoder(kind, base)
    modules = [Transformer(str(base)), Pooling(WIDTH, pooling_mode=mode)]
    width = WIDTH
    for outputs, bias, activation in layers:
        modules.append(linear(f"{len(modules)}_Dense", width, outputs, bias, activation))
        width = outputs
    model = SentenceTransformer(modules=modules + [Normalize()] * normalize, device="cpu")
    if longest:
        model.max_seq_length = longest
    model.save(str(saved), create_model_card=False)
    return described(f"{kind}, {mode}, {len(layers)} linear, {normalize}, {longest}", kind, base, saved)


def of_old(root):
    """As version 2 wrote it: a switch for each pooling, the longest sequence and small letters in a file of their own, weights as
    PyTorch pickles them."""
    base, saved = root / "base-old", root / "saved-old"
    encoder("bert", base)
    shutil.copytree(base, saved)
    model = linear("2_Dense", WIDTH, 12, True, TANH)
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    switches = {f"pooling_mode_{name}": name == "max_tokens" for name in ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]}
    dense = {"in_features": WIDTH, "out_features": 12, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    written = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, **switches},
        "2_Dense/config.json": dense,
        "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": True},
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
    }
    for name, value in written.items():
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text(json.dumps(value) + "\n")
    torch.save(model.state_dict(), saved / "2_Dense" / "pytorch_model.bin")
    return described("as version 2 wrote it", "bert", base, saved)


def described(name, kind, base, saved):
    """The files that say what the model is, and what it makes of the texts."""
    kept = {}
    for path in sorted(saved.rglob("*.json")):
        if path.name != "tokenizer.json":
            kept[path.relative_to(saved).as_posix()] = path.read_text(encoding="utf-8")
    if kind not in TOKENIZERS:
        kept["vocab.txt"] = (base / "vocab.txt").read_text(encoding="utf-8")
    return {"name": name, "tokenizer": TOKENIZERS.get(kind), "files": kept, "embeddings": embedded(saved)}


def main():
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        found = [case(root, number, *values) for number, values in enumerate(CASES)]
        found.append(of_old(root))
    write("nlp", "modules.json", {"gain": GAIN, "texts": TEXTS, "cases": found})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
