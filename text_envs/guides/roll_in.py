r"""Roll-in: a guide writes the first tokens of an episode, the agent goes on from there.

Notation: c the prompt, g the guide, y a text that it writes, l the number of its tokens (the end
token included), h how many of them are kept, beta the share of guided starts.

    y ~ g(. | c),   h ~ Uniform{1, ..., l - 1} with probability beta if l >= 2, else h = 0

so that the start states are d(s) = (1 - beta) d_prompts(s) + beta d_guide(s): the prompts mixed
with the states that the guide visits on its way, the agent's own states following from them. The
mixture changes where an agent begins to learn, not what is best from there.

| symbol | here | shape |
|---|---|---|
| beta | `GuidedStarts(beta=)` | number in [0, 1] |
| g | `GuidedStarts(guide)`, see `text_envs.guides` | |
| y | `GuidedStarts.texts` | a list of l ids a row |
| h | `info["prefix_length"]` at a reset | `(N,)` |

The kept tokens have the role `Role.PREFIX` (`info["roles"]`), by which losses leave them out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.playing import play_out
from text_envs.core.rows import TokenRows
from text_envs.core.state import fork
from text_envs.core.task import Task
from text_envs.episodes.types import Role
from text_envs.guides import Guide, Queries, as_guide

__all__ = ["GuidedStarts"]


class GuidedStarts:
    """A start plug-in: with probability beta, an episode begins with a prefix of a guide's text.

    The guide plays on copies of the rows, all rows that start together in one batch. Where a task
    replies at random, the copies' replies come again when the prefix is written: with several
    turns, l counts the guide's tokens, and the prefix brings the replies to its turns along. All
    draws come from the generators of the rows, so that seeds repeat and row i of a batch starts as
    a single environment would; `beta=0` draws nothing. Rows of a group (`group_size`) start alike,
    and ask for one text where the task has no turns.

    A guide that fails makes `reset` fail. Where a row starts again within a step, the step's
    results come first: the row starts without a prefix, and the next step raises, once.

    >>> import gymnasium as gym, text_envs
    >>> starts = GuidedStarts("script:expert", beta=1.0)  # writes "a b" and the end: l = 3
    >>> env = gym.make("text_envs/Toy-v0", starts=starts)
    >>> observation, info = env.reset(seed=0)
    >>> info["prefix_length"], env.unwrapped.tokenizer.decode(observation)
    (2, 'a b')
    >>> _, reward, terminated, _, info = env.step(2)  # the agent ends the text
    >>> reward, info["roles"].tolist()  # 1 prompt, 2 prefix, 3 action
    (1.5, [1, 2, 2, 3])
    >>> starts.queries
    Queries(calls=1, rows=1, tokens=3)

    Deviations from the paper: the guide is anything that writes, not only a language model; turns.

    Reference: Chang et al., "Learning to Generate Better Than Your LLM", 2023, arXiv 2306.11816.

    Attributes:
        beta: the share of guided starts; may be changed between resets.
        queries: what the guide has been asked so far.
    """

    def __init__(
        self,
        guide: Any,
        beta: float = 0.5,
        *,
        guide_kwargs: Mapping[str, Any] | None = None,
        device: Any = "auto",
    ) -> None:
        """Choose a guide.

        Args:
            guide: anything `text_envs.guides.as_guide` takes; it is built when an environment is.
            beta: the probability of a prefix, 0 to 1.
            guide_kwargs: arguments of `as_guide`, such as `temperature`.
            device: where a guide that is named is put, see `as_guide`.

        Raises:
            ValueError: beta out of range.
        """
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be a probability, 0 to 1, got {beta!r}")
        self.beta = float(beta)
        self.queries = guide.queries if isinstance(guide, Guide) else Queries()
        self._source, self._kwargs = guide, {"device": device, **(guide_kwargs or {})}
        self._guides: list[Guide] = []  # one for each task that was bound

    def __deepcopy__(self, memo: dict[int, Any]) -> GuidedStarts:
        return self  # Gymnasium copies the arguments of environments; guides may be large

    def fork(self) -> GuidedStarts:
        """Return a plug-in for a copied environment: the same guides, counting for themselves."""
        other = copy.copy(self)
        other.queries = replace(self.queries)
        other._guides = [guide.fork() for guide in self._guides]
        for guide in other._guides:
            guide.queries = other.queries
        return other

    def bind(self, task: Task) -> None:
        """Build the guide for `task`; environments of one kind share its model.

        Raises:
            GuideError: the guide does not fit the task.
        """
        if any(guide.task is task for guide in self._guides):
            return
        alike = next((guide for guide in self._guides if guide.fits(task)), None)
        guide = as_guide(self._source, task, **self._kwargs) if alike is None else alike.on(task)
        guide.queries = self.queries
        self._guides.append(guide)

    def guide(self, task: Task) -> Guide:
        """Return the guide for a task that has been bound."""
        return next(guide for guide in self._guides if guide.task is task)

    def prefixes(self, engine: TokenRows, rows: NDArray[np.int64]) -> list[list[int]]:
        """Return the prefix of each of `rows`, which have just begun; see `plugins.Starts`."""
        prefixes: list[list[int]] = [[] for _ in range(len(rows))]
        if self.beta == 0:
            return prefixes
        seeds = engine.start_seeds(rows)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        guided = [i for i, rng in enumerate(rngs) if rng.random() < self.beta]
        # Rows with one seed are a group; with turns, each of them has replies of its own.
        asked = guided
        if not engine.task.multi_turn:
            asked = list({seeds[i]: i for i in reversed(guided)}.values())
        if not asked:
            return prefixes
        texts = self.texts(engine, rows[asked], [rngs[i] for i in asked])
        kept: dict[int, list[int]] = {}
        for i, text in zip(asked, texts, strict=True):
            h = int(rngs[i].integers(1, len(text))) if len(text) >= 2 else 0
            kept[i if engine.task.multi_turn else seeds[i]] = text[:h]
        for i in guided:
            prefixes[i] = kept[i if engine.task.multi_turn else seeds[i]]
        return prefixes

    def texts(
        self, engine: TokenRows, rows: NDArray[np.int64], rngs: list[np.random.Generator]
    ) -> list[list[int]]:
        """Return all that the guide writes in an episode from each of `rows`, on copies of them.

        Args:
            engine: whose rows; they stay as they are.
            rows: `(B,)`.
            rngs: B generators of the guide.
        """
        scratch = fork(engine, rows)
        begun = scratch.position.copy()
        play_out(scratch, scratch.all_rows, self.guide(engine.task), rngs)
        by_guide = scratch.roles(scratch.all_rows) == int(Role.ACTION)  # (B, L)
        by_guide &= np.arange(scratch.num_columns) >= begun[:, None]
        return [row[mask].tolist() for row, mask in zip(scratch.tokens, by_guide, strict=True)]
