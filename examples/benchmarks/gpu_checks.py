"""Whether a device computes what the CPU does: the same losses and gradients of one update.

Two agents with the same weights, one on each device, update from the same texts in one minibatch;
compared are the losses that they log and the gradients that stand in their parameters afterwards,
as one vector. The learning rate is 0. Float32, without TF32.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import configure

from agents import BC, DPG, ILQL, PPO, RLOO
from agents.rollouts.episodes import collect_episodes
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.tasks.reviews import Reviews

__all__ = ["ALGORITHMS", "TOLERANCE", "compare_updates", "waits_of_decoding"]

TOLERANCE = 1e-3
ALGORITHMS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "PPO": (PPO, {"kl_coef": 0.1, "ent_coef": 0.01}),
    "RLOO": (RLOO, {"kl_coef": 0.1, "group_size": 2}),
    "DPG": (DPG, {"beta": 1.0, "group_size": 2}),
    "BC": (BC, {}),
    "ILQL": (ILQL, {}),
}


def _agent(name: str, rows: int, device: str, dataset: Any) -> Any:
    algorithm, kwargs = ALGORITHMS[name]
    env = TokenVecEnv(TokenVectorEnv(Reviews(max_tokens=16), num_envs=rows))
    if dataset is not None:
        kwargs = {**kwargs, "dataset": dataset}
    else:
        kwargs = {**kwargs, "n_episodes": rows, "batch_size": rows}
    agent = algorithm(env=env, learning_rate=1e-9, seed=0, device=device, **_policy(name), **kwargs)
    agent.lr_schedule = lambda _: 0.0
    agent.set_logger(configure(None, []))
    return agent


def _policy(name: str) -> dict[str, Any]:
    return {"policy": "ValueGuidedPolicy" if name == "ILQL" else "CausalLMPolicy"}


def _update(agent: Any, given: Any) -> tuple[dict[str, float], torch.Tensor]:
    """Return the losses and the gradients of one update from a roll-out or a batch."""
    torch.manual_seed(1)
    if hasattr(agent, "train_step"):
        logged = {k: v.detach().item() for k, v in agent.train_step(given.to(agent.device)).items()}
    else:
        agent.ep_info_buffer = deque(maxlen=len(given))  # which `learn` would make
        agent.rollout = given.to(agent.device)
        agent._record_rollout(agent.rollout)
        agent.train()
        logged = {k: float(v) for k, v in agent.logger.name_to_value.items() if "train/" in k}
    losses = {k.removeprefix("train/"): v for k, v in logged.items() if "loss" in k}
    grads = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    return losses, torch.cat([g.detach().float().cpu().flatten() for g in grads])


def compare_updates(name: str, device: str, rows: int) -> dict[str, Any]:
    """Return by how much losses and gradients on `device` differ from those on the CPU.

    Args:
        name: one of `ALGORITHMS`.
        device: the other device.
        rows: texts of the update.
    """
    offline = name in ("BC", "ILQL")
    dataset = Reviews(max_tokens=16).demonstrations(rows, quality="random") if offline else None
    here, there = _agent(name, rows, "cpu", dataset), _agent(name, rows, device, dataset)
    there.policy.load_state_dict(here.policy.state_dict())
    if offline:
        given: Any = here.data.select(np.arange(rows))
    else:
        given = collect_episodes(here.policy, here.env, rows, here.env.reset()).rollout
    (losses, grads), (other, found) = _update(here, given), _update(there, given)
    worst = max(abs(other[k] - v) / max(abs(v), 1e-3) for k, v in losses.items())
    error = float((found - grads).norm() / grads.norm())
    agree = worst <= TOLERANCE and error <= TOLERANCE and math.isfinite(error)
    return {
        "algorithm": name,
        "losses": {k: [v, other[k]] for k, v in losses.items()},
        "loss_error": worst,
        "gradient_error": error,
        "parameters": grads.numel(),
        "agree": agree,
    }


def waits_of_decoding(device: str, rows: int, steps: int) -> float | None:
    """Return how often the host waited for the GPU a token, as CUDA itself reports it, or None."""
    if not device.startswith("cuda"):
        return None
    agent = _agent("PPO", rows, device, None)
    obs = agent.env.reset()
    agent.policy.act(obs, np.arange(rows))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(steps):
                obs, *_ = agent.env.step(agent.policy.act(obs, np.arange(rows))[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in seen) / steps
