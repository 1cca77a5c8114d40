"""Part `update`: transitions a second of one PPO update on a given roll-out, T = 48.

The roll-out is played once: 64 episodes of exactly 48 tokens on the bundled model. All contenders
go through it once (one epoch) in minibatches of 16 episodes, that is 4 optimiser steps:

- ours, `agents.PPO.train`, one forward pass a sequence;
- stock, `stable_baselines3.PPO.train` with the same policy class on the same transitions, in
  minibatches of 16 x 48 transitions; each transition encodes its whole text;
- bare pass: forward and backward of the cross entropy of the actions, without value, old policy,
  clipping of gradients, statistics or optimiser; one contender with the scores of every word kept
  for the backward pass, as textbooks write it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from torch.nn import functional

from agents import CausalLMPolicy, policy_kwargs_for
from agents.rollouts.episodes import collect_episodes
from agents.rollouts.rollout import Rollout
from benchmarks.lm import agent, on_threads
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs.envs.vec_env import TokenVecEnv

__all__ = ["measure", "stock_with"]

UNIT = "transitions/s"


def stock_with(rollout: Rollout, env: TokenVecEnv, sequences: int) -> stable_baselines3.PPO:
    """Return Stable-Baselines3's own PPO whose buffer holds `rollout`.

    Args:
        rollout: B episodes of exactly T steps.
        env: B rows.
        sequences: transitions of that many episodes make a minibatch.
    """
    steps = rollout.mask.shape[1]
    ppo = stable_baselines3.PPO(
        CausalLMPolicy,
        env,
        n_steps=steps,
        batch_size=sequences * steps,
        n_epochs=1,
        gamma=1.0,
        device="cpu",
        policy_kwargs=policy_kwargs_for(env),
    )
    ppo.set_logger(configure(None, []))
    buffer = ppo.rollout_buffer
    assert isinstance(buffer, RolloutBuffer)
    columns = np.arange(rollout.tokens.shape[1])
    for t in range(steps):
        seen = columns <= rollout.columns[:, t : t + 1].numpy()  # (B, L)
        obs = np.where(seen, rollout.tokens.numpy(), env.env.tokenizer.pad_id)
        starts = np.full(env.num_envs, t == 0)
        actions, rewards = rollout.actions[:, t].numpy(), rollout.rewards[:, t].numpy()
        buffer.add(obs, actions, rewards, starts, rollout.values[:, t], rollout.log_probs[:, t])
    ends = np.ones(env.num_envs, dtype=bool)
    buffer.compute_returns_and_advantage(torch.zeros(env.num_envs), ends)
    return ppo


def _bare_pass(policy: CausalLMPolicy, rollout: Rollout, sequences: int) -> None:
    lm = policy.actor.lm
    lm.zero_grad()
    pad, first = policy.actor.pad_id, int(rollout.columns[0, 0])
    for index in torch.arange(len(rollout)).split(sequences):
        tokens = rollout.tokens[index]
        filled = tokens != pad
        ids = tokens.masked_fill(~filled, 0)[:, :-1]
        hidden = lm.base_model(
            input_ids=ids, attention_mask=filled[:, :-1].long(), use_cache=False
        ).last_hidden_state
        scores = lm.get_output_embeddings()(hidden[:, first:])  # (b, T, V)
        loss = functional.cross_entropy(scores.flatten(0, 1), rollout.actions[index].flatten())
        loss.backward()


def _contenders(
    num_envs: int, max_tokens: int, seed: int, sequences: int
) -> tuple[dict[str, Contender], dict[str, Contender]]:
    ppo, env = agent(num_envs, max_tokens, seed, may_stop=False, batch_size=sequences, n_epochs=1)
    rollout = collect_episodes(ppo.policy, env, num_envs, env.reset()).rollout
    assert bool(rollout.mask.all()), "an episode is shorter than the limit"
    stock = stock_with(rollout, env, sequences)
    stock.policy.load_state_dict(ppo.policy.state_dict())
    for algorithm in (ppo, stock):
        algorithm.lr_schedule = lambda _: 0.0  # the same weights in every round
    ppo.rollout = rollout
    bare = copy.deepcopy(ppo.policy)
    transitions = int(rollout.mask.sum())

    def timed(run: Callable[[], None]) -> Contender:
        def stretch() -> float:
            begin = time.perf_counter()
            run()
            return transitions / (time.perf_counter() - begin)

        return stretch

    ours = timed(ppo.train)
    passes = {"PPO.train": ours, "bare pass": timed(lambda: _bare_pass(bare, rollout, sequences))}
    return passes, {"PPO.train": ours, "stock PPO.train": timed(stock.train)}


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    num_envs, max_tokens, sequences = (4, 4, 2) if quick else (64, 48, 16)
    rows = []
    for count in threads:
        label = on_threads(count)
        case = f"{num_envs} episodes, T={max_tokens}, {label}"
        cheap, dear = _contenders(num_envs, max_tokens, seed, sequences)
        for contenders, against, target, rounds in (
            (cheap, "bare pass", 1 / 1.3, 2 if quick else 15),
            (dear, "stock PPO.train", 20.0, 1 if quick else 3),
        ):
            speeds = interleave(contenders, rounds)
            row = compare(
                speeds, "PPO.train", against, part="update", case=case, unit=UNIT, target=target
            )
            print(row, flush=True)
            rows.append(row)
    return rows
