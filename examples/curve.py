"""Reward and KL over training: a callback that keeps them, and their drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from agents.losses.on_policy import kl_k1

__all__ = ["Curve", "plot"]


class Curve(BaseCallback):
    """Keeps tokens, mean reward and KL of every iteration in `points`."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rollout = self.locals["rollout"]
        kl = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
        self.add(
            {
                "tokens": self.num_timesteps,
                "reward": rollout.episode_rewards.mean().item(),
                "kl": kl.sum(dim=1).mean().item(),
            }
        )

    def add(self, point: dict[str, float]) -> None:
        """Keep an iteration."""
        self.points.append(point)


def plot(points: Sequence[dict[str, float]], path: Path, title: str, reward: str) -> None:
    """Draw reward and KL over the tokens written so far."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    tokens = [point["tokens"] for point in points]
    left.plot(tokens, [point["reward"] for point in points], color="tab:green")
    right.plot(tokens, [point["kl"] for point in points], color="tab:red", linestyle="--")
    left.set(xlabel="tokens written", ylabel=f"{reward} (solid)", title=title)
    right.set_ylabel("KL to the initial model, nats a text (dashed)")
    figure.savefig(path, dpi=120)
