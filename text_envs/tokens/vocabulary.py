"""What tells one vocabulary from another, and whether a model learnt with that of a task.

Two tokenizers of the same size make spaces that nobody can tell apart, and a model of the one
writes nonsense with the other. So agents keep the facts of the tokenizer that they learn with, save
them, and whoever uses an agent for a task compares.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "check_vocabulary",
    "model_folder",
    "saved_vocabulary",
    "tokenizer_facts",
    "vocabulary_of",
]

# Folders of a checkpoint, one in the other, of which the innermost holds the model.
_INSIDE = ("policy", "lm")


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Return what tells one vocabulary from another: special ids, sizes and a digest of words.

    Args:
        tokenizer: a `text_envs.tokens.Tokenizer`.
    """
    try:
        return dict(_facts(tokenizer))
    except TypeError:  # a tokenizer that cannot be hashed
        return dict(_facts.__wrapped__(tokenizer))


@functools.lru_cache(maxsize=16)
def _facts(tokenizer: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    for word in _words(tokenizer):
        digest.update(f"{len(word)}:{word}".encode("utf-8", "surrogatepass"))
    digest.update(np.packbits(np.asarray(tokenizer.forbidden, dtype=bool)).tobytes())
    return {
        "kind": type(tokenizer).__name__,
        "vocab_size": int(tokenizer.vocab_size),
        "num_actions": int(tokenizer.num_actions),
        "pad_id": int(tokenizer.pad_id),
        "eos_id": int(tokenizer.eos_id),
        "bos_id": None if tokenizer.bos_id is None else int(tokenizer.bos_id),
        "sha256": digest.hexdigest(),
    }


def _words(tokenizer: Any) -> list[str]:
    if hasattr(tokenizer, "words"):
        return list(tokenizer.words)
    if hasattr(tokenizer, "hf"):
        known = sorted((i, word) for word, i in tokenizer.hf.get_vocab().items())
        # Without padding, which no model is fed: where it was added, its spelling says nothing.
        return [f"{i} {word}" for i, word in known if i != tokenizer.pad_id]
    return [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]


def model_folder(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return where a saved agent, or its policy, keeps its model; anything else as it is."""
    for inside in (Path(*_INSIDE), Path(_INSIDE[-1])):
        if (Path(source) / inside).is_dir():
            return Path(source) / inside
    return source


def vocabulary_of(agent: Any) -> dict[str, Any] | None:
    """Return the facts that an agent or a policy keeps of its tokenizer; None of anything else."""
    facts: dict[str, Any] | None = getattr(getattr(agent, "policy", agent), "vocabulary", None)
    return facts


def saved_vocabulary(source: Any, *, inside: bool = True) -> dict[str, Any] | None:
    """Return the facts that a saved agent or policy keeps of its tokenizer.

    Args:
        source: the folder it was saved to; of anything else nothing is known.
        inside: whether it may be a folder inside of that one, as `policy/lm`.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    folders = [path]
    while inside and path.name in _INSIDE:
        path = path.parent
        folders.append(path)
    for config in (folder / "config.json" for folder in folders):
        facts = json.loads(config.read_bytes()).get("tokenizer") if config.is_file() else None
        if isinstance(facts, dict) and "sha256" in facts:
            return facts
    return None


def check_vocabulary(
    name: str, theirs: Mapping[str, Any] | None, tokenizer: Any, *, padding: bool = False
) -> None:
    """Refuse what learnt with other words than those of `tokenizer`.

    Args:
        name: what is checked, for the message.
        theirs: facts of its tokenizer; None where nobody knows them, and nothing is refused.
        tokenizer: a `text_envs.tokens.Tokenizer`.
        padding: whether padding must have the same id, as must where texts are shown as they are;
            a model that is made anew for an environment never sees it.

    Raises:
        ValueError: the facts differ.
    """
    if theirs is None:
        return
    ours = tokenizer_facts(tokenizer)
    if any(theirs.get(key) != ours[key] for key in ours if padding or key != "pad_id"):
        raise ValueError(
            f"{name} learnt with another tokenizer, {dict(theirs)}; the environment has {ours}; "
            "accepted: an environment made with the tokenizer of the model"
        )
