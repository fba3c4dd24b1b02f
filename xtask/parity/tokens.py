"""Writes crates/nlp/tests/fixtures/tokenizer: small vocabularies, and the tokens that transformers gives to strings that are
hard to tokenize.

| folder | what |
|---|---|
| itself | WordPiece of a few words, to which other alphabets are unknown |
| `bpe/` | byte-level BPE, in the files of RoBERTa |
| `wide/` | WordPiece with the letters of all `ALPHABETS`; by itself as BERT's for small letters, and as the one that keeps case |
| `albert/` | SentencePiece's Unigram with its normalization, as transformers converts it for ALBERT |
| `xlm-roberta/` | the same for XLM-R, as transformers 4 converts it: version 5 has other steps around the words |

`expected.json` has single strings and pairs of them for BERT. `hard.tsv` has 500 strings, one a line as a JSON string,
with their tokens by BERT, by RoBERTa, by the wide BERT in small letters and with case, by ALBERT and by XLM-R: those of `HARD`, and
others put together from `ALPHABETS` by Python's random numbers with the seed 0. `pairs.tsv` has pairs of them, and for the last five
the longest sequence that they may be, the number of tokens of the first segment, and the tokens. Both texts have room for as many:
to which an odd token goes where both are longer than the sequence, version 0.23.2 of tokenizers says otherwise than others.

Run from the repository root with transformers, sentencepiece and protobuf installed: python xtask/parity/tokens.py
"""
import json
import os
import random
import tempfile
import types
import unicodedata
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AlbertTokenizer, BertTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast
from transformers.convert_slow_tokenizer import XLMRobertaConverter

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


def corpus():
    """This repository's texts, and strings of all alphabets."""
    draw = random.Random(1)
    paths = [*sorted(Path("docs").glob("*.md")), Path("datasets/debian-sections/train.tsv")]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    letters = [alphabet for alphabet in ALPHABETS if not any(piece.startswith(("[", "<")) for piece in alphabet)]
    for alphabet in letters * 40:
        for _ in range(5):
            lines.append("".join(draw.choice(alphabet) for _ in range(draw.randint(4, 12))))
    return lines


def byte_level():
    """A byte-level BPE trained on this repository's texts, in the files of RoBERTa."""
    folder = Path(FOLDER) / "bpe"
    folder.mkdir(exist_ok=True)
    texts = [str(path) for path in sorted(Path("docs").glob("*.md"))] + ["datasets/debian-sections/train.tsv"]
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train(texts, vocab_size=600, min_frequency=2, special_tokens=specials, show_progress=False)
    trained.save_model(str(folder))
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False,
            "single_word": False, "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": mask}) + "\n")


def wide():
    """A WordPiece vocabulary of letters as they are and as BERT makes them small."""
    folder = Path(FOLDER) / "wide"
    folder.mkdir(exist_ok=True)
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    kinds = [normalizers.BertNormalizer(lowercase=lowercase) for lowercase in (False, True)]
    lines = [kind.normalize_str(line) for line in corpus() for kind in kinds]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=4000, min_frequency=1, special_tokens=specials, show_progress=False)
    trained.train_from_iterator(lines, trainer)
    words = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    text = "".join(f"{word}\n" for word, _ in words)
    (folder / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")


def rules():
    """What SentencePiece's own normalization, `nmt_nfkc`, does to the letters of `ALPHABETS` and to composed ones: the whole table
    is large."""
    letters = {c for alphabet in ALPHABETS for piece in alphabet for c in piece} | set("".join(HARD))
    found = {c: unicodedata.normalize("NFKC", c) for c in letters}
    for base in map(chr, range(0x41, 0x7B)):
        for mark in map(chr, range(0x300, 0x370)):
            composed = unicodedata.normalize("NFKC", base + mark)
            if len(composed) == 1:
                found[base + mark] = composed
    for c in letters:
        kind = unicodedata.category(c)
        if c.isspace() and c < "\x1c" or kind in ("Zs", "Zl", "Zp") or c in "\u0085\u200b\u200d\ufeff":
            found[c] = " "
        elif kind == "Cc":
            found[c] = ""

    def of(text):
        return " ".join(f"{ord(c):X}" for c in text)

    return "".join(f"{of(a)}\t{of(b)}\n" for a, b in sorted(found.items()) if a != b and a != "\0")


def unigram(name, lines, size, specials, convert):
    """A model of SentencePiece's, as `convert` makes a tokenizer of its file."""
    folder = Path(FOLDER) / name
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        (temporary / "rules.tsv").write_text(rules(), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(temporary / "spiece"), vocab_size=size, character_coverage=1.0,
            normalization_rule_tsv=str(temporary / "rules.tsv"), num_threads=1, minloglevel=2, **specials,
        )
        whole = json.loads(convert(temporary / "spiece.model").backend_tokenizer.to_str())
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def albert():
    small = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    specials = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": "<pad>", "bos_piece": "[CLS]",
                "eos_piece": "[SEP]", "user_defined_symbols": ["[MASK]"]}

    def convert(model):
        (model.parent / "rules.tsv").unlink()
        return AlbertTokenizer.from_pretrained(str(model.parent))

    unigram("albert", [small.normalize_str(line) for line in corpus()], 1500, specials, convert)


