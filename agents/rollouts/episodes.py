"""Whole episodes from any Stable-Baselines3 vector environment, as tensors.

Every environment contributes the same number of episodes. Filling a buffer with the episodes that
finish first would prefer short ones, and cutting at a number of steps would lose the reward, which
comes at the end. An environment that has done its share is stepped on with an idle action, and
neither fed to the model nor recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.common.packing import packed
from agents.rollouts.rollout import Rollout
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.cache import KEEP_WHILE
from text_envs.lm.transfers import on_host, places_of, spread, to_device
from text_envs.lm.watching import held

__all__ = ["Collected", "TokenPolicy", "collect_episodes", "score"]

# Tokens of a pass that scores: without gradients, a layer's states are all that is held.
_SCORED_TOKENS = 4096


class TokenPolicy(Protocol):
    """What `collect_episodes` asks of a policy."""

    idle_action: int

    def act(
        self, obs: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Return actions, values, log-probabilities and last columns, each `(n,)`."""
        ...

    def predict_values(self, obs: Any) -> Tensor:
        """Return values `(n, 1)`."""
        ...


class Collected(NamedTuple):
    """What `collect_episodes` returns.

    Attributes:
        rollout: the finished episodes.
        obs: `(N, L)` the last observations.
        episode_starts: `(N,)` bool, which of them begin an episode.
        complete: False if `on_step` stopped, be it at the last step.
    """

    rollout: Rollout
    obs: NDArray[np.int64]
    episode_starts: NDArray[np.bool_]
    complete: bool


