"""Jobs of the comparison of HIR with Stable-Baselines3's hindsight: small goal tasks, from nothing.

DQN with `HerReplayBuffer` is what hindsight looks like off the shelf: a value of each token, learnt
off-policy, told which goal to reach by a number in the observation. HIR is a language model that is
told by an instruction. Both begin with random weights and see equally many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN, HerReplayBuffer

import text_envs
from agents import FARL, HIR
from studies.hir import share_reached

__all__ = ["DQN_SETTINGS", "HINDSIGHT", "TASKS", "train"]

# Short enough for a policy that knows nothing to be right now and then.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "three positions, 16 questions": {
        "id": "LogicalDeductionThree", "num_examples": 16,
        "style": "compact", "pool": 3, "themes": ["age"], "max_tokens": 1,
    },
    "three positions, 256 questions": {
        "id": "LogicalDeductionThree", "num_examples": 256,
        "style": "compact", "pool": 3, "themes": ["age"], "max_tokens": 1,
    },
    "a table of penguins, 64 questions": {
        "id": "PenguinsInATable", "num_examples": 64,
        "style": "compact", "rows": 3, "change_rate": 0.0, "questions": ["value"],
        "num_options": 3, "max_tokens": 1,
    },
    "two words to sort, 12 questions": {
        "id": "WordSorting", "num_examples": 12,
        "style": "compact", "min_words": 2, "max_words": 2, "vocabulary": 6,
    },
}  # fmt: skip
HINDSIGHT: Mapping[str, Any] = {
    "n_episodes": 256, "group_size": 4, "n_epochs": 1, "batch_size": 64, "learning_rate": 1e-3,
    "buffer_limit": 1024, "policy_kwargs": {"model": {"layers": 2, "width": 64}},
}  # fmt: skip
DQN_SETTINGS: Mapping[str, Any] = {
    "gamma": 1.0, "learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 200,
    "batch_size": 64, "train_freq": 1, "gradient_steps": -1, "target_update_interval": 200,
    "exploration_fraction": 0.5,
    "replay_buffer_kwargs": {"n_sampled_goal": 4, "goal_selection_strategy": "final"},
}  # fmt: skip
_ENVS = {"HIR": 64, "FARL": 64, "DQN + HER": 8}
_HELD_OUT = 200


def train(folder: Path, task: str, method: str, seed: int, tokens: int) -> dict[str, Any]:
    """Train from random weights and ask for right and for wrong answers.

    Args:
        folder: of the job.
        task: a key of `TASKS`.
        method: "HIR", "FARL" or "DQN + HER".
        seed: of everything but the questions.
        tokens: to learn from.
    """
    env = _make(task, _ENVS[method])
    if method == "DQN + HER":
        agent: Any = DQN(
            "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, seed=seed, device="cpu",
            **DQN_SETTINGS,
        )  # fmt: skip
    else:
        algorithm = FARL if method == "FARL" else HIR
        agent = algorithm("CausalLMPolicy", env, seed=seed, device="cpu", **HINDSIGHT)
    agent.learn(tokens)
    count = int(TASKS[task]["num_examples"])
    held_out = {"split": "test", "num_examples": _HELD_OUT}
    return {
        "asked_right": share_reached(agent, _make(task, count, goal="correct")),
        "asked_wrong": share_reached(agent, _make(task, count, goal="wrong")),
        "held_out": share_reached(agent, _make(task, _HELD_OUT, goal="correct", **held_out)),
    }


def _make(task: str, num_envs: int, **arguments: Any) -> Any:
    settings = {**TASKS[task], **arguments}
    return text_envs.make_sb3(f"text_envs/{settings.pop('id')}Goal-v0", num_envs, **settings)
