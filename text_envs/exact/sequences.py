"""Every finished text of a tree with its probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.exact.tree import Tree

__all__ = ["Sequences", "list_sequences", "log_endings"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Sequences:
    r"""X finished texts; probabilities are given the start, so they sum to 1 for each start.

    Where a text's course depends on nothing but the text,
    `log_posterior == log_reference + rewards / beta - log_z` of its start.

    Attributes:
        tree: where they come from.
        tokens: `(X, L)` the observation after the last action; what the environment may still
            have said to it is left out.
        starts: `(X,)` the node each text starts at; `tree.chances[starts]` is its probability.
        rewards: `(X,)` sums of the rewards, undiscounted; averages over examples that look the
            same.
        log_posterior: `(X,)` log p*.
        log_reference: `(X,)` log pi0.
    """

    tree: Tree
    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    rewards: Floats
    log_posterior: Floats
    log_reference: Floats

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def texts(self) -> list[str]:
        """What follows the prompt, as text."""
        task = self.tree.task
        return [task.tokenizer.decode(row) for row in self.tokens[:, task.prompt_length :].tolist()]

    def __repr__(self) -> str:
        return f"Sequences({len(self)} texts of {self.tree!r})"


def log_endings(tree: Tree, log_policy: Floats) -> Floats:
    """Return the log-probability that an episode ends with each edge, `(N, A)`."""
    with np.errstate(divide="ignore"):
        log_ends = np.log(tree.ends)
    return tree.log_reach(log_policy)[:, None] + log_policy + log_ends


def list_sequences(tree: Tree, log_policy: Floats, log_reference: Floats) -> Sequences:
    """Return the texts, with `log_policy` `(N, A)` for the posterior's conditionals."""
    node, action = np.nonzero(tree.ends)
    tokens = tree.observations[node].copy()
    tokens[np.arange(len(node)), tree.positions[node]] = tree.actions[action]
    starts = _starts(tree)[node]
    log_start = np.log(tree.chances[starts])
    return Sequences(
        tree=tree,
        tokens=tokens,
        starts=starts,
        rewards=tree.returns[node, action],
        log_posterior=log_endings(tree, log_policy)[node, action] - log_start,
        log_reference=log_endings(tree, log_reference)[node, action] - log_start,
    )


def _starts(tree: Tree) -> NDArray[np.int64]:
    """Return the start that each node descends from, `(N,)`."""
    starts = np.arange(tree.num_nodes)
    for level in tree.levels[1:]:
        starts[level] = starts[tree.parents[level] // len(tree.actions)]
    return starts
