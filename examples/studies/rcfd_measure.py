"""What the study on calibration measures of texts: rewards against demonstrations, and judges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rollouts.evaluation import Evaluation
from text_envs.episodes.types import Example
from text_envs.rewards import resolve
from text_envs.rewards.metrics import distinct_n, reward_alignment, self_bleu
from text_envs.rewards.overlap import Rouge

__all__ = ["edges", "judged", "rewarded", "rewards_of"]

Floats = NDArray[np.float64]
_FACTS = ("who", "did", "thing", "why", "ask")


def rewards_of(rounds: Sequence[Evaluation], names: Sequence[str]) -> dict[str, Floats]:
    """Return `raw/<name>` and `demo/<name>` `(n,)` of all texts, from what `Calibrated` tells."""
    details = [info["reward_details"] for one in rounds for info in one.rollout.infos]
    return {
        f"{kind}/{name}": np.array(
            [row[kind if len(names) == 1 else f"{kind}/{name}"] for row in details]
        )
        for name in names
        for kind in ("raw", "demo")
    }


def edges(demo: Floats) -> list[float]:
    """Return edges of bins half a standard deviation of the demonstrations wide, 12 bins in all.

    They depend on the demonstrations alone, so that A of two policies can be compared.
    """
    return (demo.mean() + max(demo.std(), 1e-6) * np.linspace(-2.5, 2.5, 11)).tolist()


def rewarded(rewards: Mapping[str, Floats], names: Sequence[str]) -> dict[str, float]:
    """Return statistics of rewards next to the demonstrations'; `reward` is the first one.

    A is the mean over the components; `between_prompts` is the share of the reward's variance that
    lies between prompts and not between texts of one, as far as two texts of each can tell.
    """
    row: dict[str, float] = {}
    for name in names:
        raw, demo = rewards[f"raw/{name}"], rewards[f"demo/{name}"]
        row[f"A_{name}"] = reward_alignment(demo, raw, bins=edges(demo))
    raw, demo = (rewards[f"{kind}/{names[0]}"] for kind in ("raw", "demo"))
    half = len(raw) // 2  # two texts of each prompt, one after the other
    if min(raw[:half].std(), raw[half:].std()) > 1e-9:
        row["between_prompts"] = float(np.corrcoef(raw[:half], raw[half:])[0, 1])
    return {
        "reward": float(raw.mean()),
        "reward_std": float(raw.std()),
        "demo_reward": float(demo.mean()),
        "demo_std": float(demo.std()),
        "gap": float(np.abs(raw - demo).mean()),
        "A": float(np.mean([row[f"A_{name}"] for name in names])),
        **row,
    }


def judged(
    task: str, examples: Sequence[Example], texts: Sequence[str], lengths: Floats
) -> dict[str, float]:
    """Return what judges say that paid for none of it, and how diverse the texts are.

    Args:
        task: a use case.
        examples: n prompts.
        texts: one or more for each, n at a time. Diversity is that of the first n, as it depends
            on how many there are.
        lengths: tokens of the texts.
    """
    first = [text for text in texts[: len(examples)] if re.search(r"\w", text)]
    row = {
        "length": float(lengths.mean()),
        "distinct_1": distinct_n(first, 1, pooled=False),
        "distinct_2": distinct_n(first, 2),
        "self_bleu": self_bleu(first[:128]),
    }
    if task == "likelihood":  # loops, and one text for all prompts, have few different pairs
        return {"judge": row["distinct_2"], **row}
    every = list(examples) * (len(texts) // len(examples))
    return {**_JUDGES[task.split(" ")[0]](every, texts), **row}


def _of_sentiment(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, float]:
    """Judge by VADER, of prompt and text."""
    whole = [f"{e.prompt} {text}" for e, text in zip(examples, texts, strict=True)]
    vader: Any = resolve("vader")
    return {"judge": float(vader.score_texts(whole).mean())}


def _of_summaries(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, float]:
    """Judge by ROUGE-L, and by the share of the story's five facts that are stated."""
    found = []
    for example, text in zip(examples, texts, strict=True):
        words = " ".join(["", *re.findall(r"\w+", text), ""])
        found.append(np.mean([f" {example.metadata['story'][f]} " in words for f in _FACTS]))
    rouge = Rouge().score_texts(texts, [example.references for example in examples])
    return {"judge": float(rouge.mean()), "facts": float(np.mean(found))}


_JUDGES: Mapping[str, Callable[[Sequence[Example], Sequence[str]], dict[str, float]]] = {
    "sentiment": _of_sentiment,
    "preference": _of_summaries,
}
