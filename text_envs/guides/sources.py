"""Where guides come from: functions, language models, agents, scripted players."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from text_envs.core.task import Task
from text_envs.episodes.errors import GuideError, suggest
from text_envs.guides.base import Completion, Guide, Query
from text_envs.guides.sampler import Sampler
from text_envs.policies.functions import PolicyFunction, as_log_probs
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.vocabulary import check_vocabulary, vocabulary_of

__all__ = ["BlackBox", "Script", "as_guide"]

_SCRIPT = "script:"
# Values of what decides how a model writes that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_k": (None,), "top_p": (None, 1.0), "min_p": (None, 0.0),
    "repetition_penalty": (1.0,), "min_tokens": (0,), "deterministic": (False,),
}  # fmt: skip


def as_guide(
    source: Any,
    task: Task,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = 1.0,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    min_tokens: int = 0,
    deterministic: bool = False,
    tokenizer: Any = None,
    strict: bool = True,
    name: str | None = None,
    device: Any = "auto",
) -> Guide:
    """Return a guide for `task`; see `text_envs.guides` for what each source does.

    Args:
        source: a function of a `Query`; `"script:<quality>"`; a causal language model, an agent
            or policy of Stable-Baselines3, or a `text_envs.policies.PolicyFunction`; the name or
            folder of a language model; a `Guide`.
        task: whose texts it continues.
        temperature: divides the scores of a model.
        top_k: a model draws from so many of its likeliest tokens; None for all.
        top_p: a model draws from the smallest set of tokens with this mass.
        min_p: a model draws from tokens with this share of the likeliest one's probability.
        repetition_penalty: makes a model's repetitions less likely, as in `generate`; 1 for none.
        min_tokens: so many tokens stand behind the prompt before a model ends the text.
        deterministic: a model writes its most likely token.
        tokenizer: what a language model that is passed as an object was trained with; compared
            with the task's.
        strict: False cuts completions that are too long, and ends the turn where one is empty.
        name: for messages; by default the source's own.
        device: where a language model that is named is put; "auto" is the GPU where there is one.
            Models that are given as objects stay where they are.

    Raises:
        GuideError: the source belongs to other tokens or observations.
        ValueError: an argument is out of range, or means nothing for this source.
        TypeError: the source is of another kind.

    >>> from text_envs.tasks.toy import Toy
    >>> as_guide("script:expert", Toy())
    Script(script:expert, Queries(calls=0, rows=0, tokens=0))
    """
    given = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "min_tokens": min_tokens,
        "deterministic": deterministic,
    }  # fmt: skip
    decoding: dict[str, Any] = {n: v for n, v in given.items() if v not in _NEUTRAL[n]}
    if isinstance(source, Guide):
        _check_no_decoding(source.name, decoding)
        return source.on(task)
    if isinstance(source, str) and source.startswith(_SCRIPT):
        _check_no_decoding(source, decoding)
        return Script(task, source.removeprefix(_SCRIPT), name=name)
    if isinstance(source, str) and source in task.qualities:
        raise ValueError(f"unknown guide {source!r}. Did you mean {_SCRIPT + source!r}?")
    if _is_policy(source):
        policy = _policy(source, task, tokenizer, device)
        return Sampler(task, policy, name=name or policy.name, **decoding)
    if callable(source):
        label = str(name or getattr(source, "__name__", type(source).__name__))
        _check_no_decoding(label, decoding)
        return BlackBox(task, source, name=label, strict=strict)
    raise TypeError(
        "a guide must be a function of a query, 'script:<quality>', a causal language model or its "
        f"name, or an agent or policy of Stable-Baselines3; got {type(source).__name__}"
    )


def _check_no_decoding(name: str, decoding: dict[str, Any]) -> None:
    if decoding:
        raise ValueError(f"guide {name} decides itself how it writes; {decoding} are for models")


# -- functions -----------------------------------------------------------------------------------


class BlackBox(Guide):
    """A function that is only sampled from: one call for all rows."""

    def __init__(
        self,
        task: Task,
        function: Callable[[Query], Sequence[Completion]],
        *,
        name: str,
        strict: bool = True,
    ) -> None:
        """Wrap `function`, which gets a `Query` and returns one completion a row."""
        super().__init__(task, name, strict=strict)
        self.function = function

    def write(self, query: Query) -> Sequence[Completion]:
        """Ask the function."""
        return self.function(query)


# -- scripted players ----------------------------------------------------------------------------


class Script(Guide):
    """The task's own scripted player.

    A script plays whole turns. Where a turn has been begun as the script begins its own, it writes
    the rest; elsewhere the whole turn after what stands there, as far as it fits.
    """

    def __init__(self, task: Task, quality: str, *, name: str | None = None) -> None:
        """Play `quality`; "mixed" is drawn anew for every turn.

        Raises:
            ValueError: the task has no script of this quality.
        """
        super().__init__(task, name or f"{_SCRIPT}{quality}", strict=False)
        if quality not in task.qualities:
            raise ValueError(f"unknown quality {quality!r}.{suggest(quality, task.qualities)}")
        self.quality = quality

    def write(self, query: Query) -> list[Completion]:
        """Ask the script for whole turns, as from their first columns."""
        qualities = self.task.draw_qualities(self.quality, query.rngs)
        allowed = np.flatnonzero(~np.asarray(self.task.tokenizer.forbidden))
        written: list[Completion] = [
            [int(rng.choice(allowed))] if quality == "random" else []
            for rng, quality in zip(query.rngs, qualities, strict=True)
        ]
        scripted = [i for i, quality in enumerate(qualities) if quality != "random"]
        if scripted:
            turns = _from_their_start(query, scripted)
            lines = self.task.script(turns, [qualities[i] for i in scripted])
            for i, line in zip(scripted, lines, strict=True):
                begun = query.tokens[i, query.start[i] : query.stop[i]].tolist()
                line = list(line)
                written[i] = line[len(begun) :] if line[: len(begun)] == begun else line
        return written


def _from_their_start(query: Query, chosen: list[int]) -> Query:
    """Return some rows of a query without what stands of their turns."""
    start = query.start[chosen]
    tokens = query.tokens[chosen]
    tokens[np.arange(tokens.shape[1]) >= start[:, None]] = query.task.tokenizer.pad_id
    return replace(
        query,
        rows=query.rows[chosen],
        tokens=tokens,
        start=start,
        stop=start,
        example_indices=query.example_indices[chosen],
        rngs=[query.rngs[i] for i in chosen],
        room=query.room[chosen] + query.stop[chosen] - start,
    )


# -- models --------------------------------------------------------------------------------------


def _is_policy(source: Any) -> bool:
    if isinstance(source, PolicyFunction | str | os.PathLike):
        return True
    return any(
        hasattr(source, name) for name in ("policy", "get_distribution", "predict", "state_dict")
    )


def _policy(source: Any, task: Task, tokenizer: Any, device: Any) -> PolicyFunction:
    name = repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else None
    name = name or getattr(source, "name", None) or type(source).__name__
    try:
        own = _tokenizer_of(source) if tokenizer is None else load_tokenizer(tokenizer)
        if own is not None and own != task.tokenizer:
            raise ValueError(_other_tokens(own, task.tokenizer))
        check_vocabulary("it", vocabulary_of(source), task.tokenizer)
        _check_embeddings(source, task)
        return as_log_probs(_frozen(source), task, device)
    except ValueError as error:
        raise GuideError(f"guide {name} does not fit the task: {error}", guide=str(name)) from error


def _tokenizer_of(source: Any) -> Tokenizer | None:
    """Return the tokenizer of an agent's environment; None where nobody knows one."""
    try:
        found = source.env.get_attr("tokenizer")[0]
    except AttributeError:
        return None
    return found if isinstance(found, Tokenizer) else None


