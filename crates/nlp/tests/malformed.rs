//! Malformed tables, texts, tokenizers and settings, through the binary: each is refused in words that name the file and the
//! row, in bounded time and memory, or taken for what it is.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::OnceLock;

use flate2::{Compression, write::GzEncoder};
use support::malformed::{Case, case, check, file, measured, payload, safetensors};
use support::{Home, home, model};

fn train(path: &str) -> String {
    format!("train --train {path} --model MODEL --out new --quiet")
}

fn task(path: &str, kind: &str) -> String {
    format!("{} --task {kind}", train(path))
}

const LEARN: &str = "train --train train.tsv --validation dev.tsv --out new --quiet --model";

/// A file that is as long as it says, and takes no room on the disk.
fn sparse(home: &Home, name: &str, start: impl AsRef<[u8]>, length: u64) {
    let path = home.write(name, start);
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn gzip(megabytes: usize, piece: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    (0..(megabytes << 20) / piece.len()).for_each(|_| gz.write_all(piece).unwrap());
    gz.finish().unwrap()
}

/// A case of a table that is learned from.
fn table(name: &'static str, path: &'static str, bytes: impl AsRef<[u8]>, says: &[&'static str]) -> Case {
    let all: Vec<&'static str> =
        if says.is_empty() { vec![] } else { [path].into_iter().chain(says.iter().copied()).collect() };
    file(name, path, bytes, &train(path), &all)
}

#[test]
fn tables() {
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    // Rows that learn something, with this one among them.
    let among = |row: &[u8]| {
        let mut all = b"text\tlabel\n".to_vec();
        for i in 0..20 {
            all.extend(if i % 2 == 0 { &b"a good film\tgood\n"[..] } else { b"a bad film\tbad\n" });
            if i == 9 {
                all.extend(row);
            }
        }
        all
    };
    let quoted = |row: &str| format!("text,label\na good film,x\n{row}\nthe plot,y\n");
    check(
        home,
        model(),
        vec![
            table("table: empty", "d.tsv", "", &["is empty"]),
            table("table: blank lines alone", "d.csv", "\n\n\n", &["is empty"]),
            table("table: a header alone", "d.csv", "text,label\n", &["no rows"]),
            table("table: one row", "d.tsv", "text\tlabel\na\tx\n", &["the label \"x\""]),
            table("table: one class", "d.tsv", "text\tlabel\na\tx\nb\tx\n", &["2 rows have the label \"x\""]),
            table("table: two rows of two classes", "d.tsv", "text\tlabel\na\tx\nb\ty\n", &["too few rows"]),
            table("table: no label", "d.tsv", "text\na\n", &["no column that is known to hold labels"]),
            table(
                "table: a label that is missing in one row",
                "d.tsv",
                among(b"a film\t\n"),
                &["d.tsv, line 12", "no label"],
            ),
            table("table: a row without its label", "d.tsv", among(b"a film\n"), &["d.tsv, line 12", "1 field"]),
            table(
                "table: a row with a field too many",
                "d.tsv",
                among(b"a film\tgood\tx\n"),
                &["d.tsv, line 12", "3 fields"],
            ),
            table("table: two columns of one name", "d.tsv", "text\ttext\tlabel\na\tb\tx\n", &["label \"x\""]),
            table("table: NUL bytes in a text", "d.tsv", among(b"a \0 film\0\tgood\n"), &["d.tsv, line 12", "NUL"]),
            table("CSV: NUL bytes in a text", "d.csv", quoted("a \0 film,y"), &["d.csv, line 3", "NUL"]),
            table("table: rows of no UTF-8", "d.tsv", among(b"caf\xe9\tgood\n"), &["d.tsv, line 12", "UTF-8"]),
            table(
                "table: UTF-8 and UTF-16 by turns",
                "d.tsv",
                among(&utf16("a film\tgood\n")),
                &["d.tsv, line 12", "NUL"],
            ),
            table(
                "table: UTF-16 with a byte order mark",
                "d.tsv",
                utf16("\u{feff}text\tlabel\na\tx\n"),
                &["d.tsv, line 1", "UTF-8"],
            ),
            table("table: UTF-16 without one", "d.tsv", utf16("text\tlabel\na\tx\n"), &["d.tsv, line 1", "NUL"]),
            table(
                "table: a million columns",
                "d.tsv",
                "a\t".repeat(1 << 20),
                &["no column that is known to hold text"],
            ),
            table(
                "table: a header of a megabyte",
                "d.tsv",
                "x".repeat(1 << 20),
                &["no column that is known to hold text"],
            ),
            table(
                "table: a text of a megabyte",
                "d.tsv",
                among(&[&b"film ".repeat(200_000)[..], b"\tgood\n"].concat()),
                &[],
            ),
            table(
                "table: a label of a megabyte",
                "d.tsv",
                among(&[&b"a\t"[..], &b"x".repeat(1 << 20), b"\n"].concat()),
                &[],
            ),
            table("CSV: a quote that is not closed", "d.csv", quoted("\"the plot,y"), &["d.csv, line 3", "not closed"]),
            table(
                "CSV: a quote that is not closed in the last column",
                "d.csv",
                "label,text\nx,a\ny,\"b\nx,c\ny,d\n",
                &["d.csv, line 3", "not closed"],
            ),
            table(
                "CSV: a quote that is closed in the next row",
                "d.csv",
                quoted("\"the plot,y\nb,\"x"),
                &["d.csv, line 3"],
            ),
            table("CSV: ragged rows", "d.csv", quoted("a,b,c,d"), &["d.csv, line 3", "4 fields"]),
            case(
                "CSV: a quoted field of 2 GB",
                |home| sparse(home, "d.csv", "text,label\na,x\n\"b", 2 << 30),
                &train("d.csv"),
                &["d.csv, line 3", "16 MB"],
            ),
            case(
                "table: a line of 2 GB",
                |home| sparse(home, "d.tsv", "text\tlabel\na\tx\n", 2 << 30),
                &train("d.tsv"),
                &["d.tsv, line 3", "16 MB"],
            ),
            case(
                "table: a header of 2 GB",
                |home| sparse(home, "d.tsv", "", 2 << 30),
                &train("d.tsv"),
                &["d.tsv, line 1", "16 MB"],
            ),
            case(
                "text: a line of 2 GB, to embed",
                |home| sparse(home, "d.txt", "a film\n", 2 << 30),
                "embed MODEL d.txt --quiet",
                &["d.txt, line 2", "16 MB"],
            ),
            case("table: without end", |_| (), &train("/dev/zero"), &["/dev/zero, line 1", "16 MB"]),
            table("gzip: 256 MB of nothing", "d.tsv.gz", gzip(256, &[0; 1 << 16]), &["16 MB"]),
            table("gzip: 16 MB of empty lines", "d.tsv.gz", gzip(16, b"\n"), &["d.tsv.gz: is empty"]),
            table("gzip: cut short", "d.tsv.gz", &gzip(1, b"text\tlabel\n")[..200], &["d.tsv.gz"]),
            table("gzip: of gzip", "d.tsv.gz", gzip(1, &gzip(1, b"a")), &["UTF-8"]),
            case(
                "table: a folder of that name",
                |home| fs::create_dir(home.path("d.tsv")).unwrap(),
                &train("d.tsv"),
                &["d.tsv: is a folder"],
            ),
            case(
                "table: a link to itself",
                |home| symlink("d.tsv", home.path("d.tsv")).unwrap(),
                &train("d.tsv"),
                &["d.tsv"],
            ),
        ],
    );
}

#[test]
fn lines_of_json() {
    let good = "{\"text\": \"a\", \"label\": \"x\"}\n";
    let second = |row: &str| format!("{good}{row}\n{good}");
    let deep = "[".repeat(100_000);
    check(
        home,
        model(),
        vec![
            table(
                "JSON lines: nested 100,000 deep",
                "d.jsonl",
                second(&format!("{{\"text\": {deep}")),
                &["d.jsonl, line 2", "recursion"],
            ),
            table(
                "JSON lines: a line cut short",
                "d.jsonl",
                second("{\"text\": \"a\", \"lab"),
                &["d.jsonl, line 2", "EOF"],
            ),
            table(
                "JSON lines: a text that is a list",
                "d.jsonl",
                second("{\"text\": [\"a\"], \"label\": \"x\"}"),
                &["d.jsonl, line 2", "a list or an object"],
            ),
            table(
                "JSON lines: a text that is null",
                "d.jsonl",
                second("{\"text\": null, \"label\": \"x\"}"),
                &["d.jsonl, line 2", "null"],
            ),
            table(
                "JSON lines: a key that is missing",
                "d.jsonl",
                second("{\"text\": \"a\"}"),
                &["d.jsonl, line 2", "no key \"label\""],
            ),
            table("JSON lines: a list", "d.jsonl", second("[1, 2]"), &["d.jsonl, line 2"]),
            table(
                "JSON lines: one document over many lines",
                "d.jsonl",
                "{\n\"text\": \"a\"\n}\n",
                &["d.jsonl, line 1"],
            ),
            table(
                "JSON lines: half a surrogate pair",
                "d.jsonl",
                second("{\"text\": \"\\ud800\", \"label\": \"x\"}"),
                &["d.jsonl, line 2"],
            ),
            table(
                "JSON lines: a number of a million digits",
                "d.jsonl",
                second(&format!("{{\"text\": {}, \"label\": \"x\"}}", "9".repeat(1 << 20))),
                &["d.jsonl, line 2"],
            ),
        ],
    );
}

#[test]
fn words_with_labels() {
    let words = |name, path: &'static str, text: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = [path].into_iter().chain(says.iter().copied()).collect();
        file(name, path, text, &task(path, "tokens"), &all)
    };
    check(
        home,
        model(),
        vec![
            words("CoNLL: a row without a label", "d.conll", "EU B-ORG\nrejects\n", &["d.conll, line 2", "1 column"]),
            words("CoNLL: ragged columns", "d.conll", "EU\tNNP\tB-ORG\n\t\t\n", &["d.conll"]),
            words("CoNLL: no words", "d.conll", "\n\n-DOCSTART-\n", &["holds no words"]),
            words("CoNLL: one label", "d.conll", "a O\n\nb O\n", &[]),
            words("CoNLL: of NUL bytes", "d.conll", "\0\0\0\n", &["line 1"]),
            words("CoNLL-U: rows of two columns", "d.conllu", "1\tIt\n", &["d.conllu, line 1"]),
            case(
                "CoNLL: a line of 2 GB",
                |home| sparse(home, "d.conll", "a O\n", 2 << 30),
                &task("d.conll", "tokens"),
                &["d.conll, line 2", "16 MB"],
            ),
            words(
                "words: more words than labels",
                "d.jsonl",
                "{\"tokens\": [\"a\", \"b\"], \"tags\": [\"O\"]}\n",
                &["d.jsonl, line 1", "2 words and 1 labels"],
            ),
            words(
                "words: that are numbers",
                "d.jsonl",
                "{\"tokens\": [1], \"tags\": [\"O\"]}\n",
                &["d.jsonl, line 1", "no string"],
            ),
            words(
                "words: labels by number without names",
                "d.jsonl",
                "{\"tokens\": [\"a\"], \"tags\": [-7]}\n",
                &["d.jsonl, line 1", "--label-names"],
            ),
            words(
                "words: nested 100,000 deep",
                "d.jsonl",
                &"{\"tokens\":".repeat(100_000),
                &["d.jsonl, line 1", "recursion"],
            ),
        ],
    );
}

#[test]
fn questions() {
    let asked = |name, path: &'static str, text: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = [path].into_iter().chain(says.iter().copied()).collect();
        file(name, path, text, &task(path, "spans"), &all)
    };
    let squad = |start: &str, text: &str| {
        format!(
            r#"{{"data": [{{"paragraphs": [{{"context": "Zoë is in Rome.", "qas": [{{"id": "q7", "question": "Where?",
            "answers": [{{"text": "{text}", "answer_start": {start}}}]}}]}}]}}]}}"#
        )
    };
    check(
        home,
        model(),
        vec![
            asked(
                "SQuAD: an answer outside its passage",
                "d.json",
                &squad("10", "Paris"),
                &["question q7", "is not in the passage"],
            ),
            asked(
                "SQuAD: an answer at another place",
                "d.json",
                &squad("9", "Rome"),
                &["question q7", "at character 9"],
            ),
            asked(
                "SQuAD: an answer beyond the end",
                "d.json",
                &squad("18446744073709551615", "Rome"),
                &["question q7"],
            ),
            asked("SQuAD: an answer at a negative place", "d.json", &squad("-1", "Rome"), &["invalid value"]),
            asked("SQuAD: cut short", "d.json", &squad("10", "Rome")[..90], &["EOF"]),
            asked("SQuAD: without data", "d.json", "{\"version\":\n2}", &["no \"data\""]),
            asked("SQuAD: without articles", "d.json", "{\"data\": []}", &["no questions"]),
            asked("SQuAD: data of a wrong type", "d.json", "{\"data\": 7}", &["invalid type"]),
            asked("SQuAD: nested 100,000 deep", "d.json", &format!("{{\"data\": {}", "[".repeat(100_000)), &["d.json"]),
            asked(
                "SQuAD: something else nested 100,000 deep",
                "d.json",
                &format!("{{\"x\": {}", "[".repeat(100_000)),
                &["d.json, line 1"],
            ),
            asked(
                "questions: an answer that is a number",
                "d.jsonl",
                "{\"question\": \"q\", \"context\": \"c\", \"answers\": 7}\n",
                &["d.jsonl, line 1", "cannot be understood"],
            ),
            asked(
                "questions: a place that is none",
                "d.tsv",
                "question\tcontext\tanswer\tanswer_start\nq\ta b\tb\tx\n",
                &["d.tsv, line 2", "answer_start"],
            ),
            case(
                "SQuAD: 2 GB of nothing",
                |home| sparse(home, "d.json", "{\"data\": ", 2 << 30),
                &task("d.json", "spans"),
                &["d.json, line 1"],
            ),
            case(
                "SQuAD: an article of 80 MB",
                |home| {
                    home.write(
                        "d.json",
                        format!("{{\"data\": [{{\"paragraphs\": [{{\"context\": \"{}\"", "a".repeat(80 << 20)),
                    );
                },
                &task("d.json", "spans"),
                &["d.json, line 1", "64 MB"],
            ),
        ],
    );
}

