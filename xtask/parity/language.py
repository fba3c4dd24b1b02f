"""Hidden states and logits of small encoders of the BERT family, in evaluation mode, with formula weights."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from formula import fill, numbers, write

SIZES = {
    "small": {"hidden": 64, "layers": 3, "heads": 4, "intermediate": 128, "vocabulary": 200},
    "mid": {"hidden": 128, "layers": 4, "heads": 8, "intermediate": 512, "vocabulary": 500},
}
LENGTHS = [7, 12, 3]
# What a member's `config.json` says, by the names of that member; one sequence takes every position, and is longer than MPNet's
# farthest bucket.
COMMON = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
ROBERTA = {**COMMON, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 162}
MEMBERS = {
    "bert": {"model_type": "bert", **COMMON},
    "roberta": {"model_type": "roberta", **ROBERTA},
    "xlm_roberta": {"model_type": "xlm-roberta", **ROBERTA, "hidden_act": "relu"},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 120,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 160,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "albert": {"model_type": "albert", **COMMON, "embedding_size": 16, "classifier_dropout_prob": 0.0},
    "albert_groups": {
        "model_type": "albert",
        **COMMON,
        "embedding_size": 32,
        "num_hidden_layers": 5,
        "num_hidden_groups": 2,
        "inner_group_num": 2,
        "classifier_dropout_prob": 0.0,
    },
    "electra": {"model_type": "electra", **COMMON, "embedding_size": 16},
    "electra_wide": {"model_type": "electra", **COMMON, "embedding_size": 32},
    "mpnet": {"model_type": "mpnet", **COMMON, "max_position_embeddings": 162},
}
MEMBER_LENGTHS = [7, 160, 3, 12, 1]
# Of the rows of all sequences behind each other: the first and last of each, and some within the long one.
MEMBER_ROWS = [0, 3, 6, 7, 8, 23, 71, 140, 166, 167, 169, 170, 175, 181, 182]
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


def member(values, dtype=torch.float32, **changes):
    """A classifier with formula weights. The formula sees names without the encoder's prefix."""
    values = {**values, "num_labels": CLASSES, **changes}
    configuration = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForSequenceClassification.from_config(configuration, attn_implementation="eager")
    prefix = f"{model.base_model_prefix}."
    return fill(model, GAIN, lambda name: name.removeprefix(prefix)).eval().to(dtype)


def member_sequences(values, lengths):
    """Token ids, none of which is special, and segments where the member tells them apart."""
    ids, segments = sequences(lengths, values["vocab_size"] - 5)
    ids = [[i + 5 for i in row] for row in ids]
    two = values["model_type"] in ("bert", "albert", "electra")
    return ids, segments if two else [[0] * len(row) for row in segments]


def member_arguments(model, ids, segments):
    """Padded arguments, without segments where the model has none."""
    arguments = padded(ids, segments)
    if not hasattr(model.base_model.embeddings, "token_type_embeddings"):
        del arguments["token_type_ids"]
    return arguments


def members():
    found = []
    for name, values in MEMBERS.items():
        model = member(values)
        ids, segments = member_sequences(values, MEMBER_LENGTHS)
        with torch.inference_mode():
            arguments = member_arguments(model, ids, segments)
            hidden = model.base_model(**arguments).last_hidden_state
            logits = model(**arguments).logits
        rows = torch.stack([row for s, n in enumerate(MEMBER_LENGTHS) for row in hidden[s, :n]])
        found.append(
            {
                "name": name,
                "config": values,
                "ids": ids,
                "segments": segments,
                "hidden_states": numbers(rows[MEMBER_ROWS]),
                "logits": numbers(logits),
            }
        )
    return {"gain": GAIN, "classes": CLASSES, "rows": MEMBER_ROWS, "members": found}


def main():
    write("nlp", "members.json", members())
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
