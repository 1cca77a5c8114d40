"""Jobs of the study on offline learning: what each method makes of the same recorded episodes.

Per seed there is one data set and one language model, a Llama of two layers that cloned it. Every
method starts from that model: it clones on (filtered, or told the return), or learns values that
guide it. Nothing but the data set is seen before the test games.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

import text_envs
from agents import BC, DecisionTransformer, evaluate_texts, make_lm
from agents.cql import CQL
from agents.ilql import ILQL
from agents.mc import MCValues
from text_envs import datasets
from text_envs.datasets import EpisodeDataset

__all__ = [
    "TASKS", "Game", "clone", "falling", "imitate", "learn", "load", "scripted", "values",
]  # fmt: skip

logging.disable_progress_bar()

ENVS = 128  # games side by side, at most
SCRIPTED_EPISODES = 2048
WORDS = tuple(
    (resources.files("text_envs.assets") / "wordle" / "small.txt").read_text().split()[::8]
)


@dataclass(frozen=True)
class Game:
    """An environment and who played in its data.

    Attributes:
        env_id: the environment.
        players: who wrote the data, a quality of the task.
        arguments: of the environment.
        family: tasks of a family differ in the reward alone, so that they share a cloned model.
        recipe: of `text_envs.datasets`, where the data are not whole games of the players.
    """

    env_id: str
    players: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    recipe: str = ""

    def env(self, num_envs: int = 1) -> Any:
        """Return rows to play on."""
        return text_envs.make_sb3(self.env_id, num_envs=num_envs, **self.arguments)

    def data(self, episodes: int, seed: int) -> EpisodeDataset:
        """Return the episodes to learn from; the same seed, the same texts whatever the reward."""
        if self.recipe:
            return datasets.recipe(self.recipe, episodes, _first_seed(seed), **self.arguments)
        return self.played(self.players, episodes, seed)

    def played(self, players: str, episodes: int, seed: int) -> EpisodeDataset:
        """Return whole games of a quality."""
        return datasets.collect(
            self.env_id, players, episodes, seed=_first_seed(seed), **self.arguments
        )


def _first_seed(seed: int) -> int:
    return 100_000 * (seed + 1)  # row i takes the i-th after it


_DIALOGUE, _COMMENTS = "text_envs/VisualDialogue-v0", "text_envs/Comments-v0"
TASKS = {
    "Wordle": Game(
        "text_envs/Wordle-v0", "mixed", {"dataset": list(WORDS), "split": "all"}, "Wordle"
    ),
    "Maze": Game("text_envs/Maze-v0", "walk", {"layout": "u"}, "Maze", "maze-walks"),
    "VisualDialogue": Game(_DIALOGUE, "mixed", {}, "VisualDialogue"),
    "VisualDialogue, yes/no": Game(_DIALOGUE, "mixed", {"reward_kind": "yes_no"}, "VisualDialogue"),
    "VisualDialogue, conservative": Game(
        _DIALOGUE, "mixed", {"reward_kind": "conservative"}, "VisualDialogue"
    ),
    "Comments": Game(_COMMENTS, "mixed", {}, "Comments"),
    "Comments, noised": Game(_COMMENTS, "mixed", {"reward_kwargs": {"noised": True}}, "Comments"),
}
METHODS = {"MC": MCValues, "SARSA": ILQL, "CQL": CQL, "ILQL": ILQL}


def scripted(folder: Path, task: str, method: str, seed: int, episodes: int) -> dict[str, Any]:
    """Return the mean return of whole games of who wrote the data, of chance or of the expert."""
    game = TASKS[task]
    players = game.players if method == "data" else method
    played = game.played(players, min(episodes, SCRIPTED_EPISODES), seed)
    return {"return": float(played.returns.mean())}


def clone(
    folder: Path, task: str, method: str, seed: int, episodes: int, updates: int,
    batch_size: int, learning_rate: float,
) -> dict[str, Any]:  # fmt: skip
    """Train the model that everything starts from, from random weights."""
    game = TASKS[task]
    env = game.env()
    agent = BC(
        "CausalLMPolicy", env, dataset=game.data(episodes, seed), seed=seed,
        batch_size=batch_size, learning_rate=falling(learning_rate), device="cpu",
        policy_kwargs={"model": make_lm(env, rotary=True, seed=seed)}, held_out=0.02,
    )  # fmt: skip
    learn(agent, updates)
    agent.policy.actor.lm.save_pretrained(folder / "model")
    return {"held_out_loss": agent.loss_on(agent.held_out_data)}


def imitate(
    folder: Path, task: str, method: str, seed: int, model: str, episodes: int, updates: int,
    batch_size: int, learning_rate: float, evaluation: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what the cloned model earns, after filtered or return-conditioned cloning."""
    game = TASKS[task]
    kind: Any = DecisionTransformer if method == "DT" else BC
    agent = kind(
        "CausalLMPolicy", game.env(), dataset=game.data(episodes, seed), seed=seed,
        batch_size=batch_size, learning_rate=falling(learning_rate), device="cpu",
        policy_kwargs={"model": load(model)}, **({"top": 0.1} if method == "%BC" else {}),
    )  # fmt: skip
    learn(agent, updates)
    return _played(agent, game, evaluation, seed)


def values(
    folder: Path, task: str, method: str, seed: int, model: str, episodes: int, updates: int,
    batch_size: int, learning_rate: float, settings: dict[str, float], beta: float,
    betas: Sequence[float], evaluation: int,
) -> dict[str, Any]:  # fmt: skip
    """Learn values of the data and return what the cloned model earns under their guidance."""
    game = TASKS[task]
    data = game.data(episodes, seed)
    agent = METHODS[method](
        "ValueGuidedPolicy", game.env(), dataset=data, seed=seed, batch_size=batch_size,
        learning_rate=falling(learning_rate), device="cpu", beta=beta,
        policy_kwargs={"model": load(model)}, **settings,
    )  # fmt: skip
    curve = learn(agent, updates, points=10)
    row = _played(agent, game, evaluation, seed)
    sweep = []
    for beta in betas:
        agent.beta = beta
        sweep.append({"beta": beta, **_played(agent, game, evaluation, seed)})
    return {**row, "curve": curve, "sweep": sweep}


def falling(rate: float) -> Callable[[float], float]:
    """Return a schedule: constant for two thirds, then falling to 0."""
    return lambda remaining: rate * min(1.0, 3 * remaining)


def learn(agent: Any, updates: int, points: int = 1) -> list[dict[str, float]]:
    """Train for about `updates` minibatches and return what was logged on the way."""
    if not updates:
        return []
    steps = round(updates * agent.batch_size * agent.data.num_steps / len(agent.data))
    curve: list[dict[str, float]] = []
    record = agent._record

    def keep(means: dict[str, float]) -> None:
        curve.append({"updates": agent._n_updates, **{k: round(v, 4) for k, v in means.items()}})
        record(means)

    agent._record = keep
    agent.learn(steps, log_interval=max(updates // points, 1))
    return curve


def load(model: str) -> PreTrainedModel:
    """Return a copy of a cloned model."""
    lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model, use_safetensors=True, trust_remote_code=False
    )
    return lm


def _played(agent: Any, game: Game, episodes: int, seed: int) -> dict[str, Any]:
    """Play test games, the same for every method of a seed."""
    env = game.env(min(ENVS, episodes))
    return {"return": float(evaluate_texts(agent.policy, env, episodes, seed=seed).rewards.mean())}
