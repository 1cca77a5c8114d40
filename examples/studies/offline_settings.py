"""Sizes and settings of the study on offline learning, one for all tasks of a family.

They were chosen on a seed that the study does not use, by short runs of each method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "ADVERSARIAL",
    "ADVERSARIAL_SIZES",
    "BETAS",
    "FULL",
    "LEARNED",
    "TAUS",
    "Budget",
    "budget_of",
]

TAUS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
# Of ILQL on the adversarial set; a large cql_weight would prefer what the data prefer.
ADVERSARIAL = {"gamma": 0.99, "cql_weight": 0.01, "polyak": 0.1}
ADVERSARIAL_SIZES = {"full": (4_400, 400), "quick": (1_100, 100), "smoke": (110, 2)}
BETAS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
LEARNED = ("MC", "SARSA", "CQL", "ILQL")


@dataclass(frozen=True)
class Budget:
    """What a family of tasks is given.

    Attributes:
        episodes: recorded games.
        clone_updates: of the model that everything starts from.
        imitation_updates: more of them, on filtered games or on games that are told their return.
        updates: of the values.
        batch_size: episodes an update.
        learning_rate: of the values.
        evaluation: test games.
        tau: of ILQL.
        gamma: of all values.
        cql_weight: of all values.
        polyak: of all values but Monte-Carlo ones, which need no target.
        betas: strength of the guidance by method.
    """

    episodes: int
    clone_updates: int
    imitation_updates: int
    updates: int
    batch_size: int
    learning_rate: float
    evaluation: int
    tau: float
    gamma: float
    cql_weight: float
    polyak: float
    betas: Mapping[str, float]

    def settings_of(self, method: str) -> tuple[dict[str, Any], float]:
        """Return the arguments of a method's algorithm, and its beta."""
        settings = {"gamma": self.gamma, "cql_weight": self.cql_weight}
        if method == "MC":
            return settings | {"polyak": 1.0}, self.betas[method]
        settings |= {"polyak": self.polyak}
        if method == "CQL":
            return settings, self.betas[method]
        return settings | {"tau": 0.5 if method == "SARSA" else self.tau}, self.betas[method]


FULL = {
    "Wordle": Budget(
        episodes=20_000, clone_updates=2000, imitation_updates=400, updates=1000, batch_size=32,
        learning_rate=2e-3, evaluation=512, tau=0.7, gamma=0.99, cql_weight=0.5, polyak=0.05,
        betas={"MC": 4.0, "SARSA": 8.0, "CQL": 8.0, "ILQL": 16.0},
    ),
    "Maze": Budget(
        episodes=1_200, clone_updates=200, imitation_updates=100, updates=800, batch_size=32,
        learning_rate=2e-3, evaluation=256, tau=0.9, gamma=0.97, cql_weight=0.1, polyak=0.1,
        betas={"MC": 2.0, "SARSA": 4.0, "CQL": 16.0, "ILQL": 32.0},
    ),
    "VisualDialogue": Budget(
        episodes=8_000, clone_updates=1600, imitation_updates=250, updates=500, batch_size=16,
        learning_rate=2e-3, evaluation=256, tau=0.9, gamma=0.99, cql_weight=0.1, polyak=0.1,
        betas={"MC": 1.0, "SARSA": 4.0, "CQL": 16.0, "ILQL": 4.0},
    ),
    "Comments": Budget(
        episodes=8_000, clone_updates=400, imitation_updates=150, updates=400, batch_size=32,
        learning_rate=2e-3, evaluation=512, tau=0.7, gamma=0.99, cql_weight=0.1, polyak=0.1,
        betas={"MC": 8.0, "SARSA": 8.0, "CQL": 8.0, "ILQL": 8.0},
    ),
}  # fmt: skip


def budget_of(family: str, size: str) -> Budget:
    """Return a family's budget: "full", "quick" or "smoke"."""
    full = FULL[family]
    if size == "full":
        return full
    share, games = (0.05, 64) if size == "quick" else (0.002, 8)
    fewer = {
        name: max(round(getattr(full, name) * share), 2)
        for name in ("clone_updates", "imitation_updates", "updates")
    }
    return replace(
        full,
        episodes=full.episodes // (4 if size == "quick" else 40),
        evaluation=games,
        **fewer,
    )
