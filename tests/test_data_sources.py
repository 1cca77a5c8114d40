"""Every kind of file, table and data set that `dataset=` takes, and how each can be wrong."""

from __future__ import annotations

import builtins
import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError, Example
from text_envs.tasks.comments.task import Comments
from text_envs.tasks.generation import Generation
from text_envs.tasks.likelihood import LikelihoodContinuation
from text_envs.tasks.reviews import Reviews
from text_envs.tasks.shared.data import load_examples
from text_envs.tasks.shared.records import read_records
from text_envs.tasks.shared.unknown import check_words
from text_envs.tokenizers import CharTokenizer, WordTokenizer, load_tokenizer

ROWS = [
    {"prompt": 'a "quiet"\nfilm, or', "reference": "not", "id": "1"},
    {"prompt": "été", "reference": "", "id": "2"},
]
CSV = 'prompt,reference,id\r\n"a ""quiet""\nfilm, or",not,1\r\n\r\nété,,2\r\n'
FILES = {
    ".csv": CSV.encode(),
    ".tsv": 'prompt\treference\tid\n"a ""quiet""\nfilm, or"\tnot\t1\nété\t\t2\n'.encode(),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    ".ndjson": "\n".join(map(json.dumps, ROWS)).encode(),
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", FILES)
def test_files_of_rows(ending: str, mark: bytes, packed: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"rows{ending}{packed}", mark + FILES[ending])
    first, second = load_examples(str(file))
    assert first.prompt == ROWS[0]["prompt"] and second.prompt == "été"
    assert first.references == ("not",) and first.metadata == {"id": "1"}
    assert second.references == (() if ending in (".csv", ".tsv") else ("",))
    assert load_examples(file, prompt_column="id")[1].prompt == "2"
    assert load_examples(file, field="id", reference_column="prompt")[1].references == ("été",)
    assert [record.text("prompt") for record in read_records(file, split="train")] == [
        row["prompt"] for row in ROWS
    ]


@pytest.mark.parametrize("ending", [".PARQUET", ".parquet.gz"])
def test_parquet(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{"text": "a", "references": ["b", "c"]}, {"text": "d"}])
    parquet.write_table(table, tmp_path / "plain")
    file = write(tmp_path / f"rows{ending}", (tmp_path / "plain").read_bytes())
    assert load_examples(file) == [Example("a", ("b", "c"), {}), Example("d", (), {})]
    assert load_examples(table)[0].prompt == "a"
    with pytest.raises(DatasetError, match=r"bad\.parquet: not a parquet file"):
        load_examples(write(tmp_path / "bad.parquet", b"PAR1 nothing"))
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=r"pyarrow: pip install 'text_envs\[data\]'"):
        load_examples(file)


def test_texts_in_files(tmp_path: Path) -> None:
    texts = write(tmp_path / "a.json", b'["one", "two"]')
    assert [e.prompt for e in load_examples(texts)] == ["one", "two"]
    packed = write(tmp_path / "a.txt.gz", b"one\n\ntwo\n")
    assert [e.prompt for e in load_examples(packed)] == ["one", "two"]
    assert [e.prompt for e in load_examples(write(tmp_path / "plain", b"one\n"))] == ["one"]
    long = "x" * 200_000
    assert load_examples(write(tmp_path / "l.csv", f"text\n{long}\n".encode()))[0].prompt == long


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"title,label\nx,1\n", r"a\.csv, line 2, item 1: no field 'prompt' or 'text'; it"
         " has 'title', 'label'"),
        ("a.csv", b"prompt,b\nx\n", r"a\.csv, line 2: 1 cells for 2 columns \('prompt', 'b'\)"),
        ("a.csv", b"prompt\nx, y\n", r"a\.csv, line 2: 2 cells for 1 columns .* needs quotes"),
        ("a.csv", b'prompt,b\n"x\ny",1\n"z,2\n', r"a\.csv, line 4: malformed row \(unexpected end"),
        ("a.csv", b'prompt\n"x"y\n', r"a\.csv, line 2: malformed row"),
        ("a.csv", b"prompt,b\nx,1\n,2\n", r"a\.csv, line 3, item 2: field 'prompt' must be a text,"
         " got None"),
        ("a.csv", b"prompt,prompt\nx,1\n", r"a\.csv, line 1: columns named twice: \['prompt'\]"),
        ("a.csv", b"prompt\nfine\nnot \xff\n", r"a\.csv, line 3: not UTF-8 \(byte 0xff\)"),
        ("a.csv", b"\xef\xbb\xbfprompt\n\xe9\n", r"a\.csv, line 2: not UTF-8 \(byte 0xe9\)"),
        ("a.csv", "prompt\nx\n".encode("utf-16"), r"a\.csv, line 1: not UTF-8"),
        ("a.csv", b"", r"a\.csv: no examples"),
        ("a.tsv", b"prompt\tb\n", r"a\.tsv: no examples"),
        ("a.tsv", b"prompt,b\nx,1\n", r"no field 'prompt' or 'text'; it has 'prompt,b'"),
        ("a.json", b"", r"a\.json: no examples"),
        ("a.json", b'{"data": [], "version": 1}', r"expected a list .* with 'data', 'version'"),
        ("a.json", b'{\n"data": []\n}', r"a\.json: expected a list of objects or texts, got one"),
        ("a.json", b'[{"prompt": "x"},\n{"prompt" "y"}]', r"a\.json, line 2: not JSON"),
        ("a.json", b'[{"prompt": null}]', r"a\.json, item 1: field 'prompt' must be a text, got N"),
        ("a.json", b'[{"prompt": NaN}]', "field 'prompt' must be a text, got nan"),
        ("a.json", b'[["x"]]', "item 1: expected a text or a mapping, got list"),
        ("a.jsonl", b'\n{"promt": "x"}\n', r"a\.jsonl, line 2, item 1: no field 'prompt'"),
        ("a.yaml", b"- x\n", r"a\.yaml: files that end with '\.yaml' are not read; expected \.txt"),
        ("a.csv.zip", b"PK", r"files that end with '\.zip' are not read; .*\.parquet"),
        ("a.xlsx", b"PK", r"files that end with '\.xlsx' are not read"),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = write(tmp_path / name, content)
    if name == "a.json" and b'{"data": [], ' in content:
        message = r"no field 'prompt' or 'text'; it has 'data', 'version'"  # one object, one line
    with pytest.raises(DatasetError, match=message):
        load_examples(file)


