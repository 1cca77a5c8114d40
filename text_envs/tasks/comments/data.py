"""Recorded comments with their replies: pairs, or comments that name their parent by an id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.shared.records import Record, read_records

__all__ = ["as_example", "load_comments"]

_PARENT = ("parent", "parent_comment", "parent_body", "prompt")
_REPLY = ("reply", "body", "comment", "text")
_SCORE = ("score", "upvotes", "ups")
_GONE = frozenset(("", "[deleted]", "[removed]"))
_COMMENT = "t1_"  # Reddit's prefix of a comment's full id; posts have another

Reply = tuple[str, float]


def load_comments(dataset: Any, *, split: str) -> list[Example]:
    """Return one example a parent comment, with its replies, in the order of the data.

    Args:
        dataset: rows as `shared.records.read_records` takes them, either pairs (`parent`,
            `reply` or `body`, `score` or `upvotes`) or the comments of a Reddit dump (`id`,
            `parent_id`, `body`, `score`), which are paired here. Scores may be missing.
        split: the split to keep.

    Raises:
        DatasetError: a malformed row, or not one reply whose parent is in the data.
    """
    records = read_records(dataset, split=split)
    paired = "parent_id" not in records[0] or records[0].key(*_PARENT) is not None
    replies: dict[str, list[Reply]] = {}
    for parent, reply in _pairs(records) if paired else _joined(records):
        if parent not in _GONE and reply[0] not in _GONE:
            replies.setdefault(parent, []).append(reply)
    if not replies:
        raise DatasetError(
            f"{records[0].where}: none of the {len(records)} rows from here on is a reply to a "
            "comment that is in the data too and was not deleted"
        )
    return [as_example(parent, said) for parent, said in replies.items()]


def as_example(parent: str, replies: Iterable[Reply], **metadata: Any) -> Example:
    """Return a comment with its scored replies; those voted up, or unscored, are references.

    Args:
        parent: the comment.
        replies: `(text, score)`; the score may be NaN.
        **metadata: what else is known.
    """
    # The best first; a stable sort keeps the order of the data among equals and unscored ones.
    ranked = sorted(replies, key=lambda reply: -reply[1] if reply[1] == reply[1] else 0.0)
    good = tuple(text for text, score in ranked if not score <= 0)
    return Example(parent, good, {"replies": tuple(ranked), **metadata})


def _score(record: Record) -> float:
    return float("nan") if record.key(*_SCORE) is None else record.number(*_SCORE)


def _pairs(records: list[Record]) -> Iterable[tuple[str, Reply]]:
    for record in records:
        yield record.text(*_PARENT), (record.text(*_REPLY), _score(record))


def _joined(records: list[Record]) -> Iterable[tuple[str, Reply]]:
    bodies = {record.text("id"): record.text("body") for record in records}
    for record in records:
        parent = record.text("parent_id")
        if parent.removeprefix(_COMMENT) in bodies and parent.startswith(_COMMENT):
            body = bodies[parent.removeprefix(_COMMENT)]
            yield body, (record.text("body"), _score(record))