def collect_episodes(
    policy: TokenPolicy,
    env: VecEnv,
    n_episodes: int,
    obs: NDArray[np.int64],
    on_step: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> Collected:
    """Play `n_episodes` whole episodes, the same number in every environment.

    Args:
        policy: chooses the tokens.
        env: a vector environment, every row at the start of an episode.
        n_episodes: a multiple of `env.num_envs`.
        obs: `(N, L)` the observations that `env.reset()` returned.
        on_step: called after each step with `actions`, `rewards`, `dones`, `infos`, `new_obs` and
            `n_tokens` (the steps that count); False stops.

    Raises:
        ValueError: `n_episodes` is not a positive multiple of `env.num_envs`.
        Exception: whatever the environment or the policy raises; the episodes finished before are
            in the exception's attribute `partial_rollout`.
    """
    num_envs = env.num_envs
    if n_episodes < 1 or n_episodes % num_envs:
        raise ValueError(
            f"n_episodes must be a positive multiple of num_envs={num_envs}, got {n_episodes}"
        )
    if not np.issubdtype(obs.dtype, np.integer):
        raise ValueError(
            f"observations must be token ids, got {obs.dtype}; accepted: VecNormalize with "
            "norm_obs=False"
        )
    store = _Store(num_envs, n_episodes // num_envs, obs.shape[1])
    batch = np.arange(num_envs)  # rows in the model's batch; some may have done their share
    stopped = False
    try:
        with held(policy):
            while store.open.any() and not stopped:
                if store.open.sum() <= KEEP_WHILE * len(batch):
                    batch = np.flatnonzero(store.open)
                sampled = policy.act(obs[batch], batch)
                live = store.open[batch]
                rows = batch[live]
                chosen, values, log_probs, columns = (x[live] for x in sampled)
                actions = np.full(num_envs, policy.idle_action)
                actions[rows] = chosen
                obs, rewards, starts, infos = env.step(actions)  # type: ignore[assignment]
                store.write(rows, chosen, values, log_probs, columns, rewards[rows])
                store.add_terms(rows, infos)
                dones = starts & store.open  # what the other rows do is nobody's business
                for row in np.flatnonzero(dones).tolist():
                    store.finish(row, infos[row])
                step = {"actions": actions, "rewards": rewards, "dones": dones, "infos": infos}
                stopped = not on_step(step | {"new_obs": obs, "n_tokens": len(rows)})
    except BaseException as error:
        error.partial_rollout = store.rollout(None)  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):
            error.add_note(
                "the episodes that were finished before are in this exception's attribute "
                "partial_rollout"
            )
        raise
    return Collected(store.rollout(policy), obs, starts, not stopped)


@torch.no_grad()
def score(actor: ActionLM, rollout: Rollout, batch_size: int | None = None) -> Tensor:
    """Return the log-probabilities `(B, T)` that a model gives to the actions of a roll-out.

    One forward pass a sequence; episodes of similar length go together, up to 4,096 tokens a pass.

    Args:
        actor: the model.
        rollout: B episodes.
        batch_size: most sequences a pass; None for 64.
    """
    log_probs = torch.zeros_like(rollout.log_probs)
    lengths = torch.from_numpy((on_host(rollout.tokens)[0] != actor.pad_id).sum(axis=1))
    for at in packed(lengths, _SCORED_TOKENS, batch_size or 64):
        index = to_device(at, log_probs.device)
        part = replace(rollout, infos=[]).select(index)
        places = places_of(part.mask)  # (M,)
        shown = (part.tokens, part.columns, part.mask)
        hidden, seen = actor.encode(*shown), actor.seen(*shown)
        flat, _ = actor.sampling_log_probs(hidden, part.actions.flatten()[places], seen)
        log_probs[index, : part.mask.shape[1]] = spread(flat, places, part.mask.shape)
    return log_probs


class _Store:
    """Episodes being written, one a row, and episodes finished."""

    def __init__(self, num_envs: int, quota: int, num_columns: int) -> None:
        self.quota = quota
        self.count = np.zeros(num_envs, dtype=np.int64)  # finished episodes a row
        self.t = np.zeros(num_envs, dtype=np.int64)  # next step of the row's open episode
        n = num_envs * quota
        self.done = np.zeros(n, dtype=bool)  # episode row * quota + k is the row's k-th
        self.length = np.zeros(n, dtype=np.int64)
        self.truncated = np.zeros(n, dtype=bool)
        self.infos: list[dict[str, Any]] = [{} for _ in range(n)]
        self.tokens = np.zeros((n, num_columns), dtype=np.int64)
        self.terms: dict[str, NDArray[np.float32]] = {}
        # An episode has at most as many steps as an observation has columns.
        self.steps = {
            name: np.zeros((n, num_columns), dtype=dtype)
            for name, dtype in (
                ("actions", np.int64),
                ("columns", np.int64),
                ("rewards", np.float32),
                ("values", np.float32),
                ("log_probs", np.float32),
            )
        }

    @property
    def open(self) -> NDArray[np.bool_]:
        """Return which rows still owe episodes, `(N,)`."""
        return self.count < self.quota

    def episode(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows * self.quota + self.count[rows]

    def write(
        self,
        rows: NDArray[np.int64],
        actions: NDArray[Any],
        values: NDArray[Any],
        log_probs: NDArray[Any],
        columns: NDArray[Any],
        rewards: NDArray[Any],
    ) -> None:
        at = (self.episode(rows), self.t[rows])
        if (self.t[rows] >= self.tokens.shape[1]).any():
            raise RuntimeError(
                "an episode has more steps than an observation has columns: the environment was "
                "stepped by somebody else during the roll-out. Give callbacks that play, such as "
                "EvalCallback, an environment of their own"
            )
        self.steps["actions"][at] = actions
        self.steps["columns"][at] = columns
        self.steps["values"][at] = values
        self.steps["log_probs"][at] = log_probs
        self.steps["rewards"][at] = rewards
        self.t[rows] += 1

    def add_terms(self, rows: NDArray[np.int64], infos: list[dict[str, Any]]) -> None:
        for row, episode in zip(rows.tolist(), self.episode(rows).tolist(), strict=True):
            for name, value in infos[row].get("reward_terms", {}).items():
                if name not in self.terms:
                    self.terms[name] = np.zeros(len(self.done), dtype=np.float32)
                self.terms[name][episode] += value

    def finish(self, row: int, info: dict[str, Any]) -> None:
        episode = row * self.quota + int(self.count[row])
        self.tokens[episode] = info["terminal_observation"]
        self.truncated[episode] = info.get("TimeLimit.truncated", False)
        self.infos[episode] = {k: v for k, v in info.items() if k != "terminal_observation"}
        self.length[episode] = self.t[row]
        self.done[episode] = True
        self.count[row] += 1
        self.t[row] = 0

    def rollout(self, policy: TokenPolicy | None) -> Rollout:
        """Return the finished episodes; values of truncated ends if a policy is given."""
        keep = np.flatnonzero(self.done)
        longest = int(self.length[keep].max(initial=0))
        mask = torch.from_numpy(np.arange(longest) < self.length[keep, None])
        steps = {
            name: torch.from_numpy(array[keep, :longest]).masked_fill(~mask, 0)
            for name, array in self.steps.items()
        }
        tokens = torch.from_numpy(self.tokens[keep])
        truncated = torch.from_numpy(self.truncated[keep])
        bootstrap = torch.zeros(len(keep))
        if policy is not None and bool(truncated.any()):
            with torch.no_grad():
                bootstrap[truncated] = policy.predict_values(tokens[truncated]).squeeze(1).cpu()
        return Rollout(
            tokens=tokens,
            mask=mask,
            truncated=truncated,
            bootstrap=bootstrap,
            infos=[self.infos[i] for i in keep.tolist()],
            reward_terms={k: torch.from_numpy(v[keep]) for k, v in self.terms.items()},
            **steps,
        )
