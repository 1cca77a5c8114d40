"""Part `actions`: what 49,152 actions, a pretrained model's vocabulary, cost a step.

- the environment's step with `action_mask=True` against the step without, in the single and the
  vector environment, on random words of which few end a text;
- `text_envs.lm.likelihood.sample`, which returns ids and their log-probabilities, against what
  stands in textbooks: softmax, `torch.multinomial`, and the logarithm of what was drawn.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Contender, Row, compare, interleave
from text_envs import Example, Task
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.lm.likelihood import sample
from text_envs.tokenizers import WordTokenizer

__all__ = ["measure"]

ACTIONS = 49_152
PLAIN, MASKED = "step", "step, action_mask"
OURS, TEXTBOOK = "sample", "softmax, multinomial"


def _task() -> Task:
    words = [f"w{i}" for i in range(ACTIONS - 1)]  # the end of text is the last action
    tokenizer = WordTokenizer(words)
    assert tokenizer.num_actions == ACTIONS, tokenizer.num_actions
    examples = [Example(f"w{i} w{i + 1}") for i in range(64)]
    return Task(examples, tokenizer=tokenizer, prompt_length=8, max_tokens=32)


def _stepping(task: Task, num_envs: int, action_mask: bool, steps: int, seed: int) -> Contender:
    """Return what steps a vector environment, or with 0 rows the single one, and its speed."""
    actions = np.random.default_rng(seed).integers(ACTIONS, size=(steps, max(num_envs, 1)))
    if num_envs:
        rows = TokenVectorEnv(task, num_envs=num_envs, reward="length", action_mask=action_mask)
        rows.reset(seed=seed)

        def run() -> float:
            begin = time.perf_counter()
            for ids in actions:
                rows.step(ids)
            return steps / (time.perf_counter() - begin)

        return run
    env = TokenEnv(task, reward="length", action_mask=action_mask)
    env.reset(seed=seed)

    def run_one() -> float:
        begin = time.perf_counter()
        for (token,) in actions.tolist():
            if env.step(token)[2]:
                env.reset()
        return steps / (time.perf_counter() - begin)

    return run_one


def _textbook(logits: torch.Tensor) -> Any:
    p = logits.softmax(dim=-1)
    ids = torch.multinomial(p, 1)
    return ids.squeeze(1), p.gather(1, ids).log().squeeze(1)


def _sampling(draw: Any, logits: torch.Tensor, repeats: int) -> Contender:
    def run() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            draw(logits)
        return repeats * len(logits) / (time.perf_counter() - begin)

    return run


def measure(quick: bool, seed: int) -> list[Row]:
    """Return the rows of this part."""
    rows, rounds = [], 2 if quick else 15
    task = _task()
    for num_envs in (0, 16) if quick else (0, 16, 256):
        steps = 8 if quick else 4096 if not num_envs else 512
        contenders = {
            name: _stepping(task, num_envs, mask, steps, seed)
            for name, mask in ((MASKED, True), (PLAIN, False))
        }
        case = f"{num_envs} envs" if num_envs else "the single env"
        row = compare(
            interleave(contenders, rounds), MASKED, PLAIN, part="actions", case=case,
            unit="steps/s", target=1 / 1.5 if num_envs == 256 else None,
        )  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    for batch in (1, 8) if quick else (1, 8, 64, 256):
        logits = 3 * torch.randn(batch, ACTIONS, generator=generator)
        repeats = 1 if quick else max(2, 64 // batch)
        contenders = {
            OURS: _sampling(sample, logits, repeats),
            TEXTBOOK: _sampling(_textbook, logits, repeats),
        }
        row = compare(
            interleave(contenders, rounds), OURS, TEXTBOOK, part="actions",
            case=f"B={batch}, one thread", unit="rows/s", target=1.0,
        )  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    return rows