def test_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(CSV.encode() * 50)
    for content in (b"prompt\nx\n", whole[:40], whole[:12] + b"\xff" * 20 + whole[32:]):
        (tmp_path / "a.csv.gz").write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.csv\.gz: not a complete gzip file"):
            load_examples(tmp_path / "a.csv.gz")
    with pytest.raises(DatasetError, match=r"none\.csv\.gz: cannot read the file"):
        load_examples(tmp_path / "none.csv.gz")


def test_numbers_of_tables(tmp_path: Path) -> None:
    content = b"parent,reply,score\nthe film,good,2\nthe film,bad,-1\nthe film,odd,\n"
    task = Comments(dataset=write(tmp_path / "c.csv", content), tokenizer=CharTokenizer("x"))
    replies = dict(task.example(0).metadata["replies"])
    assert replies["good"] == 2 and replies["bad"] == -1 and np.isnan(replies["odd"])
    with pytest.raises(DatasetError, match="line 2: field 'score' must be a number, got 'many'"):
        Comments(dataset=write(tmp_path / "c.csv", b"parent,reply,score\na,b,many\n"))


# -- objects --------------------------------------------------------------------------------------


def test_objects_of_the_datasets_package() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    both = datasets.DatasetDict(train=rows, test=rows.select([1]))
    assert [e.prompt for e in load_examples(rows)] == ["a", "b"]
    assert [e.prompt for e in load_examples(both)] == ["a", "b"]
    assert [e.prompt for e in load_examples(both, split="test")] == ["b"]
    assert len(read_records(both, split="test")) == 1
    with pytest.raises(DatasetError, match=r"DatasetDict has no split 'tests'.*mean 'test'\?"):
        load_examples(both, split="tests")
    for streamed in (rows.to_iterable_dataset(), datasets.IterableDatasetDict(
        train=rows.to_iterable_dataset()
    )):  # fmt: skip
        for read in (load_examples, lambda data: read_records(data, split="train")):
            with pytest.raises(DatasetError, match=r"streams its rows \(IterableDataset\).*take"):
                read(streamed)
    taken = list(rows.to_iterable_dataset().take(1))
    assert [e.prompt for e in load_examples(taken)] == ["a"]


