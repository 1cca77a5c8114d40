"""Exchange with Minari: nothing lost, nothing damaged goes unnoticed."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from dataset_strategies import FINITE, TEXT, columns
from gymnasium.wrappers import ClipReward
from hypothesis import given, settings
from hypothesis import strategies as st

from text_envs import Role, datasets
from text_envs.datasets import EpisodeDataset, from_minari, recipe, to_minari
from text_envs.datasets.minari_episodes import CHECKSUM, checksum_of_facts
from text_envs.datasets.reference_scores import normalised_score
from text_envs.episodes.errors import DatasetError
from text_envs.tasks.toy import Toy

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path))
    yield path
    shutil.rmtree(path)


def new_id() -> str:
    return f"text/set{next(NUMBERS)}-v0"


@pytest.fixture(scope="module")
def walks() -> EpisodeDataset:
    return recipe("maze-walks", 12, seed=3)


@pytest.mark.parametrize("name", ["wordle-adversarial", "visual-dialogue", "comments"])
def test_recipes_survive_unchanged(name: str) -> None:
    data = recipe(name, 22)
    exported = to_minari(data, new_id())
    again = datasets.load(exported.id)
    assert again == data == from_minari(exported) and again.source == exported.id
    for field in ("tokens", "roles", "rewards", "example_indices", "truncated"):
        assert getattr(again, field).dtype == getattr(data, field).dtype
    assert again.metadata == data.metadata


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_every_field_survives_unchanged(walks: EpisodeDataset, data: Any) -> None:
    part = walks.select(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=3)))
    rewards = np.zeros(part.rewards.shape)
    for place in np.argwhere(part.action_mask):
        rewards[tuple(place)] = data.draw(FINITE)
    count = len(part)
    changed = replace(
        part,
        rewards=rewards,
        truncated=np.array([data.draw(st.booleans()) for _ in range(count)]),
        example_indices=np.array([data.draw(st.integers(0, 2**40)) for _ in range(count)]),
        finish_reasons=tuple(data.draw(TEXT) for _ in range(count)),
        columns=data.draw(columns(count)),
    )
    assert from_minari(to_minari(changed, new_id())) == changed


def test_minari_sees_the_steps_of_the_environment(walks: EpisodeDataset) -> None:
    exported = to_minari(walks, new_id(), author="a", author_email="b", description="c")
    assert exported.storage.metadata["author"] == {"a"}
    env = exported.recover_environment()
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert env.observation_space == exported.observation_space
    assert env.action_space == exported.action_space
    for episode, data in enumerate(exported.iterate_episodes()):
        obs, _ = env.reset(options={"index": int(walks.example_indices[episode])})
        assert np.array_equal(data.observations[0], obs) and data.observations.dtype == np.int64
        for t, action in enumerate(data.actions):
            obs, reward, terminated, _, _ = env.step(action)
            assert np.array_equal(data.observations[t + 1], obs) and data.rewards[t] == reward
            if t + 1 < len(data):
                assert not (data.terminations[t] or data.truncations[t])
        assert data.terminations[-1] == terminated == walks.terminated[episode]
        assert data.truncations[-1] == walks.truncated[episode]
        assert data.infos["roles"].shape == data.observations.shape
        written = data.infos["roles"] == Role.ACTION
        assert written.sum(axis=1).tolist() == list(range(len(data) + 1))


def test_reference_scores_are_those_of_default_arguments() -> None:
    data = recipe("maze", 4)
    exported = to_minari(data, new_id())
    scores = minari.get_normalized_score(exported, data.returns)
    assert scores == pytest.approx([normalised_score("Maze-v0", r) for r in data.returns])
    other = to_minari(recipe("maze", 2, layout="u"), new_id())
    assert "ref_max_score" not in other.storage.metadata
    assert other.recover_environment().unwrapped.task.grid.size == (6, 7)
    given_scores = to_minari(data, new_id(), ref_min_score=-9.0, ref_max_score=0.0)
    assert given_scores.storage.metadata["ref_min_score"] == -9.0


def test_selections_and_combinations_of_minari_can_be_read(walks: EpisodeDataset) -> None:
    exported = to_minari(walks, new_id())
    ended = exported.filter_episodes(lambda episode: bool(episode.terminations[-1]))
    assert from_minari(ended) == walks.filter(lambda d: d.terminated)
    second = to_minari(walks.select([3, 1]), new_id())
    combined = minari.combine_datasets([exported, second], new_id())
    both = from_minari(combined)
    expected = datasets.merge([walks, walks.select([3, 1])])
    assert np.array_equal(both.tokens, expected.tokens)
    assert both.columns.keys() == walks.columns.keys()
    assert np.array_equal(both.rewards, expected.rewards)
    datasets.check_compatible(both, "text_envs/Maze-v0")  # what Minari drops is described anew


def chunk_of(path: Path, name: str) -> int:
    """Return where in the file the values of an array begin."""
    with h5py.File(path, "r") as file:
        return int(file[name].id.get_chunk_info(0).byte_offset)


def sealed_anew(exported: Any) -> Any:
    """Return a data set whose file was altered, and whose digests somebody has made fit."""
    storage = exported.storage
    entry = {k: v for k, v in storage.metadata["text_envs"].items() if k != CHECKSUM}
    content = (storage.data_path / "main_data.hdf5").read_bytes()
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    storage.update_metadata({"text_envs": {**entry, CHECKSUM: checksum_of_facts(entry)}})
    return exported


def test_a_damaged_file_is_not_given_to_hdf5(walks: EpisodeDataset) -> None:
    """A flipped bit where HDF5 keeps its texts could hang the process or end it."""
    exported = to_minari(walks, new_id())
    path = exported.storage.data_path / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    content[content.rfind(b"GCOL") + 9] ^= 4
    path.write_bytes(content)
    for source in (exported.id, exported):
        with pytest.raises(DatasetError, match=f"^{exported.id}: main_data.hdf5 is damaged"):
            from_minari(source)


def test_an_episode_without_a_checksum_is_refused(walks: EpisodeDataset) -> None:
    exported = to_minari(walks, new_id())
    with h5py.File(exported.storage.data_path / "main_data.hdf5", "a") as file:
        del file["episode_3"].attrs[CHECKSUM]
    with pytest.raises(DatasetError, match="episode 3: .*its checksum does not fit"):
        from_minari(sealed_anew(exported))


@pytest.mark.parametrize(
    "name",
    ["observations", "actions", "rewards", "truncations", "infos/roles", "infos/example_index"],
)
def test_damaged_values_are_reported(walks: EpisodeDataset, name: str) -> None:
    exported = to_minari(walks, new_id())
    path = exported.storage.data_path / "main_data.hdf5"
    with h5py.File(path, "r") as file:
        assert file["episode_4/observations"].compression == "gzip"
    at, content = chunk_of(path, f"episode_4/{name}"), bytearray(path.read_bytes())
    content[at + 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{exported.id}: main_data.hdf5 is damaged"):
        datasets.load(exported.id)
    sealed_anew(exported)
    message = "cannot be read" if name in ("observations", "infos/roles") else "episode 4"
    with pytest.raises(DatasetError, match=f"^{exported.id}: .*{message}"):
        datasets.load(exported.id)


def test_values_changed_through_hdf5_are_reported(walks: EpisodeDataset) -> None:
    for name, where, message in (
        ("observations", (2, 5), "observations contradict"),
        ("infos/roles", (-1, 0), "roles"),
        ("rewards", 1, "its checksum does not fit"),
        ("infos/example_index", -1, "infos..example_index.. contradicts its last value"),
        ("infos/example_index", slice(None), "its checksum does not fit"),
        ("actions", 0, "actions contradict"),
    ):
        exported = to_minari(walks, new_id())
        with h5py.File(exported.storage.data_path / "main_data.hdf5", "a") as file:
            file[f"episode_0/{name}"][where] += 1
        with pytest.raises(DatasetError, match=f"episode 0: .*{message}"):
            from_minari(sealed_anew(exported))
    exported = to_minari(walks, new_id())
    with h5py.File(exported.storage.data_path / "main_data.hdf5", "a") as file:
        file["episode_2/rewards"].resize((3,))
        del file["episode_5/infos/roles"]
    sealed_anew(exported)
    with pytest.raises(DatasetError, match="episode 2: rewards has 3 steps"):
        from_minari(exported)
    with pytest.raises(DatasetError, match="infos has no 'roles'"):
        from_minari(minari.MinariDataset(exported.storage, np.array([5])))


def test_altered_metadata_are_reported(walks: EpisodeDataset) -> None:
    exported = to_minari(walks, new_id())
    path = exported.storage.data_path / "metadata.json"
    content = path.read_text(encoding="utf-8")
    digest = walks.metadata["tokenizer"]["sha256"]
    ours = content.index('"text_envs": {')  # behind it are a copy of the specification and more
    for old, new in (
        (digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")),
        ('"prompt_length": 11', '"prompt_length": 12'),
        ('"disable_env_checker": false', '"disable_env_checker": true'),
        ('"seed"', '"sead"'),
        ("text_envs_crc32", "text_envs_crc33"),
    ):
        changed = content[:ours] + content[ours:].replace(old, new)
        assert changed != content
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(DatasetError, match=r"metadata\['text_envs'\] has been altered"):
            datasets.load(exported.id)
    path.write_text(content.replace('"text_envs": {', '"text_ends": {'), encoding="utf-8")
    with pytest.raises(DatasetError, match="metadata has no 'text_envs'"):
        datasets.load(exported.id)
    path.write_text(content, encoding="utf-8")
    assert datasets.load(exported.id) == walks


def test_an_outer_limit_is_part_of_the_environment() -> None:
    rows = datasets.collect("text_envs/Maze-v0", "walk", 4, max_episode_steps=6)
    with gym.make("text_envs/Maze-v0", max_episode_steps=6) as env:
        alone = datasets.collect(env, lambda obs: np.zeros(len(obs), dtype=int), 2)
    assert rows.metadata["env_spec"] == alone.metadata["env_spec"]
    for data in (rows, alone):
        assert (
            data.truncated.all() and "max_episode_steps" not in data.metadata["env_spec"]["kwargs"]
        )
        exported = to_minari(data, new_id())
        assert from_minari(exported) == data
        again = exported.recover_environment()
        assert again.spec.max_episode_steps == 6
        again.reset(seed=0)
        steps = [again.step(0)[2:4] for _ in range(6)]
        assert steps == [(False, False)] * 5 + [(False, True)]


def test_reference_scores_are_not_those_of_other_rewards() -> None:
    toy = datasets.collect("text_envs/Toy-v0", "mixed", 4)
    longer = datasets.rescore(toy, "length", "text_envs/Toy-v0")
    both = datasets.merge([toy, longer])
    assert "ref_max_score" in to_minari(toy, new_id()).storage.metadata
    nested = datasets.merge([both, toy])
    cut = datasets.collect("text_envs/Maze-v0", "expert", 2, max_episode_steps=6)
    clipped = datasets.collect(ClipReward(gym.make("text_envs/Maze-v0"), -0.5, 0.0), "expert", 2)
    for data in (longer, both, nested, cut, clipped):
        stored = to_minari(data, new_id()).storage.metadata
        assert stored.get("ref_min_score") is stored.get("ref_max_score") is None


def test_episodes_of_another_environment_are_refused() -> None:
    """Their tokens and columns fit; their rewards would be measured by other players."""
    data = recipe("reviews", 2)
    with pytest.raises(DatasetError, match="recorded in text_envs/Reviews-v0, and env is"):
        to_minari(data, new_id(), "text_envs/LikelihoodContinuation-v0")


def test_cut_files_are_reported(walks: EpisodeDataset) -> None:
    exported = to_minari(walks, new_id())
    for name, sizes in (("main_data.hdf5", (0, 100, 4000, -1)), ("metadata.json", (0, 40, -2))):
        path = exported.storage.data_path / name
        content = path.read_bytes()
        for size in sizes:
            path.write_bytes(content[:size])
            what = "main_data.hdf5 is damaged" if "hdf5" in name else "the Minari data set cannot"
            message = f"^{exported.id}: {what}"
            with pytest.raises(DatasetError, match=message):
                datasets.load(exported.id)
        path.write_bytes(content)
    assert datasets.load(exported.id) == walks


def test_what_minari_cannot_hold_is_refused_and_leaves_nothing(
    walks: EpisodeDataset, folder: Path
) -> None:
    named = replace(walks, columns={"x": np.array(["a\0b"] * 12)})
    with pytest.raises(DatasetError, match=r"episode 0: columns\['x'\] is 'a\\x00b', which HDF5"):
        to_minari(named, new_id())
    broken = replace(walks, finish_reasons=("\ud800",) * 12)
    with pytest.raises(DatasetError, match="episode 0: finish_reasons"):
        to_minari(broken, new_id())
    prefixed = replace(walks, roles=np.where(walks.action_mask, Role.PREFIX, walks.roles))
    with pytest.raises(DatasetError, match="episode 0: roles has no ACTION"):
        to_minari(prefixed, new_id())
    toy = Toy().demonstrations(2)
    with pytest.raises(ValueError, match="does not say how to make its environment again"):
        to_minari(toy, new_id())
    with pytest.raises(DatasetError, match="made with the tokenizer"):
        to_minari(toy, new_id(), "text_envs/Maze-v0")
    with pytest.raises(DatasetError, match="observes goals too"):
        counting = datasets.collect("text_envs/ObjectCounting-v0", "random", 2)
        to_minari(counting, new_id(), "text_envs/ObjectCountingGoal-v0")
    with pytest.raises(TypeError, match="unexpected keyword"):
        to_minari(walks, new_id(), no_such_argument=1)
    with pytest.raises(DatasetError, match="has no episodes"):
        to_minari(walks.select([]), new_id())
    for malformed in ("text/../x-v0", "/text/xx-v0", "text", "text/maze"):
        with pytest.raises(ValueError, match="Malformed dataset ID|ends in a version, got 'text"):
            to_minari(walks, malformed)
    assert not list(folder.rglob("*.hdf5"))
    exported = to_minari(toy, new_id(), "text_envs/Toy-v0")
    assert from_minari(exported) == toy
    with pytest.raises(ValueError, match="exists already"):
        to_minari(toy, exported.id, "text_envs/Toy-v0")
    assert from_minari(exported) == toy


def test_an_unknown_id_names_both_meanings(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no/such-v0: there is no such file, nor a Minari"):
        datasets.load("no/such-v0")


def test_exporting_warns_of_nothing_and_metadata_are_json(walks: EpisodeDataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = to_minari(walks, new_id())
    stored = json.loads((exported.storage.data_path / "metadata.json").read_text(encoding="utf-8"))
    assert stored["text_envs"]["metadata"] == walks.metadata
    assert stored["total_steps"] == walks.num_steps and stored["total_episodes"] == len(walks)
