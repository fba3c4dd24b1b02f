"""Writes a base checkpoint for every member of the BERT family, as `transformers` and `sentence-transformers` save them:
small, with formula weights and the tokenizers of `crates/nlp/tests/fixtures/tokenizer`.

    python members.py FOLDER

One folder each is made in FOLDER: `bert`, `roberta`, `xlm-roberta`, `distilbert`, `albert`, `electra`, `mpnet` with the
encoder alone, and `st-…` of each with pooling (mean, cls, max by turns), a linear layer and normalization. Fit something to
each of them with topwork-nlp, then `load_back.py` compares what comes out:

    topwork-nlp train --model FOLDER/albert --strategy fine-tuning … --out RUN && python load_back.py RUN sentences.txt
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

from formula import ROOT, fill
from language import GAIN

FIXTURE = ROOT / "crates" / "nlp" / "tests" / "fixtures" / "tokenizer"
WIDE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
MEMBERS = {
    "bert": WIDE,
    "roberta": {**WIDE, "type_vocab_size": 1, "max_position_embeddings": 514},
    "xlm-roberta": {**WIDE, "type_vocab_size": 1, "max_position_embeddings": 514},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "albert": {**WIDE, "embedding_size": 16},
    "electra": {**WIDE, "embedding_size": 16},
    "mpnet": {**WIDE, "max_position_embeddings": 514},
}


def sentence_piece(kind, folder):
    """A Unigram model as `tokenizer.json`, with the special tokens of ALBERT or XLM-R."""
    (folder / "tokenizer.json").write_bytes((FIXTURE / kind / "tokenizer.json").read_bytes())
    cls, sep, mask = ("[CLS]", "[SEP]", "[MASK]") if kind == "albert" else ("<s>", "</s>", "<mask>")
    named = {"cls_token": cls, "sep_token": sep, "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": mask}
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration) + "\n")


def tokenizer(kind, folder):
    """The tokenizer's files; gives the size of its vocabulary."""
    if kind in ("albert", "xlm-roberta"):
        sentence_piece(kind, folder)
        return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    if kind == "roberta":
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (folder / name).write_bytes((FIXTURE / "bpe" / name).read_bytes())
        return len(json.loads((folder / "vocab.json").read_text()))
    text = (FIXTURE / "vocab.txt").read_text(encoding="utf-8")
    if kind == "mpnet":
        for old, new in [("[PAD]", "<pad>"), ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[MASK]", "<mask>")]:
            text = text.replace(old, new, 1)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MPNetTokenizer"}) + "\n")
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    return text.count("\n")


def main(root):
    for number, (kind, values) in enumerate(MEMBERS.items()):
        folder = Path(root) / kind
        folder.mkdir(parents=True, exist_ok=True)
        size = tokenizer(kind, folder)
        configuration = AutoConfig.for_model(kind, vocab_size=size, **values)
        fill(AutoModel.from_config(configuration), GAIN).save_pretrained(folder)
        torch.manual_seed(number)
        transformer = Transformer(str(folder))
        mode = ["mean", "cls", "max"][number % 3]
        modules = [transformer, Pooling(32, pooling_mode=mode), Dense(32, 24), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(Path(root) / f"st-{kind}"))
        print(f"{kind}, st-{kind}: {size} tokens, pooling {mode}")


if __name__ == "__main__":
    main(sys.argv[1])
