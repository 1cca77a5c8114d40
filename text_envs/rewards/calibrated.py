"""Reward calibration from demonstration (RCfD): aim at the reward that good texts earn.

**Idea.** A learner that maximises a learned reward finds the texts on which the reward is wrong.
Calibration changes the goal: earn what a demonstration of the same prompt earns, no more. There is
no penalty to tune, and several rewards need no weights, because each has its own target.

**Equations** (prompt x, text y, demonstration y_d drawn from those of x, reward model R)

- calibrated reward, `Calibrated`: R_c(x, y) = -((R(x, y) - R(x, y_d)) / s)^2, s = `scale`
- several components, `Calibrated`: one R_c for each; to be whitened over the learner's batch and
  summed, `whiten_components`: sum_k (R_c,k - mean_k) / max(std_k, floor)
- what it pays on average: E[R_c] = -(E R(y) - E R(y_d))^2 - Var R(y) - Var R(y_d), at s = 1. So the
  best policy of one prompt earns the mean reward of its demonstrations, every time; a distribution
  of rewards is recovered only across prompts.

| symbol | argument | shape |
|---|---|---|
| R(x, y) | `reward_model` | `(B,)` or `(B, K)` |
| y_d | `demonstrations`, `choose`, `missing` | one or more an example |
| s | `scale` | a number, or `(K,)` |

**What to know.** The reward grows with the square of R's unit: a learner without whitening wants
`scale="std"`. A saturated probability hides differences; let R be a logit. Use a discount of 1 and
no KL penalty. A text that cheats R and earns exactly what the demonstration earns is NOT prevented,
and what demonstrations do badly is reproduced.

**Deviations from the paper.** Several demonstrations of a prompt are allowed. What is done where
there is none can be chosen. R is checked to be deterministic.

**Reference.** Rita et al., "Countering reward over-optimization in LLM with demonstration-guided
reinforcement learning", 2024, arXiv 2404.19409.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.reward import RewardModel, Scored, describe, label, score_with_details
from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.builtin import WeightedSum
from text_envs.rewards.demo_rewards import DemoRewards
from text_envs.rewards.demos import Demonstrations
from text_envs.rewards.resolve import resolve

__all__ = ["Calibrated", "whiten_components"]

Floats = NDArray[np.float64]

_CHOICES = ("sample", "mean")
_MISSING = ("raise", "skip", "fallback")
_NOTHING = np.array([np.nan])
# A standard deviation below this share of the rewards is that of rounding.
_SAME = 1e-9


class Calibrated:
    """A reward model whose best value, 0, is to earn what a demonstration earns.

    Demonstrations pass through the tokenizer, the length limit and the end token as generations
    do: a generation that equals its demonstration is paid exactly 0. What they earn is computed
    once each, in batches. `info["reward_details"]` shows `raw`, `demo` and `calibrated` (with
    components `raw/<name>` and so on); `demo` is NaN where an example has no demonstration.

    One object may serve several environments; `scale="std"` is that of the first task. Copies know
    what the original knows by then and go their own ways; a pickle scores demonstrations anew.

    >>> import gymnasium as gym
    >>> reward = Calibrated("length", demonstrations={0: "a b"})
    >>> env = gym.make("text_envs/Toy-v0", reward=reward)
    >>> for text in ([2], [0, 1, 2]):  # nothing; then "a b"
    ...     _ = env.reset(seed=0)
    ...     for token in text:
    ...         _, paid, _, _, info = env.step(token)
    ...     print(paid, info["reward_details"])
    -4.0 {'raw': 0.0, 'demo': 2.0, 'calibrated': -4.0}
    0.0 {'raw': 2.0, 'demo': 2.0, 'calibrated': 0.0}
    """

    highest = 0.0  # no text earns more

    def __init__(
        self,
        reward_model: Any,
        demonstrations: Any = None,
        *,
        choose: str = "sample",
        missing: str = "raise",
        fallback: float | Sequence[float] | None = None,
        scale: float | Sequence[float] | str | None = None,
        batch_size: int = 256,
        seed: int = 0,
        reward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Set what is calibrated, and by what.

        Args:
            reward_model: anything `text_envs.rewards.resolve` accepts; frozen and deterministic.
                A list of these calibrates each by itself. Weights of a mapping come back squared,
                and cancel out where components are whitened.
            demonstrations: None for the examples' references; an `EpisodeDataset` or its file; a
                sequence with one entry an example; a mapping from example indices or prompts. An
                entry is a text, token ids, or a list of these.
            choose: "sample" draws one of several demonstrations from the row's generator; "mean"
                aims at the mean of their rewards.
            missing: an example without demonstrations is an error ("raise"), pays 0 whatever is
                written ("skip"), or aims at `fallback`.
            fallback: a reward, or one for each component; None for the mean reward of all
                demonstrations.
            scale: divides the difference before it is squared: a number, one for each component,
                or "std", the standard deviation of the rewards of all demonstrations, which is
                computed once and then fixed; a component in which they all earn the same keeps
                its unit. None for 1.
            batch_size: demonstrations scored in one call.
            seed: of the draws outside environments.
            reward_kwargs: arguments of a reward model given by name.

        Raises:
            ValueError: an argument that is not accepted.
            TypeError: demonstrations of another kind.
            DatasetError: a file of demonstrations that cannot be read.
        """
        for name, value, accepted in (
            ("choose", choose, _CHOICES),
            ("missing", missing, _MISSING),
        ):
            if value not in accepted:
                raise ValueError(f"unknown {name} {value!r}.{suggest(str(value), accepted)}")
        if fallback is not None and missing != "fallback":
            raise ValueError(f"fallback= goes with missing='fallback', got missing={missing!r}")
        if fallback is not None and not np.isfinite(fallback).all():
            raise ValueError(f"fallback must be finite, got {fallback!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        self.reward_model = _as_model(reward_model, dict(reward_kwargs or {}))
        self.components: tuple[str, ...] = tuple(getattr(self.reward_model, "components", ()))
        self.name = f"calibrated {label(self.reward_model)}"
        self.choose, self.missing = choose, missing
        self._demo_rewards = DemoRewards(
            self.reward_model,
            Demonstrations(demonstrations),
            batch_size=batch_size,
            needed=missing == "raise",
        )
        self._scale = None if isinstance(scale, str) else _as_scale(scale)
        if isinstance(scale, str) and scale != "std":
            raise ValueError(f"scale must be a number, numbers or 'std', got {scale!r}")
        self._fallback = None if fallback is None else np.atleast_1d(np.array(fallback, float))
        self._rng = np.random.default_rng(seed)
        self._task: Task | None = None

    def bind(self, task: Task) -> None:
        """Look for demonstrations of `task`, which an environment calls when it is built.

        Raises:
            ValueError: an example has none and `missing="raise"`, all have none and
                `missing="skip"`, one cannot be written, or is of an example that `task` lacks.
        """
        if self._task is None:
            self._task = task
        if not self._demo_rewards.look(task) and self.missing == "skip":
            raise ValueError(
                "no example has a demonstration: with missing='skip' every text would be paid 0; "
                "give some in demonstrations="
            )

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        """Return the calibrated rewards, `(B,)` or `(B, K)`, and their details.

        Raises:
            ValueError: a missing demonstration, or a reward model that is not deterministic.
            RewardModelError: the reward model failed.
        """
        ledger, told = score_with_details(self.reward_model, episodes)
        raw = np.stack(list(ledger.values()), axis=1)  # (B, K)
        demonstrated = self._demo_rewards.of(episodes)
        scale = _one_each("scale", self._scale_of(), raw)
        # Drawing comes last: nothing fails after it, so a step that is repeated draws the same.
        targets = self._targets(demonstrated, episodes)
        demo = np.stack([_one_each("fallback", target, raw) for target in targets])  # (B, K)
        calibrated = np.where(np.isnan(demo), 0.0, 0.0 - np.square((raw - demo) / scale))  # (B, K)
        plain = list(ledger) == ["task"]  # one reward, without a name of its own
        details = {
            kind if plain else f"{kind}/{name}": values[:, k]
            for kind, values in (("raw", raw), ("demo", demo), ("calibrated", calibrated))
            for k, name in enumerate(ledger)
        }
        return Scored(calibrated[:, 0] if plain else calibrated, {**told, **details})

    def _targets(self, demonstrated: Sequence[Floats], episodes: EpisodeBatch) -> list[Floats]:
        """Return what each episode is to earn, `(K,)`, or `(1,)` for all components; NaN: none."""
        nothing = _NOTHING
        if self.missing == "fallback" and not all(map(len, demonstrated)):
            nothing = self._fallback_of()
        targets = []
        for row, rewards in enumerate(demonstrated):
            if not len(rewards):
                targets.append(nothing)
            elif len(rewards) == 1:
                targets.append(rewards[0])
            elif self.choose == "mean":
                targets.append(rewards.mean(axis=0))
            else:
                rng = self._rng if episodes.rngs is None else episodes.rngs[row]
                targets.append(rewards[int(rng.integers(len(rewards)))])
        return targets

    def _scale_of(self) -> Floats:
        """Return the unit of the difference, `(K,)` or `(1,)`."""
        if self._scale is None:
            every = self._of_all("scale='std'", "scale=")
            std = every.std(axis=0)
            varies = std > _SAME * np.maximum(1.0, np.abs(every).max(axis=0))
            if not varies.any():
                raise ValueError(
                    f"scale='std': all demonstrations earn {every[0].tolist()}, so there is no "
                    "standard deviation; give scale a number"
                )
            self._scale = np.where(varies, std, 1.0)
        return self._scale

    def _fallback_of(self) -> Floats:
        if self._fallback is None:
            self._fallback = self._of_all("missing='fallback'", "fallback=").mean(axis=0)
        return self._fallback

    def _of_all(self, asked: str, instead: str) -> Floats:
        """Return the rewards of all demonstrations of the task, `(n, K)`."""
        if self._task is None:
            raise ValueError(
                f"{asked} needs the task, to find all of its demonstrations: use the reward in an "
                f"environment, or call bind(task), or give {instead} a number"
            )
        return self._demo_rewards.of_all(self._task)

    def __repr__(self) -> str:
        return f"Calibrated({describe(self.reward_model)})"


def whiten_components(rewards: Any, *, floor: float = 1e-3) -> Floats:
    """Give each component of a batch of rewards mean 0 and standard deviation 1.

    The sum over components is what a learner of several calibrated rewards maximises: no component
    outweighs another by its unit.

    Args:
        rewards: `(B, K)`, or `(B,)` for one component.
        floor: least standard deviation divided by: a component that no longer varies is not
            blown up to noise.

    Returns:
        The same shape.

    Raises:
        ValueError: another shape, an empty batch, something not finite, or a floor not above 0.

    >>> whiten_components([[0.0, -10.0], [-2.0, -30.0]]).sum(axis=1).tolist()
    [2.0, -2.0]
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim not in (1, 2) or not len(values):
        raise ValueError(f"rewards must have shape (B, K) or (B,), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("rewards must be finite")
    if not floor > 0:
        raise ValueError(f"floor must be above 0, got {floor!r}")
    centred = values - values.mean(axis=0)
    whitened: Floats = centred / np.maximum(values.std(axis=0), floor)
    return whitened


def _as_model(spec: Any, kwargs: dict[str, Any]) -> RewardModel:
    """Return a reward model; a list of them becomes one with a component each."""
    if not isinstance(spec, list | tuple):
        return resolve(spec, **kwargs)
    names = [one if isinstance(one, str) else label(one) for one in spec]
    if len(set(names)) < len(names):
        raise ValueError(f"reward models of a list need different names, got {names}")
    parts = {name: (1.0, resolve(one)) for name, one in zip(names, spec, strict=True)}
    return WeightedSum(parts)


def _as_scale(scale: Any) -> Floats:
    values = np.atleast_1d(np.asarray(1.0 if scale is None else scale, dtype=np.float64))
    if values.ndim != 1 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"scale must be above 0 and finite, or 'std', got {scale!r}")
    return values


def _one_each(name: str, values: Floats, rewards: Floats) -> Floats:
    """Return `values` for each of the K columns of `rewards`, `(K,)`."""
    count = rewards.shape[1]
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} numbers; accepted: one, or {count}")
    return np.broadcast_to(values, (count,))
