r"""Wordle games in which the best opening mostly lost: who sees through it?

For each hidden word whose expert game takes three guesses or more there are five games that open as
the expert does and then repeat themselves until they have lost, and five of a suboptimal player. On
average the expert's opening looks worse than any other word; only a method that joins the end of
one game to the start of another values it rightly. How much it does so is a matter of $\tau$.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.ilql import ILQL
from studies.offline import Game, falling, learn, load
from text_envs import datasets
from text_envs.datasets import EpisodeDataset

__all__ = ["adversarial", "fixed_point"]

GAME = Game("text_envs/Wordle-v0", "", {"split": "all"})  # the 400 words of the bundled list
FIRST = slice(1, 6)  # columns of the first word, which an end token follows


def adversarial(
    folder: Path, task: str, method: str, seed: int, model: str, episodes: int, updates: int,
    batch_size: int, learning_rate: float, settings: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Learn values with ILQL and compare those of the first words."""
    data = _games(episodes, seed)
    agent = ILQL(
        "ValueGuidedPolicy", GAME.env(), dataset=data, seed=seed, batch_size=batch_size,
        learning_rate=falling(learning_rate), device="cpu",
        policy_kwargs={"model": load(model)}, **settings,
    )  # fmt: skip
    curve = learn(agent, updates, points=10)
    return {**_compared(data, _first_words(agent, data)), "curve": curve}


def fixed_point(
    folder: Path, task: str, method: str, seed: int, episodes: int, settings: dict[str, float]
) -> dict[str, Any]:
    r"""Return the same of the values at which the losses of ILQL are least, one number a text.

    $Q(s, a)$ is the mean of $r + \gamma V(s')$ over the data, $V(s)$ the expectile of $Q(s, a)$.
    It tells what the data say from what a network makes of them.
    """
    data = _games(episodes, seed)
    end = int(data.tokens[0, FIRST.stop])
    steps: dict[tuple[int, ...], list[tuple[int, float, tuple[int, ...]]]] = {}
    for tokens, rewards, mask in zip(data.tokens, data.rewards, data.action_mask, strict=True):
        columns = np.flatnonzero(mask)
        states = [tuple(tokens[:column].tolist()) for column in columns] + [()]
        for k, column in enumerate(columns):
            step = (int(tokens[column]), float(rewards[column]), states[k + 1])
            steps.setdefault(states[k], []).append(step)
    v = {(): 0.0}  # after the end
    ending: dict[tuple[int, ...], float] = {}  # Q of the token that ends a turn, by what stands
    for state in sorted(steps, key=len, reverse=True):
        targets: dict[int, list[float]] = {}
        for action, reward, successor in steps[state]:
            targets.setdefault(action, []).append(reward + settings["gamma"] * v[successor])
        q = {action: float(np.mean(values)) for action, values in targets.items()}
        v[state] = _expectile([q[action] for action, _, _ in steps[state]], settings["tau"])
        if end in q:
            ending[state] = q[end]
    worth = np.array([ending[tuple(row[: FIRST.stop].tolist())] for row in data.tokens])
    return _compared(data, worth)


def _expectile(values: Sequence[float], tau: float) -> float:
    """Return the number m at which tau sum(x - m | x >= m) = (1 - tau) sum(m - x | x < m)."""
    x = np.array(values)
    expectile = float(x.mean())
    while True:  # each step is a weighted mean; the weights change finitely often
        weights = np.where(x >= expectile, tau, 1 - tau)
        following = float((weights * x).sum() / weights.sum())
        if abs(following - expectile) < 1e-9:
            return following
        expectile = following


def _games(episodes: int, seed: int) -> EpisodeDataset:
    return datasets.recipe("wordle-adversarial", episodes, seed, **GAME.arguments)


@torch.no_grad()
def _first_words(agent: Any, data: EpisodeDataset) -> NDArray[np.float32]:
    """Return the value `(B,)` of ending the first word, which the agent's sixth token does."""
    batch, target = agent.as_batch(data), agent.policy.target
    mask = torch.zeros_like(batch.mask)
    mask[:, 5] = True
    hidden = target.encode(batch.tokens, batch.columns, mask)
    worth: NDArray[np.float32] = target.q_at(hidden, batch.actions[mask]).amin(dim=0).numpy()
    return worth


def _compared(data: EpisodeDataset, worth: NDArray[Any]) -> dict[str, Any]:
    """Return how often the expert's first word is worth more than the suboptimal player's.

    A pair is an expert's and a suboptimal game about one hidden word that open differently.

    Args:
        data: the games.
        worth: `(B,)` of the first word of each.
    """
    kind, number, first = data.columns["policy"], data.columns["game"], data.tokens[:, FIRST]
    pairs = [
        (worth[expert], worth[other])
        for expert in np.flatnonzero(kind == "expert")
        for other in np.flatnonzero((kind == "suboptimal") & (number == number[expert]))
        if (first[expert] != first[other]).any()
    ]
    better, worse = np.array(pairs).T
    returns: Mapping[str, float] = {
        f"return_{name}": float(data.returns[kind == name].mean()) for name in np.unique(kind)
    }
    return {
        "accuracy": float((better > worse).mean()),
        "pairs": len(pairs),
        "expert_first_word": float(better.mean()),
        "suboptimal_first_word": float(worse.mean()),
        **returns,
    }
