"""The arguments that several algorithms share: named, typed and documented once.

An algorithm takes them as `**kwargs: Unpack[...]` and hands them to its base, which has the
defaults and the checks (`on_policy.EpisodicAlgorithm`, `offline.OfflineAlgorithm`).
Editors complete them, mypy checks them, and `inspect.signature` and `help` show them with the
algorithm's own, see `agents.common.arguments`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from typing_extensions import TypedDict

from agents.common.master_weights import kind_of

__all__ = [
    "KLArguments",
    "RecordedArguments",
    "ReferenceArguments",
    "RunArguments",
    "ValueArguments",
    "set_weight_decay",
    "with_weight_decay",
]


class RunArguments(TypedDict, total=False):
    """What every algorithm takes.

    Attributes:
        max_grad_norm: gradients are scaled down to this norm.
        micro_batch_size: sequences of a forward and backward pass. The gradients of the passes add
            up to that of the minibatch, for one step. None for as many as about 1 GiB of
            activations holds, on a GPU a quarter of its memory.
        num_envs: environments to make if `env` is an id; None for as many as divide `n_episodes`,
            at most 64 or one group.
        stats_window_size: episodes that `rollout/ep_*_mean` average over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: arguments of the policy, see `policy_kwargs_for`; by default its model is the
            bundled one where the environment has its words, else a small untrained one.
        verbose: 1 prints the metrics.
        seed: of torch, numpy, Python and the environments.
        device: "auto", "cpu", "cuda".
    """

    max_grad_norm: float
    micro_batch_size: int | None
    num_envs: int | None
    stats_window_size: int
    tensorboard_log: str | os.PathLike[str] | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: torch.device | str
    _init_setup_model: bool


class ReferenceArguments(RunArguments, total=False):
    """What an algorithm takes that scores texts under a second model.

    Attributes:
        reference: a model, see `load_lm`; None for the initial policy, frozen: a copy, or, where
            the policy learns adapters, its base as it is in memory, without them.
    """

    reference: Any


class KLArguments(ReferenceArguments, total=False):
    """What an algorithm takes that pays for staying near the reference.

    Attributes:
        kl_coef: weight of the KL to the reference, reward per nat; 0 for none.
        kl_target: wanted KL to the reference, nats an episode; adapts `kl_coef`.
        kl_horizon: episodes over which the adaptation acts.
    """

    kl_coef: float
    kl_target: float | None
    kl_horizon: float


class RecordedArguments(RunArguments, total=False):
    """What an algorithm takes that learns from recorded episodes.

    Attributes:
        include_prefix: also learn from what a guide wrote in the agent's place.
        num_envs: environments to make if `env` is an id; None for 16.
        stats_window_size: Stable-Baselines3's; not used.
        seed: of torch, numpy, Python, the environments and the order of the data.
    """

    include_prefix: bool


class ValueArguments(RecordedArguments, total=False):
    """What an algorithm takes that learns values which guide a language model.

    Attributes:
        batch_size: episodes a minibatch, on average; see `BatchOrder`.
        gamma: discount factor of an agent token, or of an utterance.
        beta: strength of the guidance when acting; may be set afterwards.
    """

    batch_size: int
    gamma: float
    beta: float


def with_weight_decay(policy_kwargs: dict[str, Any] | None, weight_decay: float) -> dict[str, Any]:
    """Return arguments of a policy that is optimised by AdamW, unless they name an optimiser."""
    given = dict(policy_kwargs or {})
    if given.setdefault("optimizer_class", torch.optim.AdamW) is torch.optim.AdamW:
        given["optimizer_kwargs"] = {
            **(given.get("optimizer_kwargs") or {}),
            "weight_decay": weight_decay,
        }
    return given


def set_weight_decay(policy: Any, weight_decay: float) -> None:
    """Give the optimiser of a policy another weight decay; one that has none is refused.

    Raises:
        ValueError: the optimiser is no AdamW, which `weight_decay` is for.
    """
    if not issubclass(kind_of(policy.optimizer), torch.optim.AdamW):
        raise ValueError(
            f"weight_decay is AdamW's, and the policy has {kind_of(policy.optimizer).__name__}; "
            "accepted: its own arguments in optimizer.param_groups"
        )
    for group in policy.optimizer.param_groups:
        group["weight_decay"] = weight_decay
    policy.arguments["optimizer_kwargs"] = {
        **(policy.arguments["optimizer_kwargs"] or {}),
        "weight_decay": weight_decay,
    }
