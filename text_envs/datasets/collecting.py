"""Recording whole episodes of any policy in any environment of the suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from text_envs.core.facts import describe
from text_envs.datasets.choices import Chooser, Scripted, as_chooser, policy_name
from text_envs.datasets.players import End, Player, as_player
from text_envs.episodes.store import EpisodeDataset

__all__ = ["collect"]

_MOST_ROWS = 64
_MOST_SCRIPTED_ROWS = 256


def collect(
    env: Any,
    policy: Any,
    n_episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = False,
    progress_bar: bool = False,
    num_envs: int | None = None,
    **env_kwargs: Any,
) -> EpisodeDataset:
    """Play `n_episodes` whole episodes and return them.

    Every row of the environment plays the same number, fixed in advance (where `n_episodes` does
    not divide, the first rows play one more), so that short episodes are not preferred. Episodes
    stand in the order of rows. The same seed gives the same episodes.

    Args:
        env: an id, a Gymnasium environment (wrappers count), a `TokenVectorEnv`, or a `VecEnv` of
            Stable-Baselines3. It is reset, and must be reset before it is used for anything else.
        policy: who plays. The name of a quality of the task ("expert", "mixed", "random", ...);
            anything with `predict(obs, deterministic=...)`, such as an agent of
            Stable-Baselines3; a function of observations `(B, L)` that returns actions `(B,)` or
            log-probabilities `(B, num_actions)`; or whatever else
            `text_envs.policies.as_log_probs` takes, such as a language model or its name.
        n_episodes: how many, at least 1.
        seed: row i is seeded with `seed + i`; also of the policy's draws (torch's own generator
            is left as it was).
        deterministic: take the policy's most probable token.
        progress_bar: show one, in episodes; needs tqdm.
        num_envs: rows of an environment given by id; None for at most 64, or 256 where the policy
            is given by name.
        **env_kwargs: arguments of an environment given by id.

    Raises:
        ValueError: an argument out of range, or a policy that returns something else.
        TypeError: an environment or a policy of no known kind.
        BaseException: whatever environment or policy raise, an interrupt included; the episodes
            finished before are in the exception's attribute `partial_dataset`.

    >>> collect("text_envs/Toy-v0", "expert", 3).returns.tolist()
    [1.5, 1.5, 1.5]
    """
    if not isinstance(n_episodes, int | np.integer) or n_episodes < 1:
        raise ValueError(f"n_episodes must be an integer of at least 1, got {n_episodes!r}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    made = _make(env, policy, n_episodes, num_envs, env_kwargs)
    record = _Record(describe(made, seed=seed, policy=policy_name(policy)))
    try:
        with ExitStack() as stack:
            player = as_player(made)
            choose = _chooser(policy, player, deterministic, seed)
            bar = stack.enter_context(_bar(n_episodes, progress_bar))
            _seed_torch(stack, seed)
            record.play(player, choose, n_episodes, seed, bar)
    except BaseException as error:
        partial = record.dataset()
        error.partial_dataset = partial  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):
            error.add_note(
                f"{len(partial)} of {n_episodes} episodes were finished before; they are in this "
                "exception's attribute partial_dataset"
            )
        raise
    finally:
        if made is not env:
            made.close()
    return record.dataset()


def _make(
    env: Any, policy: Any, n_episodes: int, num_envs: int | None, kwargs: dict[str, Any]
) -> Any:
    if not isinstance(env, str):
        if num_envs is not None or kwargs:
            given = [*kwargs, *(["num_envs"] if num_envs is not None else [])]
            raise ValueError(
                f"{sorted(given)} go with an environment given by id; this one "
                f"({type(env).__name__}) is made already"
            )
        return env
    # A script costs next to nothing a row, a model's cache grows with them.
    most = _MOST_SCRIPTED_ROWS if isinstance(policy, str) else _MOST_ROWS
    rows = min(n_episodes, most) if num_envs is None else num_envs
    made = gym.make_vec(env, num_envs=rows, vectorization_mode="vector_entry_point", **kwargs)
    return made.unwrapped


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Any]:
    """Yield what is called with the number of episodes that have just finished."""
    if not wanted:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress_bar=True needs tqdm; pip install tqdm") from error
    with tqdm(total=total, unit="episode", dynamic_ncols=True) as bar:
        yield bar.update


def _seed_torch(stack: ExitStack, seed: int) -> None:
    if "torch" in sys.modules:  # else nothing that plays can draw from it
        import torch

        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)


def _chooser(policy: Any, player: Player, deterministic: bool, seed: int) -> Chooser:
    if not isinstance(policy, str) or policy not in player.task.qualities:
        return as_chooser(policy, player.task, deterministic=deterministic, seed=seed)
    if player.engine is None:
        raise TypeError(
            f"the script {policy!r} sees more than observations and needs the rows of one native "
            "environment; pass the id, or an environment of make_sb3"
        )
    return Scripted(player.engine, policy, seed)


class _Record:
    """The episodes finished so far."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        # By row, and number in the row.
        self.ends: dict[tuple[int, int], End] = {}
        self.rewards: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.qualities: dict[tuple[int, int], str] = {}
        self.num_columns = 0

    def play(self, player: Player, choose: Chooser, n: int, seed: int, bar: Any) -> None:
        """Play `n` episodes, the number of each row fixed in advance."""
        quota, extra = divmod(n, player.num_envs)
        quotas = np.full(player.num_envs, quota) + (np.arange(player.num_envs) < extra)
        played = np.zeros(player.num_envs, dtype=np.int64)
        script = choose if isinstance(choose, Scripted) else None
        self.num_columns = player.task.prompt_length + player.task.max_tokens
        rewards = np.zeros((player.num_envs, self.num_columns))
        player.reset(seed)
        if script is not None:
            script.begin(np.flatnonzero(quotas))
        while (rows := np.flatnonzero(played < quotas)).size:
            actions = choose(player.obs, rows)
            _check_actions(actions, rows, player.task.tokenizer.num_actions)
            columns, paid, ends = player.step(actions, rows)
            rewards[rows, columns] = paid
            for end in ends:
                key = (end.row, int(played[end.row]))
                self.ends[key], self.rewards[key] = end, rewards[end.row].copy()
                if script is not None:
                    self.qualities[key] = script.script.qualities[end.row]
                rewards[end.row] = 0.0
                played[end.row] += 1
            if ends:
                over = np.array([end.row for end in ends])
                again = over[played[over] < quotas[over]]
                if len(again):
                    player.again(again)
                if script is not None:
                    script.begin(again)
                bar(len(ends))

    def dataset(self) -> EpisodeDataset:
        """Return what has been recorded, also if nothing has."""
        keys = sorted(self.ends)
        ends = [self.ends[key] for key in keys]
        shape = (len(keys), self.num_columns)
        columns = {"policy": np.array([self.qualities[k] for k in keys])} if self.qualities else {}
        return EpisodeDataset(
            tokens=np.array([end.tokens for end in ends], dtype=np.int64).reshape(shape),
            roles=np.array([end.roles for end in ends], dtype=np.int8).reshape(shape),
            rewards=np.array([self.rewards[key] for key in keys]).reshape(shape),
            example_indices=np.array([end.example_index for end in ends], dtype=np.int64),
            finish_reasons=tuple(end.finish_reason for end in ends),
            truncated=np.array([end.truncated for end in ends], dtype=bool),
            columns=columns,
            metadata=self.facts,
        )


def _check_actions(actions: NDArray[np.int64], rows: NDArray[np.int64], allowed: int) -> None:
    wrong = (actions < 0) | (actions >= allowed)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"the policy chose {actions[i]} in row {rows[i]}; accepted: 0..{allowed - 1}"
        )
