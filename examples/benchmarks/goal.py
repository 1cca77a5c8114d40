"""When a training run has reached its goal; the same rule for every contestant of `peers`."""

from __future__ import annotations

import time

__all__ = ["Goal", "GoalReached"]


class GoalReached(Exception):
    """The goal is reached, or the time is up: training may end."""


class Goal:
    """Watches the mean reward of each iteration's 64 texts from the start of training.

    Args:
        reward: wanted mean over the last two iterations.
        seconds: give up after that long.
    """

    def __init__(self, reward: float, seconds: float) -> None:
        self.reward, self.seconds = reward, seconds
        self.curve: list[tuple[float, float]] = []  # seconds, mean reward of an iteration
        self.start()

    def start(self) -> None:
        """Start the clocks."""
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()

    def saw(self, mean_reward: float) -> None:
        """Take note of an iteration's mean reward, as soon as its texts are scored.

        Raises:
            GoalReached: nothing is left to do.
        """
        seconds = time.perf_counter() - self._begin
        self.curve.append((round(seconds, 3), round(mean_reward, 4)))
        if self.reached or seconds > self.seconds:
            raise GoalReached

    @property
    def reached(self) -> bool:
        """Whether the last two iterations average at least the goal."""
        last = [reward for _, reward in self.curve[-2:]]
        return len(last) == 2 and sum(last) / 2 >= self.reward

    def report(self) -> dict[str, object]:
        """Return what a contestant prints.

        `seconds` is None if the goal was missed; `cpu_seconds`, of all threads, tells how much
        of it the processor was given to somebody else.
        """
        return {
            "seconds": self.curve[-1][0] if self.reached else None,
            "cpu_seconds": round(time.process_time() - self._cpu_begin, 3),
            "iterations": len(self.curve),
            "curve": self.curve,
        }