def test_tables_and_arrays() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b"], "reference": ["r", None], "n": [1, 2]})
    first, second = load_examples(frame)
    assert first == Example("a", ("r",), {"n": 1}) and second.references == ()
    assert [e.prompt for e in load_examples(frame["text"])] == ["a", "b"]
    assert [e.prompt for e in load_examples(frame[frame.n == 2])] == ["b"]
    with pytest.raises(DatasetError, match="DataFrame, item 2: field 'reference' must be a text"):
        load_examples(frame, prompt_column="reference")
    assert [e.prompt for e in load_examples(np.array(["a", "b"]))] == ["a", "b"]
    scores = pandas.DataFrame({"parent": ["a", "a"], "reply": ["b", "c"], "score": [1, None]})
    records = read_records(scores, split="train")
    assert records[0].number("score") == 1 and "score" not in records[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((text for text in "ab"), r"streams its rows \(generator\).*list\(dataset\)"),
        ({"prompt": ["a"]}, r"dict has no split 'train'.*Accepted: 'prompt'.*from_dict"),
        ({"a", "b"}, "got set"),
        (b"abc", "got bytes"),
        (None, "got NoneType"),
        (3.5, r"dataset must be a file, \.txt .*got float"),
        ([None], "list, item 1: expected a text or a mapping, got NoneType"),
        ([{"prompt": None}], "list, item 1: field 'prompt' must be a text, got None"),
        ([{"prompt": float("nan")}], "must be a text, got nan"),
        ([{"a": 1, "b": 2}], "no field 'prompt' or 'text'; it has 'a', 'b'"),
        ([], "list: no examples in split 'train'"),
    ],
)
def test_objects_that_are_no_data(data: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_examples(data)


def test_columns_that_are_missing_or_named_twice() -> None:
    rows = [{"question": "a", "answer": "b", "more": ["c", "d"]}]
    found = load_examples(rows, prompt_column="question", reference_column="answer")
    assert found == [Example("a", ("b",), {"more": ["c", "d"]})]
    found = load_examples(rows, field="question", reference_column="more")
    assert found[0].references == ("c", "d")
    for wrong in ({"prompt_column": "q"}, {"field": "q"}):
        with pytest.raises(DatasetError, match="no field 'q'; it has 'question', 'answer', 'more'"):
            load_examples(rows, **wrong)
    with pytest.raises(DatasetError, match="no field 'a'; it has 'question', 'answer', 'more'"):
        load_examples(rows, prompt_column="question", reference_column="a")
    with pytest.raises(ValueError, match="field is an older name of prompt_column; got field='a'"):
        load_examples(rows, prompt_column="question", field="a")


@pytest.mark.parametrize("task", [Generation, Reviews, LikelihoodContinuation])
def test_tasks_take_columns_of_tables(task: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", b"question,answer\nthe film is,good\n")
    made = task(dataset=str(file), prompt_column="question", reference_column="answer")
    assert made.example(0) == Example("the film is", ("good",), {}) and len(made) == 1


# -- unknown words --------------------------------------------------------------------------------


def test_unknown_words_are_warned_of_once_and_refused_in_bulk() -> None:
    rows = ["the film is zyzzyva", "a story of zyzzyva and qwertz"]
    message = r"list: WordTokenizer.* lacks 3 of the 10 words .*30\.0%.*'zyzzyva', 'qwertz'"
    for task in (Generation, Reviews, LikelihoodContinuation):
        with pytest.warns(UserWarning, match=message) as caught:
            task(dataset=rows)
        assert len(caught) == 1
        with pytest.raises(DatasetError, match=rf"{message}.*max_unknown=0\.2.*tokenizer="):
            task(dataset=rows, max_unknown=0.2)
    with pytest.raises(DatasetError, match=r"max_unknown=0\.5"):
        Generation(dataset=["привет мир"])
    with pytest.warns(UserWarning, match="2 of the 2"):
        assert len(Generation(dataset=["привет мир"], max_unknown=1)) == 1
    for wrong in (-0.1, 1.5, "all", True, float("nan")):
        with pytest.raises(ValueError, match="max_unknown must be a share from 0 to 1, got"):
            Generation(dataset=["the film"], max_unknown=wrong)


def test_known_words_and_bundled_data_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in (Generation, Reviews, LikelihoodContinuation):
            task()
            task(dataset=["The film is", "a <unk> story", ""])
        gym.make("text_envs/Generation-v0", dataset=["the film"])
    check_words([Example("aX b")], CharTokenizer("abX "), source="x")


def test_characters_that_a_tokenizer_drops_count_too(bpe_tokenizer: Any) -> None:
    from foreign import LLAMA, letters

    alphabet = load_tokenizer(letters("абв ", **LLAMA))
    assert alphabet.unk_id is None and alphabet.decode(alphabet.encode("а xб")) == "а б"
    with pytest.warns(UserWarning, match=r"1 of the 3 words .*such as 'xб'"):
        check_words([Example("аб xб в")], alphabet, source="x")
    check_words([Example("你好 🙂\x07")], load_tokenizer(bpe_tokenizer), source="x", max_unknown=0)
    with pytest.warns(UserWarning, match="1 of the 2"):
        check_words([Example("a c")], WordTokenizer(["a", "b"]), source="x")


def test_tasks_whose_cards_say_so_are_logged(caplog: Any) -> None:
    Comments(dataset=[{"parent": "a zyzzyva", "reply": "b"}])
    assert "lacks 1 of the 2 words of the prompts (50.0%), such as 'zyzzyva'" in caplog.text


# -- tasks with readers of their own --------------------------------------------------------------


def test_tables_of_words_and_splits_of_questions(tmp_path: Path) -> None:
    from text_envs.tasks.reasoning.bigbench import load_bigbench
    from text_envs.tasks.wordle.words import load_words

    assert load_words(str(write(tmp_path / "w.csv", b"word\nCrane\nstone\n"))) == ("crane", "stone")
    assert load_words(write(tmp_path / "w.txt.gz", b"crane\n\nstone\n")) == ("crane", "stone")
    with pytest.raises(DatasetError, match=r"w\.lst: files that end with '\.lst' are not read"):
        load_words(write(tmp_path / "w.lst", b"crane\n"))
    rows = [{"input": f"{n} ?", "target": str(n)} for n in range(4)]
    chosen, _ = load_bigbench({"train": rows[:2], "test": rows[2:]}, split="all")
    assert len(chosen) == 4
    with pytest.raises(DatasetError, match="streams its rows"):
        load_bigbench(iter(rows), split="all")
