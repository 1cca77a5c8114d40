"""The store in memory and in files: what is refused, what is kept, what is noticed."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_strategies import datasets as any_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import text_envs
from text_envs import datasets
from text_envs.datasets import EpisodeDataset
from text_envs.episodes.errors import DatasetError
from text_envs.tasks.toy import Toy
from text_envs.tasks.wordle import Wordle
from text_envs.tokenizers import HFTokenizer
from text_envs.tokens.vocabulary import check_vocabulary, tokenizer_facts

# Two texts after a prompt of up to two tokens: "7 5 | 1 2" with a reply 6, and "7 | 3".
FIELDS: dict[str, Any] = {
    "tokens": [[7, 5, 1, 6, 2, 9], [9, 7, 3, 9, 9, 9]],
    "roles": [[1, 1, 3, 4, 3, 0], [0, 1, 3, 0, 0, 0]],
    "rewards": [[0, 0, -1, 0, 0.5, 0], [0, 0, 2, 0, 0, 0]],
    "example_indices": [4, 0],
    "finish_reasons": ("stop", "length"),
    "truncated": np.array([False, True]),
    "columns": {"policy": np.array(["expert", "random"]), "game": np.array([3, 5])},
    "metadata": {"seed": 1},
}


def small(**changes: Any) -> EpisodeDataset:
    return EpisodeDataset(**{**FIELDS, **changes})


def test_fields_take_their_types_and_properties_read_them() -> None:
    data = small()
    assert [data.tokens.dtype, data.roles.dtype, data.rewards.dtype] == [
        np.int64,
        np.int8,
        np.float64,
    ]
    assert data.returns.tolist() == [-0.5, 2.0] and data.num_steps == 3 and len(data) == 2
    assert data.terminated.tolist() == [True, False]
    assert data.action_mask[0].tolist() == [False, False, True, False, True, False]
    assert (
        repr(data) == "EpisodeDataset(2 episodes, 3 actions in up to 6 columns, mean return 0.750)"
    )
    left_out = {k: v for k, v in FIELDS.items() if k not in ("truncated", "columns", "metadata")}
    assert not EpisodeDataset(**left_out).truncated.any()


def test_equality_is_of_every_field_but_the_source() -> None:
    assert small() == small(source="elsewhere.npz")
    for changes in (
        {"rewards": [[0, 0, -1, 0, 0.25, 0], [0, 0, 2, 0, 0, 0]]},
        {"finish_reasons": ("stop", "stop")},
        {"columns": {}},
        {"columns": {"policy": np.array(["expert", "random"]), "game": np.array([3.0, 5.0])}},
        {"metadata": {"seed": 2}},
    ):
        assert small() != small(**changes)
    nan = {"x": np.array([np.nan, 1.0])}
    assert small(columns=nan) == small(columns=nan)


def rows(name: str, row: int, column: int, value: Any) -> dict[str, Any]:
    changed = [list(values) for values in FIELDS[name]]
    changed[row][column] = value
    return {name: changed}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [[0.0] * 6, [0.0] * 5]}, r"episode 1: rewards has the shape \(5,\)"),
        ({"roles": [[1, 1, 3, 4, 3], [0] * 6]}, r"episode 0: roles has the shape \(5,\)"),
        ({"tokens": [[1, 2], [3]]}, r"tokens must have the shape \(B, L\)"),
        ({"tokens": [[1.5] * 6] * 2}, "tokens must be integers"),
        ({"roles": FIELDS["roles"][:1]}, "roles has 1 episodes, tokens has 2"),
        (rows("roles", 0, 3, 7), "episode 0, column 3: roles must be one of 0 PAD.*got 7"),
        (rows("roles", 0, 3, -1), "episode 0, column 3: roles"),
        (rows("roles", 0, 3, 0), "episode 0: roles has a PAD column between"),
        (
            rows("roles", 1, 2, 4) | rows("rewards", 1, 2, 0.0),
            "episode 1: roles has no ACTION",
        ),
        (rows("roles", 1, 1, 3), "episode 1: roles begins with an ACTION"),
        (rows("rewards", 1, 2, float("nan")), "episode 1, column 2: rewards must be finite"),
        (rows("rewards", 1, 2, float("inf")), "episode 1, column 2: rewards must be finite"),
        (rows("rewards", 0, 3, 1.0), "episode 0, column 3: rewards must be 0 on a column that"),
        (rows("tokens", 1, 5, 8), "episode 1, column 5: tokens must be the padding 9.*got 8"),
        (rows("tokens", 0, 0, -2), "episode 0, column 0: tokens must be at least 0, got -2"),
        ({"example_indices": [1]}, r"example_indices must have one value.*shape \(1,\)"),
        ({"example_indices": [1, -1]}, "episode 1: example_indices must be at least 0"),
        ({"finish_reasons": ("stop",)}, "finish_reasons has 1 episodes"),
        ({"finish_reasons": ("stop", 3)}, "episode 1: finish_reasons must be a string, got 3"),
        ({"truncated": np.array([0, 1])}, "truncated must hold booleans"),
        ({"columns": {"x": np.zeros(3)}}, r"columns\['x'\] must have one value"),
        ({"columns": {"x": np.array([{}, []], dtype=object)}}, r"columns\['x'\] must hold"),
        ({"columns": {1: np.zeros(2)}}, "name of a column must be a string"),
        ({"metadata": {"f": len}}, "metadata must be plain JSON"),
        ({"metadata": {"f": float("nan")}}, "metadata must be plain JSON"),
        ({"metadata": {"tokenizer": {"pad_id": 8}}}, "must be the padding 8 where nobody wrote"),
        (
            rows("tokens", 0, 2, 9) | {"metadata": {"tokenizer": {"pad_id": 9}}},
            "episode 0, column 2: tokens is padding on a written column",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        small(**changes)
    with pytest.raises(DatasetError, match=f"^data.npz: .*{message}"):
        small(**changes, source="data.npz")


def test_select_and_filter() -> None:
    data = small()
    assert data.select([1, 0]).returns.tolist() == [2.0, -0.5]
    assert data.select(slice(1, 2)).columns["policy"].tolist() == ["random"]
    assert data.select(data.truncated).finish_reasons == ("length",)
    assert data.select(1) == data.select(np.int64(-1)) == data.select([1])
    assert len(data.select([])) == len(data.select(np.zeros(2, dtype=bool))) == 0
    assert data.filter(min_return=0).returns.tolist() == [2.0]
    assert data.filter(lambda d: d.columns["policy"] == "expert").returns.tolist() == [-0.5]
    toy = Toy().demonstrations(200, quality="random")
    best = toy.filter(top=0.1)
    assert len(best) == 20 and best.returns.min() == np.sort(toy.returns)[-20]
    assert toy.filter(top=1.0) == toy and len(toy.filter(top=1e-9)) == 1
    # Of equal returns the first ones, in their order; other conditions come before the share.
    assert toy.filter(lambda d: d.returns == 0.5, top=0.5) == toy.filter(
        lambda d: d.returns == 0.5
    ).select(slice(0, int(np.ceil((toy.returns == 0.5).sum() / 2))))


def test_an_empty_or_impossible_filter_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"none of 2 episodes passes min_return=3.*is 2\.0"):
        small().filter(min_return=3)
    with pytest.raises(DatasetError, match=r"^x\.npz: none of 2 episodes passes predicate"):
        small(source="x.npz").filter(lambda d: d.returns > 9)
    with pytest.raises(ValueError, match="predicate must return booleans"):
        small().filter(lambda d: d.returns)
    for top in (0, 1.5, -1):
        with pytest.raises(ValueError, match="top must lie above 0"):
            small().filter(top=top)


# -- files ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(any_dataset())
def test_a_file_keeps_every_field(tmp_path_factory: Any, data: EpisodeDataset) -> None:
    path = data.save(tmp_path_factory.mktemp("files") / "new" / "data.npz")
    again = datasets.load(path)
    assert again == data and again.source == str(path)
    for name in ("tokens", "roles", "rewards", "example_indices", "truncated"):
        assert getattr(again, name).dtype == getattr(data, name).dtype
    assert {k: v.dtype for k, v in again.columns.items()} == {
        k: v.dtype for k, v in data.columns.items()
    }
    assert [p.name for p in path.parent.iterdir()] == ["data.npz"]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_altered_byte_and_any_cut_is_reported(tmp_path_factory: Any, data: Any) -> None:
    path = small().save(tmp_path_factory.mktemp("damage") / "data.npz")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1), label="position")
    if data.draw(st.booleans(), label="cut"):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255), label="bits")
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"data\.npz: the file"):
        datasets.load(path)


def test_every_single_cut_and_appended_bytes_are_reported(tmp_path: Path) -> None:
    path = small().save(tmp_path / "data.npz")
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DatasetError, match=str(path)):
            datasets.load(path)
    path.write_bytes(content + b"x")
    with pytest.raises(DatasetError, match="truncated, or was not written"):
        datasets.load(path)


def test_files_are_compact_plain_and_equal_for_equal_data(tmp_path: Path) -> None:
    wordle = Wordle().demonstrations(200, quality="mixed")
    path = wordle.save(tmp_path / "a.npz")
    written = int((wordle.roles != 0).sum())
    assert path.stat().st_size < 0.7 * written  # bytes for a token with its role and its reward
    assert path.read_bytes() == wordle.save(tmp_path / "b.npz").read_bytes()
    with np.load(path, allow_pickle=False) as archive:  # numpy alone reads it
        assert archive["tokens"].dtype == np.uint8 and len(archive["tokens"]) == written
        assert archive["rewards"].sum() == wordle.returns.sum()


def test_saving_is_atomic_and_overwrites_data_sets_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small().save(tmp_path / "data.npz")
    other = small(metadata={"seed": 2})
    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            other.save(path)
    assert datasets.load(path) == small() and len(list(tmp_path.iterdir())) == 1
    assert datasets.load(other.save(path)) == other
    notes = tmp_path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    for target in (notes, tmp_path):
        with pytest.raises(DatasetError, match="is no data set; it is not overwritten"):
            small().save(target)
    assert notes.read_text(encoding="utf-8") == "mine"


def repacked(path: Path, changes: dict[str, Any]) -> Path:
    """Write the file again with other members and a checksum that fits."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, value in changes.items():
        if value is None:
            del members[name]
        elif name.endswith(".json"):
            members[name] = json.dumps(json.loads(members[name]) | value).encode()
        else:
            stream = io.BytesIO()
            np.save(stream, value, allow_pickle=True)
            members[name] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"sha256:" + b"0" * 64
    content = stream.getvalue()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards.npy": np.zeros(2)}, "rewards has 2 values for 3 actions"),
        ({"rewards.npy": np.array([0, np.nan, 0])}, "episode 0, column 4: rewards must be finite"),
        ({"roles.npy": np.ones(6, np.uint8)}, "roles has 6 columns, the episodes together 7"),
        ({"roles.npy": np.full(7, 9, np.uint8)}, "rewards has 3 values for 0 actions"),
        (
            {"roles.npy": np.array([9, 1, 3, 4, 3, 1, 3], np.uint8)},
            "episode 0, column 0: roles must be one of",
        ),
        ({"starts.npy": np.array([0, 5])}, "episode 1: starts and lengths do not fit into 6"),
        ({"truncated.npy": np.array([True])}, "truncated must have one value"),
        ({"tokens.npy": None}, "is no data set .KeyError"),
        ({"tokens.npy": np.array([{}] * 7)}, "is no data set .ValueError: Object arrays"),
        ({"header.json": {"format": 9}}, "format 9 is not known here; accepted: 1"),
        ({"header.json": {"finish_reasons": []}}, "is no data set .IndexError"),
        ({"header.json": None}, "is no data set .KeyError"),
    ],
)
def test_a_consistent_checksum_does_not_excuse_contradictions(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = repacked(small().save(tmp_path / "data.npz"), changes)
    with pytest.raises(DatasetError, match=rf"data\.npz: .*{message}"):
        datasets.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards.npy": np.zeros(3, complex)}, "rewards must hold floats .*got complex"),
        ({"rewards.npy": np.zeros(3, np.int64)}, "rewards must hold floats"),
        ({"rewards.npy": np.zeros((3, 1))}, "rewards must hold floats of shape .n,., .*3, 1"),
        ({"tokens.npy": np.full(7, 2.5)}, "tokens must hold integers"),
        ({"tokens.npy": np.full(7, 2**63, np.uint64)}, r"tokens.0. must be an integer in 0\.\."),
        ({"tokens.npy": np.full(7, -1)}, "tokens.0. must be an integer .* got -1"),
        ({"roles.npy": np.full(7, 259, np.uint16)}, "rewards has 3 values for 0 actions"),
        ({"roles.npy": np.array([257, 1, 3, 4, 3, 1, 3])}, "episode 0, .* got 257"),
        ({"starts.npy": np.array([-1, 0])}, "starts.0. must be an integer .* got -1"),
        ({"starts.npy": np.array([0.0, 1.0])}, "starts must hold integers"),
        ({"starts.npy": np.array([False, True])}, "starts must hold integers .* got bool"),
        ({"lengths.npy": np.array([2**62, 2**62])}, "columns, the episodes together|fit into"),
        ({"truncated.npy": np.array([0, 1])}, "truncated must hold booleans"),
        ({"example_indices.npy": np.array([0j, 1])}, "example_indices must hold integers"),
        ({"finish_codes.npy": np.array([0, -1])}, "finish_codes.1. must be an integer"),
        ({"extra.npy": np.zeros(2)}, "holds 'extra.npy', which is no member"),
        ({"header.json": {"num_columns": 10**9}}, "num_columns must be an integer in 0..16777216"),
        ({"header.json": {"num_columns": True}}, "num_columns must be an integer .* got True"),
        ({"header.json": {"num_columns": 6.0}}, "num_columns must be an integer .* got 6.0"),
        ({"header.json": {"format": True}}, "format True is not known"),
        ({"header.json": {"pad": "x"}}, "pad must be an integer"),
        ({"header.json": {"columns": "ab"}}, "columns must be a list of strings"),
        ({"header.json": {"columns": ["a", "a"]}}, "columns must be different"),
        ({"header.json": {"metadata": [1]}}, "metadata must be an object"),
        ({"header.json": {"finish_reasons": [1, 2]}}, "finish_reasons must be a list of strings"),
    ],
)  # fmt: skip
def test_fields_keep_their_types(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = repacked(small().save(tmp_path / "data.npz"), changes)
    with pytest.raises(DatasetError, match=rf"data\.npz: .*{message}"):
        datasets.load(path)


def sealed(path: Path, members: list[tuple[str, bytes]], compressed: bool = True) -> Path:
    """Write members as a file with a checksum that fits."""
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = b"sha256:" + b"0" * 64
    content = stream.getvalue()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_nothing_is_unpacked_that_is_too_large_or_of_no_use(tmp_path: Path) -> None:
    members = members_of(small().save(tmp_path / "data.npz"))
    zeros = sealed(tmp_path / "zeros.npz", [*members.items(), ("zeros.npy", bytes(50 * 2**20))])
    with pytest.raises(DatasetError, match=r"zeros\.npz: .*('zeros\.npy'|unpack)"):
        datasets.load(zeros)
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0)) | {"shape": (10**12,)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    huge = sealed(tmp_path / "huge.npz", [*(members | {"rewards.npy": stream.getvalue()}).items()])
    with pytest.raises(DatasetError, match=r"huge\.npz: rewards says to hold 1000000000000 values"):
        datasets.load(huge)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = sealed(tmp_path / "twice.npz", [*members.items(), *members.items()])
    with pytest.raises(DatasetError, match=r"twice\.npz: .*is not packed like that"):
        datasets.load(twice)


FUZZ: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-5, 5), max_size=3), st.dictionaries(st.text(max_size=2), st.none()),
)  # fmt: skip
DTYPES = ["u1", "i1", "i8", "u8", "f2", "f4", "f8", "c16", "b1", "U2", "M8[s]", "V3"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_field_is_refused_or_read_as_it_is(tmp_path_factory: Any, data: Any) -> None:
    """One field is another, with a checksum that fits: an error of that file, or a data set."""
    path = small().save(tmp_path_factory.mktemp("fuzz") / "data.npz")
    members = members_of(path)
    name = data.draw(st.sampled_from(sorted(members)))
    if name == "header.json":
        header = json.loads(members[name])
        key = data.draw(st.sampled_from(sorted(header)))
        changes = {name: {key: data.draw(FUZZ)}}
    else:
        shape = data.draw(st.sampled_from([(), (0,), (1,), (2,), (3,), (7,), (2, 1), (7, 1)]))
        raw = data.draw(st.binary(min_size=128, max_size=128))
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
        if dtype.kind == "U":
            changes = {name: np.full(shape, "x", dtype)}
        else:
            count = int(np.prod(shape))
            changes = {name: np.frombuffer(raw, dtype, count).reshape(shape)}
    repacked(path, changes)
    try:
        found = datasets.load(path)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert datasets.load(found.save(path)) == found


def test_load_takes_what_it_says(tmp_path: Path) -> None:
    data = small()
    assert datasets.load(data) is data
    with pytest.raises(DatasetError, match=r"missing\.npz: there is no such file"):
        datasets.load(tmp_path / "missing.npz")
    with pytest.raises(DatasetError, match="there is no such file"):
        datasets.load(str(tmp_path))
    with pytest.raises(TypeError, match="a data set is a file.*got int"):
        datasets.load(3)


# -- merging, and fitting an environment ---------------------------------------------------------


def test_merge_joins_columns_and_keeps_what_is_shared() -> None:
    one = small(metadata={"seed": 1, "env_id": "text_envs/X-v0"})
    two = small(
        columns={"score": np.array([0.5, 1.5]), "policy": np.array(["a", "b"])},
        metadata={"seed": 2, "env_id": "text_envs/X-v0"},
    )
    both = datasets.merge([one, two])
    assert len(both) == 4 and both.returns.tolist() == [-0.5, 2.0] * 2
    assert both.columns["policy"].tolist() == ["expert", "random", "a", "b"]
    assert np.array_equal(both.columns["game"], [3, 5, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(both.columns["score"], [np.nan, np.nan, 0.5, 1.5], equal_nan=True)
    assert both.metadata == {
        "env_id": "text_envs/X-v0",
        "merged": [{"seed": 1}, {"seed": 2}],
    }
    assert datasets.merge([one]) == one
    named = small(columns={"who": np.array(["x", "y"])})
    assert datasets.merge([one, named]).columns["who"].tolist() == ["", "", "x", "y"]


def test_merge_takes_files_and_wants_several(tmp_path: Path) -> None:
    one = small()
    path = one.save(tmp_path / "one.npz")
    assert datasets.merge([path, str(path), one]) == datasets.merge([one] * 3)
    for single in (one, path, str(path)):
        with pytest.raises(TypeError, match=r"several data sets in a list, .* merge\(\[one, other"):
            datasets.merge(single)


def test_merge_refuses_what_does_not_fit() -> None:
    one = small(metadata={"env_id": "text_envs/X-v0", "tokenizer": {"sha256": "a"}})
    for metadata, what in (
        ({"env_id": "text_envs/X-v1"}, "env_id 'text_envs/X-v1' differs from 'text_envs/X-v0'"),
        ({"tokenizer": {"sha256": "b"}}, "tokenizer"),
    ):
        with pytest.raises(
            DatasetError, match=f"data set 1 cannot be merged with data set 0.*{what}"
        ):
            datasets.merge([one, small(metadata=metadata)])
    toy = Toy().demonstrations(2)
    with pytest.raises(DatasetError, match="columns 5 differs from 4"):
        datasets.merge([toy, Toy(max_tokens=4).demonstrations(2)])
    with pytest.raises(DatasetError, match="column 'game' is of"):
        datasets.merge([small(), small(columns={"game": np.array(["x", "y"])})])
    with pytest.raises(ValueError, match="at least one data set"):
        datasets.merge([])
    other_pad = small(tokens=[[7, 5, 1, 6, 2, 8], [8, 7, 3, 8, 8, 8]])
    with pytest.raises(DatasetError, match="another padding"):
        datasets.merge([small(), other_pad])


def test_a_data_set_fits_its_environment_in_every_form() -> None:
    toy = datasets.collect("text_envs/Toy-v0", "mixed", 3)
    facts = toy.metadata
    assert facts["env_id"] == "text_envs/Toy-v0" and facts["prompt_length"] == 1
    assert facts["text_envs_version"] == text_envs.__version__
    assert (facts["seed"], facts["policy"]) == (0, "mixed")
    for env in ("text_envs/Toy-v0", Toy(), text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)):
        datasets.check_compatible(toy, env)
    with pytest.raises(TypeError, match="no text environment"):
        datasets.check_compatible(toy, object())


def test_another_tokenizer_shape_or_version_is_refused(tmp_path: Path) -> None:
    toy = datasets.load(Toy().demonstrations(3).save(tmp_path / "toy.npz"))
    message = r"toy\.npz: it was made with the tokenizer WordTokenizer with 6 ids and 3 actions"
    with pytest.raises(DatasetError, match=message):
        datasets.check_compatible(toy, "text_envs/Wordle-v0")
    with pytest.raises(DatasetError, match=r"have 4 columns.*environment 5 .*pass max_tokens=3"):
        datasets.check_compatible(toy, Toy(max_tokens=4))
    shifted = replace(toy, metadata={**toy.metadata, "prompt_length": 2})
    with pytest.raises(DatasetError, match="prompts have 2 columns, those of the environment 1"):
        datasets.check_compatible(shifted, Toy())
    newer = replace(toy, metadata={**toy.metadata, "env_id": "text_envs/Toy-v1"})
    with pytest.raises(DatasetError, match="recorded in text_envs/Toy-v1.*is text_envs/Toy-v0"):
        datasets.check_compatible(newer, "text_envs/Toy-v0")
    bare = replace(toy, metadata={}, tokens=np.where(toy.tokens == 1, 77, toy.tokens))
    with pytest.raises(DatasetError, match=r"episode 0, column 2: tokens holds 77.*0\.\.2"):
        datasets.check_compatible(bare, Toy())
    words = [fact["sha256"] for fact in map(fingerprint, (Toy(), Wordle()))]
    assert len(set(words)) == 2


def fingerprint(task: Any) -> dict[str, Any]:
    facts: dict[str, Any] = datasets.describe(task)["tokenizer"]
    return facts


def test_fingerprints_of_transformers_tokenizers_and_of_unhashable_ones(bpe_tokenizer: Any) -> None:
    from text_envs.tokenizers import WordTokenizer

    one, two = tokenizer_facts(HFTokenizer(bpe_tokenizer)), tokenizer_facts(WordTokenizer(["a"]))
    assert one["kind"] == "HFTokenizer" and one["sha256"] != two["sha256"]
    assert tokenizer_facts(HFTokenizer(bpe_tokenizer)) == one
    assert tokenizer_facts(WordTokenizer(["b"]))["sha256"] != two["sha256"]

    class Plain:  # a tokenizer of somebody else: no words, no hash
        vocab_size, num_actions, pad_id, eos_id, bos_id = 4, 2, 2, 1, None
        forbidden = np.zeros(2, dtype=bool)
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        def decode(self, ids: Any) -> str:
            return "".join(f"<{i}>" for i in ids)

    assert tokenizer_facts(Plain())["sha256"] == tokenizer_facts(Plain())["sha256"]


def test_an_empty_truncated_is_no_default() -> None:
    with pytest.raises(DatasetError, match="truncated must have one value for each of"):
        small(truncated=np.zeros(0, dtype=bool))
    with pytest.raises(DatasetError, match=r"roles must have the shape \(B, L\), got None"):
        small(roles=None)


def test_the_spelling_of_padding_is_not_the_vocabulary(bpe_tokenizer: Any) -> None:
    one, other = copy.deepcopy(bpe_tokenizer), copy.deepcopy(bpe_tokenizer)
    one.add_special_tokens({"pad_token": "<pad>"})
    other.add_special_tokens({"pad_token": "<|nothing|>"})
    facts = tokenizer_facts(HFTokenizer(one))
    check_vocabulary("x", facts, HFTokenizer(other), padding=True)
    check_vocabulary("x", facts | {"pad_id": 7}, HFTokenizer(other))
    with pytest.raises(ValueError, match="x learnt with another tokenizer"):
        check_vocabulary("x", facts | {"pad_id": 7}, HFTokenizer(other), padding=True)
