"""Scores of labelled words by seqeval, and of answers by transformers' port of the script of SQuAD 2.0 (Rajpurkar et al. 2018,
`evaluate-v2.0.py`), on cases that are hard to get right.

    pip download --no-deps transformers==4.57.6
    python scores.py transformers-4.57.6-py3-none-any.whl

The port, `transformers.data.metrics.squad_metrics`, is part of transformers up to version 4. Where there is an answer,
`torchmetrics` must agree with it.
"""

import random
import sys
import types
import warnings
import zipfile

from seqeval.metrics import accuracy_score, classification_report
from torchmetrics.functional.text import squad

from formula import write
from tokens import HARD

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


# What texts are put together of, and what of them counts or does not in an answer.
WORDS = """the a an The A of in and Eiffel Tower tower, U.S.A. 1,000 men. well-known “Zoë” café it's Straße STRASSE — 3 a.m.
İstanbul 日本 の 首都 the_end Paris Paris. 1889 iron the-a (an) £5 who where?""".split()
QUESTIONS = 64
THRESHOLDS = [-3.0, -0.875, 0.0, 0.5, 2.25, 100.0]


def squad_metrics(wheel):
    """The module of this name in a wheel of transformers 4. What it has from its package is for other functions."""
    with zipfile.ZipFile(wheel) as files:
        text = files.read("transformers/data/metrics/squad_metrics.py").decode()
    text = text.replace("from ...models.bert import BasicTokenizer\n", "").replace("from ...utils import", "import")
    module = types.ModuleType("squad_metrics")
    exec(text.replace("logging.get_logger", "logging.getLogger"), module.__dict__)
    return module


def example(name, answers):
    return types.SimpleNamespace(qas_id=name, answers=[{"text": answer} for answer in answers])


def raw_scores(script, said, answers):
    exact, f1 = (found["0"] for found in script.get_raw_scores([example("0", answers)], {"0": said}))
    golds = [answer for answer in answers if script.normalize_answer(answer)]
    if golds:
        theirs = squad(
            [{"prediction_text": said, "id": "0"}], [{"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "0"}]
        )
        assert abs(theirs["exact_match"].item() / 100 - exact) < 1e-6 and abs(theirs["f1"].item() / 100 - f1) < 1e-6
    return exact, f1


def passage(words, first, last):
    """Of a text of these words, and where it starts."""
    return " ".join(words[first : last + 1]), len(" ".join(words[:first])) + (first > 0)


def questioned():
    """SQuAD's file, and what a model says to its questions: a passage, and by how much no answer is more probable to it."""
    draw = random.Random(11)
    paragraphs, said, margins = [], {}, {}
    for number in range(QUESTIONS):
        if number % 4 == 0:
            words = [draw.choice(WORDS) for _ in range(draw.randint(5, 9))]
            paragraphs.append({"context": " ".join(words), "qas": []})
        first = draw.randrange(len(words))
        last = min(len(words) - 1, first + draw.randrange(4))
        name, none = f"q{number}", draw.random() < 0.4
        answers = []
        for _ in range(0 if none else draw.randint(1, 3)):
            # The same, one beside it, or any.
            a, b = draw.choice([(first, last), (max(0, first - 1), last), (first, first), (last, len(words) - 1)])
            text, start = passage(words, a, b)
            answers.append({"text": text, "answer_start": start})
        paragraphs[-1]["qas"].append(
            {"id": name, "question": draw.choice(["who", "where"]), "answers": answers, "is_impossible": none}
        )
        said[name] = passage(words, first, last)
        # A model that is right more often than not. Every margin once: which of two questions with the same one comes first
        # would matter.
        margin = draw.choice([2.0, 2.0, -1.0]) * (1 if none else -1)
        margins[name] = next(
            found for _ in range(100) if (found := margin + draw.randrange(-256, 256) / 64) not in margins.values()
        )
    return {"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]}, said, margins


def judged(script):
    """The file, what is said, and how the script judges it at some thresholds; and the questions with answers alone."""
    file, said, margins = questioned()
    asked = [question for paragraph in file["data"][0]["paragraphs"] for question in paragraph["qas"]]
    examples = [example(q["id"], [answer["text"] for answer in q["answers"]]) for q in asked]
    texts = {name: text for name, (text, _) in said.items()}

    def at(threshold):
        return {"threshold": threshold, **script.squad_evaluate(examples, texts, margins, threshold)}

    best = at(0.0)
    thresholds = [*THRESHOLDS, margins["q7"], best["best_exact_thresh"], best["best_f1_thresh"]]
    found = [at(threshold) for threshold in thresholds]
    answerable = [one for one in examples if one.answers]
    alone = script.squad_evaluate(answerable, {one.qas_id: texts[one.qas_id] for one in answerable})
    assert best["best_exact_thresh"] != best["best_f1_thresh"]
    print(f"{len(answerable)} of {len(asked)} questions have an answer; exact {alone['exact']:.1f}, F1 {alone['f1']:.1f}; "
          f"best F1 {best['best_f1']:.1f} at {best['best_f1_thresh']}, best exact {best['best_exact']:.1f} at "
          f"{best['best_exact_thresh']}")
    return {"file": file, "said": said, "margins": margins, "judged": found, "answerable": alone}


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


def main(wheel):
    script = squad_metrics(wheel)
    answers = [
        {"said": said, "answers": answers, "normalized": script.normalize_answer(said), "exact": exact, "f1": f1}
        for said, answers in ANSWERS
        for exact, f1 in [raw_scores(script, said, answers)]
    ]
    normalized = [[text, script.normalize_answer(text)] for hard in HARD for text in [f"The {hard}an a{hard}A"]]
    contents = {"labelled": labelled(), "answers": answers, "normalized": normalized, "squad": judged(script)}
    write("nlp", "scores.json", contents)


if __name__ == "__main__":
    main(sys.argv[1])
