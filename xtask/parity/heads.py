"""The heads of encoders of the BERT family that pool no rows, with formula weights: logits of token classification, of
question answering and of hidden tokens for every member; and twenty training steps of the first two and of an encoder that
learns from couples of texts, without a head."""

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoModelForTokenClassification

from formula import fill, numbers, write
from language import GAIN, MEMBERS, member_arguments, member_sequences
from training import BATCH, SAMPLES, STEPS, decayed, report

# One sequence takes every position. Of the rows of all sequences behind each other, those whose logits are stored.
LENGTHS = [7, 160, 1]
ROWS = [0, 3, 6, 7, 90, 166, 167]
LABELS = 5
IGNORED = -100
KINDS = {
    "tokens": AutoModelForTokenClassification,
    "spans": AutoModelForQuestionAnswering,
    "hidden": AutoModelForMaskedLM,
}


def headed(kind, values, dtype=torch.float32):
    """A model with formula weights. The formula sees names without the encoder's prefix; of tied ones, the word table's, and
    the bias that is not the decoder's."""
    values = dict(values)
    if kind == "tokens":
        values["num_labels"] = LABELS
    if values["model_type"] == "distilbert":
        values["qa_dropout"] = 0.0
    configuration = AutoConfig.for_model(values.pop("model_type"), **values)
    if kind == "matches":
        model = AutoModel.from_config(configuration, attn_implementation="eager", add_pooling_layer=False)
    else:
        model = KINDS[kind].from_config(configuration, attn_implementation="eager")
    prefix = "" if kind == "matches" else f"{model.base_model_prefix}."
    state = model.state_dict()
    first = {}
    for name in sorted(state, key=lambda name: "decoder" in name or "vocab_projector.weight" in name or "lm_head.weight" in name):
        first.setdefault((state[name].data_ptr(), tuple(state[name].shape)), name)

    def seen(name):
        return first[(state[name].data_ptr(), tuple(state[name].shape))].removeprefix(prefix)

    return fill(model, GAIN, seen).eval().to(dtype)


def outputs(kind, model, arguments):
    found = model(**arguments)
    return torch.stack([found.start_logits, found.end_logits], -1) if kind == "spans" else found.logits


def member(name, values):
    ids, segments = member_sequences(values, LENGTHS)
    contents = {"name": name, "config": values, "ids": ids, "segments": segments}
    for kind in KINDS:
        model = headed(kind, values)
        with torch.inference_mode():
            found = outputs(kind, model, member_arguments(model, ids, segments))
        rows = torch.stack([row for s, n in enumerate(LENGTHS) for row in found[s, :n]])
        # Of the words, every sixth.
        contents[kind] = numbers(rows[ROWS][:, ::6] if kind == "hidden" else rows[ROWS])
    return contents


def labels(lengths):
    """Of each row a label, or none: that of the first row, of the last, and of every third."""
    return [
        [IGNORED if j in (0, n - 1) or j % 3 == 2 else (s + 2 * j) % LABELS for j in range(n)]
        for s, n in enumerate(lengths)
    ]


def loss_of_tokens(model, rows, ids, segments, targets):
    arguments = member_arguments(model, [ids[i] for i in rows], [segments[i] for i in rows])
    longest = arguments["input_ids"].shape[1]
    padded = torch.tensor([targets[i] + [IGNORED] * (longest - len(targets[i])) for i in rows])
    return model(**arguments, labels=padded).loss


def loss_of_spans(model, rows, ids, segments, targets):
    """Sequence by sequence: filling would have a part in the softmax."""
    losses = []
    for i in rows:
        arguments = member_arguments(model, [ids[i]], [segments[i]])
        start, end = (torch.tensor([target]) for target in targets[i])
        losses.append(model(**arguments, start_positions=start, end_positions=end).loss)
    return torch.stack(losses).mean()


def loss_of_matches(model, rows, ids, segments, targets):
    """Sentence-transformers' `MultipleNegativesRankingLoss` at its scale of 20, on the mean of the rows of each text: every second
    text belongs to the one before."""
    arguments = member_arguments(model, [ids[i] for i in rows], [segments[i] for i in rows])
    mask = arguments["attention_mask"].unsqueeze(-1)
    hidden = model(**arguments).last_hidden_state
    means = (hidden * mask).sum(1) / mask.sum(1)
    first, second = (torch.nn.functional.normalize(side, dim=-1) for side in (means[0::2], means[1::2]))
    return torch.nn.functional.cross_entropy(20 * first @ second.T, torch.arange(len(first)))


def training(kind, values, whole, starts):
    lengths = [4 + (5 * i) % 30 for i in range(SAMPLES)]

    def task(dtype):
        model = headed(kind, values, dtype)
        ids, segments = member_sequences(values, lengths)
        if kind == "tokens":
            targets, loss_of = labels(lengths), loss_of_tokens
        elif kind == "matches":
            targets, loss_of = [[s // 2] for s in range(SAMPLES)], loss_of_matches
        else:
            targets = [[0, 0] if s % 5 == 0 else sorted([(3 * s) % n, (7 * s) % n]) for s, n in enumerate(lengths)]
            loss_of = loss_of_spans
        optimizer = torch.optim.AdamW(decayed(model, 0.01), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        losses = []
        model.train()
        for step in range(STEPS):
            rows = [(BATCH * step + k) % SAMPLES for k in range(BATCH)]
            loss = loss_of(model, rows, ids, segments, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        prefix = "" if kind == "matches" else f"{model.base_model_prefix}."
        final = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
        contents = {
            "kind": kind,
            "config": values,
            "gain": GAIN,
            "classes": {"tokens": LABELS, "spans": 2, "matches": 0}[kind],
            "batch": BATCH,
            "ids": ids,
            "segments": segments,
            "targets": targets,
            "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "learning_rate": 1e-3, "weight_decay": 0.01},
            "losses": losses,
            "final": {key: numbers(final[key].flatten()) for key in whole},
            "final_start": {key: numbers(final[key].flatten()[:64]) for key in starts},
        }
        return losses, contents

    return task


def main():
    everyone = [member(name, values) for name, values in MEMBERS.items()]
    write("nlp", "heads.json", {"gain": GAIN, "labels": LABELS, "rows": ROWS, "members": everyone})
    # One layer that all share, and layers of their own with another activation.
    tasks = {
        "training_tokens.json": training(
            "tokens", MEMBERS["distilbert"], ["classifier.bias", "transformer.layer.2.sa_layer_norm.weight"],
            ["embeddings.word_embeddings.weight", "classifier.weight"],
        ),
        "training_spans.json": training(
            # What is added to every row changes no softmax over rows: the bias of the head learns from rounding alone.
            "spans", MEMBERS["electra"], ["encoder.layer.1.intermediate.dense.bias", "encoder.layer.0.output.LayerNorm.weight"],
            ["embeddings.word_embeddings.weight", "qa_outputs.weight"],
        ),
    }
    tasks["training_matches.json"] = training(
        "matches", MEMBERS["bert"], ["encoder.layer.1.output.LayerNorm.weight", "encoder.layer.0.attention.self.value.bias"],
        ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"],
    )
    for name, task in tasks.items():
        (double, contents), (single, _) = task(torch.float64), task(torch.float32)
        contents["losses"] = [float(f"{loss:.9g}") for loss in double]
        write("nlp", name, contents)
        report(name, single, double)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
