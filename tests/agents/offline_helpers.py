"""What tests of offline value learning share: full-coverage data, exact values, small agents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from models import tiny_gpt2

import text_envs
from text_envs.core.engine import TokenEngine
from text_envs.core.playing import play_out
from text_envs.core.task import Task
from text_envs.datasets import EpisodeDataset
from text_envs.episodes.types import Turns
from text_envs.rewards import resolve
from text_envs.tasks.maze import Maze
from text_envs.tasks.toy import Toy

State = tuple[int, ...]


def play(task: Task, plans: Sequence[tuple[int, Sequence[int]]]) -> EpisodeDataset:
    """Return the episodes in which example `i` is answered with the given agent tokens.

    What is left of a plan when its episode ends is not written, so two plans may give one episode.
    """
    model = None if task.reward is None else resolve(task.reward)
    engine = TokenEngine(task, model, len(plans))
    rngs = [np.random.default_rng(row) for row in range(len(plans))]
    for row, rng in enumerate(rngs):
        engine.set_rng(row, rng)
    rows = engine.all_rows
    engine.begin(rows, np.array([index for index, _ in plans]))
    left = {row: list(tokens) for row, (_, tokens) in enumerate(plans)}

    def write(turns: Turns) -> list[list[int]]:
        return [[left[row].pop(0)] for row in turns.rows.tolist()]

    played = play_out(engine, rows, write, rngs)
    return EpisodeDataset(
        tokens=engine.tokens.copy(),
        roles=engine.roles(rows),
        rewards=played.rewards,
        example_indices=engine.example_index.copy(),
        finish_reasons=tuple(played.finish_reasons),
    )


def unique(dataset: EpisodeDataset) -> EpisodeDataset:
    """Return the distinct episodes."""
    _, first = np.unique(dataset.tokens, axis=0, return_index=True)
    return dataset.select(np.sort(first))


def every_toy_text() -> EpisodeDataset:
    """Return the 15 texts of `Toy-v0`, once each."""
    return unique(play(Toy(), [(0, text) for text in itertools.product(range(3), repeat=3)]))


def small_maze() -> Maze:
    """Return a corridor of six cells and two moves; it is deterministic."""
    return Maze(dataset=["G....."], max_moves=2)


def every_walk(task: Maze, start: int) -> EpisodeDataset:
    """Return every sequence of turns from example `start`, once each.

    A turn moves to the left or to the right, or makes no move: to take a word back by a second one
    can pay. What else could be written does the same as one of these.
    """
    left, right = task.tokenizer.encode("left right")
    eos = task.tokenizer.eos_id
    turns = [(left, eos), (right, eos), (left, left), (right, left)]
    plans = [
        (start, list(itertools.chain(*chosen)))
        for chosen in itertools.product(turns, repeat=task.max_moves)
    ]
    return unique(play(task, plans))


def expectile(values: Sequence[float], tau: float) -> float:
    """Return the tau-expectile of numbers: sum |tau - 1[x < m]| (x - m) = 0."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    low, high = float(x[0]), float(x[-1])
    for _ in range(200):
        m = (low + high) / 2
        if (np.where(x < m, 1 - tau, tau) * (x - m)).sum() > 0:
            low = m
        else:
            high = m
    return (low + high) / 2


def solve(
    dataset: EpisodeDataset, pad_id: int, tau: float, gamma: float
) -> tuple[dict[State, float], dict[tuple[State, int], float]]:
    """Return V and Q that the losses of ILQL have as their minimum on deterministic data.

    tau = 1 stands for the maximum over the actions in the data.
    """
    after: dict[tuple[State, int], tuple[float, State | None]] = {}
    visits: dict[State, list[int]] = {}
    for row, rewards, mask, ended in zip(
        dataset.tokens, dataset.rewards, dataset.action_mask, dataset.terminated, strict=True
    ):
        columns = np.flatnonzero(mask)
        states = [_text(row[:column], pad_id) for column in columns]
        following = [*states[1:], None if ended else _text(row, pad_id)]
        for state, column, successor in zip(states, columns, following, strict=True):
            after[state, int(row[column])] = (float(rewards[column]), successor)
            visits.setdefault(state, []).append(int(row[column]))
    v: dict[State, float] = {}
    q: dict[tuple[State, int], float] = {}
    for state in sorted(visits, key=len, reverse=True):
        for action in set(visits[state]):
            reward, successor = after[state, action]
            q[state, action] = reward + (gamma * v[successor] if successor is not None else 0.0)
        seen = [q[state, action] for action in visits[state]]
        v[state] = max(seen) if tau == 1 else expectile(seen, tau)
    return v, q


