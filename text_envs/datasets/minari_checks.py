"""What Minari can store, and under which name."""

from __future__ import annotations

from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.store import EpisodeDataset

__all__ = ["check_id", "check_storable"]


def check_id(minari: Any, dataset_id: str) -> None:
    """Raise a ValueError unless Minari takes `dataset_id` as the name of a data set."""
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except TypeError as error:  # which is all that Minari says of a missing version
        raise ValueError(
            f"the id of a Minari data set ends in a version, got {dataset_id!r}; for example "
            f"{dataset_id}-v0"
        ) from error


def check_storable(dataset: EpisodeDataset) -> None:
    """Refuse what Minari's steps have no place for."""
    elsewhere = (dataset.rewards != 0) & ~dataset.action_mask  # (B, L)
    for wrong, what in (
        (~dataset.action_mask.any(axis=1), "roles has no ACTION, so there is no step"),
        (elsewhere.any(axis=1), "rewards were earned by a prefix, which is no step"),
    ):
        if wrong.any():
            raise DatasetError(f"{dataset.source or 'data set'}: episode {wrong.argmax()}: {what}")
    texts: dict[str, Any] = {"finish_reasons": dataset.finish_reasons}
    texts |= {
        f"columns[{name!r}]": values.tolist()
        for name, values in dataset.columns.items()
        if values.dtype.kind == "U"
    }
    for field, values in texts.items():
        for episode, text in enumerate(values):
            if "\0" in text or not text.isprintable() and _is_broken(text):
                raise DatasetError(
                    f"{dataset.source or 'data set'}: episode {episode}: {field} is {text!r}, "
                    "which HDF5 cannot store"
                )


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
