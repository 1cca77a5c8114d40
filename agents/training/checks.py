"""Arguments that all algorithms have, checked before anything is made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common import logger as sb3_logger
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device

from agents.common.arguments import parameters_of
from agents.common.checks import check_device, require, require_whole
from agents.policies.causal_lm import CausalLMPolicy
from text_envs.episodes.errors import suggest
from text_envs.lm.precision import check_dtype

__all__ = [
    "RATE",
    "check_callback",
    "check_rows",
    "check_shared",
    "check_target",
    "check_tensorboard",
    "check_total",
    "is_rate",
]

RATE = "a number of at least 0, or a function of the remaining progress"

# What `make_policy` of an algorithm brings, and nobody gives.
_BROUGHT = {"observation_space", "action_space", "lr_schedule"}


def is_rate(value: Any) -> bool:
    """Return whether a value is a learning rate or a schedule of one."""
    if callable(value):
        return True
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def check_shared(cls: Any, given: Mapping[str, Any]) -> None:
    """Check those of the given arguments that all algorithms have.

    Args:
        cls: the algorithm.
        given: its arguments by name, as far as they were given.

    Raises:
        ValueError: a value that cannot be used, with what is accepted and the nearest.
        TypeError: the policy takes no such argument.
        ImportError: TensorBoard is asked for and missing.
    """
    kind = _policy_class(cls, given["policy"]) if "policy" in given else None
    if "learning_rate" in given:
        require("learning_rate", given["learning_rate"], is_rate, RATE)
    if given.get("seed") is not None:
        whole = isinstance(given["seed"], int | np.integer) and not isinstance(given["seed"], bool)
        fine = whole and 0 <= given["seed"] < 2**32
        require("seed", given["seed"], fine, "None or an integer in 0..2^32 - 1")
    if "device" in given:
        check_device(given["device"])
    for name in ("num_envs", "stats_window_size"):
        if name in given and (name, given[name]) != ("num_envs", None):
            require_whole(name, given[name])
    if "verbose" in given:
        require_whole("verbose", given["verbose"], 0)
    log = given.get("tensorboard_log")
    require("tensorboard_log", log, log is None or isinstance(log, str | os.PathLike), "a folder")
    if given.get("_init_setup_model", True):
        check_tensorboard(log)
    _check_policy_kwargs(kind, given.get("policy_kwargs"))
    device = get_device(given.get("device", "auto"))
    check_dtype((given.get("policy_kwargs") or {}).get("dtype"), device, trained=True)
    _check_env(given.get("env"))


def _policy_class(cls: Any, policy: Any) -> Any:
    """Return the class of a policy that is given as one or by its name."""
    if isinstance(policy, str):
        if policy not in cls.policy_aliases:
            raise ValueError(f"Policy {policy} unknown.{suggest(policy, cls.policy_aliases)}")
        return cls.policy_aliases[policy]
    if not isinstance(policy, type) or not issubclass(policy, CausalLMPolicy):
        shown = policy.__name__ if isinstance(policy, type) else repr(policy)
        raise ValueError(
            f"policy must be a name or a subclass of CausalLMPolicy, got {shown}."
            f"{suggest(shown, cls.policy_aliases)}"
        )
    return policy


def _check_policy_kwargs(kind: Any, kwargs: Any) -> None:
    accepted = "None or a dictionary of the policy's arguments"
    require("policy_kwargs", kwargs, kwargs is None or isinstance(kwargs, dict), accepted)
    if kind is None or not kwargs:
        return
    known = parameters_of(kind).keys() - _BROUGHT
    for name in kwargs:
        if name not in known:
            shown = [other for other in known if not other.startswith("_")]
            raise TypeError(
                f"policy_kwargs has {name!r}, which {kind.__name__} does not take."
                f"{suggest(str(name), shown)}"
            )


def _check_env(env: Any) -> None:
    if env is None or isinstance(env, str) or hasattr(env, "step") or callable(env):
        return
    raise ValueError(
        "env must be an id such as 'text_envs/Toy-v0', a Gymnasium environment, a TokenVectorEnv "
        f"or a VecEnv, got {env!r}"
    )


def check_tensorboard(log: Any) -> None:
    """Raise an ImportError if TensorBoard is asked for and not installed."""
    if log is not None and getattr(sb3_logger, "SummaryWriter", None) is None:
        raise ImportError(
            f"tensorboard_log={os.fspath(log)!r} needs TensorBoard: "
            "pip install 'text_envs[tensorboard]'"
        )


def check_total(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a number of steps; 1e5, as many write it, is one."""
    number = isinstance(value, int | float | np.integer | np.floating)
    whole = number and not isinstance(value, bool) and value >= 0 and value % 1 == 0
    require(name, value, bool(whole), "a finite number of steps, an integer of at least 0")


def check_callback(callback: Any) -> None:
    """Raise a ValueError unless `callback` is what `learn` can call."""
    parts = callback if isinstance(callback, list) else [callback]
    for part in parts:
        lone = part is None or (callable(part) and not isinstance(part, type))
        if not isinstance(part, BaseCallback) and not (lone and not isinstance(callback, list)):
            raise ValueError(
                "callback must be None, a BaseCallback, a list of them, or a function of (locals, "
                f"globals), got {part!r}"
            )


def check_rows(n_episodes: int, rows: int, group_size: int) -> None:
    """Raise a ValueError if episodes are no whole number for each row, or groups no whole rows."""
    if n_episodes % rows:
        raise ValueError(
            f"n_episodes={n_episodes} over {rows} environments is {n_episodes / rows:.2f} "
            "episodes each, and must be whole, so that long episodes are not left out; nearest "
            f"n_episodes: {max(n_episodes // rows, 1) * rows}"
        )
    if rows % group_size:
        raise ValueError(
            f"group_size={group_size} must divide the {rows} environments, whose episodes are "
            f"played side by side; nearest: {_nearest_divisor(rows, group_size)}. For this "
            f"group_size, num_envs and n_episodes must be multiples of {group_size}"
        )


def check_target(kl_target: float | None, kl_coef: float) -> None:
    """Raise a ValueError if a KL is wanted that nothing leads to."""
    if kl_target is not None and kl_coef == 0:
        raise ValueError(
            f"kl_target={kl_target} adapts kl_coef by factors, and 0 stays 0: give kl_coef a "
            "start above 0, for example 0.05"
        )


def _nearest_divisor(count: int, wanted: int) -> int:
    divisors = [k for k in range(1, count + 1) if count % k == 0]
    return min(divisors, key=lambda k: abs(k - wanted))
