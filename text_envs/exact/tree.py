"""The tree of everything that can be observed and written, as arrays, and its two recursions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.exact.lookup import ObservationIndex
from text_envs.policies.functions import PolicyFunction, as_log_probs

__all__ = ["Tree"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Nodes shown to a policy at once.
_CHUNK = 2**17


@dataclass(frozen=True, eq=False, repr=False)
class Tree:
    """N observations in which the agent acts, with A actions each; see `enumerate_tree`.

    A node stands for all that the agent has seen and written so far. Examples that look the same
    up to here share a node: rewards and replies are averages over them. An edge is a node and an
    action, flat number `node * A + action`.

    Attributes:
        task: whose tree.
        actions: `(A,)` the ids that may be written.
        levels: the nodes before the first action, before the second, ...
        observations: `(N, L)` tokens, in the smallest type that holds the vocabulary.
        positions: `(N,)` the column that the action is written to.
        parents: `(N,)` the edge that leads to each node; -1 at a start.
        chances: `(N,)` P(observation | that edge), and P(start) at a start.
        rewards: `(N, A)` expected reward of an edge, r(s, a).
        ends: `(N, A)` probability that the episode ends with an edge.
        returns: `(N, A)` expected sum of the rewards of episodes that end with an edge.
        allowed: `(N, A)` the edges that exist; None for all.
        starts: `(E,)` the node each example starts at.
    """

    task: Task
    actions: Ints
    levels: tuple[slice, ...]
    observations: NDArray[Any]
    positions: Ints
    parents: Ints
    chances: Floats
    rewards: Floats
    ends: Floats
    returns: Floats
    allowed: NDArray[np.bool_] | None
    starts: Ints

    @property
    def num_nodes(self) -> int:
        """N, the number of observations in which the agent acts."""
        return len(self.parents)

    @property
    def num_sequences(self) -> int:
        """The number of finished texts, counted once for each start."""
        return int(np.count_nonzero(self.ends))

    def __repr__(self) -> str:
        return (
            f"Tree({type(self.task).__name__}, {self.num_nodes:,} states, "
            f"{self.num_sequences:,} texts)"
        )

    # -- policies on arrays ----------------------------------------------------------------------

    def log_probs(self, policy: Any) -> Floats:
        """Return `(N, A)` log-probabilities of a policy at every node.

        Args:
            policy: anything `text_envs.policies.as_log_probs` takes.

        Raises:
            ValueError: it writes something that was left out of the tree.
        """
        function = as_log_probs(policy, self.task)
        out = np.empty(self.rewards.shape)
        for first in range(0, self.num_nodes, _CHUNK):
            part = slice(first, first + _CHUNK)
            out[part] = function(self.observations[part].astype(np.int64))[:, self.actions]
        if self.allowed is not None and (out[~self.allowed] > -np.inf).any():
            raise ValueError(
                f"policy {function.name} may write what is left out of this tree; enumerate it "
                "with a support that has all that the policy writes"
            )
        return out

    def log_uniform(self) -> Floats:
        """Return `(N, A)` log-probabilities of the policy that is uniform over the edges."""
        if self.allowed is None:
            return np.full(self.rewards.shape, -np.log(len(self.actions)))
        with np.errstate(divide="ignore"):
            uniform: Floats = np.log(self.allowed / self.allowed.sum(axis=1, keepdims=True))
        return uniform

    def expand(self, values: Floats) -> Floats:
        """Return values `(..., A)` as `(..., num_actions)`, minus infinity elsewhere."""
        full = np.full((*values.shape[:-1], self.task.tokenizer.num_actions), -np.inf)
        full[..., self.actions] = values
        return full

    def as_policy(self, log_policy: Floats, name: str) -> PolicyFunction:
        """Return the policy function of log-probabilities `(N, A)`."""

        def raw(tokens: Ints, rows: Ints | None) -> Floats:
            return self.expand(log_policy[self.find(tokens)])

        return PolicyFunction(raw, self.task.tokenizer, name)

    def find(self, observations: NDArray[Any]) -> Ints:
        """Return the nodes of observations `(B, L)`, see `ObservationIndex.find`."""
        return self._index.find(observations)

    @cached_property
    def _index(self) -> ObservationIndex:
        return ObservationIndex(self.observations, self.task.tokenizer.pad_id)

    # -- the two recursions ----------------------------------------------------------------------

    def backward(
        self, value: Callable[[Floats, slice], Floats], gamma: float
    ) -> tuple[Floats, Floats]:
        r"""Return $V$ and $Q(s, a) = r(s, a) + \gamma \sum_{s'} P(s' | s, a) V(s')$.

        Args:
            value: maps the Q `(n, A)` of the nodes of a level, and the level, to their V `(n,)`.
            gamma: discount for each action.

        Returns:
            `(N,)` V and `(N, A)` Q; minus infinity for an edge that was left out of the tree.
        """
        v, q = np.zeros(self.num_nodes), self.rewards.copy()
        if self.allowed is not None:
            q[~self.allowed] = -np.inf
        below: slice | None = None
        for level in reversed(self.levels):
            if below is not None:
                q[level] += gamma * self._expected(v, level, below)
            v[level] = value(q[level], level)
            below = level
        return v, q

    def _expected(self, v: Floats, level: slice, below: slice) -> Floats:
        """Return the expected V after each edge of a level, `(n, A)`; 0 where texts end."""
        edges = len(self.actions) * (level.stop - level.start)
        at = self.parents[below] - level.start * len(self.actions)
        mean = np.bincount(at, weights=self.chances[below] * v[below], minlength=edges)
        return mean.astype(np.float64, copy=False).reshape(-1, len(self.actions))

    def log_reach(self, log_policy: Floats) -> Floats:
        r"""Return $\log P(s)$ `(N,)`: that an episode of a policy `(N, A)` comes through a node."""
        reach: Floats = np.log(self.chances)
        log_policy = log_policy.reshape(-1)
        for level in self.levels[1:]:
            edge = self.parents[level]
            reach[level] += reach[edge // len(self.actions)] + log_policy[edge]
        return reach
