"""The models that the methods of the hindsight study start from: they have read questions.

They stand in for the pretrained model of the paper, which knows a little of each task. One has read
questions of all tasks with their answers, other questions than those of the study. Who holds what
after a swap is beyond it: a name leads to a partner, to a thing and to a letter, one layer each. So
tasks of swaps have a deeper model, which also reads what everybody holds, without letters, and
which stops reading as soon as it is right half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

import text_envs
from agents import PPO
from studies.hir_tasks import (
    COLUMNS,
    SHARES,
    SWAPS,
    TASKS,
    arguments_of,
    env_id,
    task_of,
    vocabulary,
)
from text_envs.core.task import Task
from text_envs.lm.scratch import make_lm
from text_envs.tasks.reasoning.tracking import holdings

__all__ = ["pretrain", "pretrain_on_swaps", "texts_of"]

QUESTIONS = 6000  # of each task
Texts = tuple[NDArray[np.int64], NDArray[np.int64]]  # (N, L) and the answers' lengths (N,)


def pretrain(
    folder: Path, task: str, seed: int, steps: int, layers: int, width: int, batch_size: int = 64
) -> dict[str, Any]:
    """Train a language model on questions and right answers of all tasks, a task a minibatch."""
    lm = _new(layers, width, seed)
    rows = {
        name: texts_of(task_of(name, **arguments_of(name, "train", QUESTIONS, 1))) for name in TASKS
    }
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(lm.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.05)
    names, shares = list(SHARES), np.array(list(SHARES.values()))
    order = rng.choice(names, size=steps, p=shares / shares.sum())
    lm.train()
    losses = []
    for name in order:
        losses.append(_step(lm, optimizer, rows[name], rng, batch_size))
        schedule.step()
    _save(lm, names[0], folder)
    return {"nats_a_token": float(np.mean(losses[-200:]))}


def pretrain_on_swaps(
    folder: Path,
    task: str,
    seed: int,
    most_steps: int,
    layers: int,
    width: int,
    batch_size: int = 32,
    enough: float = 0.5,
) -> dict[str, Any]:
    """Train a language model on swaps, between three people first, then five, then seven.

    Each time until it is right often enough about contexts that it has not read. A tenth of what it
    reads is of fewer people.

    Args:
        folder: to save an agent in for each task of `SWAPS`, named like the task.
        task: names the job.
        seed: of weights and order.
        most_steps: of each task, at which it stops anyway.
        layers: of the model.
        width: of the model.
        batch_size: texts a minibatch.
        enough: the share of right answers at which it stops.

    Returns:
        For each task the steps and the share of right answers.
    """
    lm = _new(layers, width, seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 200))
    lessons: list[tuple[Texts, Texts]] = []
    row = {}
    for name in SWAPS:
        read = task_of(name, **arguments_of(name, "train", QUESTIONS, 1))
        lessons.append((texts_of(read), _held_by_everybody(read, rng)))
        asked = texts_of(task_of(name, **arguments_of(name, "validation", 500, 1)))
        right, steps = 0.0, 0
        lm.train()
        while right < enough and steps < most_steps:
            earlier = rng.random() < 0.1 and len(lessons) > 1
            lesson = lessons[rng.integers(len(lessons) - 1) if earlier else -1]
            _step(lm, optimizer, lesson[steps % 2], rng, batch_size)
            schedule.step()
            steps += 1
            if steps % 50 == 0:
                right = _right(lm, asked)
        _save(lm, name, folder / name)
        row[name] = {"steps": steps, "accuracy": right}
    return row


def _new(layers: int, width: int, seed: int) -> PreTrainedModel:
    lm = make_lm(vocabulary(), COLUMNS, layers=layers, width=width, heads=4, rotary=True, seed=seed)
    with torch.no_grad():  # the usual .02 is meant for a width of 768; this small, it learns late
        for weight in lm.parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
    return lm


def _step(
    lm: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rows: Texts,
    rng: np.random.Generator,
    batch_size: int,
) -> float:
    """Do one step on a minibatch of `rows`; return its loss."""
    texts, lengths = rows
    chosen = rng.integers(len(texts), size=batch_size)
    tokens = torch.from_numpy(texts[chosen])  # (B, L)
    seen = (tokens != vocabulary().pad_id)[:, :-1]  # on the left of what is seen there is padding
    answers = _is_answer(tokens, lengths[chosen])
    logits = _logits(lm, tokens)
    loss = cross_entropy(logits[answers], tokens[:, 1:][answers])
    loss = loss + 0.3 * cross_entropy(logits[seen], tokens[:, 1:][seen])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())


def _logits(lm: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return what is predicted for all tokens `(B, L)` but the first, `(B, L - 1, V)`."""
    mask = tokens != vocabulary().pad_id
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits: Tensor = lm(tokens, attention_mask=mask.long(), position_ids=positions).logits
    return logits[:, :-1]


def _is_answer(tokens: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """Return which tokens but the first belong to an answer, `(B, L - 1)`."""
    backwards = torch.arange(tokens.shape[1] - 2, -1, -1)  # 0: the last token
    return torch.from_numpy(lengths)[:, None] > backwards


def _right(lm: PreTrainedModel, rows: Texts) -> float:
    """Return the share of the texts' answers that the model would give."""
    tokens = torch.from_numpy(rows[0])
    answers = _is_answer(tokens, rows[1])
    lm.eval()
    with torch.no_grad():
        same = _logits(lm, tokens).argmax(dim=2) == tokens[:, 1:]
    lm.train()
    return float((same | ~answers).all(dim=1).float().mean())


def _save(lm: PreTrainedModel, task: str, folder: Path) -> None:
    lm.eval()
    env = text_envs.make_sb3(env_id(task), **arguments_of(task, "train", 64))
    agent = PPO("CausalLMPolicy", env, policy_kwargs={"model": lm}, device="cpu")
    agent.save(folder / "agent")


# -- what is read ----------------------------------------------------------------------------------


def texts_of(task: Task) -> Texts:
    """Return questions, answers and the end, padded on the left, and the answers' lengths."""
    return _pack(task, [(example.prompt, example.references[0]) for example in task.examples])


def _held_by_everybody(task: Task, rng: np.random.Generator) -> Texts:
    """Return for each question of swaps, without options, who holds what in the end."""
    pairs = []
    for example in task.examples:
        facts = example.metadata
        held = holdings(facts["people"], facts["objects"], facts["swaps"])
        first, *others = rng.permutation(facts["people"]).tolist()
        told = example.prompt[: example.prompt.rindex(";")]
        answer = "; ".join([held[first], *(f"{other}? {held[other]}" for other in others)])
        pairs.append((f"{told}; {first}?", answer))
    return _pack(task, pairs)


def _pack(task: Task, pairs: Sequence[tuple[str, str]]) -> Texts:
    words = task.tokenizer
    answers = [[*words.encode(answer), words.eos_id] for _, answer in pairs]
    texts = [
        [*words.encode_prompt(prompt), *answer]
        for (prompt, _), answer in zip(pairs, answers, strict=True)
    ]
    rows = np.full((len(texts), max(map(len, texts))), words.pad_id, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[len(row) - len(text) :] = text
    return rows, np.array([len(answer) for answer in answers])
