"""Posts with summaries in the formats that are in use: TL;DR of the Hub, OpenAI's, Webis'."""

from __future__ import annotations

import re
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.shared.records import Record, read_records

__all__ = ["as_example", "load_posts"]

_ASK = re.compile(r"\s*tl\s*;?\s*dr\s*:?\s*$", re.IGNORECASE)


def load_posts(dataset: Any, *, split: str) -> list[Example]:
    """Return one example a post, in the order of the data; a repeated post gathers references.

    Args:
        dataset: rows as `shared.records.read_records` takes them, with `prompt` (which
            may end with "TL;DR:") and `completion`; or `post` and `summary`, where a `title` and
            a `subreddit` are put in front as the Hub's format has them; or `content` and
            `summary`. Summaries may be missing.
        split: the split to keep.

    Raises:
        DatasetError: a malformed row, or an empty post.
    """
    found: dict[str, list[str]] = {}
    for record in read_records(dataset, split=split):
        post = _post(record)
        if not post:
            raise DatasetError(f"{record.where}: the post is empty")
        summaries = found.setdefault(post, [])
        name = next((name for name in ("completion", "summary") if name in record), None)
        if name is not None and (text := record.text(name)) and text not in summaries:
            summaries.append(text)
    return [as_example(post, tuple(summaries)) for post, summaries in found.items()]


def as_example(post: str, summaries: tuple[str, ...], **metadata: Any) -> Example:
    """Return a post that asks for its summary.

    Args:
        post: the text to summarise.
        summaries: good summaries, if any.
        **metadata: what else is known.
    """
    return Example(f"{post}\nTL;DR:", summaries, {"post": post, **metadata})


def _post(record: Record) -> str:
    field = record.find("prompt", "post", "content")
    text = _ASK.sub("", record.text(field))
    if field == "post" and "title" in record and "subreddit" in record:
        subreddit, title = record.text("subreddit"), record.text("title")
        return f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {text}"
    return text