/// A folder of the sound model with these files in it.
fn spoilt(name: &'static str, files: Vec<(&'static str, Vec<u8>)>, says: &[&'static str]) -> Case {
    let make = move |home: &Home| {
        for file in ["config.json", "model.safetensors", "vocab.txt"] {
            home.write(&format!("m/{file}"), fs::read(format!("{}/{file}", model())).unwrap());
        }
        for (file, bytes) in &files {
            home.write(&format!("m/{file}"), bytes);
        }
        if files.iter().any(|(file, _)| *file == "pytorch_model.bin") {
            fs::remove_file(home.path("m/model.safetensors")).unwrap();
        }
    };
    case(name, make, &format!("{LEARN} ./m"), says)
}

/// The same with one of the settings changed.
fn config(name: &'static str, key: &str, value: &str, says: &[&'static str]) -> Case {
    let text = fs::read_to_string(format!("{}/config.json", model())).unwrap();
    let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    all.remove(key);
    let rest = serde_json::to_string(&all).unwrap();
    let text = format!("{},\"{key}\": {value}}}", rest.strip_suffix('}').unwrap());
    spoilt(name, vec![("config.json", text.into_bytes())], says)
}

#[test]
fn settings_of_models() {
    let size = |name, key: &str, value: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = ["m/config.json"].into_iter().chain(says.iter().copied()).collect();
        config(name, key, value, &all)
    };
    let other = |name, key: &str, value: &str| config(name, key, value, &["./m", "not a checkpoint of"]);
    check(home, model(), vec![
        size("config.json: a width of 2^60", "hidden_size", "1152921504606846976", &["hidden_size"]),
        size("config.json: a width of 1e30", "hidden_size", "1e30", &["invalid type"]),
        size("config.json: a negative width", "hidden_size", "-16", &["invalid value"]),
        size("config.json: no layers", "num_hidden_layers", "0", &["num_hidden_layers 0"]),
        size("config.json: 2^60 layers", "num_hidden_layers", "1152921504606846976", &["num_hidden_layers"]),
        size("config.json: heads that do not divide the width", "num_attention_heads", "3", &["evenly"]),
        size("config.json: no heads", "num_attention_heads", "0", &["num_attention_heads 0"]),
        size("config.json: an inner width of 2^60", "intermediate_size", "1152921504606846976", &["intermediate_size"]),
        size("config.json: 2^60 words", "vocab_size", "1152921504606846976", &["vocab_size"]),
        size("config.json: 2^60 positions", "max_position_embeddings", "1152921504606846976", &["max_position_embeddings"]),
        size("config.json: a dropout of 7", "hidden_dropout_prob", "7", &["hidden_dropout_prob 7"]),
        size("config.json: an epsilon below zero", "layer_norm_eps", "-1", &["layer_norm_eps"]),
        size("config.json: a list for a name", "hidden_act", "[\"gelu\"]", &["invalid type"]),
        size("config.json: keys nested 100,000 deep", "extra", &"[".repeat(100_000), &["recursion"]),
        other("config.json: a width of 2^16 where the weights have 16", "hidden_size", "65536"),
        other("config.json: a thousand layers where the weights have 2", "num_hidden_layers", "1000"),
        spoilt("config.json: a list", vec![("config.json", b"[]".to_vec())], &["m/config.json"]),
        spoilt("config.json: no text", vec![("config.json", vec![0xff; 9])], &["m/config.json"]),
        spoilt("config.json: a pooling that is none", vec![("1_Pooling/config.json", b"{\"pooling_mode_max_tokens\": 7}".to_vec())], &["1_Pooling/config.json"]),
        spoilt("modules.json: a module outside the folder", vec![("modules.json", br#"[{"type": "x.Dense", "path": "../../etc"}]"#.to_vec())], &["m/modules.json", "not known here"]),
        spoilt("modules.json: a layer that reads a wrong width", vec![
            ("modules.json", br#"[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Dense", "path": "2_Dense"}]"#.to_vec()),
            ("1_Pooling/config.json", br#"{"pooling_mode_mean_tokens": true}"#.to_vec()),
            ("2_Dense/config.json", br#"{"in_features": 1152921504606846976, "out_features": 1152921504606846976}"#.to_vec()),
            ("2_Dense/model.safetensors", safetensors(r#"{"linear.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#, 4)),
        ], &["m"]),
        spoilt("sentence_bert_config.json: sequences of no tokens", vec![("sentence_bert_config.json", b"{\"max_seq_length\": 0}".to_vec())], &["./m", "sequences of 0 tokens"]),
        spoilt("weights: empty", vec![("model.safetensors", vec![])], &["m/model.safetensors", "empty"]),
        spoilt("weights: none of an encoder", vec![("model.safetensors", safetensors("{}", 0))], &["m/model.safetensors", "word_embeddings"]),
        spoilt("pickle: a call of os.system", vec![("pytorch_model.bin", payload("touch ran"))], &["m/pytorch_model.bin"]),
        spoilt("adapter: a description cut short", vec![("adapter/topwork.json", b"{\"program\": ".to_vec())], &["m/adapter/topwork.json"]),
        spoilt("adapter: of another program", vec![("adapter/topwork.json", b"{\"program\": \"topwork-cv\"}".to_vec())], &["m/adapter", "topwork-cv"]),
        spoilt("adapter: a rank of 2^60", vec![
            ("adapter/topwork.json", br#"{"program": "topwork-nlp", "adapters": [{"kind": "lora", "rank": 1152921504606846976, "alpha": 1, "dropout": 0, "layers": ["query"]}]}"#.to_vec()),
            ("adapter/adapter_model.safetensors", safetensors("{}", 0)),
        ], &["m/adapter"]),
        spoilt("adapter: unknown keys", vec![("adapter/topwork.json", br#"{"program": "topwork-nlp", "adapters": [], "colour": 3}"#.to_vec())], &["m/adapter/topwork.json", "colour"]),
    ]);
}

#[test]
fn tokenizers() {
    let vocab = |name, text: Vec<u8>, says: &[&'static str]| {
        let all: Vec<&'static str> =
            if says.is_empty() { vec![] } else { ["m"].into_iter().chain(says.iter().copied()).collect() };
        spoilt(name, vec![("vocab.txt", text)], &all)
    };
    let json = |name, text: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = ["m"].into_iter().chain(says.iter().copied()).collect();
        spoilt(name, vec![("tokenizer.json", text.as_bytes().to_vec())], &all)
    };
    let sound = fs::read(format!("{}/vocab.txt", model())).unwrap();
    let with = |more: &[u8]| [&sound[..], more].concat();
    // One that the library reads, of words alone.
    let whole = |model: &str, post: &str| {
        format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": {post}, "decoder": null, "model": {model}}}"#
        )
    };
    let words = r#"{"type": "WordLevel", "vocab": {"[UNK]": 1, "a": 5, "film": 7}, "unk_token": "[UNK]"}"#;
    let template = |id: &str| {
        format!(
            r#"{{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": "x", "type_id": 0}}}}, {{"Sequence": {{"id": "A", "type_id": 0}}}}],
            "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
            "special_tokens": {{"x": {{"id": "x", "ids": [{id}], "tokens": ["x"]}}}}}}"#
        )
    };
    check(
        home,
        model(),
        vec![
            vocab("vocab.txt: empty", vec![], &["vocab.txt", "[PAD]"]),
            vocab("vocab.txt: a word twice is the later one", with(b"film\n"), &["25"]),
            vocab("vocab.txt: NUL bytes", b"\0\n\0\n".to_vec(), &["vocab.txt", "[PAD]"]),
            vocab("vocab.txt: no UTF-8", with(b"caf\xe9\n"), &["vocab.txt", "UTF-8"]),
            vocab("vocab.txt: more words than the table has rows", with(&b"x\ny\nz\n".repeat(1000)), &["word table"]),
            json("tokenizer.json: empty", "", &["tokenizer.json"]),
            json("tokenizer.json: cut short", &whole(words, "null")[..200], &["tokenizer.json"]),
            json(
                "tokenizer.json: nested 100,000 deep",
                &format!("{{\"model\": {}", "[".repeat(100_000)),
                &["tokenizer.json", "recursion"],
            ),
            json("tokenizer.json: without a model", "{}", &["tokenizer.json", "is not a tokenizer"]),
            json(
                "tokenizer.json: a model of an unknown kind",
                &whole(r#"{"type": "Oracle"}"#, "null"),
                &["tokenizer.json", "is not a tokenizer"],
            ),
            json(
                "tokenizer.json: a word that is number 4 billion",
                &whole(r#"{"type": "WordLevel", "vocab": {"a": 4294967295}, "unk_token": "a"}"#, "null"),
                &["word table"],
            ),
            json(
                "tokenizer.json: a word of a negative number",
                &whole(r#"{"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}"#, "null"),
                &["tokenizer.json"],
            ),
            json(
                "tokenizer.json: no word for what is unknown",
                &whole(r#"{"type": "WordLevel", "vocab": {"b": 1}, "unk_token": "[NONE]"}"#, "null"),
                &["tokenizer.json", "fails on a text"],
            ),
            json(
                "tokenizer.json: a mark around texts that is no row of the table",
                &whole(words, &template("4000000000")),
                &["word table"],
            ),
            json(
                "tokenizer.json: pieces without an end",
                &whole(
                    r###"{"type": "WordPiece", "vocab": {"##": 0}, "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}"###,
                    "null",
                ),
                &["tokenizer.json"],
            ),
            json(
                "tokenizer.json: scores of a model that has none",
                &whole(r#"{"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}"#, "null"),
                &["tokenizer.json"],
            ),
            json(
                "tokenizer.json: merges of pieces that are not there",
                &whole(r#"{"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}"#, "null"),
                &["tokenizer.json"],
            ),
            spoilt(
                "tokenizer_config.json: a list",
                vec![("tokenizer_config.json", b"[]".to_vec())],
                &["m/tokenizer_config.json"],
            ),
        ],
    );
}

/// A classifier that was trained once.
fn trained() -> &'static Home {
    static RUN: OnceLock<Home> = OnceLock::new();
    RUN.get_or_init(|| {
        let home = home();
        home.train("run", &["--quiet"]).well();
        home
    })
}

#[test]
fn runs() {
    let with = |name, path: &'static str, bytes: &[u8], command: &str, says: &[&'static str]| {
        let bytes = bytes.to_vec();
        case(
            name,
            move |home| {
                let copied = std::process::Command::new("cp")
                    .arg("-r")
                    .arg(trained().path("run"))
                    .arg(home.path("run"))
                    .status();
                assert!(copied.unwrap().success());
                home.write(path, &bytes);
            },
            command,
            says,
        )
    };
    let predict = "predict run dev.tsv --quiet";
    check(
        home,
        model(),
        vec![
            with(
                "calibration.json: a list",
                "run/model/calibration.json",
                b"[1]",
                predict,
                &["run/model/calibration.json"],
            ),
            with(
                "calibration.json: without a temperature",
                "run/model/calibration.json",
                b"{}",
                predict,
                &["run/model/calibration.json", "temperature"],
            ),
            with(
                "config.json: names of a wrong type are made up",
                "run/model/config.json",
                &renamed("[3]"),
                predict,
                &[],
            ),
            with(
                "model: a damaged configuration",
                "run/model/config.json",
                b"{\"hidden_size\": ",
                predict,
                &["run/model/config.json"],
            ),
            with(
                "model: damaged weights",
                "run/model/model.safetensors",
                b"\xff\xff\xff\xff",
                predict,
                &["run/model/model.safetensors"],
            ),
            with("summary.json: damaged, which predicting does not read", "run/summary.json", b"{", predict, &[]),
            with(
                "run.toml: damaged, of a run that is finished",
                "run/run.toml",
                b"seed = [",
                "train --resume --out run",
                &["finished"],
            ),
            with(
                "summary.json: damaged, to be compared",
                "run/summary.json",
                b"{\"samples\": ",
                "compare run run",
                &["run/summary.json", "EOF"],
            ),
            with(
                "summary.json: scores in words, to be compared",
                "run/summary.json",
                b"{\"accuracy\": \"high\"}",
                "compare run run",
                &["run/summary.json"],
            ),
            with("run.toml: damaged, to be compared", "run/run.toml", b"seed = [", "compare run run", &["run/run.toml"]),
            with(
                "metrics.jsonl: no line of it whole",
                "run/metrics.jsonl",
                b"{\"kind\": \"step\"\n[[[[",
                "events run --out new",
                &["run/metrics.jsonl", "no step"],
            ),
            with(
                "metrics.jsonl: steps beyond any number are the last",
                "run/metrics.jsonl",
                b"{\"kind\": \"step\", \"phase\": 0, \"step\": 7, \"loss\": 1}\n{\"kind\": \"step\", \"phase\": 1, \"step\": 1e300, \"loss\": 1}\n",
                "events run --out new",
                &[],
            ),
            with(
                "texts: a table with a damaged row",
                "x.tsv",
                b"sentence\nthe film\nbad \xff\n",
                "predict run x.tsv --quiet",
                &["x.tsv, line 3", "UTF-8"],
            ),
            with(
                "texts: a quote that is not closed",
                "x.csv",
                b"sentence,n\nthe film,1\n\"bad,2\n",
                "predict run x.csv --quiet",
                &["x.csv, line 3", "not closed"],
            ),
            with(
                "evaluate: a label that was never learned",
                "x.tsv",
                b"sentence\tlabel\nthe film\tsplendid\n",
                "evaluate run --validation x.tsv --quiet",
                &["x.tsv, line 2", "\"splendid\""],
            ),
        ],
    );
}

/// The settings of the trained model with these names of its classes.
fn renamed(names: &str) -> Vec<u8> {
    let text = fs::read_to_string(trained().path("run/model/config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    config.insert("id2label".into(), serde_json::from_str(names).unwrap());
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn plans_and_corpora() {
    const PRETRAIN: &str = "pretrain --corpus texts --out new --steps 1 --vocabulary 300 --quiet";
    let plan = |name, text: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = ["p.toml"].into_iter().chain(says.iter().copied()).collect();
        file(name, "p.toml", text, &format!("{LEARN} MODEL --plan p.toml"), &all)
    };
    let text = |name, bytes: &[u8], says: &[&'static str]| file(name, "texts/a.txt", bytes, PRETRAIN, says);
    check(
        home,
        model(),
        vec![
            plan("plan: no text", "\u{0}", &[]),
            plan("plan: keys twice", "strategy = \"a\"\nstrategy = \"b\"\n", &["duplicate key"]),
            plan("plan: nested 100,000 deep", &format!("phases = {}", "[".repeat(100_000)), &[]),
            text("corpus: NUL bytes", b"fine\nnot \0 fine\n", &["texts/a.txt, line 2", "NUL"]),
            text("corpus: no UTF-8", b"fine\n\xff\xfe\n", &["texts/a.txt, line 2", "UTF-8"]),
            text("corpus: empty", b"", &[" "]),
            case(
                "corpus: a line of 2 GB",
                |home| sparse(home, "texts/a.txt", "fine\n", 2 << 30),
                PRETRAIN,
                &["texts/a.txt, line 2", "16 MB"],
            ),
            case(
                "corpus: a folder that holds itself",
                |home| {
                    home.write("texts/a.txt", "\0");
                    symlink(".", home.path("texts/self")).unwrap();
                    symlink("..", home.path("texts/above")).unwrap();
                },
                PRETRAIN,
                &["texts/a.txt, line 1", "NUL"],
            ),
            case(
                "corpus: a folder of nothing but itself",
                |home| {
                    fs::create_dir(home.path("texts")).unwrap();
                    symlink(".", home.path("texts/self")).unwrap();
                },
                PRETRAIN,
                &["texts: holds no files"],
            ),
        ],
    );
}

/// A hundred thousand rows: what does not grow with their number is small.
#[test]
fn many_rows() {
    let home = home();
    let rows: String =
        (0..100_000).map(|i| format!("the film {i} is {}\n", ["good\tgood", "bad\tbad"][i % 2])).collect();
    home.write("many.tsv", format!("text\tlabel\n{rows}"));
    home.write("many.txt", rows);
    for command in [
        "train --train many.tsv --model MODEL --out new --limit 200 --quiet",
        "predict new many.txt --quiet",
        "embed MODEL many.txt --out many.npy --quiet",
    ] {
        let args: Vec<&str> = command.split(' ').map(|arg| if arg == "MODEL" { model() } else { arg }).collect();
        let ran = measured(&mut home.command(&args));
        assert_eq!(ran.code, Some(0), "{command}: {}", ran.err);
        assert!(ran.peak < 300_000_000, "{command}: {} MB", ran.peak / 1_000_000);
    }
}
