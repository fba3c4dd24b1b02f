"""Hidden states, pooler outputs and logits of small BERT encoders, in evaluation mode, with formula weights."""

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from formula import fill, numbers, write

SIZES = {
    "small": {"hidden": 64, "layers": 3, "heads": 4, "intermediate": 128, "vocabulary": 200},
    "mid": {"hidden": 128, "layers": 4, "heads": 8, "intermediate": 512, "vocabulary": 500},
}
LENGTHS = [7, 12, 3]
CLASSES = 3
GAIN = 1.0


def without_prefix(name):
    """The name that the formula sees: that of a plain BertModel, without `bert.`."""
    return name.removeprefix("bert.")


def config(size, **changes):
    """A configuration without dropout."""
    return BertConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=size["intermediate"],
        max_position_embeddings=64,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
        attn_implementation="eager",
        **changes,
    )


def sequences(lengths, vocabulary):
    """Token ids and segments: the second half of every odd sequence is segment 1."""
    ids = [[1 + (7 * s + 13 * j + s * j) % (vocabulary - 1) for j in range(n)] for s, n in enumerate(lengths)]
    segments = [[int(s % 2 == 1 and 2 * j >= n) for j in range(n)] for s, n in enumerate(lengths)]
    return ids, segments


def padded(ids, segments):
    """The arguments of a transformers model: sequences filled up with 0 and masked."""
    longest = max(map(len, ids))

    def fill_up(rows):
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    mask = fill_up([[1] * len(row) for row in ids])
    return {"input_ids": fill_up(ids), "token_type_ids": fill_up(segments), "attention_mask": mask}


def main():
    for name, size in SIZES.items():
        ids, segments = sequences(LENGTHS, size["vocabulary"])
        encoder = fill(BertModel(config(size)), GAIN).eval()
        classifier = fill(BertForSequenceClassification(config(size)), GAIN, without_prefix).eval()
        with torch.inference_mode():
            found = encoder(**padded(ids, segments))
            logits = classifier(**padded(ids, segments)).logits
        rows = [row for s, n in enumerate(LENGTHS) for row in found.last_hidden_state[s, :n]]
        about = {**size, "positions": 64, "layer_norm_eps": 1e-12, "gain": GAIN, "classes": CLASSES}
        contents = {**about, "lengths": LENGTHS, "ids": ids, "segments": segments}
        contents["hidden_states"] = numbers(torch.stack(rows))
        contents["pooler_output"] = numbers(found.pooler_output)
        contents["logits"] = numbers(logits)
        write("nlp", f"bert_{name}.json", contents)


if __name__ == "__main__":
    main()