def xlm_roberta():
    def convert(model):
        ids = {"<s>": 0, "</s>": 2}
        slow = types.SimpleNamespace(vocab_file=str(model), convert_tokens_to_ids=ids.get, legacy=True)
        return as_it_is(XLMRobertaConverter(slow).converted())

    unigram("xlm-roberta", corpus(), 2000, {}, convert)


def as_it_is(tokenizer):
    """XLM-R's tokenizer, with nothing put in the place of its parts."""
    mask = AddedToken("<mask>", lstrip=True, special=True)
    named = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token=mask, **named)


def trained():
    """The tokenizers of the columns of `hard.tsv` behind the first, each trained once: the texts of the repository change."""
    makers = {
        "bpe/vocab.json": byte_level,
        "wide/vocab.txt": wide,
        "albert/tokenizer.json": albert,
        "xlm-roberta/tokenizer.json": xlm_roberta,
    }
    for file, make in makers.items():
        if not (Path(FOLDER) / file).exists():
            make()
    words = f"{FOLDER}/wide/vocab.txt"
    return {
        "RoBERTa": RobertaTokenizerFast.from_pretrained(f"{FOLDER}/bpe"),
        "wide BERT": BertTokenizerFast(words),
        "wide BERT with case": BertTokenizerFast(words, do_lower_case=False),
        "ALBERT": AlbertTokenizer.from_pretrained(f"{FOLDER}/albert"),
        "XLM-R": as_it_is(Tokenizer.from_file(f"{FOLDER}/xlm-roberta/tokenizer.json")),
    }


def hard(bert):
    others = trained()
    texts = hard_strings()
    counts = {}
    with open(os.path.join(FOLDER, "hard.tsv"), "w", encoding="utf-8", newline="\n") as file:
        for text in texts:
            columns = [json.dumps(text)]
            for name, tokenizer in {"BERT": bert, **others}.items():
                ids = tokenizer([text])["input_ids"][0]
                columns.append(" ".join(map(str, ids)))
                unknown, all_of_them = counts.get(name, (0, 0))
                counts[name] = unknown + ids.count(tokenizer.unk_token_id), all_of_them + len(ids)
            file.write("\t".join(columns) + "\n")
    for name, (unknown, all_of_them) in counts.items():
        print(f"{name}: {unknown} of {all_of_them} tokens are unknown")
    draw = random.Random(2)
    with open(os.path.join(FOLDER, "pairs.tsv"), "w", encoding="utf-8", newline="\n") as file:
        for number in range(80):
            pair, room = draw.sample(texts, 2), [60, 6][number % 2]
            columns = [json.dumps(pair)]
            for tokenizer in others.values():
                longest = room + tokenizer.num_special_tokens_to_add(pair=True)
                got = tokenizer([pair[0]], [pair[1]], truncation="longest_first", max_length=longest, return_token_type_ids=True)
                ids, types = got["input_ids"][0], got["token_type_ids"][0]
                columns.append(" ".join(map(str, [longest, len(types) - sum(types), *ids])))
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


if __name__ == "__main__":
    main()
