"""Splits rows of SST-2 so that nothing of a sentence is in both parts: its rows are phrases of sentences, and a phrase of a
sentence that was learned from says little of sentences to come. Settings of either side are chosen on such a part.

    python unseen.py COUNT TRAIN VALIDATION OUT

COUNT whole sentences (eight words or more that are in no longer row) of both files go to OUT/unseen.tsv; to OUT/rest.tsv all rows
but those that share four words in sequence with them, or of two or three words stand in them.
"""

import random
import sys
from collections import defaultdict
from pathlib import Path

from jobs import table


def runs(words, length):
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def main(count, train, validation, out):
    rows = {text.strip(): label for path in (train, validation) for text, label in zip(*table(Path(path)))}
    words = {text: text.split() for text in rows}
    containing = defaultdict(list)
    for text, own in words.items():
        for run in runs(own, 3):
            containing[run].append(text)

    def whole(text):
        own = words[text]
        candidates = min((containing[run] for run in runs(own, 3)), key=len)
        return not any(len(words[other]) > len(own) and f" {text} " in f" {other} " for other in candidates)

    sentences = [text for text, own in words.items() if len(own) >= 8 and whole(text)]
    random.seed(0)
    random.shuffle(sentences)
    unseen = sorted(sentences[: int(count)])
    taken = {run for text in unseen for length in (2, 3, 4) for run in runs(words[text], length)}

    def apart(text):
        own = words[text]
        return tuple(own) not in taken if 2 <= len(own) < 4 else taken.isdisjoint(runs(own, 4))

    rest = [text for text in rows if apart(text)]
    random.shuffle(rest)
    for name, texts in (("unseen.tsv", unseen), ("rest.tsv", rest)):
        lines = "".join(f"{text}\t{rows[text]}\n" for text in texts)
        (Path(out) / name).write_text(f"sentence\tlabel\n{lines}", encoding="utf-8")
    print(f"{len(sentences)} whole sentences; {len(unseen)} unseen, {len(rest)} rows of the rest")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
