"""Jobs of the study on hindsight: what feedback makes of a model of `hir_pretraining`.

Every method starts from the same model, sees the same number of questions and answers, and is asked
greedily for the answers of held-out contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import text_envs
from agents import BC, FARL, HIR, PPO
from studies.hir_tasks import arguments_of, env_id

__all__ = ["ABLATION", "accuracies", "share_reached", "train"]

ENVS = 64
# Of HIR and FARL; of the whole history so many answers are drawn an iteration.
HINDSIGHT: Mapping[str, Any] = {
    "group_size": 4, "n_epochs": 1, "batch_size": 64, "learning_rate": 1e-3, "buffer_limit": 1024,
}  # fmt: skip
PPO_SETTINGS: Mapping[str, Any] = {
    "n_epochs": 4, "batch_size": 64, "learning_rate": 3e-4, "gae_lambda": 1.0,
}  # fmt: skip
SFT: Mapping[str, Any] = {"learning_rate": 1e-3, "batch_size": 64}
# Of WordSorting only: elsewhere an answer is one word, and a part of it is its end.
PARTS = {"parts": 1, "part_judge": "suffix"}
# What HIR is trained without.
ABLATION: Mapping[str, Mapping[str, Any]] = {
    "no contrast": {"contrastive_coef": 0.0},
    "no entropy": {"ent_coef": 0.0},
    "no smoothing": {"label_smoothing": 0.0},
    "no sub-output": {"parts": 0, "part_judge": None},
}


class _Rounds(BaseCallback):
    """Ends training after a number of iterations, so that methods get equally many answers."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.left = rounds

    def _on_step(self) -> bool:
        return self.left > 0

    def _on_rollout_end(self) -> None:
        self.left -= 1


def train(
    folder: Path,
    task: str,
    method: str,
    seed: int,
    start: str,
    rounds: int,
    answers: int,
    questions: int,
    tested: int,
) -> dict[str, Any]:
    """Train from `start` and ask.

    Args:
        folder: of the job.
        task: a key of `TASKS`.
        method: "base", "PPO", "FARL", "HIR", "SFT", or what HIR is without (`ABLATION`).
        seed: of everything but the questions.
        start: folder of an agent.
        rounds: iterations; SFT sees as many right answers as the others see answers.
        answers: that are judged in an iteration.
        questions: to learn from, and to ask after training.
        tested: questions of held-out contexts.
    """
    common: dict[str, Any] = {"seed": seed, "device": "cpu", "policy_kwargs": {"model": start}}
    hindsight = method in ("HIR", "FARL", *ABLATION)
    env = text_envs.make_sb3(
        env_id(task, hindsight), num_envs=ENVS, **arguments_of(task, "train", questions)
    )
    if hindsight:
        own = {**HINDSIGHT, **(PARTS if task == "WordSorting" else {}), **ABLATION.get(method, {})}
        algorithm = FARL if method == "FARL" else HIR
        agent: Any = algorithm("CausalLMPolicy", env, n_episodes=answers, **own, **common)
    elif method == "SFT":
        data = text_envs.datasets.collect(
            env_id(task), "expert", questions, seed=seed, **arguments_of(task, "train", questions)
        )
        agent = BC("CausalLMPolicy", env, dataset=data, **SFT, **common)
    else:
        common["policy_kwargs"] |= {"detach_value": True}
        agent = PPO("CausalLMPolicy", env, n_episodes=answers, **PPO_SETTINGS, **common)
    if method == "SFT":
        agent.learn(n_epochs=max(1, rounds * answers // questions))
    elif method != "base":
        agent.learn(10**9, _Rounds(rounds))
    return accuracies(agent, task, hindsight, questions, tested)


def accuracies(agent: Any, task: str, goals: bool, questions: int, tested: int) -> dict[str, float]:
    """Return the shares of right greedy answers to questions of held-out contexts and of training.

    With goals also where a wrong answer is asked for: the share of answers that are right still.
    """

    def right(split: str, count: int, **arguments: Any) -> float:
        env = text_envs.make_sb3(
            env_id(task, goals), num_envs=count, **arguments_of(task, split, count), **arguments
        )
        return share_reached(agent, env)

    asked = {"goal": "correct"} if goals else {}
    found = {"accuracy": right("test", tested, **asked)}
    # The questions of a smaller task are the first of a larger one.
    found["accuracy_train"] = right("train", min(questions, tested), **asked)
    if goals:
        found["accuracy_asked_wrong"] = 1.0 - right("test", tested, goal="wrong")
    return found


def share_reached(agent: Any, env: Any) -> float:
    """Return the share of greedy answers that are paid; row i is asked question i."""
    env.set_options([{"index": index} for index in range(env.num_envs)])
    rewards, _ = evaluate_policy(
        agent, env, env.num_envs, deterministic=True, return_episode_rewards=True, warn=False
    )
    return float(np.mean(np.array(rewards) > 0.5))