def _other_tokens(own: Tokenizer, tokenizer: Tokenizer) -> str:
    """Return in which way two tokenizers differ."""
    message = f"its tokenizer is {own!r}, the task's {tokenizer!r}"
    for i in range(min(own.vocab_size, tokenizer.vocab_size)):
        mine, wanted = own.decode([i]), tokenizer.decode([i])
        if mine != wanted:
            return f"{message}: id {i} is {mine!r} there and {wanted!r} here"
    return message


def _check_embeddings(source: Any, task: Task) -> None:
    """Raise a ValueError where a prompt may hold a token that the language model lacks."""
    lm = getattr(source, "lm", source)
    if not hasattr(lm, "get_input_embeddings") or not hasattr(lm, "config"):
        return
    from text_envs.lm.checks import check_shown

    tokenizer = task.tokenizer
    check_shown(lm, max(i for i in range(tokenizer.vocab_size) if i != tokenizer.pad_id))


def _frozen(source: Any) -> Any:
    """Return a copy of a model that training the original does not change."""
    source = getattr(source, "policy", source)
    if not hasattr(source, "state_dict"):
        return source
    from text_envs.lm import ActionLM, freeze

    actor = getattr(source, "actor", None)
    if isinstance(actor, ActionLM) and _is_its_actor(source):
        return freeze(actor)
    return freeze(source)


def _is_its_actor(policy: Any) -> bool:
    """Return whether a policy's language model has the policy's distribution.

    Not so where a subclass has a distribution of its own, as one guided by values has.
    """
    owner = next((k for k in type(policy).__mro__ if "get_distribution" in vars(k)), None)
    return owner is not None and "actor_class" in vars(owner)
