"""Jobs of the study on hindsight: a model that has read questions, and what feedback makes of it.

One tiny language model reads questions of all tasks with their answers (other questions than those
of the study) and knows a little of each; it stands in for the pretrained model of the paper. Every
method starts from it, sees the same number of questions and answers, and is asked greedily for the
answers of held-out contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from torch.nn.functional import cross_entropy

import text_envs
from agents import BC, FARL, HIR, PPO
from studies.hir_tasks import COLUMNS, SHARES, TASKS, arguments_of, env_id, task_of, vocabulary
from text_envs.lm.scratch import make_lm
from text_envs.tasks.base import Task

__all__ = ["ABLATION", "accuracies", "pretrain", "train"]

QUESTIONS = 2000  # to learn from
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


# -- the model to start from -----------------------------------------------------------------------


def pretrain(
    folder: Path, task: str, seed: int, steps: int, layers: int, width: int, batch_size: int = 64
) -> dict[str, Any]:
    """Train a language model on questions and right answers of all tasks, a task a minibatch."""
    lm = make_lm(vocabulary(), COLUMNS, layers=layers, width=width, heads=4, rotary=True, seed=seed)
    with torch.no_grad():  # the usual .02 is meant for a width of 768; this small, it learns late
        for weight in lm.parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
    rows = {name: _texts(task_of(name, **arguments_of(name, "train", 6000, 1))) for name in TASKS}
    rng, pad = np.random.default_rng(seed), vocabulary().pad_id
    optimizer = torch.optim.AdamW(lm.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.05)
    names, shares = list(SHARES), np.array(list(SHARES.values()))
    order = rng.choice(names, size=steps, p=shares / shares.sum())
    lm.train()
    losses = []
    for name in order:
        texts, lengths = rows[name]
        chosen = rng.integers(len(texts), size=batch_size)
        tokens = torch.from_numpy(texts[chosen])  # (B, L)
        backwards = torch.arange(tokens.shape[1] - 2, -1, -1)  # 0: what predicts the last token
        mask = tokens != pad
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = lm(tokens, attention_mask=mask.long(), position_ids=positions).logits
        seen = mask[:, :-1] & mask[:, 1:]
        answers = torch.from_numpy(lengths[chosen])[:, None] > backwards
        loss = cross_entropy(logits[:, :-1][answers], tokens[:, 1:][answers])
        loss = loss + 0.3 * cross_entropy(logits[:, :-1][seen], tokens[:, 1:][seen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    lm.eval()
    env = text_envs.make_sb3(env_id(names[0]), **arguments_of(names[0], "train", 64))
    agent = PPO("CausalLMPolicy", env, policy_kwargs={"model": lm}, device="cpu")
    agent.save(folder / "agent")
    return {"nats_a_token": float(np.mean(losses[-200:]))}


def _texts(task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return questions, answers and the end, padded on the left, `(N, L)`; and answers' lengths."""
    words = task.tokenizer
    answers = [[*words.encode(e.references[0]), words.eos_id] for e in task.examples]
    texts = [
        [*words.encode_prompt(e.prompt), *answer]
        for e, answer in zip(task.examples, answers, strict=True)
    ]
    rows = np.full((len(texts), max(map(len, texts))), words.pad_id, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[len(row) - len(text) :] = text
    return rows, np.array([len(answer) for answer in answers])


# -- learning from feedback ------------------------------------------------------------------------


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
        env.set_options([{"index": index} for index in range(count)])
        rewards, _ = evaluate_policy(
            agent, env, count, deterministic=True, return_episode_rewards=True, warn=False
        )
        return float(np.mean(np.array(rewards) > 0.5))

    asked = {"goal": "correct"} if goals else {}
    found = {"accuracy": right("test", tested, **asked)}
    # The questions of a smaller task are the first of a larger one.
    found["accuracy_train"] = right("train", min(questions, tested), **asked)
    if goals:
        found["accuracy_asked_wrong"] = 1.0 - right("test", tested, goal="wrong")
    return found
