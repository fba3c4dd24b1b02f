"""Scores of labelled words by seqeval, and of answers by the definition of SQuAD 2.0, on cases that are hard to get right.

    pip install seqeval torchmetrics && python scores.py

Answers are scored by the functions of the script of SQuAD 2.0 (Rajpurkar et al. 2018, `evaluate-v2.0.py`), written down here
again, and where there is an answer by `torchmetrics` too, which must agree.
"""

import collections
import random
import re
import string
import warnings

from seqeval.metrics import accuracy_score, classification_report
from torchmetrics.functional.text import squad

from formula import write

warnings.filterwarnings("ignore")
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "I-MISC", "B-MISC"]
CASES = [
    # Beginnings without B, changes of type, entities at the borders of sentences.
    (["I-PER", "I-PER", "O", "I-LOC"], ["B-PER", "I-PER", "O", "B-LOC"]),
    (["B-PER", "I-LOC", "I-LOC"], ["B-PER", "I-PER", "I-LOC"]),
    (["B-PER", "B-PER", "I-PER"], ["B-PER", "I-PER", "I-PER"]),
    (["O", "B-LOC"], ["O", "B-LOC"]),
    (["I-LOC", "O"], ["B-LOC", "O"]),
    (["B-LOC", "E-LOC", "E-LOC", "S-LOC", "I-LOC"], ["B-LOC", "I-LOC", "E-LOC", "S-LOC", "S-LOC"]),
    (["O", "O"], ["B-MISC", "I-MISC"]),
    (["B-MISC", "O"], ["O", "O"]),
]
ANSWERS = [
    ("the Eiffel Tower", ["Eiffel Tower"]),
    ("A  theatre, an\tanthem", ["theatre anthem"]),
    ("Athens", ["the Athens"]),
    ("U.S.A.", ["USA", "United States"]),
    ("it's", ["its"]),
    ("“Zoë” café", ["zoë café"]),
    ("1,000 men", ["1000 men"]),
    ("well-known man", ["wellknown"]),
    ("the", ["a"]),
    ("", ["an"]),
    ("", []),
    ("something", []),
    ("the cat the cat sat", ["cat sat on a mat", "a cat sat"]),
    ("Straße — 3 a.m.", ["STRASSE 3 am", "straße 3 am"]),
    ("İstanbul", ["i̇stanbul"]),
    ("an_apple", ["anapple"]),
    ("日本 の 首都", ["日本の首都", "日本 首都"]),
    ("nothing in common", ["all different words"]),
    ("£5 the-a", ["£5 thea"]),
]


def normalize_answer(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE)

    exclude = set(string.punctuation)
    return " ".join(remove_articles("".join(c for c in s.lower() if c not in exclude)).split())


def compute_f1(gold, said):
    gold, said = normalize_answer(gold).split(), normalize_answer(said).split()
    if not gold or not said:
        return int(gold == said)
    same = sum((collections.Counter(gold) & collections.Counter(said)).values())
    if same == 0:
        return 0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def raw_scores(said, answers):
    golds = [answer for answer in answers if normalize_answer(answer)] or [""]
    exact = max(int(normalize_answer(gold) == normalize_answer(said)) for gold in golds)
    f1 = max(compute_f1(gold, said) for gold in golds)
    if answers and golds != [""]:
        theirs = squad(
            [{"prediction_text": said, "id": "0"}], [{"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "0"}]
        )
        assert abs(theirs["exact_match"].item() / 100 - exact) < 1e-6 and abs(theirs["f1"].item() / 100 - f1) < 1e-6
    return exact, f1


def labelled():
    draw = random.Random(5)
    truth, said = [list(case[0]) for case in CASES], [list(case[1]) for case in CASES]
    for _ in range(60):
        sentence = [draw.choice(TAGS) for _ in range(draw.randint(1, 12))]
        truth.append(sentence)
        said.append([draw.choice(TAGS) if draw.random() < 0.3 else tag for tag in sentence])
    report = classification_report(truth, said, output_dict=True, digits=6)
    scores = {
        name: [float(values[key]) for key in ("precision", "recall", "f1-score", "support")] for name, values in report.items()
    }
    return {"tags": TAGS, "truth": truth, "said": said, "accuracy": accuracy_score(truth, said), "scores": scores}


def main():
    answers = [
        {"said": said, "answers": answers, "normalized": normalize_answer(said), "exact": exact, "f1": f1}
        for said, answers in ANSWERS
        for exact, f1 in [raw_scores(said, answers)]
    ]
    write("nlp", "scores.json", {"labelled": labelled(), "answers": answers})


if __name__ == "__main__":
    main()
