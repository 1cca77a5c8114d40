"""The normaliser of a target for each start, a running mean, and what to say when it is unknown."""

from __future__ import annotations

import logging
import math
import zlib
from typing import Any

import torch
from torch import Tensor

from agents.common.envs import attribute
from agents.losses.distributional import effective_sample_size, log_normaliser
from agents.rollouts.rollout import Rollout

__all__ = ["CoverageWarnings", "Normalisers", "start_keys", "warn_about_one_normaliser"]

logger = logging.getLogger(__name__)

# Below this many samples that count, a roll-out says next to nothing about the target.
_FEW = 2.0


class Normalisers:
    """Running means of the estimates of Z, one for each start.

    Every estimate is unbiased, whatever proposal it was sampled by, so all count alike.

    Attributes:
        found: of each start ("all" where all share one): logarithm of the sum of the estimates, and
            their number.
        target: what they are the normalisers of; with another one all are forgotten.

    Args:
        group_size: texts of each start; 1 for one normaliser over all starts.
    """

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self.found: dict[str, tuple[float, int]] = {}
        self.target = ""

    def forget(self) -> None:
        """Begin anew."""
        self.found.clear()

    def update(self, rollout: Rollout, log_p: Tensor, log_q: Tensor, target: str) -> Tensor:
        """Take a roll-out into the means.

        Args:
            rollout: B texts, those of a start side by side.
            log_p: unnormalised log-probability of each under the target, `(B,)`.
            log_q: its log-probability under the proposal, `(B,)`.
            target: a description of the target.

        Returns:
            log Z of each text's start, `(B,)`; minus infinity while no text of it was in the
            target's support.
        """
        if target != self.target:
            self.forget()
            self.target = target
        if self.group_size == 1:
            keys, groups = ["all"], torch.zeros(len(rollout), dtype=torch.long)
        else:
            keys = start_keys(rollout, self.group_size)
            groups = torch.arange(len(rollout)) // self.group_size
        groups = groups.to(log_p.device)
        estimates = log_normaliser(log_p, log_q, groups).tolist()
        for key, estimate in zip(keys, estimates, strict=True):
            log_sum, count = self.found.get(key, (-math.inf, 0))
            self.found[key] = (_log_add(log_sum, estimate), count + 1)
        means = [self.found[key][0] - math.log(self.found[key][1]) for key in keys]
        return torch.tensor(means, dtype=torch.float64, device=log_p.device)[groups]

    def state(self) -> dict[str, Any]:
        """Return what is saved."""
        return {"target": self.target, "found": [[key, *pair] for key, pair in self.found.items()]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.target = state["target"]
        self.found = {key: (total, int(count)) for key, total, count in state["found"]}


def start_keys(rollout: Rollout, group_size: int) -> list[str]:
    """Return which start each group of texts has: its example, and a digest of the tokens before.

    Of the tokens too, because numbers of examples mean something else in other data, and because a
    guide may have begun the texts.
    """
    first = slice(None, None, group_size)  # a group shares its start
    tokens, stops = rollout.tokens[first].cpu().numpy(), (rollout.columns[first, 0] + 1).tolist()
    return [
        f"{int(info['example_index'])}:{zlib.crc32(row[:stop].tobytes()):08x}"
        for row, stop, info in zip(tokens, stops, rollout.infos[first], strict=True)
    ]


def _log_add(a: float, b: float) -> float:
    """Return log(exp a + exp b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


class CoverageWarnings:
    """Says, each once, that few samples count and that a start has none in the support.

    Attributes:
        said: which warnings were given, "few" and "start".

    Args:
        group_size: texts of each start.
    """

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self.said: set[str] = set()

    def look_at(self, log_w: Tensor, log_z: Tensor) -> None:
        """Warn about a roll-out if there is cause.

        Args:
            log_w: log weight of each text against its own start's target, `(B,)`.
            log_z: log Z of each text's start, `(B,)`.
        """
        total, inside = len(log_w), int(log_w.isfinite().sum())
        counting = effective_sample_size(log_w) * total
        if counting < _FEW and "few" not in self.said:
            self.said.add("few")
            logger.warning(
                "the proposal does not cover the target: of %d texts, %d are in its support and "
                "%.1f count (effective sample size). Take a larger n_episodes, a softer target (a "
                "higher beta, a lower bar), or proposal='adaptive'",
                total,
                inside,
                counting,
            )
        empty = int((log_z == -torch.inf).sum()) // self.group_size
        if self.group_size > 1 and empty and "start" not in self.said:
            self.said.add("start")
            logger.warning(
                "no text so far is in the target's support for %d of %d starts of this roll-out; "
                "they teach nothing until one is. Take a larger group_size or a lower bar",
                empty,
                total // self.group_size,
            )


def warn_about_one_normaliser(env: Any, group_size: int) -> None:
    """Say that one normaliser is meant for one start, if a vector environment has several."""
    task, engine = (None if env is None else attribute(env, name) for name in ("task", "engine"))
    if group_size > 1 or task is None or engine is None:
        return
    starts, begun = len(task), engine.starts is not None
    if starts > 1 or begun:
        logger.warning(
            "group_size=1 takes one normaliser Z for all %s: starts that the target "
            "prefers weigh more, and its KL from the policy cannot reach 0. Give each start "
            "its own, for example with group_size=32",
            "texts that a guide begins" if begun else f"{starts} starts",
        )
