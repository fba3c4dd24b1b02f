"""Writes crates/nlp/tests/fixtures/tokenizer: a small WordPiece vocabulary, a small byte-level BPE in `bpe/`, and the
tokens that transformers gives to strings that are hard to tokenize.

`expected.json` has single strings and pairs of them for BERT. `hard.tsv` has 500 strings, one a line as a JSON string,
with their tokens by BERT and by RoBERTa: those of `HARD`, and others put together from `ALPHABETS` by Python's random
numbers with the seed 0.

Run from the repository root with transformers installed: python xtask/parity/tokens.py
"""
import json
import os
import random
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import BertTokenizerFast, RobertaTokenizerFast

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


# Pieces to make strings of: words, and ranges of characters that tokenizers treat each in their own way.
ALPHABETS = [
    [word + " " for word in WORDS],
    [word.title() for word in WORDS] + [word.upper() for word in WORDS],
    list("0123456789"),
    list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085"],
    [chr(c) for c in range(0xA1, 0x180)],
    [chr(c) for c in range(0x300, 0x370)],
    [chr(c) for c in range(0x391, 0x3CA) if c != 0x3A2] + [chr(c) for c in range(0x410, 0x450)],
    [chr(c) for c in range(0x5D0, 0x5EB)] + [chr(c) for c in range(0x621, 0x653)],
    [chr(c) for c in range(0x905, 0x950)] + [chr(c) for c in range(0xE01, 0xE3B)],
    [chr(c) for c in range(0x3041, 0x3097)] + [chr(c) for c in range(0x30A1, 0x30FB)],
    [chr(c) for c in range(0x4E00, 0x4E80)] + [chr(c) for c in range(0x20000, 0x20010)],
    [chr(c) for c in range(0xAC00, 0xAC40)] + [chr(c) for c in range(0x1100, 0x1113)],
    [chr(c) for c in range(0x1F600, 0x1F640)] + ["\u200d", "\ufe0f", "\U0001f3fd", "\U0001f1e9\U0001f1ea"],
    [chr(c) for c in range(0x2010, 0x2060)] + [chr(c) for c in range(0x2190, 0x21A0)],
    [chr(c) for c in range(0xFF01, 0xFF60)] + [chr(c) for c in range(0xFB00, 0xFB07)],
    [chr(c) for c in range(0x00, 0x20)] + ["\u007f", "\u00ad", "\u200b", "\ufeff", "\ufffd", "\ue000"],
    ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", "<pad>", "<unk>", "<mask>", " <mask>", "##ing"],
    ["'s", "'t", "'re", "'ve", "'ll", "\u2019s", "n't", "...", "http://", "@", "1.5e-3", "a" * 101],
]
COUNT = 500


def hard_strings():
    """`HARD`, and others until there are `COUNT`."""
    draw = random.Random(0)
    found = list(HARD)
    while len(found) < COUNT:
        alphabets = draw.sample(ALPHABETS, draw.choice([1, 2, 3]))
        text = "".join(draw.choice(draw.choice(alphabets)) for _ in range(draw.randint(1, 14)))
        if text not in found:
            found.append(text)
    return found


def byte_level():
    """A byte-level BPE trained on this repository's texts, in the files of RoBERTa."""
    folder = Path(FOLDER) / "bpe"
    folder.mkdir(exist_ok=True)
    corpus = [str(path) for path in sorted(Path("docs").glob("*.md"))] + ["datasets/debian-sections/train.tsv"]
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train(corpus, vocab_size=600, min_frequency=2, special_tokens=specials, show_progress=False)
    trained.save_model(str(folder))
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False,
            "single_word": False, "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": mask}) + "\n")


def hard(bert):
    if not (Path(FOLDER) / "bpe" / "vocab.json").exists():
        # Trained once: the texts of the repository change.
        byte_level()
    roberta = RobertaTokenizerFast.from_pretrained(f"{FOLDER}/bpe")
    with open(os.path.join(FOLDER, "hard.tsv"), "w", encoding="utf-8", newline="\n") as file:
        for text in hard_strings():
            tokens = [tokenizer([text])["input_ids"][0] for tokenizer in (bert, roberta)]
            columns = [json.dumps(text)] + [" ".join(map(str, ids)) for ids in tokens]
            file.write("\t".join(columns) + "\n")


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
    hard(BertTokenizerFast(path))
    known = sum(i != 1 for case in cases for i in case["ids"])
    print(f"{len(cases)} cases, {known} known tokens of {sum(len(c['ids']) for c in cases)}")


main()
