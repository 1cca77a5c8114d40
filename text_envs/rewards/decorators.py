r"""Reward models around reward models: clipped, scaled, cached, kept account of.

| decorator | pays | for |
|---|---|---|
| `Clip` | $\min(\max(r, low), high)$ | outliers |
| `Scale` | $factor \cdot (r - mean) / std + shift$ | units, standardisation with fixed numbers |
| `Cache` | $r$ | slow, deterministic models: an equal episode is scored once |
| `Ledger` | $r$ | running mean, deviation and range of every component |

Each takes anything that `text_envs.rewards.resolve` accepts, works on every component of a model
that returns `(B, K)`, and passes on what the inner model tells in its `Scored.details`. The value
before clipping or scaling is added there under the name of the inner model, so that
`info["reward_details"]` shows the chain: `{"length": 30.0, "scale(length)": 3.0}` with a reward of
2.0 from `Clip(Scale("length", 0.1), high=2)`. To clip or scale the *sum* of several components,
make it one component first: `WeightedSum({"total": (1.0, model)})`.

By name, as plain JSON: `reward="clip", reward_kwargs={"model": "length", "high": 2.0}`; a model
with arguments of its own is `{"reward": "length", "reward_kwargs": {"target": 8}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.reward import Scored, bind, label, score_with_details
from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.resolve import resolve

__all__ = ["Clip", "Decorator", "Ledger", "Scale", "as_values"]

Columns = dict[str, NDArray[np.float64]]  # (B,) each


class Decorator:
    """A reward model that changes, or looks at, the rewards of another.

    A subclass defines `change`, or overrides `__call__` as a whole.
    """

    kind = "decorator"

    def __init__(self, model: Any) -> None:
        """Resolve the inner model.

        Args:
            model: what `text_envs.rewards.resolve` accepts.
        """
        self.model = resolve(model)

    @property
    def name(self) -> str:
        """The name of the inner model in that of the decorator, for example `clip(length)`."""
        return f"{self.kind}({label(self.model)})"

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the inner model's components."""
        return tuple(getattr(self.model, "components", ()))

    def bind(self, task: Task) -> None:
        """Show the inner model the task."""
        bind(self.model, task)

    def change(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is paid for the inner model's rewards, `(B,)` or `(B, K)`."""
        raise NotImplementedError

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        """Return the changed rewards, and the rewards before in the details."""
        ledger, details = score_with_details(self.model, episodes)
        before = {self.entry(name): column for name, column in ledger.items()}
        return Scored(self.change(as_values(ledger)), {**details, **before})

    def entry(self, component: str) -> str:
        """Return under which name a component of the inner model stands in the details."""
        inner = label(self.model)
        return inner if component == "task" else f"{inner}/{component}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"


def as_values(ledger: Columns) -> NDArray[np.float64]:
    """Return a ledger as a reward model returns it: `(B,)`, or `(B, K)` if it has names."""
    if list(ledger) == ["task"]:
        return ledger["task"]
    return np.stack(list(ledger.values()), axis=1)


class Clip(Decorator):
    """Rewards, each component by itself, kept between two bounds.

    >>> import gymnasium as gym, text_envs
    >>> from text_envs.rewards import Clip
    >>> env = gym.make("text_envs/Toy-v0", reward=Clip("length", high=1.5))
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):
    ...     observation, reward, *_, info = env.step(token)
    >>> float(reward), info["reward_details"]
    (1.5, {'length': 2.0})
    """

    kind = "clip"

    def __init__(self, model: Any, low: float | None = None, high: float | None = None) -> None:
        """Set the bounds.

        Args:
            model: what `text_envs.rewards.resolve` accepts.
            low: the least that is paid; None for no bound.
            high: the most that is paid; None for no bound.

        Raises:
            ValueError: no bound, one that is not a number, or `low` above `high`.
        """
        super().__init__(model)
        bounds = (-np.inf if low is None else float(low), np.inf if high is None else float(high))
        if low is None and high is None:
            raise ValueError("Clip needs low, high, or both; got neither")
        if not bounds[0] <= bounds[1]:
            raise ValueError(f"Clip needs low <= high, got low={low!r} and high={high!r}")
        self.low, self.high = bounds

    def change(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the clipped rewards."""
        return np.clip(values, self.low, self.high)

    def __repr__(self) -> str:
        return f"Clip({self.model!r}, low={self.low}, high={self.high})"


class Scale(Decorator):
    r"""$factor \cdot (r - mean) / std + shift$, each component by itself, with fixed numbers.

    Running statistics would pay the same text differently from one day to the next; `Ledger`
    measures them beforehand, or `Scale.fitted` on a batch of episodes.

    >>> import gymnasium as gym, text_envs
    >>> from text_envs.rewards import Scale
    >>> env = gym.make("text_envs/Toy-v0", reward=Scale("length", mean=1.0, std=0.5))
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):
    ...     observation, reward, *_, info = env.step(token)
    >>> float(reward), info["reward_details"]
    (2.0, {'length': 2.0})
    """

    kind = "scale"

    def __init__(
        self,
        model: Any,
        factor: float = 1.0,
        shift: float = 0.0,
        *,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        """Set the numbers.

        Args:
            model: what `text_envs.rewards.resolve` accepts.
            factor: multiplied with.
            shift: added last.
            mean: taken off first.
            std: divided by; positive.

        Raises:
            ValueError: a number that is not finite, or `std` that is not positive.
        """
        super().__init__(model)
        numbers = {"factor": factor, "shift": shift, "mean": mean, "std": std}
        for name, number in numbers.items():
            if not np.isfinite(number) or (name == "std" and number <= 0):
                wanted = "positive and finite" if name == "std" else "finite"
                raise ValueError(f"{name} of Scale must be {wanted}, got {number!r}")
        self.factor, self.shift = float(factor), float(shift)
        self.mean, self.std = float(mean), float(std)

    @classmethod
    def fitted(cls, model: Any, episodes: EpisodeBatch) -> Scale:
        """Return the scale that gives these episodes a total reward of mean 0 and deviation 1.

        Args:
            model: what `text_envs.rewards.resolve` accepts; with one component.
            episodes: for example those of demonstrations, or of the untrained agent.

        Raises:
            ValueError: several components, or rewards that are all equal.
        """
        resolved = resolve(model)
        ledger = score_with_details(resolved, episodes)[0]
        if len(ledger) > 1:
            raise ValueError(
                f"Scale.fitted takes a model with one component, got {', '.join(ledger)}"
            )
        values = next(iter(ledger.values()))
        if values.std() == 0:
            raise ValueError(f"all {len(values)} rewards are {values[0]}: nothing to divide by")
        return cls(resolved, mean=float(values.mean()), std=float(values.std()))

    def change(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scaled rewards."""
        return self.factor * (values - self.mean) / self.std + self.shift

    def __repr__(self) -> str:
        return (
            f"Scale({self.model!r}, factor={self.factor}, shift={self.shift}, mean={self.mean}, "
            f"std={self.std})"
        )


class Ledger(Decorator):
    """Pays what the inner model pays and keeps account of every component.

    `statistics()` tells count, mean, std, min and max of each component since the beginning (or
    `reset_statistics()`); the details of each episode hold its own value and the running mean
    and deviation, its batch included, as `name/mean` and `name/std`.

    >>> import gymnasium as gym, text_envs
    >>> from text_envs.rewards import Ledger
    >>> env = gym.make("text_envs/Toy-v0", reward=Ledger({"length": 0.5, "constant": 1.0}))
    >>> for text in ([0, 2], [0, 1, 2]):
    ...     observation, info = env.reset(seed=0)
    ...     for token in text:
    ...         observation, reward, *_, info = env.step(token)
    >>> info["reward_terms"]
    {'length': 1.0, 'constant': 1.0}
    >>> env.unwrapped.reward_model.statistics()["length"]
    {'count': 2, 'mean': 0.75, 'std': 0.25, 'min': 0.5, 'max': 1.0}
    """

    kind = "ledger"

    def __init__(self, model: Any) -> None:
        """Begin an account.

        Args:
            model: what `text_envs.rewards.resolve` accepts.
        """
        super().__init__(model)
        self._accounts: dict[str, _Account] = {}

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        """Return the inner model's rewards, entered into the account."""
        ledger, details = score_with_details(self.model, episodes)
        for component, column in ledger.items():
            account = self._accounts.setdefault(component, _Account())
            account.enter(column)
            name = self.entry(component)
            details[name] = column
            details[f"{name}/mean"] = np.full(len(column), account.mean)
            details[f"{name}/std"] = np.full(len(column), account.std)
        return Scored(as_values(ledger), details)

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return count, mean, std, min and max of each component; "task" if there is but one."""
        return {name: account.summary() for name, account in self._accounts.items()}

    def reset_statistics(self) -> None:
        """Begin the account anew."""
        self._accounts.clear()


class _Account:
    """Count, mean and spread of numbers that arrive in batches (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0  # sum of squared distances from the mean
        self.low, self.high = np.inf, -np.inf

    @property
    def std(self) -> float:
        return float(np.sqrt(self.squares / self.count)) if self.count else 0.0

    def enter(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        total = self.count + len(values)
        mean = float(values.mean())
        distance = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += distance**2 * self.count * len(values) / total
        self.mean += distance * len(values) / total
        self.count = total
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def summary(self) -> dict[str, float]:
        return {
            "count": self.count, "mean": self.mean, "std": self.std,
            "min": self.low, "max": self.high,
        }  # fmt: skip
