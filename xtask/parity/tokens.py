"""Writes crates/nlp/tests/fixtures/tokenizer: a small vocabulary, and the tokens that transformers' BertTokenizer gives
to strings that are hard to tokenize.

Run from the repository root with transformers installed: python xtask/parity/tokens.py
"""
import json
import os

from transformers import BertTokenizerFast

FOLDER = "crates/nlp/tests/fixtures/tokenizer"

WORDS = """the a b an of and to in is it that was for on are with as this be not don t s re ll ve you i we they he she
have film movie good bad great terrible creme brulee cafe naive uber strasse ny hello world new york price user name
example com http www a1 covid 19 2024 100 3 14 0 1 e mail token tokenize unaffable un want aff able play run jump
quick brown fox ist the_ big
""".split()
PIECES = """s ed ing er est ly ness able ize ized ization aff un a b c d e f g h i j k l m n o p q r t u v w x y z
0 1 2 3 4 5 6 7 8 9 00 19 ! ? 本 語 ß é ñ к о т ا""".split()
SINGLE = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~abcdefghijklmnopqrstuvwxyz0123456789") + list(
    "日本語中文ßéñäöüøкотмираب€£…—–“”‘’•½²™한국ไ😀"
)
UPPER = ["The", "Hello", "World", "New", "York", "NASA", "É", "Ü", "I"]

HARD = [
    "", " ", "\t\n", "hello world", "  hello   world  ", "HELLO World", "Hello, world!", "don't", "don\u2019t you've",
    "unaffable", "tokenization tokenized tokenizer", "crème brûlée", "cre\u0300me bru\u0302le\u0301e", "CAFÉ café",
    "naïve über Straße ẞ", "İstanbul ıspanak", "日本語", "the日本語film", "中文 and English", "한국어 텍스트", "ไทย",
    "кот мира КОТ", "الكتاب", "a\u00a0b", "a\u2003b\u3000a", "a\u200bb", "a\u200db \u200d", "a\u00adb", "\ufeffhello",
    "a\u0000b", "a\ufffdb", "a\u0007b", "a\u2028b\u2029a", "price: $3.14 (or €100)", "100%", "user@example.com",
    "http://www.example.com/a?b=c&d=e#f", "e-mail e\u2010mail e\u2014mail", "...", "\u2026", "!?!?", "--- ___ ***",
    "\u201cquoted\u201d \u2018single\u2019", "it 's a good film .", "SCREAMING NASA", "😀 hello 👨\u200d👩\u200d👧",
    "½ ² ™ ﬁlm Ａ", "e\u0301e\u0301", "\u0301", "x" * 100, "x" * 101, "x" * 300 + " hello",
    "[CLS] hello [SEP] world [MASK] [PAD] [UNK]", "[cls] [sep]", "##ing ## #", "a" + "\u0300" * 40 + "b",
    "covid-19 COVID19 2024-01-01", "the_ the__film", "\\ back \\n slash", "<br /> &amp; #39;s", "new\r\nyork\rhello",
    "𝔥𝔢𝔩𝔩𝔬 𠀀𠀁", "〇一 ㍿ 「hello」、world。", "a/b\\c|d", "`code` ~tilde~ ^caret^", "\U0001f1e9\U0001f1ea 1\ufe0f\u20e3",
    "zebra zzz qqq", "ǅ ŉ ΑΣ Σίσυφος", "ﷺ", "\u0e01\u0e33 \u1100\u1161",
]
PAIRS = [
    ("hello", "world"), ("", "world"), ("hello", ""), ("", ""), ("the film is good", "it was not bad"),
    ("the quick brown fox jump the quick brown fox", "a"), ("a", "the quick brown fox jump the quick brown fox"),
    ("the quick brown fox jump the quick", "a good movie that they want to play"),
]


def main():
    os.makedirs(FOLDER, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + SINGLE + WORDS + UPPER + ["##" + p for p in PIECES]
    vocabulary = list(dict.fromkeys(vocabulary))
    path = os.path.join(FOLDER, "vocab.txt")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("\n".join(vocabulary) + "\n")
    cases = []
    for cased in (False, True):
        tokenizer = BertTokenizerFast(path, do_lower_case=not cased)

        def add(text, pair, longest):
            # A batch of one: alone, an empty second text would count as none.
            pairs = None if pair is None else [pair]
            got = tokenizer([text], pairs, truncation="longest_first", max_length=longest)
            cases.append({"text": text, "pair": pair, "max": longest, "cased": cased, "ids": got["input_ids"][0],
                          "types": got["token_type_ids"][0]})

        for text in HARD:
            add(text, None, 64)
        if not cased:
            for text in HARD[12:16] + HARD[60:64]:
                add(text, None, 5)
            for first, second in PAIRS:
                for longest in (64, 10, 7, 5):
                    add(first, second, longest)
    with open(os.path.join(FOLDER, "expected.json"), "w", encoding="utf-8", newline="\n") as file:
        file.write('{"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]}\n")
    known = sum(i != 1 for case in cases for i in case["ids"])
    print(f"{len(cases)} cases, {known} known tokens of {sum(len(c['ids']) for c in cases)}")


main()
