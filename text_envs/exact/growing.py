"""Enumerating a tree: every action after every observation, level by level, on the env's engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.exact.particles import Particles, Stepper
from text_envs.exact.source import find_source
from text_envs.exact.tree import Tree
from text_envs.policies.functions import as_log_probs

__all__ = ["MAX_NODES", "enumerate_tree"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Support: TypeAlias = Callable[[NDArray[Any]], NDArray[np.bool_]]

MAX_NODES = 5_000_000
"""Nodes a tree may have unless asked otherwise, finished texts included."""


def enumerate_tree(env: Any, *, support: Any = None, max_nodes: int = MAX_NODES) -> Tree:
    """Return the tree of an environment; `solve`, `evaluate` and `q_of` take it in place of one.

    Args:
        env: an id, an environment of text_envs (wrapped or as a `VecEnv`), a `Task`, or a tree.
        support: a policy, anything `text_envs.policies.as_log_probs` takes: what it never writes
            is left out of the tree. None for everything that may be written. Worth it where good
            players write little of what may be written, such as words of five letters.
        max_nodes: the largest tree to enumerate, see `MAX_NODES`.

    Raises:
        ValueError: the tree is larger, or the task draws random numbers within an episode.
        TypeError: `env` is none of these.
    """
    if isinstance(env, Tree):
        if support is not None:
            raise ValueError("this tree is enumerated already; support= goes with an environment")
        return env
    source = find_source(env)
    task = source.task
    actions = np.flatnonzero(~np.asarray(task.tokenizer.forbidden, dtype=bool))
    stepper = Stepper(source)
    writes = None if support is None else _writes(support, task, actions)
    _check_size(task, len(task), 0, len(actions), max_nodes)  # a start has at least one action
    particles = stepper.begin()
    level = _group(particles, np.full(len(particles), -1), writes)
    starts, size = level.particles.node, len(level.parents)
    levels: list[_Level] = []
    grown: list[_Edges] = []
    while True:
        following = size + _count_pairs(level, len(actions))
        _check_size(task, following, len(levels), len(actions), max_nodes)
        pairs = _pairs(level, len(actions))
        edges, children, parents = _grow(stepper, level, actions, pairs)
        levels.append(replace(level, particles=level.particles.seen(level.first)))
        grown.append(edges)
        size = following
        if not len(children):
            return _assemble(task, actions, levels, grown, starts)
        level = _group(children, parents, writes)


def _writes(support: Any, task: Task, actions: Ints) -> _Support:
    policy = as_log_probs(support, task)

    def writes(observations: NDArray[Any]) -> NDArray[np.bool_]:
        return policy(observations.astype(np.int64))[:, actions] > -np.inf

    return writes


def _check_size(task: Task, size: int, depth: int, actions: int, max_nodes: int) -> None:
    """Raise before a level is grown that would not fit."""
    if size > max_nodes:
        raise ValueError(
            f"the tree of {type(task).__name__} is too large: {size:,} nodes after {depth + 1} of "
            f"up to {task.max_tokens} tokens ({len(task):,} examples, {actions:,} actions); the "
            f"limit is max_nodes={max_nodes:,}. Use fewer examples, a smaller tokenizer or "
            "max_tokens, leave actions out with enumerate_tree(env, support=policy), or raise "
            "max_nodes"
        )


@dataclass(frozen=True)
class _Level:
    """The nodes before one action: n nodes that P particles share.

    Attributes:
        particles: the episodes in progress; of a finished level one for each node.
        first: `(n,)` a particle of each node.
        parents: `(n,)` edge of the level above, by its number within that level; -1 at starts.
        counts: `(n,)` how many particles share a node.
        allowed: `(n, A)` the actions to write, or None for all.
    """

    particles: Particles
    first: Ints
    parents: Ints
    counts: Ints
    allowed: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Edges:
    """What writing each action does at the n nodes of a level, all `(n, A)`."""

    rewards: Floats
    ends: Floats
    returns: Floats


def _group(particles: Particles, parents: Ints, writes: _Support | None) -> _Level:
    """Put particles into one node where parent edge `(P,)` and observation are the same."""
    first, node, counts = _unique(parents)
    if (particles.tokens[first][node] != particles.tokens).any():  # replies, or starts, differ
        # Most significant byte first: nodes are then numbered in the order of their parents.
        tokens = particles.tokens.astype(f">u{particles.tokens.dtype.itemsize}").view(np.uint8)
        edges = parents.astype(">i8")[:, None].view(np.uint8)
        rows = np.ascontiguousarray(np.concatenate([edges, tokens], axis=1))
        first, node, counts = _unique(rows.view(f"V{rows.shape[1]}").reshape(-1))
    allowed = None if writes is None else writes(particles.tokens[first])
    return _Level(replace(particles, node=node), first, parents[first], counts, allowed)


def _unique(keys: NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """Return the first place, the number and the count of each key; keys are numbered in order."""
    _, first, number, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    return first, number.reshape(-1), counts


def _count_pairs(level: _Level, count: int) -> int:
    """Return how many `_pairs` there are, without making them."""
    if level.allowed is None:
        return len(level.particles) * count
    return int(level.allowed.sum(axis=1) @ level.counts)


def _pairs(level: _Level, count: int) -> Ints:
    """Return every particle with every action that is written after it: `particle * A + action`."""
    if level.allowed is None:
        return np.arange(len(level.particles) * count)
    return np.flatnonzero(level.allowed[level.particles.node])


def _grow(
    stepper: Stepper, level: _Level, actions: Ints, pairs: Ints
) -> tuple[_Edges, Particles, Ints]:
    """Write actions after the particles of a level.

    Args:
        stepper: how.
        level: the particles.
        actions: `(A,)` ids.
        pairs: which of them after which particle, see `_pairs`.

    Returns:
        the edges; the particles that go on, `(P',)`; the edge each of them has come through.
    """
    particles, count = level.particles, len(actions)
    rewards, ended = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    parts, rows = [], stepper.fit(len(pairs))
    for first in range(0, len(pairs), rows):
        part = slice(first, first + rows)
        which, action = np.divmod(pairs[part], count)
        rewards[part], ended[part], survivors = stepper.step(particles, which, actions[action])
        parts.append(survivors)
    which, action = np.divmod(pairs, count)
    edge = particles.node[which] * count + action
    returns = particles.returns[which] + rewards
    shape = (len(level.first), count)

    def summed(where: Any, weights: Floats | None = None) -> Any:
        sums = np.bincount(edge[where], weights=weights, minlength=shape[0] * shape[1])
        return sums.reshape(shape)

    shares, over = level.counts[:, None], summed(ended)
    edges = _Edges(
        rewards=summed(slice(None), rewards) / shares,
        ends=over / shares,
        returns=summed(ended, returns[ended]) / np.maximum(over, 1),
    )
    return edges, Particles.join(parts), edge[~ended]


def _assemble(
    task: Task, actions: Ints, levels: list[_Level], grown: list[_Edges], starts: Ints
) -> Tree:
    """Join the levels, with nodes and edges numbered throughout."""
    first = [0, *np.cumsum([len(level.parents) for level in levels]).tolist()]
    parents, chances = [levels[0].parents], [levels[0].counts / len(task)]
    for depth, level in enumerate(levels[1:]):
        parents.append(level.parents + first[depth] * len(actions))
        chances.append(level.counts / levels[depth].counts[level.parents // len(actions)])
    allowed = [level.allowed for level in levels if level.allowed is not None]
    return Tree(
        task=task,
        actions=actions,
        levels=tuple(slice(*bounds) for bounds in zip(first[:-1], first[1:], strict=True)),
        observations=np.concatenate([level.particles.tokens for level in levels]),
        positions=np.concatenate([level.particles.position for level in levels]),
        parents=np.concatenate(parents),
        chances=np.concatenate(chances),
        rewards=np.concatenate([edges.rewards for edges in grown]),
        ends=np.concatenate([edges.ends for edges in grown]),
        returns=np.concatenate([edges.returns for edges in grown]),
        allowed=np.concatenate(allowed) if allowed else None,
        starts=starts,
    )
