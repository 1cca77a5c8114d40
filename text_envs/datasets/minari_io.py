"""Exchange with Minari, the format that offline libraries read; nothing is lost on the way.

What stands where is told in `text_envs.datasets.minari_episodes`; the metadata of the data set are
the entry `text_envs` of Minari's. Both directions work on one episode at a time, and the arrays
that repeat a text at every step are compressed.

The file of episodes must have the digest that was written with it, looked at before HDF5, which
damaged bytes can hang or crash; an episode read back must repeat itself step by step as written,
and fit its own checksum: a damaged data set is refused, never half-read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from text_envs.core.facts import check_compatible, describe, env_spec
from text_envs.datasets.minari_checks import check_id, check_storable
from text_envs.datasets.minari_episodes import (
    CHECKSUM,
    buffers,
    checksum,
    checksum_of_facts,
    episode_of,
    read_episodes,
)
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.files import add_reader
from text_envs.episodes.store import EpisodeDataset

if TYPE_CHECKING:
    from minari import MinariDataset

__all__ = ["from_minari", "to_minari"]

_ENTRY, _DIGEST = "text_envs", "sha256"
_FILE = "main_data.hdf5"
_ID = re.compile(r"[-\w/]+-v\d+")


def to_minari(
    dataset: EpisodeDataset, dataset_id: str, env: Any = None, **kwargs: Any
) -> MinariDataset:
    """Write a data set into Minari's local folder (`MINARI_DATASETS_PATH`).

    Args:
        dataset: recorded episodes, at least one.
        dataset_id: "namespace/name-v0", not taken yet.
        env: the environment they are of, by id, object or `EnvSpec`; None for what the metadata
            say. Its specification is stored, for `recover_environment()`.
        **kwargs: of `minari.create_dataset_from_buffers`: `author`, `author_email`,
            `code_permalink`, `description`, `algorithm_name`, `ref_min_score`, `ref_max_score`
            (default: the stored scores of chance and expert, for default arguments and rewards
            as played), ...

    Raises:
        ImportError: Minari is not installed.
        DatasetError: the data set is empty, of another environment, or holds what Minari cannot
            store.
        ValueError: no environment is known, or the id is taken or malformed.
    """
    minari = _minari()
    check_id(minari, dataset_id)
    if not len(dataset):
        raise DatasetError(f"{dataset.source or 'data set'} has no episodes; Minari needs one")
    spec = _spec(dataset, env)
    made = gym.make(spec)
    check_compatible(dataset, made)
    if not isinstance(made.observation_space, gym.spaces.Box):
        raise DatasetError(f"{spec.id} observes goals too, of which episodes here keep no record")
    _check_env(dataset, spec)
    pad = int(made.unwrapped.tokenizer.pad_id)  # type: ignore[attr-defined]
    made.close()
    check_storable(dataset)
    folder = minari.storage.get_dataset_path(dataset_id)
    if folder.exists():
        raise ValueError(f"a Minari data set {dataset_id!r} exists already, in {folder}")
    policy = dataset.metadata.get("policy")
    defaults = {
        "algorithm_name": policy if isinstance(policy, str) else "unknown",
        "requirements": [f"text_envs>={describe(spec.id)['text_envs_version']}"],
        **_scores(dataset, spec),
    }
    try:
        with warnings.catch_warnings():
            # Minari asks for an author and the like by warnings.
            warnings.filterwarnings("ignore", message=r".*is set to None", category=UserWarning)
            created = minari.create_dataset_from_buffers(
                dataset_id, [], env=spec, eval_env=spec, **{**defaults, **kwargs}
            )
        _write(created.storage, dataset, pad)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return minari.load_dataset(dataset_id)


def from_minari(source: str | MinariDataset) -> EpisodeDataset:
    """Read episodes that `to_minari` wrote, also some of them, or several sets combined.

    Args:
        source: an id in Minari's local folder (nothing is downloaded), or an opened data set,
            whose selection of episodes is respected.

    Raises:
        ImportError: Minari is not installed.
        DatasetError: there is none of this id, it is damaged, or it is not of a text environment.
    """
    minari = _minari()
    name = source if isinstance(source, str) else str(source.id)
    try:
        opened = minari.load_dataset(source) if isinstance(source, str) else source
        entry = _entry_of(name, opened)
        metadata = _described(opened) if entry is None else entry["metadata"]
        if entry is not None:
            _check_file(name, entry, opened.storage)
        episodes = list(read_episodes(name, opened, sealed=entry is not None))
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{name}: there is no such file, nor a Minari data set") from error
    except Exception as error:  # whatever damaged bytes can cause in HDF5, JSON or Minari
        what = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{name}: the Minari data set cannot be read ({what})") from error
    if not episodes:
        raise DatasetError(f"{name}: the Minari data set has no episodes")
    columns = list(entry["columns"]) if entry is not None else list(episodes[0]["columns"])
    return EpisodeDataset(
        tokens=np.array([episode["tokens"] for episode in episodes]),
        roles=np.array([episode["roles"] for episode in episodes]),
        rewards=np.array([episode["rewards"] for episode in episodes]),
        example_indices=np.array([episode["example_index"] for episode in episodes]),
        finish_reasons=tuple(episode["finish_reason"] for episode in episodes),
        truncated=np.array([episode["truncated"] for episode in episodes]),
        columns={name: np.array([e["columns"][name] for e in episodes]) for name in columns},
        metadata=metadata,
        source=name,
    )


def _minari() -> Any:
    try:
        import minari
        import minari.storage
    except ImportError as error:
        raise ImportError(
            "exchange with Minari needs minari and h5py; pip install 'text_envs[data]'"
        ) from error
    return minari


# -- writing -------------------------------------------------------------------------------------


def _spec(dataset: EpisodeDataset, env: Any) -> gym.envs.registration.EnvSpec:
    if isinstance(env, gym.envs.registration.EnvSpec):
        return env
    spec = None if env is None else env_spec(env)
    stored = dataset.metadata.get("env_spec")
    if env is None and stored is not None:
        spec = gym.envs.registration.EnvSpec.from_json(json.dumps(stored))
    if spec is None:
        raise ValueError(
            f"{dataset!r} does not say how to make its environment again; pass env= (an id, an "
            "EnvSpec, or an environment that gymnasium.make made of plain arguments)"
        )
    return spec


def _check_env(dataset: EpisodeDataset, spec: gym.envs.registration.EnvSpec) -> None:
    """Refuse episodes of another environment, though its tokens be the same."""
    theirs = dataset.metadata.get("env_id")
    if theirs is not None and theirs != spec.id:
        raise DatasetError(
            f"{dataset.source or 'data set'}: it was recorded in {theirs}, and env is {spec.id}; "
            f"accepted: env={theirs!r}, with the arguments it was recorded with"
        )


def _as_registered(facts: Mapping[str, Any]) -> bool:
    """Return whether episodes were played, and paid, in an environment with default arguments."""
    merged = facts.get("merged", [])
    if "rescored" in facts or not all(_as_registered(part) for part in merged):
        return False
    spec = facts.get("env_spec")
    return spec is None or _is_default(gym.envs.registration.EnvSpec.from_json(json.dumps(spec)))


def _is_default(spec: gym.envs.registration.EnvSpec) -> bool:
    registered = gym.registry.get(spec.id)
    return (
        registered is not None
        and registered.kwargs == spec.kwargs
        and registered.max_episode_steps == spec.max_episode_steps
        and not spec.additional_wrappers
    )


def _scores(dataset: EpisodeDataset, spec: gym.envs.registration.EnvSpec) -> dict[str, float]:
    """Return the reference scores, if the episodes are measured as the players of them were."""
    from text_envs.datasets.reference_scores import (
        reference_scores,  # whose demonstrations are kept in this package
    )

    if not _is_default(spec) or not _as_registered(dataset.metadata):
        return {}
    try:
        scores = reference_scores(spec.id)
    except ValueError:  # an environment of somebody else
        return {}
    if "expert" not in scores:
        return {}
    low, high = scores["random"]["mean"], scores["expert"]["mean"]
    return {"ref_min_score": low, "ref_max_score": high}


def _write(storage: Any, dataset: EpisodeDataset, pad: int) -> None:
    _make_compressed(storage, dataset)
    storage.update_episodes(buffers(dataset, pad))
    sums = [{CHECKSUM: checksum(episode_of(dataset, i))} for i in range(len(dataset))]
    storage.update_episode_metadata(sums)
    entry = {
        "metadata": dict(dataset.metadata),
        "columns": list(dataset.columns),
        _DIGEST: _digest(storage),
    }
    storage.update_metadata({_ENTRY: {**entry, CHECKSUM: checksum_of_facts(entry)}})


def _digest(storage: Any) -> str:
    digest = hashlib.sha256()
    with open(storage.data_path / _FILE, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_file(name: str, entry: dict[str, Any], storage: Any) -> None:
    found = _digest(storage)
    if entry.get(_DIGEST) != found:
        raise DatasetError(
            f"{name}: {_FILE} is damaged, or not the one that was exported: its SHA-256 is "
            f"{found[:12]}..., not {str(entry.get(_DIGEST))[:12]}..."
        )


def _make_compressed(storage: Any, dataset: EpisodeDataset) -> None:
    """Make the arrays that grow with T times L, empty and compressed; Minari appends to them."""
    import h5py

    width = dataset.tokens.shape[1]
    steps = dataset.action_mask.sum(axis=1) + 1
    with h5py.File(storage.data_path / _FILE, "a") as file:
        for episode, count in enumerate(steps.tolist()):
            group = file.create_group(f"episode_{episode}")
            for where, name, dtype in (
                (group, "observations", np.int64),
                (group.create_group("infos"), "roles", np.int8),
            ):
                where.create_dataset(
                    name,
                    shape=(0, width),
                    maxshape=(None, width),
                    chunks=(min(count, 64), width),
                    dtype=dtype,
                    compression="gzip",
                    shuffle=True,
                )


def _entry_of(name: str, opened: MinariDataset) -> dict[str, Any] | None:
    """Return our entry of the metadata, checked; None of a data set combined of several."""
    entry: dict[str, Any] | None = opened.storage.metadata.get(_ENTRY)
    if entry is None and opened.storage.metadata.get("combined_datasets"):
        return None
    if entry is None:
        raise DatasetError(
            f"{name}: metadata has no {_ENTRY!r}; only data sets that text_envs exported can be "
            "read"
        )
    facts = {key: value for key, value in entry.items() if key != CHECKSUM}
    if entry.get(CHECKSUM) != checksum_of_facts(facts):
        raise DatasetError(
            f"{name}: metadata[{_ENTRY!r}] has been altered: its checksum does not fit"
        )
    return entry


def _described(opened: MinariDataset) -> dict[str, Any]:
    """Return the metadata of a data set that lost ours, as one combined of several has."""
    if opened.env_spec is None:
        return {}
    env = gym.make(opened.env_spec)
    facts = describe(env)
    env.close()
    return facts


def _is_minari(source: Any) -> bool:
    """Return whether `source` is the id of a Minari data set, or one of Minari's objects."""
    if isinstance(source, str | os.PathLike):
        return _ID.fullmatch(os.fspath(source)) is not None
    return hasattr(source, "iterate_episodes")


add_reader(_is_minari, from_minari)
