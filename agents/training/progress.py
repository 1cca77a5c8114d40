"""Progress bars that count the agent's tokens."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from tqdm.auto import tqdm

from agents.losses.on_policy import kl_k1
from agents.rollouts.rollout import Rollout

__all__ = ["OfflineProgressBar", "TokenProgressBar"]


class TokenProgressBar(BaseCallback):
    """A progress bar over agent tokens, with reward and KL of the last roll-out."""

    def _on_training_start(self) -> None:
        done = self.model.num_timesteps
        total = self.locals["total_timesteps"]
        self._bar = tqdm(total=total, initial=done, unit="tok", dynamic_ncols=True)

    def _on_step(self) -> bool:
        self._bar.update(self.model.num_timesteps - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        rollout: Rollout = self.locals["rollout"]
        shown = {"reward": f"{rollout.episode_rewards.mean().item():.3f}"}
        if rollout.ref_log_probs is not None:
            k1 = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            shown["kl"] = f"{k1.sum(dim=1).mean().item():.2f}"
        self._bar.set_postfix(shown)

    def _on_training_end(self) -> None:
        self._bar.close()


class OfflineProgressBar(BaseCallback):
    """A progress bar over action tokens, with the loss of the last minibatch."""

    def _on_training_start(self) -> None:
        total, done = self.locals["total_timesteps"], self.model.num_timesteps
        self._bar = tqdm(total=total, initial=done, unit="tok", dynamic_ncols=True)

    def _on_step(self) -> bool:
        if self.n_calls % 10 == 1:  # reading the loss waits for the device
            loss = self.locals["metrics"]["loss"].item()
            self._bar.set_postfix({"loss": f"{loss:.3f}"}, refresh=False)
        self._bar.update(self.model.num_timesteps - self._bar.n)
        return True

    def _on_training_end(self) -> None:
        self._bar.close()
