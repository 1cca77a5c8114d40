"""Data of the user's own: text, JSON lines, the package `datasets`, and how each can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from text_envs import DatasetError, Example
from text_envs.tasks.shared.data import load_examples


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffthe film is\n\n  a quiet  \r\nété\n", encoding="utf-8")
    assert [e.prompt for e in load_examples(file)] == ["the film is", "a quiet", "été"]


def test_json_lines_with_splits_references_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "one", "reference": "r", "split": "train", "id": 3},
        {"prompt": "two", "references": ["r", "s"], "split": "test"},
        {"prompt": "three"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    one, three = load_examples(str(file))
    assert one == Example("one", ("r",), {"split": "train", "id": 3}) and three.prompt == "three"
    two, _ = load_examples(file, split="test")
    assert two.references == ("r", "s")


def test_a_data_set_of_the_datasets_package(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": ["a film", "a play"], "label": [1, 0]})
    assert load_examples(data)[1] == Example("a play", (), {"label": 0})
    datasets.DatasetDict(train=data).save_to_disk(str(tmp_path / "saved"))
    assert load_examples(str(tmp_path / "saved"))[0].prompt == "a film"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"title": "a film"}\n', encoding="utf-8")
    assert load_examples(str(folder), field="title")[0].prompt == "a film"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nnot \xff fine\n", r"a\.txt, line 2: not UTF-8 \(byte 0xff\)"),
        ("a.txt", b"\n\n", r"a\.txt: no examples"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl, line 1: expected a JSON object, got list"),
        ("a.jsonl", b'{"promt": "x"}\n', r"item 1: no field 'prompt' or 'text'; it has 'promt'"),
        ("a.jsonl", b'{"prompt": 3}\n', "field 'prompt' must be a text, got 3"),
        ("a.jsonl", b'{"prompt": "x", "references": 3}\n', "references must be a list of texts"),
        ("a.jsonl", b'{"prompt": "x", "split": "test"}\n', "no examples in split 'train'"),
        ("a.json", b"[]", "expected .txt"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_examples(file)


def test_things_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing\.txt: cannot read the file \(No such file"):
        load_examples(tmp_path / "missing.txt")
    with pytest.raises(DatasetError, match="neither a local file nor a data set"):
        load_examples(str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="got int"):
        load_examples(3)
    with pytest.raises(DatasetError, match="expected a text or a mapping, got int"):
        load_examples([3])