def _text(tokens: Iterable[int], pad_id: int) -> State:
    return tuple(int(token) for token in tokens if token != pad_id)


def learned(agent: Any) -> tuple[dict[State, float], dict[tuple[State, int], float]]:
    """Return V and min_i Q_i (of the target) of every state and action in the agent's data."""
    batch, policy = agent.data, agent.policy
    with torch.no_grad():
        mask = batch.mask
        values = policy.critic.v(policy.critic.encode(batch.tokens, batch.columns, mask))
        hidden = policy.target.encode(batch.tokens, batch.columns, mask)
        q_values = policy.target.q_at(hidden, batch.actions[mask]).amin(dim=0)
    v, q = {}, {}
    places = mask.nonzero().tolist()
    for (row, t), value, q_value in zip(places, values.tolist(), q_values.tolist(), strict=True):
        text = batch.tokens[row, : int(batch.columns[row, t]) + 1].tolist()
        state = _text(text, policy.actor.pad_id)
        v[state], q[state, int(batch.actions[row, t])] = value, q_value
    return v, q


def largest_error(found: dict[Any, float], wanted: dict[Any, float]) -> float:
    assert found.keys() == wanted.keys()
    return max(abs(found[key] - wanted[key]) for key in wanted)


def dialogue() -> EpisodeDataset:
    """Return three episodes of `Echo` by hand; the second and the third were cut.

    Ids: 0 say, 1 hello, 2 bye, 3 yes, 4 end, 5 pad.
    """
    rows = [
        ([5, 5, 5, 0, 1, 4, 3, 1, 2, 4, 5, 5, 5, 5, 5, 5], "...p aa rr aa"),
        ([5, 5, 0, 2, 1, 4, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5], "..pp aa r"),
        ([5, 5, 5, 0, 3, 1, 4, 3, 1, 1, 4, 3, 5, 5, 5, 5], "...p aaa r aaa r"),
    ]
    roles = np.zeros((3, 16), dtype=np.int8)
    for row, (_, letters) in enumerate(rows):
        compact = letters.replace(" ", "")
        roles[row, : len(compact)] = [".p_ar".index(letter) for letter in compact]
    rewards = np.zeros((3, 16))
    rewards[0, 5], rewards[0, 9], rewards[1, 5], rewards[2, 6], rewards[2, 10] = -1, 2, -3, 1, -1
    return EpisodeDataset(
        tokens=np.array([tokens for tokens, _ in rows]),
        roles=roles,
        rewards=rewards,
        example_indices=np.array([0, 1, 0]),
        finish_reasons=("bye", "cut", "cut"),
        truncated=np.array([False, True, True]),
    )


def shake(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Give every parameter some noise, so that nothing is zero or equal by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


class Passes:
    """Counts the sequences that go through language models: `passes["actor"]` and so on."""

    def __init__(self, policy: Any) -> None:
        self.counts = dict.fromkeys(("actor", "critic", "target"), 0)
        models = (policy.actor, policy.critic.actor, policy.target.actor)
        for name, actor in zip(self.counts, models, strict=True):
            actor.lm.base_model.register_forward_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Callable[..., None]:
        def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self.counts[name] += len(kwargs["input_ids"])

        return count

    def take(self) -> dict[str, int]:
        """Return the counts since the last call."""
        taken = self.counts.copy()
        self.counts.update(dict.fromkeys(self.counts, 0))
        return taken


def offline_agent(
    cls: Callable[..., Any], task: Any, dataset: EpisodeDataset, **kwargs: Any
) -> Any:
    """Return an agent with a tiny model on some rows of `task`."""
    env = text_envs.make_sb3(task, num_envs=8)
    tokenizer, columns = env.get_attr("tokenizer")[0], env.observation_space.shape[0]
    model = kwargs.pop("model", None)
    if model is None:
        model = tiny_gpt2(tokenizer.vocab_size, positions=columns, width=32)
    policy_kwargs = {"model": model, **kwargs.pop("policy_kwargs", {})}
    arguments = {"seed": 0, "device": "cpu", "gamma": 1.0, "batch_size": len(dataset)} | kwargs
    return cls(env=env, dataset=dataset, policy_kwargs=policy_kwargs, **arguments)


def with_truncated(dataset: EpisodeDataset, truncated: Any) -> EpisodeDataset:
    return replace(dataset, truncated=np.asarray(truncated, dtype=bool))
